//! `tenure __subreaper`: the process between `tenure run` and the command.
//!
//! What a command starts may leave its process group (`timeout`, `setsid`, a daemon) and lose its
//! parent. The kernel makes the subreaper the parent of each such orphan, however deep it was
//! started. So when `tenure` is killed, the subreaper still has them all. When the subreaper has no
//! child left, nothing of the command is left anywhere. When the subreaper itself is killed, the
//! kernel kills the command, and its orphans fall to the [guard](crate::supervisor::guard), which
//! has started the subreaper and is one too; or to `tenure`, when the guard is dead.
//!
//! The subreaper is also told until when the term is valid, and kills at that time: the guard may
//! be stopped or killed together with `tenure`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use tenure::{BootClock, Clock as _, Time};
use tokio::signal::unix::SignalKind;

use crate::failure::Failure;
use crate::log;
use crate::options::ExecArgs;
use crate::supervisor::cgroup::Cgroup;
use crate::supervisor::control::{Control, Message, News, STREAMS, request};
use crate::supervisor::exec::{THIS_PROGRAM, dying_with_us};
use crate::supervisor::processes::{self, Process};
use crate::supervisor::signals;

/// By this signal the guard tells the subreaper to end, when `tenure` is stopped: only the
/// subreaper knows for sure whether anything is left.
pub(crate) const END: Signal = Signal::VTALARM;

/// `tenure __subreaper` for this command, which is told through `control` what to do.
pub(crate) fn starter(
    command: &[OsString],
    foreground: bool,
    cgroup: Option<&Cgroup>,
    control: OwnedFd,
) -> process::Command {
    let mut starter = process::Command::new(THIS_PROGRAM);
    starter
        .arg0("tenure")
        .args(["__subreaper", "--parent", &process::id().to_string()])
        .args(foreground.then_some("--foreground"))
        .args(cgroup.into_iter().flat_map(Cgroup::arguments))
        .args(log::arguments())
        .arg("--")
        .args(command)
        // Away from the terminal's signals, and from a process that waits for our output to end.
        .process_group(0)
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    starter
}

/// `tenure __subreaper`: runs the command when it is told to, and leaves nothing of it behind.
pub(crate) fn serve(args: &ExecArgs) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(format!("cannot set up the event loop: {error}")))?;
    runtime.block_on(keep(args))
}

async fn keep(args: &ExecArgs) -> Result<u8, Failure> {
    let cannot = |error| Failure::new(format!("the subreaper cannot start: {error}"));
    let _ignored = signals::ignore_requests_to_end()?;
    let mut changed = signals::stream(SignalKind::child())?;
    let mut told_by_guard = signals::stream(SignalKind::from_raw(END.as_raw()))?;
    let this = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(this)).map_err(|error| cannot(error.into()))?;
    let this = Process::read(this).ok_or_else(|| Failure::new("/proc does not show processes"))?;
    let control = io::stdin().as_fd().try_clone_to_owned();
    let control = Control::of(control.map_err(cannot)?).map_err(cannot)?;
    if this.parent != args.parent {
        return Err(Failure::new(
            "tenure has ended, so its command is not started",
        ));
    }
    let Ok((text, mut streams)) = control.receive().await else {
        return Ok(0);
    };
    let Some(mut until) = request::time_of(&text, request::START) else {
        return Ok(0);
    };
    let connections = streams.split_off(streams.len().min(STREAMS));
    let cgroup = args.cgroup.clone().map(Cgroup::at);
    let command = match start(args, cgroup.as_ref(), streams) {
        Ok(command) => command,
        Err(error) => {
            let _gone = control.send(&News::NotStarted(error).text());
            return Ok(0);
        }
    };
    let mut kept = Kept {
        this,
        command,
        cgroup,
        status: None,
        told: None,
        control,
        connections,
    };
    kept.tell(News::Started(command.as_raw_nonzero().get()));
    loop {
        tokio::select! {
            message = kept.control.receive() => match kept.put_off(message) {
                Some(later) => until = later,
                // Told to end, or nobody is left to tell us.
                None => return kept.end().await,
            },
            _ = changed.recv() => kept.look(),
            _ = told_by_guard.recv() => return kept.end().await,
            // The machine may sleep meanwhile. Then the guard is in time.
            () = tokio::time::sleep(until.since(BootClock.now())) => {
                // We may have been stopped, and not have read what was said.
                match kept.latest() {
                    Some(later) => until = later,
                    None => return kept.end().await,
                }
            }
        }
    }
}

