//! The servers' processes: started with a record, found again, stopped, and never mistaken.
//!
//! A server is started through this program itself (`xtask __child`), which writes the record of
//! its process, asks the kernel for a signal at its parent's death when the server is held, and then
//! becomes the server. So there is no moment at which a server runs without a record, and a held one
//! dies with the command that holds it, even by SIGKILL.
//!
//! A record names a process by its id, its start time and the boot it belongs to: an id that the
//! system has given to somebody else since is never signalled.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::user::User;
use crate::bound::{Ending, own_program};
use crate::paths::{Dirs, remove_file, write_file};
use crate::{interrupt, shell};

/// All it takes to start one process, kept so that it can be started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Unique among all processes of the stores: it names the record and the log.
    pub(crate) name: String,
    /// The store it belongs to.
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Added to the few variables that a server gets.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) user: Option<User>,
    pub(crate) ending: Ending,
}

/// A process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) pid: i32,
    /// As the system counts it; together with the boot it makes the id unique.
    pub(crate) started: String,
    pub(crate) boot: String,
    /// The command that holds this process, if one does.
    pub(crate) holder: Option<i32>,
    pub(crate) ending: Ending,
}

/// Whether a process stays when this command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It dies with this command.
    Held,
    /// It stays until `stores down`.
    Detached,
}

/// Starts a process. Call it on the main thread: the parent-death signal is tied to the thread.
pub(crate) fn start(dirs: &Dirs, spec: &Spec, hold: Hold) -> Result<Child> {
    let spec_file = dirs.run().join(format!("{}.spec.json", spec.name));
    write_file(&spec_file, 0o600, &serde_json::to_vec_pretty(spec)?)?;
    remove_file(&record_file(dirs, &spec.name))?;

    // A process that is started again goes on with its log.
    let log = File::options()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("cannot write the log {}", spec.log.display()))?;
    let mut command = Command::new(own_program()?);
    command
        .arg("__child")
        .arg(&spec_file)
        .arg("--record")
        .arg(record_file(dirs, &spec.name))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if hold == Hold::Held {
        command.args(["--holder", &std::process::id().to_string()]);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("{} cannot be started", spec.name))?;

    // The record is written before the server begins, so it is there within moments.
    let start = Instant::now();
    while read_record(dirs, &spec.name)?.is_none() {
        if let Some(status) = child.try_wait()? {
            bail!(
                "{} did not start ({status}):\n{}",
                spec.name,
                shell::tail(&spec.log, 20)
            );
        }
        if start.elapsed() > Duration::from_secs(20) {
            child.kill()?;
            child.wait()?;
            bail!("{} did not write its record", spec.name);
        }
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(child)
}

