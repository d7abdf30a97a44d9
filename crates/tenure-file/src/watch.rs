//! Notifications from the file system: one inotify instance and one thread for all locks of a store.
//!
//! Two things wake a candidate: a new record, and the close of an alive file, which is what the
//! kernel does to the files of a killed process. Looking at a lock opens files for reading only,
//! which raises neither. Elsewhere than on Linux nothing can be watched, and candidates look every
//! retry interval.

use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tenure_core::Process;
use tokio::sync::watch;

mod topics;

pub(crate) use topics::Seen;
use topics::{Topics, hold};

#[cfg(target_os = "linux")]
mod inotify;
#[cfg(target_os = "linux")]
use inotify::Notifier;
#[cfg(not(target_os = "linux"))]
mod nothing;
#[cfg(not(target_os = "linux"))]
use nothing::Notifier;

/// The watcher of a store, made by its first subscriber.
///
/// A forked child leaks it: it shares the parent's watches, and has no copy of the thread that
/// would hear of them.
pub(crate) struct DirectoryWatcher {
    process: Process,
    /// Also orders all subscribing and unsubscribing. The watcher's thread never takes it.
    notifier: Mutex<Option<Notifier>>,
    topics: Arc<Topics>,
    warned: AtomicBool,
}

/// Why a directory cannot be watched.
#[derive(Debug)]
pub(crate) enum NotWatched {
    /// It does not exist.
    Missing,
    /// The system refuses.
    Refused(io::Error),
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

    /// Watches `dir`. What happens in it from now on is seen, but for what happens until this
    /// returns: look at it then.
    pub(crate) fn subscribe(self: &Arc<Self>, dir: &Path) -> Result<Subscription, NotWatched> {
        let mut notifier = hold(&self.notifier);
        if notifier.as_ref().is_some_and(Notifier::has_ended) {
            *notifier = None;
        }
        let watcher = if let Some(watcher) = &*notifier {
            watcher
        } else {
            let started = Notifier::start(self.topics.clone());
            notifier.insert(started.map_err(NotWatched::Refused)?)
        };
        // Held meanwhile, so that the thread cannot note the end of this very watch before it is
        // entered.
        let mut topics = hold(&self.topics);
        let topic = watcher.watch(dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NotWatched::Missing,
            _ => NotWatched::Refused(error),
        })?;
        let receiver = match topics.entry(topic) {
            Entry::Occupied(topic) => topic.get().subscribe(),
            Entry::Vacant(topic) => {
                let (sender, receiver) = watch::channel(Seen::default());
                topic.insert(sender);
                receiver
            }
        };
        drop(topics);
        Ok(Subscription {
            topic,
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
    topic: i32,
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
            // Any lock here may be held without end, by a thread that only the parent has.
            mem::forget(self.receiver.take());
            return;
        }
        let notifier = hold(&self.watches.notifier);
        self.receiver = None;
        let is_last = {
            let mut topics = hold(&self.watches.topics);
            let unused = |sender: &watch::Sender<Seen>| sender.receiver_count() == 0;
            let is_last = topics.get(&self.topic).is_some_and(unused);
            if is_last {
                topics.remove(&self.topic);
            }
            is_last
        };
        if is_last && let Some(watcher) = &*notifier {
            watcher.unwatch(self.topic);
        }
    }
}
