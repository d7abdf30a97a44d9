//! Signals sent to this process.

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::failure::Failure;

/// The signals that are handled from the moment this is made.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    /// `None` under `nohup`, which the command must inherit as well.
    hangup: Option<unix::Signal>,
}

impl Signals {
    pub(crate) fn handle() -> Result<Self, Failure> {
        let hangup = if ignored(Signal::HUP) {
            None
        } else {
            Some(stream(SignalKind::hangup())?)
        };
        Ok(Self {
            terminate: stream(SignalKind::terminate())?,
            interrupt: stream(SignalKind::interrupt())?,
            quit: stream(SignalKind::quit())?,
            user1: stream(SignalKind::user_defined1())?,
            user2: stream(SignalKind::user_defined2())?,
            hangup,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
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

async fn received(stream: Option<&mut unix::Signal>) {
    match stream {
        Some(stream) => drop(stream.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with `signal` ignored.
fn ignored(signal: Signal) -> bool {
    // Without /proc nothing tells: then it is taken for not ignored, as it mostly is.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal.as_raw() - 1)) != 0
}
