//! Commands that end with this program, whatever way it ends.
//!
//! Such a command is started through this program itself (`xtask __become`, `xtask __watch`), which
//! asks the kernel for a signal at its parent's death and then becomes the command, or watches it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::interrupt;

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Ending {
    /// SIGTERM, and SIGKILL where that must not be refused.
    Plain,
    /// The ways of `PostgreSQL`: its SIGTERM waits for all clients to leave, and after a SIGKILL it
    /// cannot give back what it holds of the system's shared memory.
    Postgres,
}

impl Ending {
    /// Ends the server in order.
    pub(crate) fn polite(self) -> Signal {
        match self {
            Self::Plain => Signal::TERM,
            Self::Postgres => Signal::INT,
        }
    }

    /// Ends the server at once; only the data on disk are safe.
    pub(crate) fn hard(self) -> Signal {
        match self {
            Self::Plain => Signal::KILL,
            Self::Postgres => Signal::QUIT,
        }
    }

    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Postgres => "postgres",
        }
    }
}

/// `xtask __become`: asks for the signal at the parent's death, then becomes the server.
pub fn become_server(
    holder: Option<i32>,
    ending: Ending,
    command: &[OsString],
) -> Result<Infallible> {
    let (program, args) = command.split_first().context("no program named")?;
    if let Some(holder) = holder {
        die_with_parent(ending)?;
        // Too late when the parent died before the request: then the parent is another one by now.
        if parent() != Some(holder) {
            bail!("the command that wanted this server is gone");
        }
    }
    Err(Command::new(program).args(args).exec())
        .with_context(|| format!("{} cannot be run", program.to_string_lossy()))
}

/// The hard signal and not the polite one: a server may take its time over a polite one, and nobody
/// is left to insist. The data are thrown away anyway.
#[cfg(target_os = "linux")]
fn die_with_parent(ending: Ending) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(ending.hard()))
        .context("the parent-death signal cannot be set")
}

/// Elsewhere the records and `stores down` must do after a SIGKILL.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: Ending) -> Result<()> {
    Ok(())
}

/// A command that is killed when this program dies, whatever way that happens. Call it on the main
/// thread.
pub fn bound(program: impl Into<OsString>) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command
        .args([
            "__become",
            "--holder",
            &std::process::id().to_string(),
            "--",
        ])
        .arg(program.into());
    Ok(command)
}

/// The same for a command that starts others, which are to end as well: it runs in a process group of
/// its own under a watcher, see [`watch`].
pub fn watched(program: impl Into<OsString>) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command
        .args(["__watch", "--holder", &std::process::id().to_string(), "--"])
        .arg(program.into());
    Ok(command)
}

/// `xtask __watch`: runs a command, and ends it with all it has started when the parent dies or asks
/// for it. Gives the command's exit status.
pub fn watch(holder: i32, command: &[OsString]) -> Result<i32> {
    const GRACE: Duration = Duration::from_secs(2);
    let (program, args) = command.split_first().context("no program named")?;
    interrupt::install()?;
    rustix::process::setpgid(None, None).context("no process group of its own")?;
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("the parent-death signal cannot be set")?;
    if parent() != Some(holder) {
        bail!("the command that wanted this one is gone");
    }
    let mut child = Command::new(program)
        .args(args)
        .spawn()
        .with_context(|| format!("{} cannot be run", program.to_string_lossy()))?;
    let mut asked: Option<Instant> = None;
    loop {
        let ended = child.try_wait()?;
        if interrupt::raised() && asked.is_none() {
            asked = Some(Instant::now());
        }
        match (ended, asked) {
            (Some(status), None) => return Ok(status.code().unwrap_or(1)),
            // Time for the command to end in order when it was asked to; what it leaves behind has
            // had its time then.
            (None, Some(since)) if since.elapsed() < GRACE && parent() == Some(holder) => {}
            (_, Some(_)) => {
                rustix::process::kill_process_group(rustix::process::getpgrp(), Signal::KILL)?;
            }
            (None, None) => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn parent() -> Option<i32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
}

/// This program's file, also after a build has replaced it under its path.
pub(crate) fn own_program() -> Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe().context("cannot find this program's own file")
}
