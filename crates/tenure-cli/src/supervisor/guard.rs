//! A small process beside this one that kills the command's process group when nobody else can.
//!
//! The operating system kills the command when `tenure` is killed, but not what the command has
//! started; and when `tenure` alone is stopped (a debugger, SIGSTOP, a machine that swaps), it
//! kills nobody at all. So for each term `tenure` starts itself once more, as the guard, and tells
//! it through a pipe until when the term is valid. The guard kills the group when the pipe closes,
//! because `tenure` has died, and when that time has come.
//!
//! What is written to the pipe are times of the boot clock in nanoseconds, a line each. The guard
//! says through another one when it kills because the time has come: from the outside that looks
//! like a command that somebody else has killed, which is no loss of leadership. It is killed
//! before the group's leader is reaped, so that the number of the group cannot have come to mean
//! another one.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{self, ChildStdin, ChildStdout, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tenure::{BootClock, Clock as _, Time};
use tokio::signal::unix::SignalKind;

use crate::failure::Failure;
use crate::options::GuardArgs;
use crate::supervisor::child::THIS_PROGRAM;
use crate::supervisor::witness::Witness;
use crate::supervisor::{group, signals};

/// The guard's process, as its parent holds it.
#[derive(Debug)]
struct Launched {
    process: process::Child,
    /// Does not block: a guard that is stopped must not stop us.
    times: ChildStdin,
    /// Read when the process is dead only, so that it does not block either.
    report: ChildStdout,
}

impl Launched {
    /// Ends it, if that has not happened yet, and says whether it has killed because it was time.
    fn end(&mut self) -> bool {
        // It may have ended already. Killed, it does nothing any more, even if it is stopped now.
        let _ended = self.process.kill();
        let _status = self.process.wait();
        self.report.read(&mut [0]).is_ok_and(|count| count > 0)
    }
}

/// The guard as `tenure run` sees it.
#[derive(Debug)]
pub(crate) struct Guard {
    group: Pid,
    launched: Launched,
    /// Whether one that was replaced had killed.
    killed: bool,
    /// Inherited by the guard, and by the one that replaces it.
    _witness: Witness,
}

impl Guard {
    /// Has `group` killed at `until`, unless that is [put off](Self::put_off), or this is dropped.
    pub(crate) fn start(group: Pid, until: Time, witness: Witness) -> Result<Self, Failure> {
        Ok(Self {
            group,
            launched: launch(group, until)?,
            killed: false,
            _witness: witness,
        })
    }

    /// Has the group killed at `until`, and not at the time said before.
    pub(crate) fn put_off(&mut self, until: Time) {
        let line = format!("{}\n", until.as_nanos());
        match self.launched.times.write_all(line.as_bytes()) {
            Ok(()) => {}
            // It is stopped and has not read anything for hours. What it knows last is an earlier
            // time, so it errs on the safe side.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Somebody killed it.
            Err(_) => match launch(self.group, until) {
                Ok(launched) => {
                    self.killed |= self.launched.end();
                    self.launched = launched;
                }
                Err(error) => tracing::warn!("nobody guards what the command starts: {error}"),
            },
        }
    }

    /// Ends it, and says whether it has killed the group because the time had come.
    pub(crate) fn end(mut self) -> bool {
        self.launched.end() || self.killed
    }
}

fn launch(group: Pid, until: Time) -> Result<Launched, Failure> {
    let mut process = process::Command::new(THIS_PROGRAM)
        .arg0("tenure")
        .args(["__guard", "--group", &group.to_string()])
        .args(["--until", &until.as_nanos().to_string()])
        // Away from the terminal's signals, and from whoever waits for our output to end.
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start a process: {error}")))?;
    let (Some(times), Some(report)) = (process.stdin.take(), process.stdout.take()) else {
        return Err(Failure::new("cannot open a pipe to another process"));
    };
    rustix::io::ioctl_fionbio(&times, true)
        .map_err(|error| Failure::new(format!("cannot set up a pipe: {error}")))?;
    Ok(Launched {
        process,
        times,
        report,
    })
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.end();
    }
}

/// `tenure __guard`: watches until the pipe is closed.
pub(crate) fn serve(args: &GuardArgs) -> Result<u8, Failure> {
    let group = group_of_a_command(args.group)?;
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
    GuardProcess::new(group, Time::from_nanos(args.until))
        .and_then(|mut guard| guard.serve())
        .map_err(|error| Failure::new(format!("the guard cannot go on: {error}")))?;
    Ok(0)
}

/// To a system call, 0 means our own group and 1 (as -1) every process there is.
fn group_of_a_command(number: i32) -> Result<Pid, Failure> {
    let group = (number > 1).then(|| Pid::from_raw(number)).flatten();
    group.ok_or_else(|| {
        Failure::new(format!(
            "{number} is not the process group of a command; only `tenure run` starts this"
        ))
    })
}

/// Before it is done: once the command is dead, we may be killed any moment.
fn report_kill() {
    // Nobody may be there to read it any more. One byte into an empty pipe does not block.
    let _gone = rustix::io::write(io::stdout(), b"!");
}

/// What the guard's process does.
struct GuardProcess {
    /// Runs during suspend too, so that the command is killed right after it.
    timer: File,
    group: Pid,
    until: Time,
    /// What was read of a line whose end has not come yet.
    partial: String,
}

impl GuardProcess {
    fn new(group: Pid, until: Time) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        let guard = Self {
            timer: File::from(timer),
            group,
            until,
            partial: String::new(),
        };
        guard.set_timer()?;
        Ok(guard)
    }

    fn serve(&mut self) -> io::Result<()> {
        let times = io::stdin();
        let mut killed = false;
        loop {
            let mut ready = [
                PollFd::new(&times, PollFlags::IN),
                PollFd::new(&self.timer, PollFlags::IN),
            ];
            // Once it has fired, the timer is not asked any more.
            let asked = if killed { 1 } else { 2 };
            match poll(&mut ready[..asked], None::<&Timespec>) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // First what was written: it may put the time off.
            let written = !ready[0].revents().is_empty();
            if written && !self.read(&times)? {
                self.kill();
                self.until_gone();
                return Ok(());
            }
            if !killed && BootClock.now() >= self.until {
                report_kill();
                self.kill();
                killed = true;
            }
        }
    }

    /// Reads what there is; `false` when there never will be more.
    fn read(&mut self, times: &io::Stdin) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match rustix::io::read(times, &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => self
                .partial
                .push_str(&String::from_utf8_lossy(&buffer[..count])),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some((line, rest)) = self.partial.split_once('\n') {
            // Only a tenure of another version could write anything else.
            if let Ok(nanos) = line.parse() {
                self.until = Time::from_nanos(nanos);
            }
            self.partial = rest.to_owned();
        }
        self.set_timer()?;
        Ok(true)
    }

    fn set_timer(&self) -> io::Result<()> {
        // Zero would switch the timer off.
        let at = self.until.as_nanos().max(1);
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
        // It fails when the group is gone, which is what is wanted.
        let _gone = rustix::process::kill_process_group(self.group, Signal::KILL);
    }

    /// As long as we live, others see that not everything of the leader is dead.
    fn until_gone(&self) {
        for wait in group::waits() {
            if group::is_gone(self.group) {
                return;
            }
            thread::sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_of_its_own_is_ever_killed() {
        for number in [i32::MIN, -2, -1, 0, 1] {
            assert!(group_of_a_command(number).is_err(), "{number}");
        }
        assert!(group_of_a_command(2).is_ok());
    }
}
