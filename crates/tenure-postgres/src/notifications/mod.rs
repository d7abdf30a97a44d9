//! How candidates and observers learn of changes without asking all the time.
//!
//! Three sources, none of which a waiter could block or be blocked by:
//!
//! - Sessions notify each other (`NOTIFY tenure`) when they release a lock or get one. The
//!   announcement of a term carries what an advisory lock has no place for: the lock's name, the
//!   token, the identity and the published value. An observer that missed it asks, and the
//!   holder announces itself again.
//! - A process that is killed notifies nobody. So each session that can hold locks also holds a
//!   lock of its own, `(ALIVE, its pid)`, and those who wait for one of its locks wait for that
//!   one, shared, on a session of their own: they are woken when the holder's session is gone,
//!   for whatever reason. A ghost among them (a waiter killed or frozen while it waits) gets
//!   nothing but a share of a lock that nobody else wants.
//! - The end of our own session is a hint too: what it would have told was missed.

pub(crate) mod message;
mod watcher;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use tenure_core::{Changes, Hint, Kept};
use tenure_kit::Tasks;
use tenure_kit::tasks::AbortOnDrop;
use tokio::sync::{Notify, watch};

use self::message::Announcement;
use crate::connector::Connector;
use crate::errors::StoreError;
use crate::key::AdvisoryKey;

/// A session can also end under a living leader, whose connection was reset or closed by somebody
/// else. It learns that within a millisecond, and stops; those who wait for its locks hold back so
/// long, so that it is not they who are faster.
const HEARS_OF_ITS_END: Duration = Duration::from_millis(20);

/// How many announcements are remembered of locks that nobody here waits for.
const REMEMBERED: usize = 10_000;

/// Tells the waiters of a backend of changes.
pub(crate) struct Notifications {
    connector: Arc<Connector>,
    tasks: Tasks,
    state: Kept<Mutex<State>>,
    /// An announcement has arrived.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: HashMap<AdvisoryKey, watch::Sender<Told>>,
    announcements: HashMap<AdvisoryKey, Announcement>,
    watchers: HashMap<i32, Watcher>,
}

/// What those who wait for a lock were told. A subscriber that has not looked for a while still
/// learns that the lock was free meanwhile, whoever has won it since.
#[derive(Clone, Copy, Default)]
struct Told {
    /// How often it may have become free.
    frees: u64,
    /// For how long it is held, from the last announcement on.
    held_for: Duration,
}

/// The session that waits for the end of another one.
struct Watcher {
    keys: HashSet<AdvisoryKey>,
    _task: AbortOnDrop,
}

impl Notifications {
    pub(crate) fn new(connector: Arc<Connector>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            connector,
            state: tasks.process().keep(Mutex::default()),
            tasks,
            arrived: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lock was released.
    pub(crate) fn released(&self, key: AdvisoryKey) {
        let mut state = self.state();
        state.announcements.remove(&key);
        state.may_be_free(key);
    }

    /// A term was announced, `by_us` by a session of this backend.
    pub(crate) fn announced(
        self: &Arc<Self>,
        key: AdvisoryKey,
        announcement: Announcement,
        by_us: bool,
    ) {
        let (pid, lease) = (announcement.pid, announcement.lease);
        let mut state = self.state();
        if state.announcements.len() >= REMEMBERED {
            state.announcements.clear();
        }
        state.announcements.insert(key, announcement);
        drop(state);
        self.arrived.notify_waiters();
        // The end of our own session is known without a watcher. A candidate that does not learn
        // of the holder's end goes on looking once per heartbeat.
        if by_us || self.watch(key, pid) {
            // Half of it, so that a candidate that missed the holder's end looks in time.
            self.state().held_for(key, lease / 2);
        }
    }

    /// All waiters look again: a session that listened has ended.
    pub(crate) fn missed_something(&self) {
        let mut state = self.state();
        state.announcements.clear();
        for waiting in state.waiting.values() {
            waiting.send_modify(|told| told.frees += 1);
        }
    }

    /// Those who wait for `key` look again.
    pub(crate) fn look_again(&self, key: AdvisoryKey) {
        self.state().may_be_free(key);
    }

    /// What the session `pid` has told of its term.
    pub(crate) fn announcement(&self, key: AdvisoryKey, pid: i32) -> Option<Announcement> {
        let state = self.state();
        let announcement = state.announcements.get(&key)?;
        (announcement.pid == pid).then(|| announcement.clone())
    }

    /// The same, as soon as it is heard; asked for by `ask`.
    pub(crate) async fn await_announcement(
        &self,
        key: AdvisoryKey,
        pid: i32,
        ask: impl Future<Output = Result<(), StoreError>>,
    ) -> Option<Announcement> {
        let mut heard = std::pin::pin!(self.arrived.notified());
        heard.as_mut().enable();
        ask.await.ok()?;
        loop {
            if let Some(announcement) = self.announcement(key, pid) {
                return Some(announcement);
            }
            heard.as_mut().await;
            heard.set(self.arrived.notified());
            heard.as_mut().enable();
        }
    }

    pub(crate) fn changes(self: &Arc<Self>, key: AdvisoryKey) -> Changes {
        let receiver = {
            let mut state = self.state();
            let sender = state.waiting.entry(key);
            sender
                .or_insert_with(|| watch::Sender::new(Told::default()))
                .subscribe()
        };
        let frees = receiver.borrow().frees;
        let subscription = Subscription {
            frees,
            receiver: Some(receiver),
            notifications: self.clone(),
            key,
        };
        Box::pin(stream::unfold(
            subscription,
            |mut subscription| async move {
                let receiver = subscription.receiver.as_mut()?;
                receiver.changed().await.ok()?;
                let told = *receiver.borrow_and_update();
                let was_free = told.frees != subscription.frees;
                subscription.frees = told.frees;
                let hint = if was_free {
                    Hint::MayBeFree
                } else {
                    Hint::HeldFor(told.held_for)
                };
                Some((hint, subscription))
            },
        ))
    }

    /// Sees to it that those who wait for `key` are woken when the session `pid` ends; whether
    /// they will be.
    pub(crate) fn watch(self: &Arc<Self>, key: AdvisoryKey, pid: i32) -> bool {
        let mut state = self.state();
        if !state.waiting.contains_key(&key) {
            return false;
        }
        if let Some(watcher) = state.watchers.get_mut(&pid) {
            if watcher.keys.insert(key) {
                state.forget_key(key, Some(pid));
            }
            return true;
        }
        state.forget_key(key, Some(pid));
        if state.watchers.len() >= self.connector.config.watch_sessions {
            return false;
        }
        let (notifications, connector) = (Arc::downgrade(self), self.connector.clone());
        let tasks = self.tasks.clone();
        let task = self.tasks.spawn(async move {
            let outcome = watcher::await_end(&connector, &tasks, pid).await;
            tokio::time::sleep(HEARS_OF_ITS_END).await;
            if let Err(error) = &outcome {
                // The candidates look once per heartbeat instead.
                let reason = error.message();
                tracing::debug!(reason, "cannot wait for a session's end");
            }
            if let Some(notifications) = notifications.upgrade() {
                notifications.watch_over(pid, outcome.is_ok());
            }
        });
        state.watchers.insert(
            pid,
            Watcher {
                keys: HashSet::from([key]),
                _task: AbortOnDrop::new(task.abort_handle()),
            },
        );
        true
    }

    fn watch_over(&self, pid: i32, gone: bool) {
        let mut state = self.state();
        if let Some(watcher) = state.watchers.remove(&pid)
            && gone
        {
            for key in watcher.keys {
                state.may_be_free(key);
            }
        }
    }
}

impl State {
    fn may_be_free(&self, key: AdvisoryKey) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.send_modify(|told| told.frees += 1);
        }
    }

    fn held_for(&self, key: AdvisoryKey, left: Duration) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.send_modify(|told| told.held_for = left);
        }
    }

    /// Ends the watches that only `key` had needed, but for that of `pid`.
    fn forget_key(&mut self, key: AdvisoryKey, pid: Option<i32>) {
        self.watchers.retain(|watched, watcher| {
            if Some(*watched) == pid {
                return true;
            }
            watcher.keys.remove(&key);
            !watcher.keys.is_empty()
        });
    }
}

