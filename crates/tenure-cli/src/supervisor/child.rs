//! The command as `tenure run` sees it: started by a [subreaper](crate::supervisor::subreaper), so
//! that nothing that it starts outlives the term, in a process group of its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tenure::Time;

use crate::failure::{Failure, exit};
use crate::supervisor::cgroup::Cgroup;
use crate::supervisor::control::{Control, News, request};
use crate::supervisor::processes::{self, Process};
use crate::supervisor::reaper::{self, Awaited};
use crate::supervisor::terminal::Terminal;
use crate::supervisor::witness::Witness;

/// How soon we look again whether a process that was told to end has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What the command finds in its environment.
pub(crate) const LOCK: &str = "TENURE_LOCK";
pub(crate) const IDENTITY: &str = "TENURE_IDENTITY";
/// What runs in a term is known by this.
pub(crate) const TOKEN: &str = "TENURE_TOKEN";

/// May hold a password.
pub(crate) const BACKEND: &str = "TENURE_BACKEND";
pub(crate) const BACKEND_FILE: &str = "TENURE_BACKEND_FILE";

/// The subreaper, which has not started the command yet.
#[derive(Debug)]
pub(crate) struct Subreaper {
    /// Our child or the guard's.
    seen: Process,
    has_ended: bool,
    control: Control,
    terminal: Option<Terminal>,
    /// Where one can be made.
    cgroup: Option<Cgroup>,
    _awaited: Awaited,
}

impl Subreaper {
    /// The one that was started, with our end of its socket.
    pub(crate) fn new(
        seen: Process,
        control: Control,
        terminal: Option<Terminal>,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self {
            _awaited: Awaited::new(seen.pid),
            seen,
            has_ended: false,
            control,
            terminal,
            cgroup,
        }
    }

    /// Below which everything of the command is.
    pub(crate) fn seen(&self) -> Process {
        self.seen
    }

    /// Starts the command, which is killed at `until` unless that is [put off](Child::put_off). The
    /// subreaper holds the connections of `witness` until it ends, or gets others.
    pub(crate) async fn run(mut self, until: Time, witness: &Witness) -> Result<Child, Failure> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let nothing = fs::File::open("/dev/null");
        let nothing =
            nothing.map_err(|error| Failure::new(format!("cannot open /dev/null: {error}")))?;
        let has_terminal = self.terminal.is_some();
        let input: BorrowedFd<'_> = if !has_terminal && io::IsTerminal::is_terminal(&stdin) {
            // A background process that reads from the terminal is stopped, and would lead on
            // like that without end.
            nothing.as_fd()
        } else {
            stdin.as_fd()
        };
        let mut files = vec![input, stdout.as_fd(), stderr.as_fd()];
        files.extend(witness.sockets());
        // Where it is not told, the subreaper is dead, and says so below.
        let request = request::with_time(request::START, until);
        let _unheard = self.control.send_with(&request, &files);
        let started = match self.control.news().await {
            News::Started(pid) => Pid::from_raw(pid),
            News::NotStarted(error) => {
                return Err(Failure::new(format!("cannot start a process: {error}")));
            }
            _ => None,
        };
        let Some(group) = started else {
            return Err(Failure::new("the process that starts the command has died"));
        };
        if let Some(terminal) = &mut self.terminal {
            terminal.give(group);
        }
        Ok(Child {
            subreaper: self,
            stopped_by: None,
            stopped_in_start: false,
            group,
            // The subreaper tells of its exit too, unless it is stopped.
            process: rustix::process::pidfd_open(group, PidfdFlags::empty()).ok(),
            has_exited: false,
            subreaper_is_gone: false,
            was_killed_in_time: false,
        })
    }
}

impl Subreaper {
    fn tell_end(&self) {
        let _unheard = self.control.send(request::END);
        // It may be stopped.
        self.seen.signal(Signal::CONT);
    }

    /// Reaps it, if it is our child: it is when the guard is dead.
    fn has_ended(&mut self) -> bool {
        self.has_ended = self.has_ended
            || match rustix::process::waitpid(Some(self.seen.pid), WaitOptions::NOHANG) {
                Ok(reaped) => reaped.is_some(),
                Err(_) => !self.seen.still_runs(),
            };
        self.has_ended
    }
}

