//! A small process beside this one that kills the command's process group when nobody else can.
//!
//! The operating system kills the command when `tenure` is killed, but not what the command has
//! started; and when `tenure` alone is stopped (a debugger, SIGSTOP, a machine that swaps), it
//! kills nobody at all. So `tenure` starts itself once more, as the guard, and tells it through a
//! pipe which process group to watch, and until when its term is valid. The guard kills the group
//! when the pipe closes, because `tenure` has died, and when that time has come.
//!
//! The messages are lines: `watch GROUP NANOSECONDS` on the boot clock, and `done`, which is sent
//! while the group's leader is not reaped yet, so that the number cannot mean another group.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{self, ChildStdin, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tenure::{BootClock, Clock as _, Time};
use tokio::signal::unix::SignalKind;

use crate::child::THIS_PROGRAM;
use crate::failure::Failure;
use crate::signals;

/// The guard as `tenure run` sees it.
#[derive(Debug)]
pub(crate) struct Guard {
    process: process::Child,
    /// Does not block: a guard that is stopped must not stop us.
    orders: ChildStdin,
}

impl Guard {
    pub(crate) fn start() -> Result<Self, Failure> {
        let mut process = process::Command::new(THIS_PROGRAM)
            .arg0("tenure")
            .arg("__guard")
            // Away from the terminal's signals, and from whoever waits for our output to end.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start a process: {error}")))?;
        let Some(orders) = process.stdin.take() else {
            return Err(Failure::new("cannot open a pipe to another process"));
        };
        rustix::io::ioctl_fionbio(&orders, true)
            .map_err(|error| Failure::new(format!("cannot set up a pipe: {error}")))?;
        Ok(Self { process, orders })
    }

    /// Has `group` killed at `until`, unless this is called again or it is [`done`](Self::done).
    pub(crate) fn watch(&mut self, group: Pid, until: Time) {
        let order = format!("watch {group} {}\n", until.as_nanos());
        match self.orders.write_all(order.as_bytes()) {
            Ok(()) => {}
            // It is stopped and has not read anything for hours. What it knows last is an earlier
            // time, so it errs on the safe side.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Somebody killed it.
            Err(_) => self.replace(&order),
        }
    }

    /// Tells it to leave the group alone from now on.
    pub(crate) fn done(&mut self) {
        if self.orders.write_all(b"done\n").is_err() {
            // It would kill whatever has that number one day.
            self.replace("");
        }
    }

    fn replace(&mut self, order: &str) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _status = self.process.wait();
        let replaced = Self::start().and_then(|guard| {
            *self = guard;
            let written = self.orders.write_all(order.as_bytes());
            written.map_err(|error| Failure::new(error.to_string()))
        });
        if let Err(error) = replaced {
            tracing::warn!(%error, "nobody guards what the command starts: tenure's guard died");
        }
    }
}

/// `tenure __guard`: obeys until the pipe is closed.
pub(crate) fn serve() -> Result<u8, Failure> {
    // Service managers signal every process of a service. We leave when `tenure` does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))?;
    let _context = runtime.enter();
    let _ignored = [
        signals::stream(SignalKind::terminate())?,
        signals::stream(SignalKind::interrupt())?,
        signals::stream(SignalKind::hangup())?,
        signals::stream(SignalKind::quit())?,
    ];
    Watch::new()
        .and_then(|mut watch| watch.serve())
        .map_err(|error| Failure::new(format!("the guard cannot go on: {error}")))?;
    Ok(0)
}

struct Watch {
    /// Runs during suspend too, so that the command is killed right after it.
    timer: File,
    group: Option<Pid>,
    until: Time,
    /// What was read of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self {
            timer: File::from(timer),
            group: None,
            until: Time::ZERO,
            partial: Vec::new(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let orders = io::stdin();
        loop {
            let mut ready = [
                PollFd::new(&orders, PollFlags::IN),
                PollFd::new(&self.timer, PollFlags::IN),
            ];
            match poll(&mut ready, None::<&Timespec>) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // First what was ordered: it may put the time off.
            if !ready[0].revents().is_empty() && !self.read(&orders)? {
                self.kill();
                return Ok(());
            }
            if self.group.is_some() && BootClock.now() >= self.until {
                self.kill();
                self.group = None;
                self.set_timer()?;
            }
        }
    }

    /// Reads what there is; `false` when there never will be more.
    fn read(&mut self, orders: &io::Stdin) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match rustix::io::read(orders, &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => self.partial.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.obey(String::from_utf8_lossy(&line).trim());
        }
        self.set_timer()?;
        Ok(true)
    }

    fn obey(&mut self, order: &str) {
        let mut words = order.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("watch"), Some(group), Some(until)) => {
                let group = group.parse().ok().and_then(Pid::from_raw);
                let until = until.parse().map(Time::from_nanos);
                // Only a tenure of another version could write anything else.
                if let (Some(group), Ok(until)) = (group, until) {
                    self.group = Some(group);
                    self.until = until;
                }
            }
            _ => self.group = None,
        }
    }

    fn set_timer(&self) -> io::Result<()> {
        let at = if self.group.is_some() {
            // Zero would switch the timer off.
            self.until.as_nanos().max(1)
        } else {
            0
        };
        let clamp = |part: u64| i64::try_from(part).unwrap_or(i64::MAX);
        let setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: clamp(at / 1_000_000_000),
                tv_nsec: clamp(at % 1_000_000_000),
            },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting)?;
        Ok(())
    }

    fn kill(&self) {
        if let Some(group) = self.group {
            // It fails when the group is gone, which is what is wanted.
            let _gone = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
