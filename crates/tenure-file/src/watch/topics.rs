//! What has been seen of the watched directories.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The watched directories, by the kernel's numbers for them: a directory has one, whatever the
/// path by which it was reached.
pub(super) type Topics = Mutex<HashMap<i32, watch::Sender<Seen>>>;

/// What has been seen of a directory. Subscribers see the latest state only, so a storm of events
/// costs one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many alive files were closed.
    pub(crate) closed: u64,
    /// The highest version that was seen to appear.
    highest: u64,
}

/// What can happen to a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// This version appeared.
    Appeared(u64),
    /// This version was removed.
    Removed(u64),
    /// An alive file was closed.
    Closed,
    /// The directory is there no longer.
    Gone,
}

/// Notes what happened. Runs on the watcher's thread.
pub(super) fn note(topics: &Topics, topic: i32, happened: Happened) {
    let mut topics = hold(topics);
    if happened == Happened::Gone {
        // Its subscribers find the sender gone.
        topics.remove(&topic);
        return;
    }
    let Some(sender) = topics.get(&topic) else {
        return;
    };
    sender.send_if_modified(|seen| match happened {
        Happened::Appeared(version) => {
            seen.highest = seen.highest.max(version);
            true
        }
        Happened::Closed => {
            seen.closed = seen.closed.wrapping_add(1);
            true
        }
        // No sweep removes the highest record, so the directory is being removed: the kernel tells
        // of that only when no file in it is open any more, the leader's say.
        Happened::Removed(version) if version >= seen.highest => {
            seen.highest = 0;
            true
        }
        Happened::Removed(_) | Happened::Gone => false,
    });
}

/// Events were lost: everybody looks.
pub(super) fn note_all(topics: &Topics) {
    for sender in hold(topics).values() {
        sender.send_modify(|seen| seen.closed = seen.closed.wrapping_add(1));
    }
}

/// Nothing is watched any more: the streams find their senders gone, and begin again.
pub(super) fn end_all(topics: &Topics) {
    hold(topics).clear();
}

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is made by one call, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
