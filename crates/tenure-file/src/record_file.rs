//! Compare-and-swap on a directory, without a lock that a stopped process could hold.
//!
//! Version `n` of the record is the file `record-<n>.json`; the highest one is the record. A write
//! that expects version `n` takes these steps:
//!
//! 1. open `record-n` and keep it open;
//! 2. write the new content to a temporary file and sync it to disk;
//! 3. hard-link that to `record-<n+1>`, which fails if there is one: conflict;
//! 4. list the directory: anything higher than `n+1` is a conflict;
//! 5. `record-n` must still be the very file of step 1 (device and inode), else conflict;
//! 6. sync the directory, so that a crash of the host cannot take the write back;
//! 7. sweep: remove, in ascending order, what the listing of step 4 holds up to `n-1`, and stop
//!    at the first that cannot be removed.
//!
//! A writer that fails removes no record, not even its own stray one; the next sweep does.
//!
//! # Why this is a compare-and-swap
//!
//! Let H(t) be the highest version ever linked by the time t. It never falls, and the file H(t) is
//! always there at t: only sweeps remove records, and the sweep of version m, which is linked by
//! then, removes m-2 and below.
//!
//! *Claim: when a write of n+1 passes all steps, n was the highest version ever linked, at the
//! very moment of its link.*
//!
//! So each version is written on top of its predecessor by exactly one
//! writer, and the link is the moment at which the write takes effect. (A link that was highest
//! takes effect even if its writer then dies or sees a conflict because a successor was quick.
//! Callers learn that by reading the record again.)
//!
//! Suppose not: something higher than n had been linked before our link succeeded. Since the
//! file n+1 was not there, and the highest always is, H was at least n+2. Let G be H at the start
//! of our listing; file G was there then. The listing did not show it. A listing shows all that
//! is there from its start to its end (POSIX promises no more). So G was removed meanwhile, by the
//! sweep of some m >= G+2. That m was linked after our listing had begun, for G was the highest
//! then, and it made its own listing, from which it sweeps, later still, and so after our step 1.
//!
//! At the start of that listing the file of our step 1 was either gone or there. If it was there,
//! it was gone by the end of it, or it was listed and removed before G was, in ascending order.
//! Either way it was gone before the end of our listing, and our step 5 found it gone. For no name
//! returns: a temporary file is linked only once, and no inode number is used again while
//! we keep the file open. Contradiction.
//!
//! The first version has no predecessor to keep open, so there is one without meaning, 0, which
//! everybody may link at any time: it says that there is no record.
//!
//! A process may stop between any two steps: before the link it has changed nothing;
//! after it, its write counts or is a stray one below the highest, which means nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::alive::{self, Maker, Temporary};
use crate::errors::{Action, During as _, StoreError};
use crate::open_dir::OpenDir;
use crate::wish;

const PREFIX: &str = "record-";
const SUFFIX: &str = ".json";

/// The content of version 0.
const GENESIS: &[u8] = b"{\"format\":1,\"holder\":null}\n";

/// How often a reader starts again because the version it wanted to read was swept meanwhile:
/// that takes two writes each time.
const ATTEMPTS: usize = 16;

/// The version in the name of a record.
pub(crate) fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    // Exactly our own form, so that no two names stand for one version.
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// The points between which a test may hold up a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SwapPoint {
    Begin,
    Opened,
    Written,
    Linked,
    Listed,
    Checked,
    Synced,
    Sweeping,
}

/// The outcome of [`RecordFiles::swap`].
#[derive(Debug)]
pub(crate) enum Swapped {
    /// The new version counts.
    Applied {
        /// What may be swept now.
        sweep: Sweep,
    },
    /// The expected version was not the highest.
    Conflict {
        /// Whether others may have seen the new version for a while.
        published: bool,
    },
}

/// What is in the directory.
#[derive(Debug, Default)]
struct Listing {
    versions: BTreeSet<u64>,
    claimed: Vec<String>,
    /// That the leader resign.
    wishes: Vec<String>,
}

/// What a writer may sweep, see [`RecordFiles::sweep`].
#[derive(Debug)]
pub(crate) struct Sweep {
    version: u64,
    listing: Listing,
}

impl Sweep {
    /// The names of the wishes that stood there.
    pub(crate) fn wishes(&self) -> &[String] {
        &self.listing.wishes
    }
}

#[cfg(test)]
type Weaken = Box<dyn Fn(&RecordFiles, Listing) -> Listing>;

/// The files of one lock.
pub(crate) struct RecordFiles {
    dir: OpenDir,
    /// Makes of an exact listing one that POSIX allows as well.
    #[cfg(test)]
    weaken: Option<Weaken>,
}

impl RecordFiles {
    pub(crate) fn new(dir: OpenDir) -> Self {
        Self {
            dir,
            #[cfg(test)]
            weaken: None,
        }
    }

    pub(crate) fn dir(&self) -> &OpenDir {
        &self.dir
    }

    /// Where the record of that version is, to be shown.
    pub(crate) fn path(&self, version: u64) -> PathBuf {
        self.dir.path(&name_of(version))
    }

