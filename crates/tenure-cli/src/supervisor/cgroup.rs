//! A cgroup of the command's own, where the kernel and our rights allow one.
//!
//! One write kills all that is in it, at one instant, also what runs as another user or is being
//! started at this moment. It stays when `tenure` and its helpers are killed at once, so the next
//! `tenure` that is elected in the same place kills what they left. Where no cgroup can be made,
//! the [subreaper](crate::supervisor::subreaper) does its work alone.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::supervisor::processes::{self, Process};

/// The mounts, and the cgroup of this process.
const MOUNTS: &str = "/proc/self/mountinfo";
const OURS: &str = "/proc/self/cgroup";

/// Within them a process number and a start time mean one process.
const NAMESPACES: [&str; 2] = ["/proc/self/ns/pid", "/proc/self/ns/time"];

/// A cgroup of ours is called this, then the namespaces, the number and the start of its `tenure`.
const PREFIX: &str = "tenure-";

/// A command enters its cgroup much sooner after that was made.
const UNTIL_USED: Duration = Duration::from_secs(60);

/// The cgroup of a command.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// A cgroup below our own; `None` where none can be made.
    pub(crate) fn make() -> Option<Self> {
        let this = Process::read(rustix::process::getpid())?;
        let name = format!("{}-{}-{}", namespaces()?, this.pid, this.start);
        let directory = ours()?.join(name);
        match fs::create_dir(&directory) {
            // What is left there of an earlier term could not be killed.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::debug!(%error, "the command has no cgroup of its own");
                return None;
            }
            _ => {}
        }
        let made = Self { directory };
        if made.kill_file().exists() {
            return Some(made);
        }
        // A kernel before 5.14.
        made.remove();
        None
    }

    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// By which our helpers are told of it.
    pub(crate) fn arguments(&self) -> [&OsStr; 2] {
        [OsStr::new("--cgroup"), self.directory.as_os_str()]
    }

    /// Puts this process there, and so what it starts.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), "0")
    }

    /// Kills everything in it. Whether that is allowed.
    pub(crate) fn kill(&self) -> bool {
        match fs::write(self.kill_file(), "1") {
            Ok(()) => true,
            // It fails too when it is removed: then it was empty.
            Err(error) => error.kind() != io::ErrorKind::PermissionDenied,
        }
    }

    /// Whether something in it is alive, or that cannot be told.
    pub(crate) fn is_populated(&self) -> bool {
        match fs::read_to_string(self.directory.join("cgroup.events")) {
            Ok(text) => text.lines().any(|line| line == "populated 1"),
            Err(error) => !is_removed(&error),
        }
    }

    /// Whether it is empty, and not because its command is about to start: left of a PID namespace
    /// that has ended at once.
    fn is_unused(&self) -> bool {
        let made = fs::metadata(&self.directory).and_then(|it| it.modified());
        let age = made.ok().and_then(|made| made.elapsed().ok());
        age.is_some_and(|age| age > UNTIL_USED) && !self.is_populated()
    }

    fn name(&self) -> &str {
        let name = self.directory.file_name();
        name.and_then(OsStr::to_str).unwrap_or_default()
    }

    /// Removes it, if nothing in it is alive.
    pub(crate) fn remove(&self) {
        remove_all(&self.directory);
    }

    fn kill_file(&self) -> PathBuf {
        self.directory.join("cgroup.kill")
    }
}

/// One that was removed while its file was open gives the second of them.
fn is_removed(error: &io::Error) -> bool {
    let gone = Some(Errno::NODEV.raw_os_error());
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == gone
}

/// Also what commands made in it.
fn remove_all(directory: &Path) {
    let inner = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in inner.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_all(&entry.path());
    }
    let _populated = fs::remove_dir(directory);
}

