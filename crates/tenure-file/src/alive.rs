//! Files that live as long as the process that made them: by them a death is noticed.
//!
//! Such a file is open and locked (`flock`) from before anybody can know its name, and is neither
//! closed nor unlocked while it means anything. So a process that gets a lock on it knows that its maker
//! is through with it or dead: the kernel closes the files of a killed process, and only then.
//!
//! The lock also tells leftovers apart. Between the creation of a file and its locking it looks
//! like a leftover, and may be removed. So it begins under a temporary name, and its maker
//! starts again when it finds that name gone.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use tenure_core::record::MAX_LEASE;
use tenure_core::{CampaignId, Error, Process, random_u64};

use crate::errors::{Action, During as _, StoreError};
use crate::open_dir::OpenDir;

const ALIVE: &str = "alive-";
const TEMPORARY: &str = "tmp-";

/// How often a file is made again because its name was taken for a leftover's.
pub(crate) const ATTEMPTS: usize = 8;

/// No file of ours is larger. One that is was not written by us.
const MAX_BYTES: u64 = 64 * 1024;

/// Whether this is the name of an alive file.
pub(crate) fn is_alive_name(name: &str) -> bool {
    // The name stands in the record, which anybody may have damaged: nothing in it may lead out
    // of the lock's directory.
    name.strip_prefix(ALIVE).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    })
}

/// Whether this is the name of a file that means nothing once its maker is gone.
pub(crate) fn is_claimed_name(name: &str) -> bool {
    name.starts_with(ALIVE) || name.starts_with(TEMPORARY)
}

/// Where the numbers in names come from: the operating system. A generator in memory would give a
/// forked child the names of its parent.
type Draw = fn() -> Result<u64, Error>;

/// A locked file under a temporary name, which is removed on drop.
///
/// A forked child only closes its copy: the name and the lock are its parent's.
#[derive(Debug)]
pub(crate) struct Temporary<'dir> {
    file: Option<File>,
    dir: &'dir OpenDir,
    name: String,
    process: Process,
}

impl<'dir> Temporary<'dir> {
    pub(crate) fn create(dir: &'dir OpenDir) -> Result<Self, StoreError> {
        Self::create_drawn(dir, random_u64)
    }

    fn create_drawn(dir: &'dir OpenDir, draw: Draw) -> Result<Self, StoreError> {
        for _ in 0..ATTEMPTS {
            let number = draw().map_err(StoreError::NoNumber)?;
            let name = format!("{TEMPORARY}{number:016x}");
            let file = dir.create(&name).during(Action::Create, &dir.path(&name))?;
            let locked = file.try_lock();
            let temporary = Self {
                file: Some(file),
                dir,
                name,
                process: Process::current(),
            };
            match locked {
                Ok(()) => return Ok(temporary),
                // Another process is just looking whether it is a leftover.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).during(Action::Lock, &dir.path(&temporary.name));
                }
            }
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock)).during(Action::Lock, dir.own_path())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn write(&mut self, content: &[u8]) -> Result<(), StoreError> {
        match &mut self.file {
            Some(file) => file
                .write_all(content)
                .during(Action::Write, &self.dir.path(&self.name)),
            None => Ok(()),
        }
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        match &self.file {
            Some(file) => file
                .sync_all()
                .during(Action::Sync, &self.dir.path(&self.name)),
            None => Ok(()),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.file.is_some() && self.process.is_current() {
            // Gone already if it was taken for a leftover; else the next leader removes it.
            let _gone = self.dir.remove(&self.name);
        }
    }
}

/// The file a leader keeps open and locked for its whole term.
///
/// Dropping it closes it, which unlocks it and wakes everybody who waits. It is not removed then:
/// a record may still name it, and must not come to name nothing.
///
/// The kernel unlocks it with the last copy of the descriptor. A child that was forked in the term,
/// and has not run another program since, has one. Dropping that copy leaves the parent's lock as
/// it is. Until it is dropped, a killed parent is noticed by the end of its lease only.
#[derive(Debug)]
pub(crate) struct Alive {
    _locked: File,
    name: String,
}

impl Alive {
    /// Makes one for a campaign whose leases are at most `lease`.
    pub(crate) fn create(
        dir: &OpenDir,
        campaign: CampaignId,
        lease: Duration,
    ) -> Result<Self, StoreError> {
        Self::create_drawn(dir, campaign, lease, random_u64)
    }

    fn create_drawn(
        dir: &OpenDir,
        campaign: CampaignId,
        lease: Duration,
        draw: Draw,
    ) -> Result<Self, StoreError> {
        for _ in 0..ATTEMPTS {
            let number = draw().map_err(StoreError::NoNumber)?;
            let name = format!("{ALIVE}{campaign}-{number:016x}");
            let path = dir.path(&name);
            let mut temporary = Temporary::create_drawn(dir, draw)?;
            // For a process that finds the record unreadable.
            temporary.write(format!("{}\n", millis_up(lease)).as_bytes())?;
            match dir.rename(temporary.name(), &name) {
                Ok(()) => {}
                // Taken for a leftover; or the directory is gone, which the next attempt tells.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).during(Action::Create, &path),
            }
            if let Some(file) = temporary.file.take() {
                return Ok(Self {
                    _locked: file,
                    name,
                });
            }
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock)).during(Action::Create, dir.own_path())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Removes the file's name from its directory, once no record names it.
    pub(crate) fn remove(&self, dir: &OpenDir) {
        // The next leader removes it otherwise.
        let _gone = dir.remove(&self.name);
    }
}