/// The process number of the command, which has begun.
fn start(args: &ExecArgs, cgroup: Option<&Cgroup>, streams: Vec<OwnedFd>) -> Result<Pid, String> {
    let Ok([stdin, stdout, stderr]) = <[_; 3]>::try_from(streams) else {
        return Err("its standard streams did not come".to_owned());
    };
    let started = dying_with_us(&args.command, args.foreground, cgroup)
        .process_group(0)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .spawn();
    match started {
        // It is reaped by number, with whatever falls to us.
        Ok(process) => Ok(Pid::from_child(&process)),
        Err(error) => Err(error.to_string()),
    }
}

/// The command, and what we know of it.
struct Kept {
    this: Process,
    command: Pid,
    cgroup: Option<Cgroup>,
    /// Once it is reaped. Until then the number of its process group means this group.
    status: Option<i32>,
    /// What was told last.
    told: Option<News>,
    control: Control,
    /// They are closed when we have ended, and not before: see `witness`.
    connections: Vec<OwnedFd>,
}

impl Kept {
    /// A `tenure` that is dead or stopped hears of nothing, and needs not.
    fn tell(&mut self, news: News) {
        if self.told.as_ref() == Some(&news) {
            return;
        }
        if self.control.send(&news.text()).is_ok() {
            self.told = Some(news);
        }
    }

    /// A child has changed: the command, or an orphan that has fallen to us.
    fn look(&mut self) {
        // The command is not reaped: others send signals to its process group.
        while let Some(dead) = processes::dead_child().filter(|dead| *dead != self.command) {
            let _reaped = rustix::process::waitpid(Some(dead), WaitOptions::NOHANG);
        }
        if self.has_exited() {
            self.tell(News::Exited);
            return;
        }
        match self.stopped_by() {
            Some(signal) => self.tell(News::Stopped(signal)),
            None if matches!(self.told, Some(News::Stopped(_))) => self.tell(News::Continued),
            None => {}
        }
    }

    /// The time of a message that says to go on.
    fn put_off(&mut self, message: io::Result<Message>) -> Option<Time> {
        let (text, connections) = message.ok()?;
        let until = request::time_of(&text, request::UNTIL)?;
        if !connections.is_empty() {
            self.connections = connections;
        }
        Some(until)
    }

    /// The latest time that was said and is not read, if it has not come yet.
    fn latest(&mut self) -> Option<Time> {
        let said = std::iter::from_fn(|| {
            let message = self.control.receive_now();
            self.put_off(message)
        });
        said.last().filter(|until| *until > BootClock.now())
    }

    fn stopped_by(&self) -> Option<i32> {
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let seen = rustix::process::waitid(WaitId::Pid(self.command), look);
        seen.ok().flatten()?.stopping_signal()
    }

    /// Without reaping it: others send signals to its process group.
    fn has_exited(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let seen = || rustix::process::waitid(WaitId::Pid(self.command), look);
        self.status.is_some() || matches!(seen(), Ok(Some(_)))
    }

    /// Kills everything that is left, and says so. Nobody signals the command's group any more.
    async fn end(mut self) -> Result<u8, Failure> {
        if self.status.is_none() {
            let _gone = rustix::process::kill_process_group(self.command, Signal::KILL);
        }
        let mut left = self.is_left();
        for wait in processes::waits() {
            if !left {
                break;
            }
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
            }
            tokio::time::sleep(wait).await;
            // Before they are reaped: the dead tell of their groups.
            let _living = processes::kill_below(&self.this);
            left = self.is_left();
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        let status = self.status.unwrap_or(Signal::KILL.as_raw());
        self.tell(News::Ended { status, left });
        Ok(0)
    }

    fn is_left(&mut self) -> bool {
        let is_populated = self.cgroup.as_ref().is_some_and(Cgroup::is_populated);
        !self.reap() || is_populated
    }

    /// Whether no child is left. Then nothing of the command is: what has lost its parent would be
    /// our child.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => {
                    self.status = Some(status.as_raw());
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }
}
