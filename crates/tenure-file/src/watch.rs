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
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

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
    /// Also orders all subscribing and unsubscribing. The watcher's thread never takes it. Held
    /// while a directory is looked up, which a disk that hangs may never end.
    notifier: Mutex<Option<Notifier>>,
    /// Watches whose subscriptions ended meanwhile.
    left: Mutex<Vec<i32>>,
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
            left: Mutex::default(),
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
        let subscription = Subscription {
            topic,
            receiver: Some(receiver),
            watches: self.clone(),
        };
        self.end_left(notifier.as_ref());
        Ok(subscription)
    }

    /// Ends the watches that nobody has a subscription of any more.
    fn end_left(&self, notifier: Option<&Notifier>) {
        let left = mem::take(&mut *hold(&self.left));
        let mut topics = hold(&self.topics);
        for topic in left {
            let unused = |sender: &watch::Sender<Seen>| sender.receiver_count() == 0;
            if topics.get(&topic).is_some_and(unused) {
                topics.remove(&topic);
                if let Some(notifier) = notifier {
                    notifier.unwatch(topic);
                }
            }
        }
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
        self.receiver = None;
        hold(&self.watches.left).push(self.topic);
        // A dropped waiter must not wait for a disk: then the next one who comes by does it.
        let notifier = match self.watches.notifier.try_lock() {
            Ok(notifier) => notifier,
            Err(TryLockError::Poisoned(notifier)) => notifier.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.watches.end_left(notifier.as_ref());
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_subscription_ends_while_another_one_waits_for_a_disk() {
        let dir = tempfile::TempDir::new().unwrap();
        let watcher = Arc::new(DirectoryWatcher::new());
        let first = watcher.subscribe(dir.path()).unwrap();
        let (ended, is_ended) = mpsc::channel();
        // As if a directory were being looked up on a disk that hangs.
        let hanging = hold(&watcher.notifier);
        thread::spawn(move || {
            drop(first);
            ended.send(()).unwrap();
        });
        is_ended.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(hanging);
        let other = tempfile::TempDir::new().unwrap();
        let second = watcher.subscribe(other.path()).unwrap();
        assert_eq!(
            hold(&watcher.topics).len(),
            1,
            "the first one's watch ended"
        );
        drop(second);
        assert!(hold(&watcher.topics).is_empty());
    }
}
