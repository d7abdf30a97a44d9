//! Signals sent to this process.
//!
//! A thread of their own receives them, and notes when: so it does not matter for what they mean
//! how busy the main thread is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Signal};
use rustix_libc_wrappers::process::SignalExt as _;
use tenure::{BootClock, Clock as _, Time};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// A signal, and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    pub(crate) at: Time,
}

/// What comes so soon after a request to stop is the same request: GNU `timeout`, service managers
/// and terminals send two signals in a row.
const SAME_REQUEST: Duration = Duration::from_millis(500);

impl Received {
    /// Whether this is the same request as the one that came at `first`.
    pub(crate) fn repeats(self, first: Time) -> bool {
        self.at.since(first) < SAME_REQUEST
    }
}

/// By these a process without a command of its own ends.
const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP];

/// These mean something to a command.
const OTHERS: [Signal; 13] = [
    // Means that we were continued.
    Signal::CONT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::WINCH,
    Signal::IO,
    Signal::POWER,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALARM,
    Signal::PROF,
    Signal::URG,
    Signal::STKFLT,
];

/// Where we were started with one of these ignored, as by `nohup` or a script's `&`, the command
/// has to inherit that.
const KEPT_IGNORED: [Signal; 3] = [Signal::INT, Signal::QUIT, Signal::HUP];

/// Of signals that come together the kernel delivers the lowest number first, whichever was sent
/// first. So SIGHUP waits this long for a request to stop, which goes before it.
const TOGETHER: Duration = Duration::from_millis(20);

/// The signals that are handled from the moment this is made.
pub(crate) struct Signals {
    received: mpsc::UnboundedReceiver<Received>,
    /// Received, and not given out yet.
    waiting: VecDeque<Received>,
}

impl Signals {
    pub(crate) fn handle() -> Result<Self, Failure> {
        let cannot = |error| Failure::new(format!("cannot handle signals: {error}"));
        let runtime = Builder::new_current_thread().enable_io().build();
        let runtime = Arc::new(runtime.map_err(cannot)?);
        let (sender, receiver) = mpsc::unbounded_channel();
        let entered = runtime.enter();
        let handled = ENDING.into_iter().chain(OTHERS);
        for signal in handled.filter(|it| !KEPT_IGNORED.contains(it) || !is_ignored(*it)) {
            let stream = stream(SignalKind::from_raw(signal.as_raw()))?;
            send_on(&runtime, stream, signal, sender.clone());
        }
        for signal in real_time() {
            // Some C libraries keep more of them for themselves than others.
            if let Ok(stream) = stream(SignalKind::from_raw(signal.as_raw())) {
                send_on(&runtime, stream, signal, sender.clone());
            }
        }
        drop(entered);
        let of_thread = runtime.clone();
        let started = thread::Builder::new()
            .name("tenure-signals".to_owned())
            .spawn(move || of_thread.block_on(sender.closed()));
        if let Err(error) = started {
            // The main thread's runtime runs this: to drop another one here as usual panics.
            if let Some(unused) = Arc::into_inner(runtime) {
                unused.shutdown_background();
            }
            return Err(Failure::new(format!(
                "no thread can be had: {error}; raise the limit on threads (ulimit -u, or pids.max \
                 of the cgroup), or give it memory"
            )));
        }
        Ok(Self {
            received: receiver,
            waiting: VecDeque::new(),
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        match self.received_next().await {
            Some(received) => received,
            // The thread ends after this.
            None => std::future::pending().await,
        }
    }

    async fn received_next(&mut self) -> Option<Received> {
        loop {
            while let Ok(received) = self.received.try_recv() {
                self.waiting.push_back(received);
            }
            let mut waiting = self.waiting.iter();
            if let Some(first) = waiting.position(|it| it.signal != Signal::HUP) {
                self.waiting.swap(0, first);
                return self.waiting.pop_front();
            }
            let hangup = self.waiting.front().copied();
            let left = hangup.map(|it| TOGETHER.saturating_sub(BootClock.now().since(it.at)));
            if left.is_some_and(|left| left.is_zero()) {
                return self.waiting.pop_front();
            }
            tokio::select! {
                received = self.received.recv() => self.waiting.push_back(received?),
                () = tokio::time::sleep(left.unwrap_or(Duration::MAX)) => {}
            }
        }
    }

    /// The next signal by which a process without a command of its own ends. Cancel safe.
    ///
    /// The others mean something to commands only; a candidate that waits must not die because
    /// another process sent them to every process of the name.
    pub(crate) async fn ending(&mut self) -> Received {
        loop {
            let received = self.next().await;
            if ENDING.contains(&received.signal) {
                return received;
            }
        }
    }
}

fn send_on(
    runtime: &Runtime,
    mut stream: unix::Signal,
    signal: Signal,
    sender: mpsc::UnboundedSender<Received>,
) {
    runtime.spawn(async move {
        while stream.recv().await.is_some() {
            let at = BootClock.now();
            if is_about_us(signal) {
                continue;
            }
            if sender.send(Received { signal, at }).is_err() {
                return;
            }
        }
    });
}

/// Whether the kernel sends this when we ourselves reach a limit, such as that of the log's file.
/// The command has limits of its own, and would die of our signal.
fn is_about_us(signal: Signal) -> bool {
    let limit = match signal {
        Signal::XFSZ => Resource::Fsize,
        Signal::XCPU => Resource::Cpu,
        _ => return false,
    };
    rustix::process::getrlimit(limit).current.is_some()
}

fn real_time() -> impl Iterator<Item = Signal> {
    (0..).map_while(Signal::rt)
}

/// For a process that ends when `tenure` does, and not with the signals that service managers send
/// to every process of a service. What was ignored stays so, for those that we start.
pub(crate) fn ignore_requests_to_end() -> Result<Vec<unix::Signal>, Failure> {
    let all = ENDING.into_iter().chain(OTHERS);
    let handled = all.filter(|signal| !is_ignored(*signal));
    let kinds = handled.map(|signal| SignalKind::from_raw(signal.as_raw()));
    kinds.map(stream).collect()
}

pub(crate) fn stream(kind: SignalKind) -> Result<unix::Signal, Failure> {
    unix::signal(kind).map_err(|error| Failure::new(format!("cannot handle signals: {error}")))
}

/// Whether this process was started with `signal` ignored.
fn is_ignored(signal: Signal) -> bool {
    // Without /proc nothing tells: then it is taken for not ignored, as it mostly is.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn of_signals_that_come_together_a_request_to_stop_goes_first() {
        let (sender, received) = mpsc::unbounded_channel();
        let mut signals = Signals {
            received,
            waiting: VecDeque::new(),
        };
        let at = BootClock.now();
        for signal in [Signal::HUP, Signal::TERM, Signal::USR1] {
            sender.send(Received { signal, at }).unwrap();
        }
        for signal in [Signal::TERM, Signal::USR1, Signal::HUP] {
            assert_eq!(signals.next().await.signal, signal);
        }
    }
}
