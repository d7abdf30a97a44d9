//! The command and its process group: started so that nothing of it outlives the lock.

pub(crate) mod child;
mod group;
pub(crate) mod guard;
pub(crate) mod signals;
pub(crate) mod witness;
