//! A small process beside this one that kills the command and all that it has started when nobody
//! else can.
//!
//! The [subreaper](crate::supervisor::subreaper) does so when `tenure` is killed; but when `tenure`
//! alone is stopped (a debugger, SIGSTOP, a machine that swaps), nobody does. So for each term
//! `tenure` starts itself once more, as the guard, and tells it through a pipe until when the term
//! is valid. The guard kills everything below the subreaper when that time has come, and when the
//! pipe closes, because `tenure` has died. It has the subreaper help: only that one knows when
//! nothing is left.
//!
//! What is written to the pipe are times of the boot clock in nanoseconds, a line each, and the
//! command's process group. The guard says through another pipe that its timer is set: no command
//! runs before that. It also says when it kills because the time has come: from the outside that
//! looks like a command that somebody else has killed, which is no loss of leadership. It is ended
//! before the subreaper is reaped, so that the subreaper's number cannot have come to mean another
//! one.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{self, ChildStdin, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tenure::{BootClock, Clock as _, Time};
use tokio::net::unix::pipe;

use crate::failure::Failure;
use crate::options::GuardArgs;
use crate::supervisor::child::BACKEND;
use crate::supervisor::exec::THIS_PROGRAM;
use crate::supervisor::processes::{self, Process};
use crate::supervisor::reaper::Awaited;
use crate::supervisor::signals;
use crate::supervisor::subreaper;
use crate::supervisor::witness::Witness;

/// What the guard says when its timer is set.
const READY: u8 = b'r';

/// What the guard says before it kills because it is time.
const KILLS: u8 = b'!';

/// What comes before the number of the command's process group.
const GROUP: char = 'g';

/// The guard's process, as its parent holds it.
#[derive(Debug)]
struct Launched {
    process: process::Child,
    /// Does not block: a guard that is stopped must not stop us.
    times: ChildStdin,
    /// Does not block either.
    report: pipe::Receiver,
    _awaited: Awaited,
}

impl Launched {
    /// Ends it, if that has not happened yet, and says whether it has killed because it was time.
    fn end(&mut self) -> bool {
        // It may have ended already. Killed, it does nothing any more, even if it is stopped now.
        let _ended = self.process.kill();
        let _status = self.process.wait();
        let mut said = [0; 16];
        let count = rustix::io::read(&self.report, &mut said).unwrap_or(0);
        said[..count].contains(&KILLS)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match self.times.write_all(line.as_bytes()) {
            // It is stopped and has not read anything for hours. What it knows last is an earlier
            // time, so it errs on the safe side.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            written => written,
        }
    }

    /// What it says next; nothing when it is dead. Cancel safe.
    async fn says(&self) -> Vec<u8> {
        loop {
            if self.report.readable().await.is_err() {
                return Vec::new();
            }
            let mut said = [0; 16];
            match self.report.try_read(&mut said) {
                Ok(count) => return said[..count].to_vec(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Vec::new(),
            }
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.end();
    }
}

/// The guard as `tenure run` sees it.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Below which everything of the command is.
    subreaper: Process,
    group: Option<Pid>,
    /// `None` when none can be started.
    launched: Option<Launched>,
    /// Whether the one that was launched last can kill.
    is_ready: bool,
    /// The time that was asked for last.
    asked: Time,
    /// When the command is dead for sure: what a guard that can kill knows, or knew.
    sure: Time,
    /// Whether one that was replaced had killed.
    killed: bool,
    /// Whether the command runs without a guard too.
    is_optional: bool,
    /// Inherited by the guard, and by the one that replaces it.
    _witness: Witness,
}

impl Guard {
    /// Has everything below `subreaper` killed at `until`, unless that is [put off](Self::put_off),
    /// or this is dropped. Returns when the guard has said that it will, within `limit`.
    pub(crate) async fn start(
        subreaper: Process,
        until: Time,
        witness: Witness,
        limit: Duration,
        is_optional: bool,
    ) -> Result<Self, Failure> {
        let mut guard = Self {
            subreaper,
            group: None,
            launched: None,
            is_ready: false,
            asked: until,
            sure: until,
            killed: false,
            is_optional,
            _witness: witness,
        };
        let answered = match launch(subreaper, until) {
            Ok(launched) => {
                let answer = tokio::time::timeout(limit, launched.says()).await;
                let answered = answer.is_ok_and(|said| said.contains(&READY));
                guard.launched = answered.then_some(launched);
                answered
                    .then_some(())
                    .ok_or_else(|| Failure::new("it did not answer that it is ready"))
            }
            Err(error) => Err(error),
        };
        guard.is_ready = answered.is_ok();
        match answered {
            Ok(()) => {}
            Err(error) if is_optional => tracing::warn!(
                "the command runs without a guard, as --allow-unguarded says: {error}; if tenure \
                 is stopped, the command works on without the lock"
            ),
            Err(error) => {
                return Err(Failure::new(format!(
                    "cannot run the guard, so the command is not started: {error}; the guard kills \
                     the command when tenure is stopped. Allow timerfd_create in the sandbox and \
                     give it memory and processes, or pass --allow-unguarded"
                )));
            }
        }
        Ok(guard)
    }

