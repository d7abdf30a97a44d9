//! A candidate of the demo: a real `tenure run`, which dies with the demo.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::commands::run::WAITS;
use crate::failure::Failure;
use crate::supervisor::exec::{THIS_PROGRAM, dying_with_us};

/// The candidates.
pub(super) const NAMES: [&str; 3] = ["alice", "bob", "carol"];

/// What all candidates have in common.
#[derive(Debug)]
pub(super) struct DemoSettings {
    pub(super) url: String,
    pub(super) lock: String,
    pub(super) lease: Duration,
    /// Where candidates write their records and logs.
    pub(super) directory: PathBuf,
}

impl DemoSettings {
    /// Where a candidate's commands record their work.
    pub(super) fn record(&self, candidate: usize) -> PathBuf {
        self.directory.join(NAMES[candidate])
    }

    /// Where a candidate's standard error goes.
    fn log(&self, candidate: usize) -> PathBuf {
        self.directory.join(format!("{}.log", NAMES[candidate]))
    }

    /// What a candidate wrote to standard error.
    pub(super) fn log_text(&self, candidate: usize) -> String {
        read(&self.log(candidate))
    }
}

#[derive(Debug)]
pub(super) struct CandidateProcess {
    process: process::Child,
    log: PathBuf,
}

impl CandidateProcess {
    /// Starts the candidate. Call it on the main thread, with which it dies.
    pub(super) fn start(settings: &DemoSettings, candidate: usize) -> Result<Self, Failure> {
        let log = settings.log(candidate);
        let record = settings.record(candidate);
        let cannot_start = |error| Failure::new(format!("cannot start a candidate: {error}"));
        let lease = format!("{}ms", settings.lease.as_millis());
        let arguments = |words: &[&str]| -> Vec<OsString> {
            words.iter().map(|word| OsString::from(*word)).collect()
        };
        let mut command = arguments(&[
            THIS_PROGRAM,
            "run",
            "--id",
            NAMES[candidate],
            "--policy",
            "fast",
            "--lease",
            &lease,
            "--",
            THIS_PROGRAM,
            "__work",
            "--record",
        ]);
        command.push(record.into_os_string());
        let mut starter = dying_with_us(&command, false, None);
        // The caller's own settings are not the demo's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TENURE_") {
                starter.env_remove(name);
            }
        }
        let process = starter
            // Not as arguments, which every user of the host can read.
            .env("TENURE_BACKEND", &settings.url)
            .env("TENURE_LOCK", &settings.lock)
            .env("TENURE_LOG", "warn,tenure=info")
            // Ctrl-C is for the demo.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(append_to(&log).map_err(cannot_start)?)
            .spawn()
            .map_err(cannot_start)?;
        Ok(Self { process, log })
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        signal_process(Pid::from_child(&self.process), signal)
    }

    /// The exit code when it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<process::ExitStatus>, Failure> {
        self.process
            .try_wait()
            .map_err(|error| Failure::new(format!("cannot wait for a candidate: {error}")))
    }

    /// How often it began to campaign.
    pub(super) fn campaigns(&self) -> usize {
        read(&self.log).matches(WAITS).count()
    }
}

impl Drop for CandidateProcess {
    fn drop(&mut self) {
        // It may have ended already. Its command dies with it.
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Of the same log as before, when a candidate is started again.
fn append_to(log: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(log)
}

/// What has been logged so far; nothing when nothing can be read.
fn read(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn signal_process(pid: Pid, signal: Signal) -> Result<(), Failure> {
    rustix::process::kill_process(pid, signal)
        .map_err(|error| Failure::new(format!("cannot signal process {pid}: {error}")))
}

/// Whether a process that is not our child has ended; its parent may not have noticed yet.
pub(super) fn is_dead(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) else {
        return true;
    };
    // After the name, which is in parentheses and may hold anything, comes the state.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    matches!(state, Some('Z' | 'X') | None)
}
