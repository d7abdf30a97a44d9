//! File operations, on threads that a hung disk may hold up.

use std::sync::{Arc, OnceLock};
use std::thread;

use tenure_core::{Error, ErrorKind, Operation};
use tokio::sync::{Semaphore, oneshot};

use crate::config::FileConfig;
use crate::directory::Directory;

/// How many threads a hung disk can hold up in one process: requests beyond them wait without one.
const MAX_THREADS: usize = 32;

/// The directory of a configuration, prepared by the first operation on it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) config: FileConfig,
    prepared: OnceLock<Directory>,
    threads: Arc<Semaphore>,
}

impl Disk {
    /// No I/O.
    pub(crate) fn new(config: FileConfig) -> Self {
        Self {
            config,
            prepared: OnceLock::new(),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
        }
    }

    /// Runs file operations where they may block, in the directory, which it prepares first.
    ///
    /// If the future is dropped they go on, and what they return is dropped: an alive file among
    /// it is closed, so that a record that nobody knows of names a holder that is gone.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        operation: Operation,
        work: impl FnOnce(&Directory) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.threads.clone().acquire_owned().await;
        let permit = permit.map_err(|error| not_run(operation, error))?;
        let disk = self.clone();
        let (answer, answered) = oneshot::channel();
        // Not tokio's threads for blocking work: asking for one panics where none can be had.
        let thread = thread::Builder::new().name("tenure-file".to_owned());
        let started = thread.spawn(move || {
            let _permit = permit;
            let done = disk.directory(operation).and_then(work);
            // The caller may have given up.
            let _unheard = answer.send(done);
        });
        if let Err(error) = started {
            let message = "no thread can be had for a file operation: raise the limit on threads \
                           (ulimit -u, or pids.max of the cgroup)";
            return Err(Error::new(ErrorKind::Unavailable, operation, message).with_source(error));
        }
        answered.await.map_err(|error| not_run(operation, error))?
    }

    /// Two threads may prepare it at a time: the second finds all done.
    fn directory(&self, operation: Operation) -> Result<&Directory, Error> {
        if let Some(prepared) = self.prepared.get() {
            return Ok(prepared);
        }
        let prepared = Directory::prepare(&self.config, operation)?;
        Ok(self.prepared.get_or_init(|| prepared))
    }
}

fn not_run(operation: Operation, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "a file operation was not run to its end",
    )
    .with_source(error)
}
