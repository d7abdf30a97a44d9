//! One connection to one server: how it is made, what it carries, and whether it is dead.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod connection;
pub(crate) mod incarnation;
pub(crate) mod network;
pub(crate) mod rights;
pub(crate) mod silence;
mod stream;
#[cfg(feature = "_tls")]
mod tls;

pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks leaves what is in them whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