struct Subscription {
    receiver: Option<watch::Receiver<Told>>,
    /// How often the lock may have become free that this subscriber knows of.
    frees: u64,
    notifications: Arc<Notifications>,
    key: AdvisoryKey,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.notifications.state.is_ours() {
            // Another thread may have held the lock when this child was forked.
            return;
        }
        self.receiver = None;
        let mut state = self.notifications.state();
        let waiting = state.waiting.get(&self.key);
        if waiting.is_some_and(|waiting| waiting.receiver_count() == 0) {
            state.waiting.remove(&self.key);
            state.forget_key(self.key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use tenure_core::FencingToken;

    use super::*;
    use crate::config::PostgresConfig;

    fn led(pid: i32) -> Announcement {
        Announcement {
            pid,
            lock: "a".to_owned(),
            lease: Duration::from_secs(20),
            token: FencingToken::from_counter(42).unwrap(),
            identity: "pod-1".to_owned(),
            value: None,
        }
    }

    fn notifications(watch_sessions: usize) -> Arc<Notifications> {
        let config = PostgresConfig::server("127.0.0.1:1").unwrap();
        let config = config.watch_sessions(watch_sessions);
        let tasks = Tasks::here().unwrap();
        let connector = Connector::new(Arc::new(config), tasks.process().clone());
        Notifications::new(Arc::new(connector), tasks)
    }

    #[tokio::test]
    async fn a_release_is_heard_although_the_lock_was_won_since() {
        let (notifications, key) = (notifications(1), AdvisoryKey::Big(1));
        let mut changes = notifications.changes(key);
        notifications.released(key);
        notifications.announced(key, led(7), false);
        assert_eq!(changes.next().await, Some(Hint::MayBeFree));
        notifications.announced(key, led(7), false);
        let left = Duration::from_secs(10);
        assert_eq!(changes.next().await, Some(Hint::HeldFor(left)));
    }

    #[tokio::test]
    async fn the_end_of_a_holder_that_was_announced_is_waited_for() {
        let (notifications, key) = (notifications(1), AdvisoryKey::Big(1));
        let _changes = notifications.changes(key);
        notifications.announced(key, led(7), false);
        assert!(notifications.state().watchers.contains_key(&7));
    }

    #[tokio::test]
    async fn nobody_sleeps_through_heartbeats_where_no_end_is_waited_for() {
        let (notifications, key) = (notifications(0), AdvisoryKey::Big(1));
        let mut changes = notifications.changes(key);
        notifications.announced(key, led(7), false);
        assert_eq!(changes.next().now_or_never(), None);
    }
}
