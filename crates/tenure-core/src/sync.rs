//! What threads share state by: the standard library's primitives. In the package
//! `tenure-threads`, which is built from these sources, those of `shuttle`, which tries out
//! schedules.

#[cfg(not(tenure_shuttle))]
pub(crate) use std::sync::{
    Mutex, MutexGuard, OnceLock,
    atomic::{AtomicU64, Ordering},
};

#[cfg(tenure_shuttle)]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(tenure_shuttle)]
pub(crate) use switching::OnceLock;

#[cfg(tenure_shuttle)]
mod switching {
    /// `shuttle` has none: the standard library's, with another thread's turn before each call.
    #[derive(Debug, Default)]
    pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

    impl<T> OnceLock<T> {
        pub(crate) const fn new() -> Self {
            Self(std::sync::OnceLock::new())
        }

        pub(crate) fn get(&self) -> Option<&T> {
            shuttle::thread::yield_now();
            self.0.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            shuttle::thread::yield_now();
            self.0.set(value)
        }
    }
}