/// `xtask __child`: becomes the process of a specification. Returns only with an error.
pub fn become_child(
    spec_file: &Path,
    record_file: &Path,
    holder: Option<i32>,
) -> Result<Infallible> {
    let spec: Spec = serde_json::from_slice(&fs::read(spec_file)?)
        .with_context(|| format!("{} is no specification", spec_file.display()))?;
    // Away from the terminal: Ctrl-C is for the command, which then stops the servers in order.
    rustix::process::setsid().context("no session of its own")?;

    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let identity = identify(pid).context("cannot see its own process")?;
    let record = Record {
        name: spec.name.clone(),
        kind: spec.kind,
        pid,
        started: identity.started,
        boot: boot()?,
        holder,
        ending: spec.ending,
    };
    write_file(record_file, 0o600, &serde_json::to_vec_pretty(&record)?)?;

    // The kernel forgets the parent-death signal when a process changes its user: so first the user,
    // then, in this program once more, the signal. The path stays valid whatever the new user may
    // see of the file system, because it is the kernel's own link to this program.
    let mut command = Command::new(own_program()?);
    command.arg("__become");
    if let Some(holder) = holder {
        command.args(["--holder", &holder.to_string()]);
        command.args(["--ending", spec.ending.argument()]);
    }
    command.arg("--").arg(&spec.program).args(&spec.args);
    command.current_dir(&spec.folder);
    // The caller's settings for clients of these very servers (ETCD_*, PG*) are none of a server's.
    command.env_clear();
    for kept in ["PATH", "LANG", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.env("HOME", &spec.folder).envs(&spec.env);
    if let Some(user) = &spec.user {
        command.uid(user.uid).gid(user.gid);
    }
    Err(command.exec()).with_context(|| format!("{} cannot be run", spec.program.display()))
}

fn record_file(dirs: &Dirs, name: &str) -> PathBuf {
    dirs.run().join(format!("{name}.pid.json"))
}

/// The record of a process, if it was ever started.
pub(crate) fn read_record(dirs: &Dirs, name: &str) -> Result<Option<Record>> {
    let path = record_file(dirs, name);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is no record of a process", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// All records there are.
pub(crate) fn read_records(dirs: &Dirs) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let entries = match fs::read_dir(dirs.run()) {
        // `down` was called from elsewhere.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(records),
        entries => entries.context("cannot read the records of processes")?,
    };
    for entry in entries {
        let file = entry?.file_name();
        if let Some(name) = file
            .to_str()
            .and_then(|file| file.strip_suffix(".pid.json"))
        {
            records.extend(read_record(dirs, name)?);
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}

impl Record {
    /// Whether the very process of this record still runs. One that has ended and waits for its
    /// parent to notice does not run.
    pub(crate) fn is_alive(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
            && identify(self.pid).is_some_and(|seen| seen.started == self.started && !seen.ended)
    }

    /// Sends a signal to this process and to no other. Gives whether it was there to receive it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool> {
        let pid = Pid::from_raw(self.pid).context("a record without a process id")?;
        // The handle is taken before the check: it stays with the process that was checked.
        #[cfg(target_os = "linux")]
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        if !self.is_alive() {
            return Ok(false);
        }
        #[cfg(target_os = "linux")]
        let sent = handle.and_then(|handle| rustix::process::pidfd_send_signal(handle, signal));
        #[cfg(not(target_os = "linux"))]
        let sent = rustix::process::kill_process(pid, signal);
        match sent {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| {
                format!("{} (process {}) cannot be signalled", self.name, self.pid)
            }),
        }
    }

    /// Waits until the process is gone.
    fn wait_gone(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Ends the process politely, or after a while by force, and sees it gone.
    pub(crate) fn stop(&self, limit: Duration) -> Result<()> {
        self.signal(self.ending.polite())?;
        if self.wait_gone(limit) {
            return Ok(());
        }
        self.kill()
    }

    /// Ends the process by force, and sees it gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(self.ending.hard())?;
        if self.wait_gone(Duration::from_secs(5)) {
            return Ok(());
        }
        self.signal(Signal::KILL)?;
        if !self.wait_gone(Duration::from_secs(20)) {
            bail!("{} (process {}) outlives SIGKILL", self.name, self.pid);
        }
        Ok(())
    }
}

/// Stops processes: all are asked before the first is waited for. Their records go with them.
pub(crate) fn stop_all(dirs: &Dirs, records: &[Record]) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(4);
    let mut failed = None;
    for record in records {
        // Errors are looked at below, where the same signal is tried again.
        let _ = record.signal(record.ending.polite());
    }
    for record in records {
        match record.stop(LIMIT) {
            Ok(()) => forget(dirs, &record.name)?,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Removes the record of a process that is gone.
pub(crate) fn forget(dirs: &Dirs, name: &str) -> Result<()> {
    remove_file(&record_file(dirs, name))?;
    remove_file(&dirs.run().join(format!("{name}.spec.json")))
}

struct Identity {
    started: String,
    ended: bool,
}

#[cfg(target_os = "linux")]
fn identify(pid: i32) -> Option<Identity> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold spaces and brackets; the last bracket ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // Fields 20 and 22 of the line; the state was field 3.
    let threads = fields.nth(16)?;
    let started = fields.nth(1)?.to_owned();
    Some(Identity {
        started,
        // The first thread of a process can be through while others still run.
        ended: matches!(state, "Z" | "X") && matches!(threads, "0" | "1"),
    })
}

#[cfg(not(target_os = "linux"))]
fn identify(pid: i32) -> Option<Identity> {
    let output = Command::new("ps")
        .args(["-o", "state=,lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (state, started) = text.trim().split_once(' ')?;
    Some(Identity {
        started: started.trim().to_owned(),
        ended: state.starts_with('Z'),
    })
}

#[cfg(target_os = "linux")]
fn boot() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("the kernel's boot id cannot be read")?;
    Ok(id.trim().to_owned())
}

/// The start times are dates here, which no later boot repeats.
#[cfg(not(target_os = "linux"))]
fn boot() -> Result<String> {
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(child: &Child) -> Record {
        let pid = i32::try_from(child.id()).unwrap();
        Record {
            name: "sleeper".to_owned(),
            kind: Kind::Etcd,
            pid,
            started: identify(pid).unwrap().started,
            boot: boot().unwrap(),
            holder: None,
            ending: Ending::Plain,
        }
    }

    #[test]
    fn a_process_is_found_and_stopped() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let record = record_of(&child);
        assert!(record.is_alive());
        record.stop(Duration::from_secs(10)).unwrap();
        assert!(!record.is_alive());
        child.wait().unwrap();
        assert!(!record.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn a_process_with_the_same_id_is_left_alone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let record = record_of(&child);
        let mut earlier = record.clone();
        earlier.started = "1".to_owned();
        let mut other_boot = record.clone();
        other_boot.boot = "before".to_owned();
        for stranger in [earlier, other_boot] {
            assert!(!stranger.is_alive());
            stranger.stop(Duration::from_secs(10)).unwrap();
            stranger.kill().unwrap();
        }
        assert!(record.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn records_are_read_back_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::at(folder.path().join("stores")).unwrap();
        assert!(read_records(&dirs).unwrap().is_empty());
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let record = record_of(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        let bytes = serde_json::to_vec(&record).unwrap();
        write_file(&record_file(&dirs, &record.name), 0o600, &bytes).unwrap();
        assert_eq!(read_records(&dirs).unwrap(), vec![record.clone()]);
        forget(&dirs, &record.name).unwrap();
        assert!(read_records(&dirs).unwrap().is_empty());
    }
}
