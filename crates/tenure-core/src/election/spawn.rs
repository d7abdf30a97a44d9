//! Where engines run.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::contract::error::{Error, ErrorKind, Operation};
use crate::election::relay::Relay;

/// A task to run to its end.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the engine of an election beside the application's work.
pub trait Spawn: fmt::Debug + Send + Sync + 'static {
    /// Runs `task` in the background.
    fn spawn(&self, task: Task) -> Result<(), Error>;
}

/// The tokio runtime that `campaign` is called on: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct CurrentRuntime;

impl Spawn for CurrentRuntime {
    fn spawn(&self, task: Task) -> Result<(), Error> {
        let handle = Handle::try_current().map_err(|error| {
            Error::new(
                ErrorKind::Misconfigured,
                Operation::Campaign,
                "there is no tokio runtime here; campaign within one, or use a HeartbeatThread",
            )
            .with_source(error)
        })?;
        drop(handle.spawn(task));
        Ok(())
    }
}

/// A thread of their own for heartbeats, so that blocked application workers do not lose the
/// lease.
///
/// Connect the backend on it as well ([`run`](Self::run)): a store's client does its I/O on the
/// runtime it was made on. Clones share the thread, and one serves any number of elections. The
/// thread ends when the last clone is gone.
///
/// It waits for no `tracing` subscriber, `metrics` recorder or health probe: what an election tells
/// goes through a thread beside it, in order. When that one does not keep up, because a subscriber
/// blocks, log lines, spans, counters and histograms are counted and dropped. A span that has begun
/// also ends, and gauges are right when it goes on.
/// The thread enters no span. What a store's client logs by itself is not covered.
#[derive(Clone)]
pub struct HeartbeatThread {
    handle: Handle,
    _alive: Arc<oneshot::Sender<()>>,
}

impl HeartbeatThread {
    /// Starts the thread, and the one that tells what it does.
    ///
    /// Fails when the process may not have another thread, or has no memory for one.
    pub fn start() -> io::Result<Self> {
        let relay = Relay::start()?;
        let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        let of_thread = runtime.clone();
        let started = thread::Builder::new()
            .name("tenure-heartbeat".to_owned())
            // An error says that the last clone is gone: nothing is ever sent.
            .spawn(move || {
                relay.use_on_this_thread();
                drop(of_thread.block_on(ended));
            });
        if let Err(error) = started {
            // We may be within another runtime: to drop one there as usual panics.
            if let Some(unused) = Arc::into_inner(runtime) {
                unused.shutdown_background();
            }
            return Err(error);
        }
        Ok(Self {
            handle,
            _alive: Arc::new(alive),
        })
    }

    /// Runs `future` on the thread and returns its output: for connecting a backend.
    ///
    /// Dropping the returned future leaves `future` running to its end.
    pub async fn run<F>(&self, future: F) -> Result<F::Output, Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(future).await.map_err(|error| {
            Error::new(ErrorKind::Internal, Operation::Connect, "the task panicked")
                .with_source(error)
        })
    }
}

impl Spawn for HeartbeatThread {
    fn spawn(&self, task: Task) -> Result<(), Error> {
        // The engine keeps the thread alive until it has given the lock back.
        let this = self.clone();
        drop(self.handle.spawn(async move {
            task.await;
            drop(this);
        }));
        Ok(())
    }
}

impl fmt::Debug for HeartbeatThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatThread").finish_non_exhaustive()
    }
}
