//! Warnings that are given once for each backend: each campaign would give them again.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the warning was given.
#[derive(Debug, Default)]
pub(crate) struct Warned(AtomicBool);

impl Warned {
    /// Whether it was given already.
    pub(crate) fn is_given(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether it is for the first time.
    pub(crate) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// What it was about is over: the next time it is given again.
    pub(crate) fn again(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