/// What a look at an alive or temporary file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Its maker has it open; an alive file also tells the longest lease of its term.
    Alive { lease: Duration },
    /// Its maker is through with it, or dead.
    Dead,
    /// There is no such file, or it cannot be looked at: nothing is known.
    Unknown,
}

/// Looks whether the maker of a file still has it locked.
pub(crate) fn maker(dir: &OpenDir, name: &str) -> Maker {
    // Opened for reading only, so that closing it wakes nobody.
    let Ok(mut file) = dir.open_plain(name) else {
        return Maker::Unknown;
    };
    match file.try_lock_shared() {
        Ok(()) => Maker::Dead,
        Err(TryLockError::WouldBlock) => Maker::Alive {
            lease: lease_in(&mut file),
        },
        Err(TryLockError::Error(_)) => Maker::Unknown,
    }
}

fn lease_in(file: &mut File) -> Duration {
    read_some(file)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.trim().parse().ok())
        .map_or(MAX_LEASE, Duration::from_millis)
        .min(MAX_LEASE)
}

/// A duration in whole milliseconds, rounded up: nobody may believe a lease shorter than the
/// holder does.
pub(crate) fn millis_up(lease: Duration) -> u64 {
    u64::try_from(lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Reads a file as far as one of ours can reach.
pub(crate) fn read_some(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tenure_core::{ErrorKind, Operation};

    use super::*;

    fn directory() -> (tempfile::TempDir, OpenDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = OpenDir::open(temporary.path()).unwrap();
        (temporary, dir)
    }

    #[test]
    fn an_alive_file_is_dead_when_it_is_dropped() {
        let (temporary, dir) = directory();
        let lease = Duration::from_micros(1_500);
        let alive = Alive::create(&dir, CampaignId::new(7), lease).unwrap();
        let name = alive.name().to_owned();
        assert!(is_alive_name(&name) && is_claimed_name(&name));
        let rounded = Duration::from_millis(2);
        assert_eq!(maker(&dir, &name), Maker::Alive { lease: rounded });
        drop(alive);
        assert_eq!(maker(&dir, &name), Maker::Dead);
        fs::remove_file(temporary.path().join(&name)).unwrap();
        assert_eq!(maker(&dir, &name), Maker::Unknown);
    }

    #[test]
    fn without_a_random_number_there_is_a_typed_error_and_no_file() {
        let (temporary, dir) = directory();
        let draw: Draw = || {
            Err(Error::new(
                ErrorKind::Unsupported,
                Operation::Configure,
                "no number",
            ))
        };
        let lease = Duration::from_secs(1);
        let alive = Alive::create_drawn(&dir, CampaignId::new(7), lease, draw);
        let file = Temporary::create_drawn(&dir, draw);
        for error in [alive.unwrap_err(), file.unwrap_err()] {
            let error = error.into_error(Operation::Acquire);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.operation(), Operation::Acquire);
            assert_eq!(error.message(), "no number");
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    /// In a process of its own: the child also inherits the files of tests that run beside it,
    /// which would look alive for a moment longer.
    #[test]
    fn a_forked_child_leaves_the_files_of_its_parent() {
        const ALONE: &str = "TENURE_FILE_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return fork_and_drop();
        }
        let name = "alive::tests::a_forked_child_leaves_the_files_of_its_parent";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .status();
        assert!(status.unwrap().success());
    }

    fn fork_and_drop() {
        let (_place, dir) = directory();
        let temporary = Temporary::create(&dir).unwrap();
        let alive = Alive::create(&dir, CampaignId::new(7), Duration::from_secs(1)).unwrap();
        let child = match fork::fork().unwrap() {
            fork::Fork::Child => {
                drop((temporary, alive));
                std::process::exit(0);
            }
            fork::Fork::Parent(child) => child,
        };
        assert!(fork::WIFEXITED(fork::waitpid(child).unwrap()));
        for name in [temporary.name(), alive.name()] {
            let found = maker(&dir, name);
            assert!(matches!(found, Maker::Alive { .. }), "{name}: {found:?}");
        }
    }

    #[test]
    fn an_alive_file_whose_text_was_damaged_stands_for_the_longest_lease() {
        let (temporary, dir) = directory();
        let alive = Alive::create(&dir, CampaignId::new(7), Duration::from_secs(1)).unwrap();
        for text in ["", "soon", "-5", "99999999999999999999"] {
            fs::write(temporary.path().join(alive.name()), text).unwrap();
            let found = maker(&dir, alive.name());
            assert_eq!(found, Maker::Alive { lease: MAX_LEASE });
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_alive_files() {
        for name in [
            "alive-",
            "alive-../x",
            "alive-a/b",
            "../alive-a",
            "tmp-a",
            "alive-g",
        ] {
            assert!(!is_alive_name(name), "{name}");
        }
    }

    #[test]
    fn a_file_removed_as_a_leftover_is_made_again() {
        let (temporary, dir) = directory();
        let sweeper = {
            let place = temporary.path().to_owned();
            std::thread::spawn(move || {
                let dir = OpenDir::open(&place).unwrap();
                while place.exists() {
                    for name in dir.names().unwrap_or_default() {
                        if maker(&dir, &name) == Maker::Dead {
                            let _gone = dir.remove(&name);
                        }
                    }
                }
            })
        };
        for number in 0..500 {
            let campaign = CampaignId::new(number);
            // May give up, as it would after eight chance meetings; must not lose a live file.
            if let Ok(alive) = Alive::create(&dir, campaign, Duration::from_secs(1)) {
                assert!(temporary.path().join(alive.name()).exists());
                let found = maker(&dir, alive.name());
                assert!(matches!(found, Maker::Alive { .. }), "{found:?}");
            }
        }
        drop(temporary);
        sweeper.join().unwrap();
    }
}