    /// The highest version and its content; `None` when there is none.
    pub(crate) fn latest(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(version) = self.highest()? else {
                return Ok(None);
            };
            let opened = self.dir.open_plain(&name_of(version));
            let read = opened.and_then(|mut file| alive::read_some(&mut file));
            match read {
                Ok(content) => return Ok(Some((version, content))),
                // Swept since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_damage(&error) => return Ok(Some((version, Vec::new()))),
                Err(error) => return Err(error).during(Action::Read, &self.path(version)),
            }
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock)).during(Action::Read, self.dir.own_path())
    }

    /// The highest version; `None` when there is none.
    pub(crate) fn highest(&self) -> Result<Option<u64>, StoreError> {
        // Some file systems leave out what was made since the directory was opened, and what was
        // removed since. So that there is nothing is believed when it is seen three times.
        for _ in 0..3 {
            let listing = match self.list() {
                // The directory was removed since it was opened.
                Err(error) if error.is_missing() => return Ok(None),
                listing => listing?,
            };
            let highest = listing.versions.last().copied();
            if highest.is_some_and(|highest| highest > 0) {
                return Ok(highest);
            }
        }
        Ok(None)
    }

    /// The alive files, of whomever.
    pub(crate) fn alive_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.list()?.claimed;
        names.retain(|name| alive::is_alive_name(name));
        Ok(names)
    }

    /// Writes version `expected + 1` if `expected` is the highest; 0 stands for no record.
    ///
    /// `at` is called between the steps, for tests.
    pub(crate) fn swap(
        &self,
        expected: u64,
        content: &[u8],
        at: &mut dyn FnMut(SwapPoint),
    ) -> Result<Swapped, StoreError> {
        let mut published = false;
        match self.try_swap(expected, content, &mut published, at) {
            // A user removed the directory, or a file that only a successor's sweep removes.
            Err(error) if error.is_missing() => Ok(Swapped::Conflict { published }),
            outcome => outcome,
        }
    }

    fn try_swap(
        &self,
        expected: u64,
        content: &[u8],
        published: &mut bool,
        at: &mut dyn FnMut(SwapPoint),
    ) -> Result<Swapped, StoreError> {
        at(SwapPoint::Begin);
        if expected == 0 {
            self.ensure_genesis()?;
        }
        let base_name = name_of(expected);
        let base = self.dir.open_handle(&base_name);
        let base = base.during(Action::Read, &self.path(expected))?;
        at(SwapPoint::Opened);
        let version = expected.saturating_add(1);
        if !self.link(version, content, at)? {
            return Ok(Swapped::Conflict { published: false });
        }
        *published = true;
        at(SwapPoint::Linked);
        let listing = self.list()?;
        at(SwapPoint::Listed);
        if listing.versions.last() != Some(&version) {
            return Ok(Swapped::Conflict { published: true });
        }
        if !self.is_same_file(&base, &base_name)? {
            return Ok(Swapped::Conflict { published: true });
        }
        at(SwapPoint::Checked);
        self.sync()?;
        at(SwapPoint::Synced);
        Ok(Swapped::Applied {
            sweep: Sweep { version, listing },
        })
    }

    /// Makes `content` the file of `version`; false when there is one.
    fn link(
        &self,
        version: u64,
        content: &[u8],
        at: &mut dyn FnMut(SwapPoint),
    ) -> Result<bool, StoreError> {
        let name = name_of(version);
        let mut attempt = 1;
        loop {
            let mut temporary = Temporary::create(&self.dir)?;
            temporary.write(content)?;
            temporary.sync()?;
            at(SwapPoint::Written);
            match self.dir.name_again(temporary.name(), &name) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // Taken for a leftover before it was locked.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempt < alive::ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error).during(Action::Link, &self.path(version)),
            }
        }
    }

    fn ensure_genesis(&self) -> Result<(), StoreError> {
        if self.dir.stat_of(&name_of(0)).is_err() {
            self.link(0, GENESIS, &mut |_| {})?;
        }
        Ok(())
    }

    /// Removes what nobody needs any more: older records, and with `claimed` also the files of
    /// others that are through with them. Failing at it harms nobody.
    pub(crate) fn sweep(&self, sweep: &Sweep, claimed: bool, at: &mut dyn FnMut(SwapPoint)) {
        for version in sweep
            .listing
            .versions
            .range(..sweep.version.saturating_sub(1))
        {
            at(SwapPoint::Sweeping);
            match self.dir.remove(&name_of(*version)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let path = self.path(*version);
                    let path = path.display();
                    tracing::warn!(%path, %error, "cannot remove an old record");
                    // Out of order none may go, see the module's argument.
                    return;
                }
                Ok(()) | Err(_) => {}
            }
        }
        if claimed {
            for name in &sweep.listing.claimed {
                if alive::maker(&self.dir, name) == Maker::Dead {
                    // Another process may have been faster.
                    let _gone = self.dir.remove(name);
                }
            }
        }
    }

    fn list(&self) -> Result<Listing, StoreError> {
        let listing = self.scan()?;
        #[cfg(test)]
        if let Some(weaken) = &self.weaken {
            return Ok(weaken(self, listing));
        }
        Ok(listing)
    }

    fn scan(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for name in self.dir.names().during(Action::List, self.dir.own_path())? {
            if let Some(version) = version_of(&name) {
                listing.versions.insert(version);
            } else if alive::is_claimed_name(&name) {
                listing.claimed.push(name);
            } else if wish::read(&name).is_some() {
                listing.wishes.push(name);
            }
        }
        Ok(listing)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.dir.sync().during(Action::Sync, self.dir.own_path())
    }

    fn is_same_file(&self, file: &File, name: &str) -> Result<bool, StoreError> {
        let path = self.dir.path(name);
        let ours = file.metadata().during(Action::Read, &path)?;
        let there = self.dir.stat_of(name).during(Action::Read, &path)?;
        // Their types differ between architectures.
        #[allow(clippy::unnecessary_cast)]
        let there = (there.st_dev as u64, there.st_ino as u64);
        Ok((ours.dev(), ours.ino()) == there)
    }
}

/// The name of the record of that version.
fn name_of(version: u64) -> String {
    format!("{PREFIX}{version:020}{SUFFIX}")
}

/// Whether something is in the record's place that cannot be one.
fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    [Errno::ISDIR, Errno::LOOP, Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests;
