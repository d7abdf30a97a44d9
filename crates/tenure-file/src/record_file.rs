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
//! very moment of its link.* So each version is written on top of its predecessor by exactly one
//! writer, and the link is the moment at which the write takes effect. (A link that was highest
//! takes effect even if its writer then dies or sees a conflict because a successor was quick.
//! Callers learn that by reading the record again.)
//!
//! Suppose not: something higher than n had been linked before our link succeeded. Since the
//! file n+1 was not there, and the highest always is, H was at least n+2. Let G be H at the start
//! of our listing; file G was there then. The listing did not show it, and a listing shows all that
//! is there from its start to its end (POSIX promises no more), so G was removed meanwhile, by the
//! sweep of some m >= G+2. That m was linked after our listing had begun, for G was the highest
//! then, and it made its own listing, from which it sweeps, later still, and so after our step 1.
//! At the start of that listing the file of our step 1 was either gone or there; if it was there,
//! it was gone by the end of it, or it was listed and removed before G was, in ascending order.
//! Either way it was gone before the end of our listing, and our step 5 found it gone: no name
//! returns, because a temporary file is linked only once, and no inode number is used again while
//! we keep the file open. Contradiction.
//!
//! The first version has no predecessor to keep open, so there is one without meaning, 0, which
//! everybody may link at any time: it says that there is no record.
//!
//! A process may stop for ever between any two steps: before the link it has changed nothing;
//! after it, its write counts or is a stray one below the highest, which means nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::alive::{self, Pulse, Temporary};
use crate::trouble::{Action, During as _, Trouble};

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
pub(crate) enum Stage {
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
}

/// What a writer may sweep, see [`RecordFiles::sweep`].
#[derive(Debug)]
pub(crate) struct Sweep {
    version: u64,
    listing: Listing,
}

#[cfg(test)]
type Weaken = Box<dyn Fn(&RecordFiles, Listing) -> Listing>;

/// The files of one lock.
pub(crate) struct RecordFiles {
    dir: PathBuf,
    /// Makes of an exact listing one that POSIX allows as well.
    #[cfg(test)]
    weaken: Option<Weaken>,
}

