//! Where this crate's background work runs, and in which process.

use tenure_core::{Error, Process};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The runtime on which the backend was made, and the process.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Handle,
    pub(crate) process: Process,
}

impl Tasks {
    /// Fails outside a runtime.
    pub(crate) fn here() -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::misconfigured("there is no tokio runtime here; connect within one")
                .with_source(error)
        })?;
        Ok(Self {
            runtime,
            process: Process::current(),
        })
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