    /// Tells the command's process group.
    pub(crate) fn guard_group(&mut self, group: Pid) {
        self.group = Some(group);
        self.write(&format!("{GROUP}{group}\n"));
    }

    /// Has the command killed at `until`, and not at the time said before.
    pub(crate) fn put_off(&mut self, until: Time) {
        self.asked = until;
        if self.write(&format!("{}\n", until.as_nanos())) && self.is_ready {
            self.sure = until;
        }
    }

    /// Whether it lives.
    fn write(&mut self, line: &str) -> bool {
        let written = self.launched.as_mut().map(|it| it.write(line));
        match written {
            Some(Ok(())) => true,
            // Somebody killed it.
            Some(Err(_)) => {
                self.replace();
                false
            }
            None => false,
        }
    }

    /// Returns when something has happened to it. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let Some(launched) = &self.launched else {
            return std::future::pending().await;
        };
        let said = launched.says().await;
        self.killed |= said.contains(&KILLS);
        if said.contains(&READY) {
            self.is_ready = true;
            self.sure = self.asked;
        }
        if said.is_empty() {
            self.replace();
        }
    }

    fn replace(&mut self) {
        if let Some(mut dead) = self.launched.take() {
            self.killed |= dead.end();
        }
        let was_ready = std::mem::replace(&mut self.is_ready, false);
        let replaced = if was_ready {
            launch(self.subreaper, self.asked)
        } else {
            Err(Failure::new("the one that replaced it died at once"))
        };
        match replaced {
            Ok(launched) => {
                tracing::warn!("the guard has died, and is replaced");
                self.launched = Some(launched);
                if let Some(group) = self.group {
                    self.guard_group(group);
                }
            }
            Err(error) => tracing::error!("the guard has died and cannot be replaced: {error}"),
        }
    }

    /// When the command has to be dead although the term goes on, because no guard answers for it
    /// any longer.
    pub(crate) fn unsure_from(&self) -> Option<Time> {
        (!self.is_ready && !self.is_optional).then_some(self.sure)
    }

    /// Whether the command must stop, because there is no guard and will be none.
    pub(crate) fn is_lost(&self) -> bool {
        self.launched.is_none() && !self.is_optional
    }

    /// Ends it, and says whether it has killed the command because the time had come.
    pub(crate) fn end(mut self) -> bool {
        let killed = self.launched.as_mut().is_some_and(Launched::end);
        killed || self.killed
    }
}

fn launch(subreaper: Process, until: Time) -> Result<Launched, Failure> {
    let mut process = process::Command::new(THIS_PROGRAM)
        .arg0("tenure")
        .args(["__guard", "--subreaper", &subreaper.pid.to_string()])
        .args(["--until", &until.as_nanos().to_string()])
        .env_remove(BACKEND)
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
    let cannot = |error: io::Error| Failure::new(format!("cannot set up a pipe: {error}"));
    let report = OwnedFd::from(report);
    rustix::io::ioctl_fionbio(&times, true).map_err(|error| cannot(error.into()))?;
    let report = pipe::Receiver::from_owned_fd(report).map_err(cannot)?;
    Ok(Launched {
        _awaited: Awaited::new(Pid::from_child(&process)),
        process,
        times,
        report,
    })
}

