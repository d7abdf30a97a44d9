//! Which process a value belongs to, and numbers that no two processes share.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::contract::error::{Error, ErrorKind, Operation};

/// The process that made a value.
///
/// A fork copies the memory of its parent: elections, terms, connections and the numbers by which
/// a store knows them. If both processes used them, both would lead the same term under the same
/// token. So everything that can lead keeps the process that made it, and refuses to work in a
/// child.
///
/// Every backend calls [`check`](Self::check) before each call to its store.
///
/// A child needs a tokio runtime of its own. It must neither drive nor drop its parent's: both
/// share one poller, so the child would take wake-ups that are meant for the parent, and closing
/// a socket there makes the parent deaf on it. Leak it (`std::mem::forget`) and end the child with
/// `std::process::exit`.
///
/// ```
/// use tenure_core::{Operation, Process};
///
/// # fn main() -> Result<(), tenure_core::Error> {
/// let process = Process::current();
/// assert!(process.is_current());
/// process.check(Operation::Acquire)?; // fails in a child that was forked since
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Process {
    /// `None` where the system cannot report a fork; then only the process id shows it.
    fork: Option<forkguard::Guard>,
    id: u32,
}

impl Process {
    /// The process that calls this.
    pub fn current() -> Self {
        Self {
            // It fails without memory for the handler.
            fork: forkguard::Guard::try_new().ok(),
            id: std::process::id(),
        }
    }

    /// Whether the caller runs in this process, and not in a child that it has forked: one atomic
    /// load, which a handler of `fork()` changes in the child.
    ///
    /// A child made by the bare system call `clone`, past the C library, runs no such handler.
    /// Only [`check`](Self::check) sees it.
    #[inline]
    pub fn is_current(&self) -> bool {
        match &self.fork {
            Some(fork) => !fork.clone().detected_fork(),
            None => self.id == std::process::id(),
        }
    }

    /// An error of kind [`Forked`](ErrorKind::Forked) unless the caller runs in this process.
    ///
    /// Compares the process id too, which costs a system call: for use beside I/O.
    pub fn check(&self, operation: Operation) -> Result<(), Error> {
        if self.is_current() && self.id == std::process::id() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Forked,
            operation,
            format!(
                "this value belongs to process {}, and process {} is a fork of it; connect and \
                 build the election after the fork",
                self.id,
                std::process::id()
            ),
        ))
    }

    /// The value, which only this process drops: see [`Kept`].
    pub fn keep<T>(&self, value: T) -> Kept<T> {
        Kept {
            value: Arc::new(value),
            process: self.clone(),
        }
    }

    /// The future or stream, which runs in this process alone: see [`Confined`].
    pub fn confine<F>(&self, work: F) -> Confined<F> {
        Confined {
            work: Some(Box::pin(work)),
            process: self.clone(),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.id)
    }
}

/// A value that a forked child leaks instead of dropping it.
///
/// For connections and what cancels or unlocks when it is dropped. A child shares its parent's
/// sockets, so a farewell on its copy would end the parent's session. It shares the runtime's
/// poller too: closing the copy would make the parent deaf on that socket.
pub struct Kept<T> {
    value: Arc<T>,
    process: Process,
}

impl<T> Kept<T> {
    /// Whether the caller runs in the process that made the value.
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            // A reference that is never given back.
            mem::forget(self.value.clone());
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A future that a forked child neither polls nor drops, for background tasks: a child that goes
/// on in a single-threaded runtime would run its copies of them on the parent's sockets.
///
/// A stream ends in the child, so that it asks instead, and is refused.
#[must_use = "futures do nothing unless polled"]
pub struct Confined<F> {
    work: Option<Pin<Box<F>>>,
    process: Process,
}

impl<F: Future> Future for Confined<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.process.is_current() {
            return Poll::Pending;
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S: Stream> Stream for Confined<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if !self.process.is_current() {
            return Poll::Ready(None);
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

impl<F> Drop for Confined<F> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            mem::forget(self.work.take());
        }
    }
}

impl<F> fmt::Debug for Confined<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Confined({:?})", self.process)
    }
}

/// A value that each process makes for itself, also a child whose parent has made one.
///
/// Once made it is read without a lock: a lock that another thread held at the fork would stay
/// locked in the child.
pub(crate) struct PerProcess<T> {
    made: OnceLock<(Process, T)>,
    /// For the children of the process that made the value above.
    next: OnceLock<Box<PerProcess<T>>>,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self {
            made: OnceLock::new(),
            next: OnceLock::new(),
        }
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        let mut generation = self;
        loop {
            match generation.made.get() {
                Some((process, value)) if process.is_current() => return value,
                Some(_) => generation = generation.next.get_or_init(|| Box::new(Self::new())),
                None => {
                    let own = || (Process::current(), make());
                    return &generation.made.get_or_init(own).1;
                }
            }
        }
    }
}

/// A random number from the operating system, drawn at the moment of the call.
///
/// Never from a generator in memory: a fork or two processes with the same start time would draw
/// the same numbers from it. For numbers by which a store tells two owners apart.
///
/// Fails with [`Unsupported`](ErrorKind::Unsupported) when the operating system has none to give,
/// because a sandbox forbids the call for example.
pub fn random_u64() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| no_random_number(&error.to_string()))
}

fn no_random_number(error: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        Operation::Configure,
        format!(
            "the operating system gave no random number ({error}); allow the system call \
             `getrandom`, or reading /dev/urandom"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let process = Process::current();
        assert!(process.is_current());
        process.check(Operation::Renew).unwrap();
    }

    /// As it looks to its child.
    fn another() -> Process {
        Process {
            fork: None,
            id: std::process::id() + 1,
        }
    }

    #[test]
    fn what_is_kept_is_dropped_by_its_own_process_alone() {
        for (process, dropped) in [(Process::current(), true), (another(), false)] {
            let value = Arc::new(());
            let kept = process.keep(value.clone());
            assert_eq!(kept.is_ours(), dropped);
            drop(kept);
            assert_eq!(Arc::strong_count(&value) == 1, dropped, "{process:?}");
        }
    }

    #[test]
    fn what_is_confined_runs_and_is_dropped_in_its_own_process_alone() {
        for (process, ours) in [(Process::current(), true), (another(), false)] {
            let value = Arc::new(());
            let moved = value.clone();
            let mut work = process.confine(async move { drop(moved) });
            let poll = Pin::new(&mut work).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll.is_ready(), ours);
            drop(work);
            assert_eq!(Arc::strong_count(&value) == 1, ours, "{process:?}");
        }
    }

    #[test]
    fn a_stream_that_is_confined_ends_elsewhere() {
        for (process, ours) in [(Process::current(), true), (another(), false)] {
            let value = Arc::new(());
            let moved = value.clone();
            let items = futures_util::stream::once(async move { drop(moved) });
            let mut items = process.confine(items);
            let poll = Pin::new(&mut items).poll_next(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll, Poll::Ready(ours.then_some(())));
            drop(items);
            assert_eq!(Arc::strong_count(&value) == 1, ours, "{process:?}");
        }
    }

    #[test]
    fn no_two_numbers_are_alike() {
        assert_ne!(random_u64().unwrap(), random_u64().unwrap());
    }

    #[test]
    fn a_missing_number_is_a_typed_error_with_a_remedy() {
        let error = no_random_number("not permitted");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("getrandom"), "{error}");
    }
}
