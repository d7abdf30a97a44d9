//! What the backend asks of the server that holds a lock: each request is a value, which the
//! topology brings to that server. Those that change something are one script each.

pub(crate) mod acquire;
pub(crate) mod ask;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod look;
pub(crate) mod probe;
pub(crate) mod release;
pub(crate) mod renew;
mod script;
