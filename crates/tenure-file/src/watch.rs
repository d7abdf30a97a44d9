//! Notifications from the file system: one watcher for all locks of a store.
//!
//! Two things wake a candidate: a new record, and the close of an alive file, which is what the
//! kernel does to the files of a killed process. Looking at a lock opens files for reading only,
//! which raises neither.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tenure_core::Process;
use tokio::sync::watch;

use crate::{alive, record_file};

/// The watcher of a store, made by its first subscriber.
///
/// A forked child leaks it: it shares the parent's watches, and has no copy of the thread that
/// would answer it.
pub(crate) struct DirectoryWatcher {
    process: Process,
    /// Also orders all subscribing and unsubscribing. The watcher's thread never takes it, so it
    /// may be held while that thread is waited for.
    notifier: Mutex<Option<RecommendedWatcher>>,
    topics: Arc<Topics>,
    warned: AtomicBool,
}

/// The watched directories.
type Topics = Mutex<HashMap<PathBuf, watch::Sender<Seen>>>;

/// What has been seen of a directory. Subscribers see the latest state only, so a storm of events
/// costs one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many alive files were closed.
    pub(crate) closed: u64,
    /// The highest version that was seen to appear.
    highest: u64,
}

/// Why a directory cannot be watched.
#[derive(Debug)]
pub(crate) enum NotWatched {
    /// It does not exist.
    Missing,
    /// The system refuses.
    Refused(notify::Error),
}

impl DirectoryWatcher {
    pub(crate) fn new() -> Self {
        Self {
            process: Process::current(),
            notifier: Mutex::default(),
            topics: Arc::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// Watches `dir`. Blocks for as long as the system takes.
    pub(crate) fn subscribe(self: &Arc<Self>, dir: &Path) -> Result<Subscription, NotWatched> {
        let mut notifier = hold(&self.notifier);
        let watcher = if let Some(watcher) = &mut *notifier {
            watcher
        } else {
            let topics = self.topics.clone();
            let watcher = notify::recommended_watcher(move |event| dispatch(&topics, event))
                .map_err(NotWatched::Refused)?;
            notifier.insert(watcher)
        };
        let (receiver, is_new) = match hold(&self.topics).entry(dir.to_owned()) {
            Entry::Occupied(topic) => (topic.get().subscribe(), false),
            Entry::Vacant(topic) => {
                let (sender, receiver) = watch::channel(Seen::default());
                topic.insert(sender);
                (receiver, true)
            }
        };
        if is_new && let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
            hold(&self.topics).remove(dir);
            return Err(match error.kind {
                notify::ErrorKind::PathNotFound => NotWatched::Missing,
                _ => NotWatched::Refused(error),
            });
        }
        Ok(Subscription {
            dir: dir.to_owned(),
            receiver: Some(receiver),
            watches: self.clone(),
        })
    }

    /// Whether this is the first time that it is to be said that nothing can be watched.
    pub(crate) fn warns(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

impl Drop for DirectoryWatcher {
    fn drop(&mut self) {
        if !self.process.is_current() {
            let notifier = self.notifier.get_mut();
            mem::forget(notifier.unwrap_or_else(PoisonError::into_inner).take());
            mem::forget(self.topics.clone());
        }
    }
}

impl fmt::Debug for DirectoryWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryWatcher").finish_non_exhaustive()
    }
}

/// A watched directory; the watch ends with its last subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    dir: PathBuf,
    /// `None` only while it is dropped.
    receiver: Option<watch::Receiver<Seen>>,
    watches: Arc<DirectoryWatcher>,
}

impl Subscription {
    /// Waits for the next change; `None` when the directory is gone. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Option<Seen> {
        let receiver = self.receiver.as_mut()?;
        receiver.changed().await.ok()?;
        Some(*receiver.borrow_and_update())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.watches.process.is_current() {
            // Any lock here may be held for ever, by a thread that only the parent has.
            mem::forget(self.receiver.take());
            return;
        }
        let mut notifier = hold(&self.watches.notifier);
        self.receiver = None;
        let is_last = {
            let mut topics = hold(&self.watches.topics);
            let unused = |sender: &watch::Sender<Seen>| sender.receiver_count() == 0;
            let is_last = topics.get(&self.dir).is_some_and(unused);
            if is_last {
                topics.remove(&self.dir);
            }
            is_last
        };
        if is_last && let Some(watcher) = &mut *notifier {
            // The directory may be gone, and its watch with it.
            let _gone = watcher.unwatch(&self.dir);
        }
    }
}

/// Runs on the watcher's thread.
fn dispatch(topics: &Topics, event: notify::Result<Event>) {
    let mut topics = hold(topics);
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // Events were lost: everybody looks.
        Ok(_) | Err(_) => {
            for sender in topics.values() {
                sender.send_modify(|seen| seen.closed = seen.closed.wrapping_add(1));
            }
            return;
        }
    };
    for path in &event.paths {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let name = name.to_str().unwrap_or_default();
        let version = record_file::version_of(name);
        match event.kind {
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                if let (Some(sender), Some(version)) = (topics.get(dir), version) {
                    sender.send_modify(|seen| seen.highest = seen.highest.max(version));
                }
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                if let Some(sender) = topics.get(dir)
                    && alive::is_alive_name(name)
                {
                    sender.send_modify(|seen| seen.closed = seen.closed.wrapping_add(1));
                }
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                // If this is a watched directory itself: its subscribers find the sender gone.
                // The kernel tells only when no file in it is open any more, the leader's say;
                // so it also counts that the highest record is removed, which no sweep does.
                topics.remove(path);
                if let (Some(sender), Some(version)) = (topics.get(dir), version) {
                    sender.send_if_modified(|seen| {
                        let was_highest = version >= seen.highest;
                        if was_highest {
                            seen.highest = 0;
                        }
                        was_highest
                    });
                }
            }
            _ => {}
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is made by one call, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
