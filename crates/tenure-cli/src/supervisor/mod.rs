//! The command and everything that it starts: nothing of it outlives the lock.

mod cgroup;
pub(crate) mod child;
mod control;
pub(crate) mod exec;
pub(crate) mod guard;
pub(crate) mod guard_process;
pub(crate) mod prepared;
pub(crate) mod processes;
pub(crate) mod reaper;
pub(crate) mod requests;
pub(crate) mod signals;
pub(crate) mod subreaper;
pub(crate) mod terminal;
pub(crate) mod witness;
