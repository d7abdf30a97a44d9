//! The command: started so that it cannot outlive this process, in a process group of its own.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{self, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use tenure::Term;
use tokio::signal::unix::{self, SignalKind};

use crate::failure::{Failure, exit};
use crate::options::ExecArgs;
use crate::supervisor::{group, signals};

/// This program, also when its file was replaced or removed since it was started.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// The command that runs while leading.
///
/// It is not reaped until [`finish`](Self::finish), so that the number of its process group means
/// this group and no other for as long as signals are sent to it.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    group: Pid,
    changed: unix::Signal,
    reaped: bool,
}

impl Child {
    /// Starts `command`. Call it on the main thread: the operating system kills the child when
    /// the *thread* that started it ends.
    pub(crate) fn start(command: &[OsString], term: &Term) -> Result<Self, Failure> {
        // From before the start, so that no exit is missed.
        let changed = signals::stream(SignalKind::child())?;
        let mut starter = dying_with_us(command);
        starter
            .env("TENURE_LOCK", term.lock().as_str())
            .env("TENURE_IDENTITY", term.identity().as_str())
            .env("TENURE_TOKEN", term.token().as_u64().to_string())
            .process_group(0);
        if io::stdin().is_terminal() {
            // A background process that reads from the terminal is stopped, and would lead on
            // like that without end.
            starter.stdin(Stdio::null());
        }
        let process = starter
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start a process: {error}")))?;
        let group = Pid::from_child(&process);
        Ok(Self {
            process,
            group,
            changed,
            reaped: false,
        })
    }

    /// The process group of the command.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// Sends `signal` to the command and all of its process group; `false` when that is not
    /// allowed.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
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

    /// `false` when it lives on, because it has become another user.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }

    /// Whether the command has exited; what it started may still run.
    pub(crate) fn has_exited(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(self.group), look) {
            Ok(status) => status.is_some(),
            Err(rustix::io::Errno::INTR) => false,
            // There is no such child any more.
            Err(_) => true,
        }
    }

    /// Returns when the command has exited. Cancel safe.
    pub(crate) async fn exited(&mut self) {
        while !self.has_exited() {
            self.changed.recv().await;
        }
    }

    /// Kills what the command left behind, and reaps it. To be called when it has
    /// [exited](Self::exited), or was killed.
    ///
    /// Whatever it started and left in its process group would be work without a lock soon.
    pub(crate) async fn finish(mut self) -> Result<ExitStatus, Failure> {
        self.kill();
        self.reaped = true;
        let status = self
            .process
            .wait()
            .map_err(|error| Failure::new(format!("cannot wait for the command: {error}")))?;
        for wait in group::waits() {
            // Orphans become our children when we are the first process of a container.
            while let Ok(Some(_)) = rustix::process::waitpgid(self.group, WaitOptions::NOHANG) {}
            if group::is_gone(self.group) {
                return Ok(status);
            }
            tokio::time::sleep(wait).await;
        }
        tracing::error!(
            group = %self.group,
            "what the command has started still runs although the lock is given up: it has become \
             another user, or hangs in the kernel"
        );
        Ok(status)
    }
}

impl Drop for Child {
    /// On an early return: never leave it running.
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _status = self.process.wait();
        }
    }
}

/// The exit code that tells of `status` as a shell does.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let signalled = |signal: i32| i32::from(exit::SIGNALLED).saturating_add(signal);
    let code = status.code().or(status.signal().map(signalled));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::ERROR)
}

/// `command`, by way of this program, which sees to it that the command is killed when the
/// calling thread ends, and then becomes it.
pub(crate) fn dying_with_us(command: &[OsString]) -> process::Command {
    let mut starter = process::Command::new(THIS_PROGRAM);
    starter
        .arg0("tenure")
        .arg("__exec")
        .arg("--parent")
        .arg(process::id().to_string())
        .arg("--")
        .args(command);
    starter
}

/// `tenure __exec`: becomes the command, or tells why not.
pub(crate) fn exec(args: &ExecArgs) -> Failure {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::new(format!(
            "cannot make the command die with tenure: {error}; it is not started"
        ));
    }
    // The parent may have died before it was asked to take us along.
    if rustix::process::getppid() != Pid::from_raw(args.parent) {
        return Failure::new("tenure has ended, so its command is not started");
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::new("there is no command to run");
    };
    let error = process::Command::new(program).args(arguments).exec();
    let shown = program.to_string_lossy();
    let shown = shown.escape_debug();
    if error.kind() == ErrorKind::NotFound {
        Failure::new(format!(
            "the command \"{shown}\" was not found; give its path, or add its directory to PATH"
        ))
        .with_code(exit::NOT_FOUND)
    } else {
        Failure::new(format!(
            "the command \"{shown}\" cannot be executed: {error}; check its permissions and format"
        ))
        .with_code(exit::NOT_EXECUTABLE)
    }
}
