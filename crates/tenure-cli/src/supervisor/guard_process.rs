//! `tenure __guard`: the process of the [guard](crate::supervisor::guard).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tenure::{BootClock, Clock as _, Time};

use crate::failure::Failure;
use crate::options::GuardArgs;
use crate::supervisor::cgroup::Cgroup;
use crate::supervisor::control::{Control, is_nothing, request};
use crate::supervisor::processes::{self, Process};
use crate::supervisor::signals;
use crate::supervisor::subreaper;

/// What the guard says when its timer is set.
pub(crate) const READY: u8 = b'r';

/// What the guard says before it kills because it is time.
pub(crate) const KILLS: u8 = b'!';

/// `tenure __guard`: watches until the socket is closed.
pub(crate) fn serve(args: &GuardArgs) -> Result<u8, Failure> {
    // We leave when `tenure` does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))?;
    let _context = runtime.enter();
    let _ignored = signals::ignore_requests_to_end()?;
    let cgroup = args.cgroup.clone().map(Cgroup::at);
    let beside = args.subreaper.map(beside_us).transpose()?;
    let (requests, until, connections) = first_request().map_err(|error| {
        Failure::new(format!(
            "only `tenure run` starts this, and it says until when: {error}"
        ))
    })?;
    let (subreaper, parent) = match beside {
        Some(subreaper) => (subreaper, None),
        None => below_us(args, cgroup.as_ref())?,
    };
    GuardProcess::new(requests, until, connections, subreaper, parent, cgroup)
        .and_then(|mut guard| guard.serve())
        .map_err(|error| Failure::new(format!("the guard cannot go on: {error}")))?;
    Ok(0)
}

/// The socket on which `tenure` speaks, until when the term is valid, and the connections that we
/// hold. It was said before we were started.
fn first_request() -> io::Result<(Control, Time, Vec<OwnedFd>)> {
    let requests = io::stdin().as_fd().try_clone_to_owned()?;
    let requests = Control::of(requests)?;
    let (text, connections) = requests.receive_now()?;
    let until = request::time_of(&text, request::UNTIL).ok_or(io::ErrorKind::InvalidData)?;
    Ok((requests, until, connections))
}

/// The subreaper that we start, and this process: what runs below us is the command's.
fn below_us(
    args: &GuardArgs,
    cgroup: Option<&Cgroup>,
) -> Result<(Process, Option<Process>), Failure> {
    let cannot = |error| Failure::new(format!("cannot start a process: {error}"));
    let this = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(this)).map_err(|error| cannot(error.into()))?;
    let this = Process::read(this);
    // Tenure gives us the subreaper's socket as standard error, and only the subreaper keeps it.
    let control = io::stderr().as_fd().try_clone_to_owned().map_err(cannot)?;
    let nothing = File::open("/dev/null").map_err(cannot)?;
    rustix::stdio::dup2_stderr(nothing).map_err(|error| cannot(error.into()))?;
    let mut starter = subreaper::starter(&args.command, args.foreground, cgroup, control);
    let child = starter.spawn().map_err(cannot)?;
    let subreaper = Process::read(Pid::from_child(&child));
    // The command begins where tenure is. We keep no directory from being unmounted.
    std::env::set_current_dir("/").map_err(cannot)?;
    match subreaper {
        Some(subreaper) if this.is_some() => Ok((subreaper, this)),
        _ => Err(Failure::new("/proc does not show processes")),
    }
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
    requests: Control,
    /// Open as long as we live: see `witness`.
    connections: Vec<OwnedFd>,
    /// Runs during suspend too, so that the command is killed right after it.
    timer: File,
    subreaper: Process,
    /// This process, if it has started the subreaper: then the orphans of a dead subreaper are
    /// below us.
    parent: Option<Process>,
    /// Tells that the subreaper has ended.
    subreaper_ended: Option<OwnedFd>,
    group: Option<Pid>,
    cgroup: Option<Cgroup>,
    until: Time,
}

impl GuardProcess {
    fn new(
        requests: Control,
        until: Time,
        connections: Vec<OwnedFd>,
        subreaper: Process,
        parent: Option<Process>,
        cgroup: Option<Cgroup>,
    ) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        let guard = Self {
            requests,
            connections,
            timer: File::from(timer),
            subreaper,
            subreaper_ended: parent
                .and_then(|_| rustix::process::pidfd_open(subreaper.pid, PidfdFlags::empty()).ok()),
            parent,
            group: None,
            cgroup,
            until,
        };
        guard.set_timer()?;
        Ok(guard)
    }

    fn serve(&mut self) -> io::Result<()> {
        let ready = format!("{}{}", self.subreaper.pid, char::from(READY));
        rustix::io::write(io::stdout(), ready.as_bytes())?;
        let mut killed = false;
        loop {
            let mut ready = vec![PollFd::new(&self.requests, PollFlags::IN)];
            let ended = self.subreaper_ended.iter();
            ready.extend(ended.map(|ended| PollFd::new(ended, PollFlags::IN)));
            // Once it has fired, the timer is not asked any more.
            if !killed {
                ready.push(PollFd::new(&self.timer, PollFlags::IN));
            }
            match poll(&mut ready, None::<&Timespec>) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // First what was said: it may put the time off.
            let said = !ready[0].revents().is_empty();
            if said && !self.read()? {
                self.kill_all();
                return Ok(());
            }
            if !killed && BootClock.now() >= self.until {
                report_kill();
                self.kill_all();
                killed = true;
            }
            if self.parent.is_some() && !self.subreaper.still_runs() {
                self.kill_all();
                return Ok(());
            }
        }
    }

    /// Reads all that was said; `false` when there never will be more.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            let (text, connections) = match self.requests.receive_now() {
                Ok(message) => message,
                Err(error) if is_nothing(&error) => break,
                // Where nothing can be heard any more, as little runs on as after its death.
                Err(_) => return Ok(false),
            };
            if text.is_empty() {
                return Ok(false);
            }
            if !connections.is_empty() {
                self.connections = connections;
            }
            // Only a tenure of another version could say anything else.
            if let Some(until) = request::time_of(&text, request::UNTIL) {
                self.until = until;
            } else if let Some(number) = request::number_of(&text, request::GROUP) {
                self.group = group_of_a_command(number);
            }
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
            let is_gone = self.cgroup_is_gone();
            if self.rest_is_gone() && self.group_is_gone() && is_gone {
                return;
            }
            thread::sleep(wait);
        }
    }

    /// The subreaper ends when nothing is left. When it is killed, what it had is ours.
    fn rest_is_gone(&self) -> bool {
        if self.subreaper.still_runs() {
            let _living = processes::kill_below(&self.subreaper);
            return false;
        }
        let Some(this) = &self.parent else {
            return true;
        };
        let _living = processes::kill_below(this);
        reap()
    }

    fn cgroup_is_gone(&self) -> bool {
        let Some(cgroup) = &self.cgroup else {
            return true;
        };
        cgroup.kill();
        let is_gone = !cgroup.is_populated();
        if is_gone {
            cgroup.remove();
        }
        is_gone
    }

    fn end_subreaper(&self) {
        for signal in [subreaper::END, Signal::CONT] {
            self.subreaper.signal(signal);
        }
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

/// Whether no child is left, also of those that fell to us.
fn reap() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
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
