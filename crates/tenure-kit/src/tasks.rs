//! Where a backend's background work runs, and in which process.

use tenure_core::{Error, Process};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

/// The runtime that a backend was connected on, and the process that connected it.
///
/// Connections live there, whichever runtime a call comes from. A child that is forked meanwhile
/// runs none of it.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    process: Process,
}

impl Tasks {
    /// The runtime and the process of the caller.
    ///
    /// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) outside a tokio runtime.
    pub fn here() -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::misconfigured("there is no tokio runtime here; connect within one")
                .with_source(error)
        })?;
        Ok(Self {
            runtime,
            process: Process::current(),
        })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs `work` in the background, and never in a forked child.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(self.process.confine(work))
    }
}

/// Ends a task when it is dropped.
#[derive(Debug)]
pub struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    /// Ends the task of this handle.
    pub fn new(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
