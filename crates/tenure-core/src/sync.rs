//! What threads share state by: the standard library's primitives. In the package
//! `tenure-threads`, which is built from these sources, those of `shuttle`, which tries out
//! schedules.

#[cfg(not(tenure_shuttle))]
pub(crate) use tokio::sync::Notify;

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
pub(crate) use switching::{Notify, OnceLock};

#[cfg(tenure_shuttle)]
mod switching {
    use shuttle::thread::yield_now;
    use tokio::sync::futures::Notified;

    /// `shuttle` has none: tokio's, with another thread's turn before each call.
    #[derive(Debug, Default)]
    pub(crate) struct Notify(tokio::sync::Notify);

    impl Notify {
        pub(crate) const fn new() -> Self {
            Self(tokio::sync::Notify::const_new())
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            yield_now();
            self.0.notified()
        }

        pub(crate) fn notify_one(&self) {
            yield_now();
            self.0.notify_one();
        }

        pub(crate) fn notify_waiters(&self) {
            yield_now();
            self.0.notify_waiters();
        }
    }

    /// `shuttle` has none: the standard library's, with another thread's turn before each call.
    #[derive(Debug, Default)]
    pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

    impl<T> OnceLock<T> {
        pub(crate) const fn new() -> Self {
            Self(std::sync::OnceLock::new())
        }

        pub(crate) fn get(&self) -> Option<&T> {
            yield_now();
            self.0.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            yield_now();
            self.0.set(value)
        }
    }
}