/// Kills what commands of dead `tenure` processes left in the cgroups beside ours. Whether nothing
/// is left.
pub(crate) async fn kill_leftovers() -> bool {
    let (abandoned, empty): (Vec<_>, Vec<_>) =
        abandoned().into_iter().partition(Cgroup::is_populated);
    empty.iter().for_each(Cgroup::remove);
    for cgroup in &abandoned {
        tracing::warn!(
            cgroup = %cgroup.directory.display(),
            "killing what the command of a tenure that was killed left behind"
        );
    }
    // What another user left is not ours to wait for.
    let (killed, refused): (Vec<_>, Vec<_>) = abandoned.into_iter().partition(Cgroup::kill);
    let lives = || killed.iter().any(Cgroup::is_populated);
    for wait in processes::waits() {
        if !lives() {
            break;
        }
        tokio::time::sleep(wait).await;
    }
    killed.iter().for_each(Cgroup::remove);
    all_of_tenure()
        .filter(Cgroup::is_unused)
        .for_each(|unused| unused.remove());
    !lives() && !refused.iter().any(Cgroup::is_populated)
}

/// All that a `tenure` has made beside ours.
fn all_of_tenure() -> impl Iterator<Item = Cgroup> {
    let entries = ours().and_then(|ours| fs::read_dir(ours).ok());
    let entries = entries.into_iter().flatten().flatten();
    let cgroups = entries.map(|entry| Cgroup::at(entry.path()));
    cgroups.filter(|cgroup| cgroup.name().starts_with(PREFIX))
}

/// Those whose `tenure` is dead, as far as we can tell.
fn abandoned() -> Vec<Cgroup> {
    let Some(namespaces) = namespaces() else {
        return Vec::new();
    };
    let is_abandoned = |cgroup: &Cgroup| {
        let owner = owner(cgroup.name(), &namespaces);
        owner.is_some_and(|(pid, start)| match Process::read(pid) {
            Some(now) => now.start != start || !now.is_alive(),
            // Not to be seen is not dead: nobody must have the number.
            None => rustix::process::test_kill_process(pid) == Err(Errno::SRCH),
        })
    };
    all_of_tenure().filter(is_abandoned).collect()
}

/// The number and start of the `tenure` that made a cgroup of this name, if it can be judged here.
fn owner(name: &str, namespaces: &str) -> Option<(Pid, u64)> {
    let rest = name.strip_prefix(namespaces)?.strip_prefix('-')?;
    let (pid, start) = rest.split_once('-')?;
    Some((Pid::from_raw(pid.parse().ok()?)?, start.parse().ok()?))
}

fn namespaces() -> Option<String> {
    let [of_pids, of_time] = NAMESPACES.map(|it| fs::metadata(it).map(|it| it.ino()));
    let of_pids = of_pids.ok()?;
    // Without time namespaces there is one time.
    let of_time = of_time.unwrap_or_default();
    Some(format!("{PREFIX}{of_pids}-{of_time}"))
}

/// The directory of our own cgroup.
fn ours() -> Option<PathBuf> {
    directory(
        &fs::read_to_string(MOUNTS).ok()?,
        &fs::read_to_string(OURS).ok()?,
    )
}

fn directory(mounts: &str, ours: &str) -> Option<PathBuf> {
    let path = ours.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if !after.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        // Of a cgroup outside our namespace, or a mount whose name is escaped, we know nothing.
        let is_plain = !path.contains("..") && !mount.contains('\\');
        is_plain.then(|| Path::new(mount).join(below))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,name=systemd
";

    #[test]
    fn our_own_cgroup_is_found_below_its_mount() {
        let ours = "9:name=systemd:/user\n0::/system.slice/cron.service\n";
        assert_eq!(
            directory(HYBRID, ours).unwrap(),
            Path::new("/sys/fs/cgroup/unified/system.slice/cron.service")
        );
        let container = "40 30 0:27 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        assert_eq!(
            directory(container, "0::/docker/a/b\n").unwrap(),
            Path::new("/sys/fs/cgroup/b")
        );
        for (mounts, ours) in [
            (HYBRID, "9:name=systemd:/\n"),
            (HYBRID, "0::/../outside\n"),
            (container, "0::/docker/b\n"),
            ("", "0::/\n"),
        ] {
            assert_eq!(directory(mounts, ours), None, "{mounts}{ours}");
        }
    }

    #[test]
    fn only_cgroups_of_ours_that_can_be_judged_are_taken_for_abandoned() {
        let name = "tenure-1-2-34-567";
        assert_eq!(
            owner(name, "tenure-1-2"),
            Some((Pid::from_raw(34).unwrap(), 567))
        );
        for other in ["tenure-1-3", "tenure-1", "other"] {
            assert_eq!(owner(name, other), None, "{other}");
        }
    }
}
