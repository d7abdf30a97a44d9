//! A small process beside this one that kills the command and all that it has started when nobody
//! else can.
//!
//! For each term `tenure` starts itself once more, as the guard, and tells it through a socket until
//! when the term is valid. The guard starts the [subreaper](crate::supervisor::subreaper), which
//! starts the command. The guard kills everything below the subreaper when that time has come (a
//! debugger or SIGSTOP may have stopped `tenure`), and when the socket closes, because `tenure` has
//! died. It has the subreaper help: only that one knows when nothing is left. When the subreaper
//! is killed, what it had falls to the guard, which kills it at once and exits.
//!
//! A guard that dies is replaced. The new one is not the subreaper's parent: then the orphans of
//! a dead subreaper fall to `tenure`.
//!
//! What is sent through the socket are times of the boot clock, the connections that the guard holds
//! (see [`witness`](crate::supervisor::witness)), and the command's process group. The guard says
//! through a pipe that its timer is set: no command runs before that. It also says when it kills
//! because the time has come: from the outside that looks like a command that another process has
//! killed, which is no loss of leadership.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tenure::Time;
use tokio::net::unix::pipe;

use crate::failure::Failure;
use crate::log;
use crate::supervisor::cgroup::Cgroup;
use crate::supervisor::child::{BACKEND, BACKEND_FILE, Subreaper};
use crate::supervisor::control::{Control, request};
use crate::supervisor::exec::THIS_PROGRAM;
use crate::supervisor::guard_process::{KILLS, READY};
use crate::supervisor::prepared::Prepared;
use crate::supervisor::processes::{self, Process};
use crate::supervisor::reaper::Awaited;
use crate::supervisor::witness::Witness;

/// The guard's process, as its parent holds it.
#[derive(Debug)]
struct Launched {
    process: process::Child,
    /// Does not block: a guard that is stopped must not stop us.
    requests: Control,
    /// Does not block either.
    report: pipe::Receiver,
    /// Whether it has started the subreaper.
    is_parent: bool,
    _awaited: Awaited,
}

impl Launched {
    /// Ends it, if that has not happened yet, and says whether it has killed because it was time.
    fn end(&mut self) -> bool {
        // It may have ended already. Killed, it does nothing any more, even if it is stopped now.
        let _ended = self.process.kill();
        let _status = self.process.wait();
        let mut said = [0; 64];
        let count = rustix::io::read(&self.report, &mut said).unwrap_or(0);
        said[..count].contains(&KILLS)
    }

    fn send(&self, request: &str, connections: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.requests.send_to_hold(request, connections) {
            // It is stopped and has not read some hundred messages. What it knows last is an earlier
            // time, so it errs on the safe side.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            sent => sent,
        }
    }

    /// Until it has killed what a dead subreaper left to it.
    async fn until_ended(&self) -> bool {
        let mut killed = false;
        // It may be stopped. It is our child and not reaped, so the number is its own.
        let number = Pid::from_child(&self.process);
        let _gone = rustix::process::kill_process(number, Signal::CONT);
        let ended = async {
            loop {
                let said = self.says().await;
                killed |= said.contains(&KILLS);
                if said.is_empty() {
                    return;
                }
            }
        };
        let _too_long = tokio::time::timeout(processes::UNTIL_GONE * 2, ended).await;
        killed
    }