/// `tenure __guard`: watches until the pipe is closed.
pub(crate) fn serve(args: &GuardArgs) -> Result<u8, Failure> {
    let subreaper = beside_us(args.subreaper)?;
    // We leave when `tenure` does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))?;
    let _context = runtime.enter();
    let _ignored = signals::ignore_requests_to_end()?;
    GuardProcess::new(subreaper, Time::from_nanos(args.until))
        .and_then(|mut guard| guard.serve())
        .map_err(|error| Failure::new(format!("the guard cannot go on: {error}")))?;
    Ok(0)
}

/// The subreaper, which has the same parent as we have: nothing else is ever killed.
fn beside_us(number: i32) -> Result<Process, Failure> {
    let subreaper = group_of_a_command(number).and_then(Process::read);
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    let beside = subreaper.filter(|subreaper| Some(subreaper.parent) == parent);
    beside.ok_or_else(|| {
        Failure::new(format!(
            "{number} is not the subreaper of a command; only `tenure run` starts this"
        ))
    })
}

/// Before it is done: once the command is dead, we may be killed any moment.
fn report_kill() {
    // Nobody may be there to read it any more. One byte into an empty pipe does not block.
    let _gone = rustix::io::write(io::stdout(), &[KILLS]);
}

/// What the guard's process does.
struct GuardProcess {
    /// Runs during suspend too, so that the command is killed right after it.
    timer: File,
    subreaper: Process,
    group: Option<Pid>,
    until: Time,
    /// What was read of a line whose end has not come yet.
    partial: String,
}

impl GuardProcess {
    fn new(subreaper: Process, until: Time) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        let guard = Self {
            timer: File::from(timer),
            subreaper,
            group: None,
            until,
            partial: String::new(),
        };
        guard.set_timer()?;
        Ok(guard)
    }

    fn serve(&mut self) -> io::Result<()> {
        rustix::io::write(io::stdout(), &[READY])?;
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
                self.kill_all();
                return Ok(());
            }
            if !killed && BootClock.now() >= self.until {
                report_kill();
                self.kill_all();
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
            } else if let Some(number) = line.strip_prefix(GROUP) {
                self.group = number.parse().ok().and_then(group_of_a_command);
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

    /// Kills until nothing is left. As long as we live, others see that not everything of the
    /// leader is dead.
    fn kill_all(&self) {
        self.end_subreaper();
        for wait in processes::waits() {
            let _living = processes::kill_below(&self.subreaper);
            // The subreaper ends when nothing is left.
            if !self.subreaper_lives() && self.group_is_gone() {
                return;
            }
            thread::sleep(wait);
        }
    }

    fn end_subreaper(&self) {
        let opened = rustix::process::pidfd_open(self.subreaper.pid, PidfdFlags::empty());
        if !self.subreaper_lives() {
            return;
        }
        for signal in [subreaper::END, Signal::CONT] {
            let _gone = match &opened {
                Ok(opened) => rustix::process::pidfd_send_signal(opened, signal),
                Err(_) => rustix::process::kill_process(self.subreaper.pid, signal),
            };
        }
    }

    fn subreaper_lives(&self) -> bool {
        let subreaper = Process::read(self.subreaper.pid);
        subreaper.is_some_and(|it| it.start == self.subreaper.start && it.is_alive())
    }

    /// Kills the command's group when its subreaper is dead too: then the command was killed with
    /// it, and this is what can still be known.
    fn group_is_gone(&self) -> bool {
        let Some(group) = self.group else {
            return true;
        };
        let _refused = rustix::process::kill_process_group(group, Signal::KILL);
        processes::is_gone(group)
    }
}

/// To a system call, 0 means our own group and 1 (as -1) every process there is.
fn group_of_a_command(number: i32) -> Option<Pid> {
    (number > 1).then(|| Pid::from_raw(number)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_of_its_own_is_ever_killed() {
        for number in [i32::MIN, -2, -1, 0, 1] {
            assert!(group_of_a_command(number).is_none(), "{number}");
        }
        assert!(group_of_a_command(2).is_some());
    }

    #[test]
    fn only_what_is_below_a_process_beside_us_is_ever_killed() {
        for number in [i32::MIN, -1, 0, 1, i32::MAX] {
            assert!(beside_us(number).is_err(), "{number}");
        }
    }
}
