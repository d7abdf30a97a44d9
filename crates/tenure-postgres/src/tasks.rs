//! Where this crate's background work runs, and in which process.

use tenure_core::Process;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The runtime that `connect` was called on, and the process that called it.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Handle,
    pub(crate) process: Process,
}

impl Tasks {
    /// Must be called in a runtime.
    pub(crate) fn here() -> Self {
        Self {
            runtime: Handle::current(),
            process: Process::current(),
        }
    }

    /// Runs `work` in the background, and never in a child that is forked meanwhile.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(self.process.confine(work))
    }
}