    /// What it says next; nothing when it is dead. Cancel safe.
    async fn says(&self) -> Vec<u8> {
        loop {
            if self.report.readable().await.is_err() {
                return Vec::new();
            }
            let mut said = [0; 64];
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
    cgroup: Option<Cgroup>,
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
    /// Held by the guard, and by the one that replaces it.
    witness: Witness,
}

impl Guard {
    /// Starts the guard and the subreaper.
    ///
    /// Everything below the subreaper is killed at `until`, unless that is
    /// [put off](Self::put_off), or this is dropped. Returns when the guard has said that it will,
    /// within `limit`.
    pub(crate) async fn start(
        prepared: Prepared,
        until: Time,
        witness: Witness,
        limit: Duration,
        is_optional: bool,
    ) -> Result<(Self, Subreaper), Failure> {
        let cgroup = prepared.cgroup().cloned();
        let (launched, subreaper) = match start_both(&prepared, &witness, until, limit).await {
            Ok((launched, seen, control)) => (Some(launched), prepared.started(seen, control)),
            Err(error) if is_optional => {
                tracing::warn!(
                    "the command runs without a guard, as --allow-unguarded says: {error}; if \
                     tenure and the subreaper are stopped, the command works on without the lock"
                );
                (None, prepared.start_unguarded()?)
            }
            Err(error) => {
                return Err(Failure::new(format!(
                    "cannot run the guard, so the command is not started: {error}; the guard kills \
                     the command when tenure is stopped. Allow timerfd_create in the sandbox and \
                     give it memory and processes, or pass --allow-unguarded"
                )));
            }
        };
        let guard = Self {
            subreaper: subreaper.seen(),
            group: None,
            cgroup,
            is_ready: launched.is_some(),
            launched,
            asked: until,
            sure: until,
            killed: false,
            is_optional,
            witness,
        };
        Ok((guard, subreaper))
    }

    /// What shows others that the leader lives.
    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Tells the command's process group.
    pub(crate) fn guard_group(&mut self, group: Pid) {
        self.group = Some(group);
        self.send(&format!("{} {group}", request::GROUP));
    }

    /// Has the command killed at `until`, and not at the time said before, and has the guard hold
    /// the connections of now.
    pub(crate) fn put_off(&mut self, until: Time) {
        self.asked = until;
        self.witness.look_again();
        if self.send(&request::with_time(request::UNTIL, until)) && self.is_ready {
            self.sure = until;
        }
    }

    /// Says it to the guard, with the connections to hold, and tells whether the guard lives.
    fn send(&mut self, request: &str) -> bool {
        let connections = self.witness.sockets();
        let sent = self.launched.as_ref();
        match sent.map(|it| it.send(request, &connections)) {
            Some(Ok(())) => true,
            // It was killed.
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
            let (cgroup, witness) = (self.cgroup.as_ref(), &self.witness);
            launch_beside(self.subreaper, cgroup, self.asked, witness)
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

    /// Ends it, and says whether it has killed the command because the time had come. A guard that
    /// has what a dead subreaper left kills that first.
    pub(crate) async fn end(mut self, subreaper_is_gone: bool) -> bool {
        let Some(launched) = &mut self.launched else {
            return self.killed;
        };
        if subreaper_is_gone && launched.is_parent {
            self.killed |= launched.until_ended().await;
        }
        launched.end() || self.killed
    }
}

/// A guard that has started the subreaper, which is seen, and is ready.
async fn start_both(
    prepared: &Prepared,
    witness: &Witness,
    until: Time,
    limit: Duration,
) -> Result<(Launched, Process, Control), Failure> {
    let (control, theirs) = Control::pair().map_err(cannot_start)?;
    let mut starter = starter();
    prepared.add_to(&mut starter);
    // Its standard error is free to pass this on to the subreaper. Only the guard has it then: when
    // that dies, the socket is closed.
    starter.stderr(Stdio::from(theirs));
    let launched = launch(starter, until, witness, true)?;
    let answer = tokio::time::timeout(limit, launched.says()).await;
    let said = answer.unwrap_or_default();
    let end = said.iter().position(|byte| *byte == READY);
    let subreaper = end.and_then(|end| subreaper_of(&said[..end]));
    let guard = Pid::from_child(&launched.process).as_raw_nonzero().get();
    let subreaper = subreaper.filter(|subreaper| subreaper.parent == guard);
    let subreaper = subreaper.ok_or_else(|| Failure::new("it did not answer that it is ready"))?;
    Ok((launched, subreaper, control))
}

fn subreaper_of(number: &[u8]) -> Option<Process> {
    let number = str::from_utf8(number).ok()?.parse().ok()?;
    Pid::from_raw(number).and_then(Process::read)
}

fn launch_beside(
    subreaper: Process,
    cgroup: Option<&Cgroup>,
    until: Time,
    witness: &Witness,
) -> Result<Launched, Failure> {
    let mut starter = starter();
    starter
        .args(["--subreaper", &subreaper.pid.to_string()])
        .args(cgroup.into_iter().flat_map(Cgroup::arguments))
        .env_remove(BACKEND)
        .env_remove(BACKEND_FILE)
        .current_dir("/")
        .stderr(Stdio::null());
    launch(starter, until, witness, false)
}

fn starter() -> process::Command {
    let mut starter = process::Command::new(THIS_PROGRAM);
    starter
        .arg0("tenure")
        .arg("__guard")
        .args(log::arguments())
        // Away from the terminal's signals, and from a process that waits for our output to end.
        .process_group(0)
        .stdout(Stdio::piped());
    starter
}

/// A guard that has been told until when the term is valid, with the connections of `witness`. It
/// inherits none of them: then the command would too.
fn launch(
    mut starter: process::Command,
    until: Time,
    witness: &Witness,
    is_parent: bool,
) -> Result<Launched, Failure> {
    let (requests, theirs) = Control::pair().map_err(cannot_start)?;
    let request = request::with_time(request::UNTIL, until);
    requests
        .send_to_hold(&request, &witness.sockets())
        .map_err(cannot_start)?;
    let mut process = starter
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(cannot_start)?;
    let Some(report) = process.stdout.take() else {
        return Err(Failure::new("cannot open a pipe to another process"));
    };
    let report = pipe::Receiver::from_owned_fd(OwnedFd::from(report))
        .map_err(|error| Failure::new(format!("cannot set up a pipe: {error}")))?;
    Ok(Launched {
        _awaited: Awaited::new(Pid::from_child(&process)),
        process,
        requests,
        report,
        is_parent,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn cannot_start(error: io::Error) -> Failure {
    Failure::new(format!("cannot start a process: {error}"))
}
