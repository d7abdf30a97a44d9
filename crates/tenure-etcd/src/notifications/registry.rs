//! Who is notified of which lock, and what is watched for that.
//!
//! A waiting candidate watches the key of its predecessor only, so a release wakes one candidate
//! and not a herd. For a lock on which no candidate of this backend has a key, those who listen are
//! observers, and all of the lock's keys are watched.
//!
//! On each lease one leader's key is watched as well: it is gone when an operator or the server ends
//! the lease, and then the next heartbeat does not wait until it is due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use tenure_core::{Changes, Hint, LockName};
use tenure_kit::Tasks;
use tokio::sync::{Notify, mpsc, watch};

use super::pace::Pace;
use crate::config::EtcdConfig;

/// A candidate subscribes before it has a key; an observer stays without one.
const BEFORE_OBSERVING: Duration = Duration::from_millis(50);

pub(crate) struct Notifications {
    /// Says where the keys of a lock are.
    config: EtcdConfig,
    tasks: Tasks,
    state: Mutex<State>,
    commands: mpsc::UnboundedSender<WatchCommand>,
}

#[derive(Default)]
struct State {
    locks: HashMap<LockName, Entry>,
    last_id: i64,
}

struct Entry {
    hints: watch::Sender<()>,
    /// How many keys this backend has there.
    keys: usize,
    /// What the keys wait for, by their leases.
    waits: HashMap<i64, Wait>,
    observing: Option<i64>,
}

struct Wait {
    predecessor: Vec<u8>,
    id: i64,
}

impl Entry {
    fn new() -> Self {
        Self {
            hints: watch::Sender::new(()),
            keys: 0,
            waits: HashMap::new(),
            observing: None,
        }
    }
}

/// What the watcher is to do.
pub(super) enum WatchCommand {
    Watch(i64, Target),
    Cancel(i64),
}

/// What is watched.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) lock: LockName,
    pub(super) key: Vec<u8>,
    /// All keys that begin so, not this one alone.
    pub(super) all: bool,
    /// The first revision that has not been seen; 0 is now.
    pub(super) from: i64,
    /// A leader's own key: whom to wake, instead of those who listen to the lock.
    pub(super) term_key_gone: Option<Arc<Notify>>,
}

impl Notifications {
    pub(super) fn new(
        config: EtcdConfig,
        tasks: Tasks,
        commands: mpsc::UnboundedSender<WatchCommand>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            tasks,
            state: Mutex::default(),
            commands,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, command: WatchCommand) {
        // Fails only when the runtime is shutting down.
        let _unwatched = self.commands.send(command);
    }

    /// The lock has a key of this backend from now on.
    pub(crate) fn key_added(&self, lock: &LockName) {
        let mut state = self.state();
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        entry.keys += 1;
        if let Some(id) = entry.observing.take() {
            drop(state);
            self.command(WatchCommand::Cancel(id));
        }
    }

    /// A candidate is about to have a key: it is no observer, however long the store takes. Without
    /// this, thousands that wait for a new lease would each open a watch, only to close it again.
    pub(crate) fn expect_key(self: &Arc<Self>, lock: &LockName) -> ExpectedKey {
        self.key_added(lock);
        ExpectedKey {
            notifications: self.clone(),
            lock: lock.clone(),
        }
    }

    /// The key on this lease is gone.
    pub(crate) fn key_removed(self: &Arc<Self>, lock: &LockName, lease: i64) {
        self.stop_waiting(lock, lease);
        let mut state = self.state();
        if let Some(entry) = state.locks.get_mut(lock) {
            entry.keys = entry.keys.saturating_sub(1);
        }
        drop(state);
        self.tell(lock);
        self.settle(lock);
    }

    /// Wakes those who listen to `lock` when `predecessor` is deleted at `from` or later.
    pub(crate) fn wait(&self, lock: &LockName, lease: i64, predecessor: Vec<u8>, from: i64) {
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        if let Some(wait) = entry.waits.get(&lease)
            && wait.predecessor == predecessor
        {
            return;
        }
        let wait = Wait {
            predecessor: predecessor.clone(),
            id,
        };
        let before = entry.waits.insert(lease, wait);
        drop(state);
        if let Some(before) = before {
            self.command(WatchCommand::Cancel(before.id));
        }
        let target = Target {
            lock: lock.clone(),
            key: predecessor,
            all: false,
            from,
            term_key_gone: None,
        };
        self.command(WatchCommand::Watch(id, target));
    }

    /// Wakes `term_key_gone` when the leader's key is deleted at `from` or later. Returns the
    /// watch's number.
    pub(crate) fn watch_term(
        &self,
        lock: &LockName,
        key: String,
        from: i64,
        term_key_gone: Arc<Notify>,
    ) -> i64 {
        let id = {
            let mut state = self.state();
            state.last_id += 1;
            state.last_id
        };
        let target = Target {
            lock: lock.clone(),
            key: key.into_bytes(),
            all: false,
            from,
            term_key_gone: Some(term_key_gone),
        };
        self.command(WatchCommand::Watch(id, target));
        id
    }