impl RecordFiles {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            #[cfg(test)]
            weaken: None,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, version: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{version:020}{SUFFIX}"))
    }

    /// The highest version and its content; `None` when there is none.
    pub(crate) fn latest(&self) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
        for _ in 0..ATTEMPTS {
            let Some(version) = self.highest()? else {
                return Ok(None);
            };
            let path = self.path(version);
            let read = alive::open_plain(&path).and_then(|mut file| alive::read_some(&mut file));
            match read {
                Ok(content) => return Ok(Some((version, content))),
                // Swept since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_damage(&error) => return Ok(Some((version, Vec::new()))),
                Err(error) => return Err(error).during(Action::Read, &path),
            }
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock)).during(Action::Read, &self.dir)
    }

    /// The highest version; `None` when there is none.
    pub(crate) fn highest(&self) -> Result<Option<u64>, Trouble> {
        let listing = match self.list() {
            Err(trouble) if trouble.is_missing() => return Ok(None),
            listing => listing?,
        };
        Ok(listing.versions.last().copied().filter(|last| *last > 0))
    }

    /// The alive files, of whomever.
    pub(crate) fn alive_names(&self) -> Result<Vec<String>, Trouble> {
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
        at: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Trouble> {
        let mut published = false;
        match self.try_swap(expected, content, &mut published, at) {
            // Somebody removed the directory, or a file that only a successor's sweep removes.
            Err(trouble) if trouble.is_missing() => Ok(Swapped::Conflict { published }),
            outcome => outcome,
        }
    }

    fn try_swap(
        &self,
        expected: u64,
        content: &[u8],
        published: &mut bool,
        at: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Trouble> {
        at(Stage::Begin);
        if expected == 0 {
            self.ensure_genesis()?;
        }
        let base_path = self.path(expected);
        let base = alive::open_handle(&base_path).during(Action::Read, &base_path)?;
        at(Stage::Opened);
        let version = expected.saturating_add(1);
        if !self.link(version, content, at)? {
            return Ok(Swapped::Conflict { published: false });
        }
        *published = true;
        at(Stage::Linked);
        let listing = self.list()?;
        at(Stage::Listed);
        if listing.versions.last() != Some(&version) {
            return Ok(Swapped::Conflict { published: true });
        }
        if !is_same_file(&base, &base_path)? {
            return Ok(Swapped::Conflict { published: true });
        }
        at(Stage::Checked);
        self.sync()?;
        at(Stage::Synced);
        Ok(Swapped::Applied {
            sweep: Sweep { version, listing },
        })
    }

    /// Makes `content` the file of `version`; false when there is one.
    fn link(
        &self,
        version: u64,
        content: &[u8],
        at: &mut dyn FnMut(Stage),
    ) -> Result<bool, Trouble> {
        let path = self.path(version);
        let mut attempt = 1;
        loop {
            let mut temporary = Temporary::create(&self.dir)?;
            temporary.write(content)?;
            temporary.sync()?;
            at(Stage::Written);
            match fs::hard_link(temporary.path(), &path) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // Taken for a leftover before it was locked.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempt < alive::ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error).during(Action::Link, &path),
            }
        }
    }

    fn ensure_genesis(&self) -> Result<(), Trouble> {
        let path = self.path(0);
        if fs::symlink_metadata(&path).is_err() {
            self.link(0, GENESIS, &mut |_| {})?;
        }
        Ok(())
    }

    /// Removes what nobody needs any more: older records, and with `claimed` also the files of
    /// others that are through with them. Failing at it harms nobody.
    pub(crate) fn sweep(&self, sweep: &Sweep, claimed: bool, at: &mut dyn FnMut(Stage)) {
        for version in sweep
            .listing
            .versions
            .range(..sweep.version.saturating_sub(1))
        {
            at(Stage::Sweeping);
            let path = self.path(*version);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
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
                if alive::pulse(&self.dir, name) == Pulse::Dead {
                    // Somebody else may have been faster.
                    let _gone = fs::remove_file(self.dir.join(name));
                }
            }
        }
    }

    fn list(&self) -> Result<Listing, Trouble> {
        let listing = self.scan()?;
        #[cfg(test)]
        if let Some(weaken) = &self.weaken {
            return Ok(weaken(self, listing));
        }
        Ok(listing)
    }

    fn scan(&self) -> Result<Listing, Trouble> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.dir).during(Action::List, &self.dir)? {
            let name = entry.during(Action::List, &self.dir)?.file_name();
            let Ok(name) = name.into_string() else {
                continue;
            };
            if let Some(version) = version_of(&name) {
                listing.versions.insert(version);
            } else if alive::is_claimed_name(&name) {
                listing.claimed.push(name);
            }
        }
        Ok(listing)
    }

    fn sync(&self) -> Result<(), Trouble> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .during(Action::Sync, &self.dir)
    }
}

