//! Signals sent to this process.

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::failure::Failure;

/// The signals that are handled from the moment this is made.
pub(crate) struct Signals {
    terminate: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    // `None` where we were started with it ignored, as by `nohup` or a script's `&`: then the
    // command has to inherit that.
    interrupt: Option<unix::Signal>,
    quit: Option<unix::Signal>,
    hangup: Option<unix::Signal>,
}

impl Signals {
    pub(crate) fn handle() -> Result<Self, Failure> {
        Ok(Self {
            terminate: stream(SignalKind::terminate())?,
            user1: stream(SignalKind::user_defined1())?,
            user2: stream(SignalKind::user_defined2())?,
            interrupt: unless_ignored(SignalKind::interrupt())?,
            quit: unless_ignored(SignalKind::quit())?,
            hangup: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
            () = received(self.interrupt.as_mut()) => Signal::INT,
            () = received(self.quit.as_mut()) => Signal::QUIT,
            () = received(self.hangup.as_mut()) => Signal::HUP,
        }
    }

    /// The next signal by which a process without a command of its own ends. Cancel safe.
    ///
    /// SIGUSR1 and SIGUSR2 mean something to commands only; a candidate that waits must not die
    /// because somebody sent them to every process of the name.
    pub(crate) async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if signal != Signal::USR1 && signal != Signal::USR2 {
                return signal;
            }
        }
    }
}

pub(crate) fn stream(kind: SignalKind) -> Result<unix::Signal, Failure> {
    unix::signal(kind).map_err(|error| Failure::new(format!("cannot handle signals: {error}")))
}

fn unless_ignored(kind: SignalKind) -> Result<Option<unix::Signal>, Failure> {
    if ignored(kind) {
        return Ok(None);
    }
    stream(kind).map(Some)
}

async fn received(stream: Option<&mut unix::Signal>) {
    match stream {
        Some(stream) => drop(stream.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with `signal` ignored.
fn ignored(signal: SignalKind) -> bool {
    // Without /proc nothing tells: then it is taken for not ignored, as it mostly is.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal.as_raw_value() - 1)) != 0
}
