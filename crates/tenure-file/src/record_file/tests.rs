//! The swap, one step at a time and at full speed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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

fn files_in(dir: &Path) -> RecordFiles {
    RecordFiles::new(OpenDir::open(dir).unwrap())
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
        let name = name_of(version);
        assert_eq!(version_of(&name), Some(version));
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
    let files = files_in(dir.path());
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
    let files = files_in(dir.path());
    assert!(swap(&files, 0, "1"));
    let swapped = files.swap(1, b"late", &mut |point| {
        if point == SwapPoint::Written {
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
    let files = files_in(dir.path());
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
    fn append(self, dir: &Path, marks: usize, seed: u64, weak: bool) -> Vec<String> {
        let writer = Rc::new(self);
        let mut files = files_in(dir);
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
                    Err(error) => panic!("{error:?}"),
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
            wishes: second.wishes,
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
        threads.push(thread::spawn(move || {
            writer.append(&dir, marks, seed, weak)
        }));
    }
    drop(arrived);
    Schedule {
        rng: Rng::with_seed(seed),
        go,
        arrived: arrivals,
    }
    .run();
    let files = files_in(dir.path());
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
                let files = files_in(&dir);
                for mark in 0..MARKS {
                    let mark = format!("{number}.{mark}");
                    loop {
                        let (version, text) = match files.latest().unwrap() {
                            Some((version, bytes)) => (version, String::from_utf8(bytes).unwrap()),
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
    let files = files_in(dir.path());
    let (_, text) = files.latest().unwrap().unwrap();
    let text = String::from_utf8(text).unwrap();
    let marks: BTreeSet<&str> = text.split_whitespace().collect();
    assert_eq!(marks.len(), WRITERS * MARKS);
    assert_eq!(text.split_whitespace().count(), WRITERS * MARKS);
}