/// Whether something is in the record's place that cannot be one.
fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;

    [Errno::ISDIR, Errno::LOOP, Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn is_same_file(file: &File, path: &Path) -> Result<bool, Trouble> {
    let ours = file.metadata().during(Action::Read, path)?;
    let there = fs::symlink_metadata(path).during(Action::Read, path)?;
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread;

    use fastrand::Rng;

    use super::*;

    /// A directory in memory where there is one, since syncing is not what is tested here.
    fn directory() -> tempfile::TempDir {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() {
            tempfile::tempdir_in(shm).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        }
    }

    fn swap(files: &RecordFiles, expected: u64, content: &str) -> bool {
        let swapped = files.swap(expected, content.as_bytes(), &mut |_| {});
        match swapped.unwrap() {
            Swapped::Applied { sweep } => {
                files.sweep(&sweep, true, &mut |_| {});
                true
            }
            Swapped::Conflict { .. } => false,
        }
    }

    #[test]
    fn names_are_versions_and_versions_names() {
        for version in [0, 1, 12_345, u64::MAX] {
            let path = RecordFiles::new(PathBuf::from("/x")).path(version);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(version_of(name), Some(version));
        }
        for name in [
            "record-1.json",
            "record-00000000000000000001",
            "record-+0000000000000000001.json",
            "record-99999999999999999999.json",
            "tmp-00000000000000000001.json",
        ] {
            assert_eq!(version_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_write_needs_the_highest_version() {
        let dir = directory();
        let files = RecordFiles::new(dir.path().to_owned());
        assert!(files.latest().unwrap().is_none());
        assert!(!swap(&files, 1, "no base"));
        assert!(swap(&files, 0, "a"));
        assert!(!swap(&files, 0, "b"));
        assert!(swap(&files, 1, "b"));
        assert!(swap(&files, 2, "c"));
        assert!(!swap(&files, 1, "d"));
        assert_eq!(files.latest().unwrap(), Some((3, b"c".to_vec())));
        // The one before it is kept for late readers, and nothing else.
        let listing = files.list().unwrap();
        assert_eq!(listing.versions.into_iter().collect::<Vec<_>>(), [2, 3]);
        assert!(listing.claimed.is_empty());
    }

    #[test]
    fn a_writer_stopped_before_its_link_conflicts_however_late_it_goes_on() {
        let dir = directory();
        let files = RecordFiles::new(dir.path().to_owned());
        assert!(swap(&files, 0, "1"));
        let swapped = files.swap(1, b"late", &mut |stage| {
            if stage == Stage::Written {
                for version in 1..6 {
                    assert!(swap(&files, version, "others"));
                }
            }
        });
        // Its version had been swept, so the link itself succeeded.
        assert!(matches!(
            swapped.unwrap(),
            Swapped::Conflict { published: true }
        ));
        assert_eq!(files.latest().unwrap(), Some((6, b"others".to_vec())));
        // The next writer takes its stray file away.
        assert!(swap(&files, 6, "next"));
        let listing = files.list().unwrap();
        assert_eq!(listing.versions.into_iter().collect::<Vec<_>>(), [6, 7]);
    }

    #[test]
    fn what_is_no_file_is_damage_and_does_not_block() {
        let dir = directory();
        let files = RecordFiles::new(dir.path().to_owned());
        std::os::unix::fs::symlink("/nowhere", files.path(4)).unwrap();
        assert_eq!(files.latest().unwrap(), Some((4, Vec::new())));
        assert!(swap(&files, 4, "mended"));
        fs::create_dir(files.path(8)).unwrap();
        assert_eq!(files.latest().unwrap(), Some((8, Vec::new())));
        assert!(swap(&files, 8, "mended"));
        assert_eq!(files.latest().unwrap(), Some((9, b"mended".to_vec())));
    }

    /// Writers that are let go on one step at a time, in an order drawn from a seed.
    ///
    /// Each appends its marks to a text. Whatever the order, the text must come to hold each mark
    /// once, and every write that was said to be applied must be part of it.
    struct Schedule {
        rng: Rng,
        go: BTreeMap<usize, Sender<()>>,
        arrived: Receiver<(usize, bool)>,
    }

    impl Schedule {
        fn run(mut self) {
            let mut ready: Vec<usize> = Vec::new();
            let mut running = self.go.len();
            let mut alive = self.go.len();
            let mut stalled = None;
            let mut current = 0;
            loop {
                while running > 0 {
                    let (writer, goes_on) = self.arrived.recv().unwrap();
                    running -= 1;
                    if goes_on {
                        ready.push(writer);
                    } else {
                        alive -= 1;
                    }
                }
                if alive == 0 {
                    return;
                }
                // One writer at a time is stopped for long: that is where the danger lies.
                if self.rng.u8(..) < 12 {
                    stalled = self.rng.choice(&ready).copied();
                }
                if !ready.contains(&current) || Some(current) == stalled || self.rng.u8(..) < 60 {
                    let awake: Vec<usize> = ready
                        .iter()
                        .copied()
                        .filter(|writer| Some(*writer) != stalled)
                        .collect();
                    current = self.rng.choice(awake).unwrap_or(ready[0]);
                }
                ready.retain(|writer| *writer != current);
                running = 1;
                self.go[&current].send(()).unwrap();
            }
        }
    }

    struct Writer {
        number: usize,
        go: Receiver<()>,
        arrived: Sender<(usize, bool)>,
    }

    impl Writer {
        fn pause(&self) {
            self.arrived.send((self.number, true)).unwrap();
            self.go.recv().unwrap();
        }

        /// Appends `marks` marks and returns the texts that were said to be written.
        fn append(self, dir: PathBuf, marks: usize, seed: u64, weak: bool) -> Vec<String> {
            let writer = Rc::new(self);
            let mut files = RecordFiles::new(dir);
            if weak {
                files.weaken = Some(weakened(writer.clone(), seed));
            }
            let mut applied = Vec::new();
            for mark in 0..marks {
                let mark = format!("{}.{mark}", writer.number);
                loop {
                    writer.pause();
                    let (version, text) = match files.latest() {
                        Ok(Some((version, bytes))) => (version, String::from_utf8(bytes).unwrap()),
                        Ok(None) => (0, String::new()),
                        Err(trouble) => panic!("{trouble:?}"),
                    };
                    if text.split(' ').any(|found| found == mark) {
                        break;
                    }
                    let text = format!("{text}{mark} ");
                    let mut at = |_| writer.pause();
                    if let Swapped::Applied { sweep } =
                        files.swap(version, text.as_bytes(), &mut at).unwrap()
                    {
                        applied.push(text);
                        files.sweep(&sweep, true, &mut at);
                        break;
                    }
                }
            }
            writer.arrived.send((writer.number, false)).unwrap();
            applied
        }
    }

    /// All that POSIX promises of a listing is what was there from its start to its end; of the
    /// rest it may show anything.
    fn weakened(writer: Rc<Writer>, seed: u64) -> Weaken {
        let rng = std::cell::RefCell::new(Rng::with_seed(seed));
        Box::new(move |files, first| {
            for _ in 0..rng.borrow_mut().u8(1..4) {
                writer.pause();
            }
            let second = files.scan().unwrap();
            let mut rng = rng.borrow_mut();
            let show_rest = rng.u8(..) < 80;
            let mut shown = |name_in_both: bool| name_in_both || (show_rest && rng.bool());
            let versions = first.versions.union(&second.versions).copied();
            Listing {
                versions: versions
                    .filter(|version| {
                        shown(first.versions.contains(version) && second.versions.contains(version))
                    })
                    .collect(),
                claimed: second.claimed,
            }
        })
    }

    fn run_schedule(seed: u64, writers: usize, marks: usize, weak: bool) {
        let dir = directory();
        let (arrived, arrivals) = mpsc::channel();
        let mut go = BTreeMap::new();
        let mut threads = Vec::new();
        for number in 0..writers {
            let (sender, receiver) = mpsc::channel();
            go.insert(number, sender);
            let writer = Writer {
                number,
                go: receiver,
                arrived: arrived.clone(),
            };
            let dir = dir.path().to_owned();
            let seed = seed.wrapping_mul(31).wrapping_add(number as u64);
            threads.push(thread::spawn(move || writer.append(dir, marks, seed, weak)));
        }
        drop(arrived);
        Schedule {
            rng: Rng::with_seed(seed),
            go,
            arrived: arrivals,
        }
        .run();
        let files = RecordFiles::new(dir.path().to_owned());
        let (_, text) = files.latest().unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut found: Vec<&str> = text.split_whitespace().collect();
        let total = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(
            (total, found.len()),
            (writers * marks, writers * marks),
            "seed {seed}: {text}"
        );
        for thread in threads {
            for applied in thread.join().unwrap() {
                assert!(
                    text.starts_with(&applied),
                    "seed {seed}: {applied:?} was lost, the end is {text:?}"
                );
            }
        }
    }

    /// The seeds to run: `TENURE_SEEDS=from..to` for others than the default.
    fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
        let parse = |text: String| {
            let (from, to) = text.split_once("..")?;
            Some(from.parse().ok()?..to.parse().ok()?)
        };
        std::env::var("TENURE_SEEDS")
            .ok()
            .and_then(parse)
            .unwrap_or(default)
    }

    #[test]
    fn no_order_of_steps_loses_a_write() {
        for seed in seeds(0..300) {
            run_schedule(seed, 2 + (seed % 3) as usize, 4, false);
        }
    }

    #[test]
    fn no_order_of_steps_loses_a_write_with_the_weakest_listings() {
        for seed in seeds(0..300) {
            run_schedule(seed, 2 + (seed % 3) as usize, 4, true);
        }
    }

    #[test]
    fn threads_at_full_speed_lose_no_write() {
        const WRITERS: usize = 4;
        const MARKS: usize = 100;
        let dir = directory();
        thread::scope(|scope| {
            for number in 0..WRITERS {
                let dir = dir.path().to_owned();
                scope.spawn(move || {
                    let files = RecordFiles::new(dir);
                    for mark in 0..MARKS {
                        let mark = format!("{number}.{mark}");
                        loop {
                            let (version, text) = match files.latest().unwrap() {
                                Some((version, bytes)) => {
                                    (version, String::from_utf8(bytes).unwrap())
                                }
                                None => (0, String::new()),
                            };
                            if text.split(' ').any(|found| found == mark)
                                || swap(&files, version, &format!("{text}{mark} "))
                            {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let files = RecordFiles::new(dir.path().to_owned());
        let (_, text) = files.latest().unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        let marks: BTreeSet<&str> = text.split_whitespace().collect();
        assert_eq!(marks.len(), WRITERS * MARKS);
        assert_eq!(text.split_whitespace().count(), WRITERS * MARKS);
    }
}
