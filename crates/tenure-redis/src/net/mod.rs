//! Connections to one server: each made within a time limit, shared by all calls, and made again
//! when it is lost.
//!
//! The client library's own reconnecting connection is not used: its first call after a lost
//! connection fails, and connecting to a closed port takes it 9 s.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod incarnation;
pub(crate) mod network;
mod stream;
#[cfg(feature = "_tls")]
mod tls;

pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks leaves what is in them whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