impl Drop for Subreaper {
    /// Whatever of the command is left is killed first.
    fn drop(&mut self) {
        if !self.has_ended() {
            self.tell_end();
        }
        while !self.has_ended() {
            thread::sleep(LOOK_AGAIN);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}

/// The command that runs while leading.
///
/// It is not reaped until [`finish`](Self::finish), so that the number of its process group means
/// this group and no other for as long as signals are sent to it.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact about another process"
)]
pub(crate) struct Child {
    subreaper: Subreaper,
    group: Pid,
    /// Tells that the command has exited.
    process: Option<OwnedFd>,
    has_exited: bool,
    stopped_by: Option<i32>,
    /// Whether `stopped_by` comes from [`look_for_stopped_start`](Self::look_for_stopped_start).
    stopped_in_start: bool,
    subreaper_is_gone: bool,
    was_killed_in_time: bool,
}

impl Child {
    /// The process group of the command.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Sends `signal` to the command and all of its process group; `false` when that is not
    /// allowed.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        if self.subreaper_is_gone {
            // The kernel has killed the command, and the number may be another's.
            return true;
        }
        // It cannot fail while the command is not reaped, except for a command that has become
        // another user: then there is nothing to be done about it.
        let sent = rustix::process::kill_process_group(self.group, signal);
        if let Err(error) = sent {
            tracing::warn!(group = %self.group, ?signal, %error, "cannot signal the command");
        }
        sent.is_ok()
    }

    /// Asks the command and all of its process group to stop.
    pub(crate) fn stop(&self, signal: Signal) {
        self.signal(signal);
        // A stopped process would not get to handle it.
        self.signal(Signal::CONT);
    }

    /// Kills the command and everything that it has started. `false` when the command lives on,
    /// because it has become another user.
    pub(crate) fn kill(&self) -> bool {
        let killed = self.signal(Signal::KILL);
        self.kill_rest();
        killed
    }

    /// Kills what has left the process group too, once; the number of processes that were alive.
    pub(crate) fn kill_rest(&self) -> usize {
        let subreaper = self.subreaper.seen;
        if let Some(cgroup) = &self.subreaper.cgroup {
            cgroup.kill();
        }
        if !self.subreaper_is_gone {
            return processes::kill_below(&subreaper);
        }
        // What the subreaper had is ours now. Our own children from before are not the command's;
        // in a container whose first process we are, neither are the orphans of other programs.
        let this = rustix::process::getpid();
        let Some(this) = Process::read(this) else {
            return 0;
        };
        let is_first = this.pid.is_init();
        processes::kill_among(&this, |child| {
            child.start >= subreaper.start
                && !reaper::is_awaited(child.pid)
                && (!is_first || is_of_a_term(child.pid))
        })
    }

    fn is_populated(&self) -> bool {
        let cgroup = self.subreaper.cgroup.as_ref();
        cgroup.is_some_and(Cgroup::is_populated)
    }

    /// Whether the command has exited; what it started may still run.
    pub(crate) fn has_exited(&mut self) -> bool {
        while let Some(news) = self.subreaper.control.news_now() {
            let is_last = news == News::Gone;
            self.heard(&news);
            if is_last {
                break;
            }
        }
        self.look_whether_ended()
    }

    fn look_whether_ended(&mut self) -> bool {
        self.has_exited |= self.process.as_ref().is_some_and(has_ended);
        self.has_exited
    }

    fn heard(&mut self, news: &News) {
        match news {
            News::Exited => self.has_exited = true,
            News::Gone | News::Ended { .. } => {
                self.has_exited = true;
                self.subreaper_is_gone = true;
                self.was_killed_in_time |= *news != News::Gone;
            }
            News::Stopped(signal) => {
                self.stopped_by = Some(*signal);
                self.stopped_in_start = false;
            }
            News::Continued => self.stopped_by = None,
            News::Started(_) | News::NotStarted(_) => {}
        }
    }

    /// The signal that has stopped the command, while it is stopped.
    pub(crate) fn stopped_by(&self) -> Option<i32> {
        self.stopped_by
    }

    /// Looks for a stop that the subreaper does not see.
    ///
    /// A command that starts a program by `vfork` waits in the kernel until the program has begun.
    /// A signal stops the process that is to become the program, but not the command. So the
    /// subreaper, which is the command's parent, sees nothing.
    pub(crate) fn look_for_stopped_start(&mut self) {
        if self.has_exited || (self.stopped_by.is_some() && !self.stopped_in_start) {
            return;
        }
        self.stopped_in_start = processes::awaits_stopped_start(self.group);
        // Which signal it was is not known. In a terminal's foreground it is Ctrl-Z.
        let signal = if self.has_terminal() {
            Signal::TSTP
        } else {
            Signal::STOP
        };
        self.stopped_by = self.stopped_in_start.then_some(signal.as_raw());
    }

    /// Whether the command's group has the terminal.
    pub(crate) fn has_terminal(&self) -> bool {
        let terminal = self.subreaper.terminal.as_ref();
        terminal.is_some_and(Terminal::is_given)
    }

    pub(crate) fn take_terminal(&mut self) {
        if let Some(terminal) = &mut self.subreaper.terminal {
            terminal.take_back(false);
        }
    }

    /// Lets it go on after a stop, in the foreground if we are there.
    pub(crate) fn go_on(&mut self) {
        let group = self.group;
        if let Some(terminal) = &mut self.subreaper.terminal {
            terminal.give(group);
        }
        self.stopped_by = None;
        self.stopped_in_start = false;
        self.signal(Signal::CONT);
    }

    /// Has the subreaper kill the command at `until`, and not at the time said before, and hold the
    /// connections of `witness`.
    pub(crate) fn put_off(&self, until: Time, witness: &Witness) {
        let request = request::with_time(request::UNTIL, until);
        // One that is stopped for long knows an earlier time, and errs on the safe side.
        let _unheard = (self.subreaper.control).send_to_hold(&request, &witness.sockets());
    }

    /// Whether the subreaper has killed the command because it was time, or the guard said so.
    pub(crate) fn was_killed_in_time(&self) -> bool {
        self.was_killed_in_time
    }

    /// Whether the subreaper was killed, and the command with it.
    pub(crate) fn subreaper_is_gone(&self) -> bool {
        self.subreaper_is_gone
    }

    /// Returns when something has happened to the command. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.look_whether_ended() {
            return;
        }
        let news = self.subreaper.control.news().await;
        self.heard(&news);
    }

    /// Kills what the command left behind, and reaps it. To be called when it has
    /// [exited](Self::changed), or was killed.
    ///
    /// Whatever it started and left would be work without a lock soon.
    pub(crate) async fn finish(mut self) -> Result<ExitStatus, Failure> {
        let mut ended = None;
        if !self.subreaper_is_gone {
            self.subreaper.tell_end();
            ended = self.until_ended().await;
        }
        let (status, left) = match ended {
            Some(ended) => ended,
            None => self.finish_alone().await,
        };
        if left {
            tracing::error!(
                group = %self.group,
                "what the command has started still runs although the lock is given up: it has \
                 become another user, or hangs in the kernel"
            );
        }
        self.subreaper_is_gone = true;
        let status = ExitStatus::from_raw(status);
        if let Some(terminal) = &mut self.subreaper.terminal {
            terminal.take_back(status.signal().is_some());
        }
        Ok(status)
    }

    /// What the subreaper says in the end: the wait status, and whether something is left.
    async fn until_ended(&mut self) -> Option<(i32, bool)> {
        let limit = tokio::time::sleep(processes::UNTIL_GONE * 2);
        let mut limit = std::pin::pin!(limit);
        loop {
            tokio::select! {
                news = self.subreaper.control.news() => match news {
                    News::Ended { status, left } => return Some((status, left)),
                    News::Gone => return None,
                    _ => {}
                },
                () = &mut limit => return None,
            }
        }
    }

    /// Without a subreaper: it was killed, or does not answer. Then the kernel has made its
    /// children ours.
    async fn finish_alone(&mut self) -> (i32, bool) {
        self.subreaper.seen.signal(Signal::KILL);
        for wait in processes::waits() {
            if self.subreaper.has_ended() {
                break;
            }
            tokio::time::sleep(wait).await;
        }
        self.subreaper_is_gone = true;
        let mut status = None;
        let mut left = true;
        for wait in processes::waits() {
            left = self.kill_rest() > 0 || self.is_populated();
            if let Ok(Some((_, ended))) =
                rustix::process::waitpid(Some(self.group), WaitOptions::NOHANG)
            {
                status = Some(ended.as_raw());
            }
            if !left {
                break;
            }
            tokio::time::sleep(wait).await;
        }
        for dead in processes::dead_children() {
            let _reaped = rustix::process::waitpid(Some(dead), WaitOptions::NOHANG);
        }
        (status.unwrap_or(Signal::KILL.as_raw()), left)
    }
}

impl Drop for Child {
    /// On an early return: never leave it running.
    fn drop(&mut self) {
        if !self.subreaper_is_gone {
            self.kill_rest();
        }
    }
}

/// Whether a process belongs to a term of ours, as far as its environment says.
fn is_of_a_term(pid: Pid) -> bool {
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = variables.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(TOKEN.as_bytes()))
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut look = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut look, Some(&Timespec::default())), Ok(1..))
}

/// The exit code that tells of `status` as a shell does.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let signalled = |signal: i32| i32::from(exit::SIGNALLED).saturating_add(signal);
    let code = status.code().or(status.signal().map(signalled));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::ERROR)
}