    /// Ends that watch.
    pub(crate) fn unwatch_term(&self, id: i64) {
        self.command(WatchCommand::Cancel(id));
    }

    pub(crate) fn stop_waiting(&self, lock: &LockName, lease: i64) {
        let mut state = self.state();
        let wait = state
            .locks
            .get_mut(lock)
            .and_then(|entry| entry.waits.remove(&lease));
        drop(state);
        if let Some(wait) = wait {
            self.command(WatchCommand::Cancel(wait.id));
        }
    }

    /// Whether the key on this lease waits for one before it, as far as is known.
    pub(crate) fn waits(&self, lock: &LockName, lease: i64) -> bool {
        let state = self.state();
        let entry = state.locks.get(lock);
        entry.is_some_and(|entry| entry.waits.contains_key(&lease))
    }

    /// The lock may have become free.
    pub(crate) fn tell(&self, lock: &LockName) {
        if let Some(entry) = self.state().locks.get(lock) {
            entry.hints.send_replace(());
        }
    }

    pub(crate) fn changes(self: &Arc<Self>, lock: &LockName) -> Changes {
        let mut state = self.state();
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        let listener = Listener {
            hints: Some(entry.hints.subscribe()),
            notifications: self.clone(),
            lock: lock.clone(),
            pace: Pace::new(),
        };
        drop(state);
        self.settle_later(lock);
        Box::pin(stream::unfold(listener, |mut listener| async move {
            if !listener.notifications.tasks.process().is_current() {
                return None;
            }
            listener.hints.as_mut()?.changed().await.ok()?;
            listener.pace.next().await;
            listener.hints.as_mut()?.borrow_and_update();
            Some((Hint::MayBeFree, listener))
        }))
    }

    fn settle_later(self: &Arc<Self>, lock: &LockName) {
        let (notifications, lock) = (Arc::downgrade(self), lock.clone());
        let settling = async move {
            tokio::time::sleep(BEFORE_OBSERVING).await;
            if let Some(notifications) = notifications.upgrade() {
                notifications.settle(&lock);
            }
        };
        self.tasks.spawn(settling);
    }

    /// Begins or ends to watch all keys of the lock, as it has observers or not.
    fn settle(&self, lock: &LockName) {
        let mut state = self.state();
        let id = state.last_id + 1;
        let Some(entry) = state.locks.get_mut(lock) else {
            return;
        };
        let listened = entry.hints.receiver_count() > 0;
        let command = match entry.observing {
            None if listened && entry.keys == 0 => {
                entry.observing = Some(id);
                state.last_id = id;
                let target = Target {
                    lock: lock.clone(),
                    key: self.config.election(lock).into_bytes(),
                    all: true,
                    from: 0,
                    term_key_gone: None,
                };
                Some(WatchCommand::Watch(id, target))
            }
            Some(id) if !listened || entry.keys > 0 => {
                entry.observing = None;
                Some(WatchCommand::Cancel(id))
            }
            _ => None,
        };
        if let Some(entry) = state.locks.get(lock)
            && !listened
            && entry.keys == 0
        {
            state.locks.remove(lock);
        }
        drop(state);
        if let Some(command) = command {
            self.command(command);
        }
    }

    /// The predecessor is gone: what comes next is found out by the look that this causes.
    pub(super) fn passed(&self, target: &Target) {
        if let Some(term_key_gone) = &target.term_key_gone {
            term_key_gone.notify_one();
            return;
        }
        if let Some(entry) = self.state().locks.get_mut(&target.lock) {
            entry.waits.retain(|_, wait| wait.predecessor != target.key);
            entry.hints.send_replace(());
        }
    }
}

/// See [`Notifications::expect_key`].
pub(crate) struct ExpectedKey {
    notifications: Arc<Notifications>,
    lock: LockName,
}

impl Drop for ExpectedKey {
    fn drop(&mut self) {
        // In a child another thread's lock may be held without end.
        if !self.notifications.tasks.process().is_current() {
            return;
        }
        let mut state = self.notifications.state();
        let Some(entry) = state.locks.get_mut(&self.lock) else {
            return;
        };
        entry.keys = entry.keys.saturating_sub(1);
        let empty = entry.keys == 0;
        drop(state);
        if empty {
            // Most likely it tries again soon.
            self.notifications.settle_later(&self.lock);
        }
    }
}

struct Listener {
    hints: Option<watch::Receiver<()>>,
    notifications: Arc<Notifications>,
    lock: LockName,
    pace: Pace,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.notifications.tasks.process().is_current() {
            std::mem::forget(self.hints.take());
            return;
        }
        self.hints = None;
        self.notifications.settle(&self.lock);
    }
}
