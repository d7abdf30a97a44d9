//! How candidates and observers learn of changes without asking all the time.
//!
//! Three sources, none of which a waiter could block or be blocked by:
//!
//! - Sessions notify each other (`NOTIFY tenure`) when they release a lock or get one. The
//!   announcement of a term carries what an advisory lock has no place for: the lock's name, the
//!   token, the identity and the published value. An observer that missed it asks, and the
//!   holder announces itself again.
//! - A process that is killed notifies nobody. So each session that can hold locks also holds a
//!   lock of its own, `(ALIVE, its pid)`. Those who wait for one of its locks wait for that
//!   one, shared, on a session of their own. They are woken when the holder's session is gone,
//!   for whatever reason. A ghost among them (a waiter killed or frozen while it waits) gets
//!   nothing but a share of a lock that nobody else wants.
//! - The end of the session that listens is a notification too: what it would have told was missed.
//!
//! Any role of the database can notify, under any name and as often as it likes. The server itself
//! says which session has sent a notification, and which one holds a lock. So what is said of a
//! lock counts when its holder says it. As long as the holder is not known, others are believed;
//! they wake a waiter once a second at most.

mod listening;
pub(crate) mod message;
mod rumours;
mod watcher;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::stream;
use tenure_core::{Changes, Hint, Kept};
use tenure_kit::Tasks;
use tenure_kit::tasks::AbortOnDrop;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::listening::Listening;
use self::message::Announcement;
use self::rumours::{Look, Rumours};
use self::watcher::ONE_WAIT;
use crate::connector::Connector;
use crate::driver::Listener;
use crate::errors::StoreError;
use crate::key::AdvisoryKey;

/// A session can also end under a living leader, whose connection was reset or closed by a third
/// party else. It learns that within a millisecond, and stops; those who wait for its locks hold
/// back so long, so that it is not they who are faster.
const HEARS_OF_ITS_END: Duration = Duration::from_millis(20);

/// Of how many locks the holder is remembered.
const REMEMBERED: usize = 10_000;

/// After this time a waiter looks, whatever lease was announced.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Tells the waiters of a backend of changes.
pub(crate) struct Notifications {
    connector: Arc<Connector>,
    tasks: Tasks,
    state: Kept<Mutex<State>>,
    listening: Kept<OnceLock<Listening>>,
    /// Whether waiters may have looked before it listened.
    was_deaf: AtomicBool,
    /// An announcement has arrived.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: HashMap<AdvisoryKey, Waiting>,
    /// Which session holds a lock, as the server has shown it.
    owners: HashMap<AdvisoryKey, i32>,
    /// By these, or by others as long as a waiter knows of no holder.
    announcements: HashMap<AdvisoryKey, Announcement>,
    /// The last one by another session than the holder: of a lock that is waited for, it may be
    /// the next holder's.
    unproven: HashMap<AdvisoryKey, Announcement>,
    watchers: HashMap<i32, Watcher>,
}

/// Those who wait for a lock.
#[derive(Default)]
struct Waiting {
    told: watch::Sender<Told>,
    rumours: Rumours,
}

/// What those who wait for a lock were told. A subscriber that has not looked for a while still
/// learns that the lock was free meanwhile, whichever candidate has won it since.
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
            listening: tasks.process().keep(OnceLock::new()),
            was_deaf: AtomicBool::new(false),
            tasks,
            arrived: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the session that listens, with the first call.
    pub(crate) fn listen(self: &Arc<Self>, listener: Listener) {
        self.listening.get_or_init(|| {
            let (this, connector) = (Arc::downgrade(self), self.connector.clone());
            let told = move |listens| match this.upgrade() {
                Some(this) if listens => this.hears(),
                Some(this) => this.is_deaf(),
                None => {}
            };
            Listening::start(Box::new(told), connector, &self.tasks, listener)
        });
    }

    /// Returns when that session listens, or could not be opened and is tried again; after `limit`
    /// at the latest.
    pub(crate) async fn listens(&self, limit: Duration) {
        if let Some(listening) = self.listening.get() {
            let mut tried = listening.tried();
            if timeout(limit, tried.wait_for(|tried| *tried))
                .await
                .is_err()
            {
                self.was_deaf.store(true, Ordering::SeqCst);
            }
        }
    }

    /// That session listens. Waiters that looked before look again: what they would have been told
    /// was missed.
    fn hears(&self) {
        if self.was_deaf.swap(false, Ordering::SeqCst) {
            self.missed_something();
        }
    }

    /// The session `by` says that the lock was released, `by_us` if it is one of this backend.
    pub(crate) fn released(self: &Arc<Self>, key: AdvisoryKey, by: i32, by_us: bool) {
        let mut state = self.state();
        if by_us || state.owners.get(&key) == Some(&by) {
            state.forget_owner(key);
            state.may_be_free(key);
            return;
        }
        let Some(waiting) = state.waiting.get_mut(&key) else {
            return;
        };
        match waiting.rumours.add(Instant::now()) {
            Look::Now => state.may_be_free(key),
            Look::Merged => {}
            Look::At(due) => {
                let this = Arc::downgrade(self);
                self.tasks.spawn(async move {
                    sleep_until(due).await;
                    if let Some(this) = this.upgrade() {
                        this.state().heed_rumours(key);
                    }
                });
            }
        }
    }

    /// The server shows that the session `pid` holds the lock.
    pub(crate) fn seen(self: &Arc<Self>, key: AdvisoryKey, pid: i32) {
        let mut state = self.state();
        if state.owners.len() >= REMEMBERED {
            state.owners.clear();
            state.announcements.clear();
        }
        state.owners.insert(key, pid);
        let said = state.announcements.get(&key);
        if said.is_some_and(|said| said.pid != pid) {
            state.announcements.remove(&key);
        }
        let said = state.unproven.remove(&key);
        drop(state);
        if let Some(said) = said.filter(|said| said.pid == pid) {
            self.announced(key, said, false);
        }
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
        let is_waited_for = state.waiting.contains_key(&key);
        let is_the_holders = match state.owners.get(&key) {
            Some(owner) => *owner == pid,
            None => is_waited_for,
        };
        if !is_the_holders && !by_us {
            if is_waited_for {
                state.unproven.insert(key, announcement);
            }
            return;
        }
        if by_us {
            state.owners.insert(key, pid);
        }
        state.announcements.insert(key, announcement);
        drop(state);
        self.arrived.notify_waiters();
        // The end of our own session is known without a watcher. A candidate that does not learn
        // of the holder's end goes on looking once per heartbeat.
        if by_us || self.watch(key, pid) {
            // Half of it, so that a candidate that missed the holder's end looks in time.
            self.state().held_for(key, LONGEST_SLEEP.min(lease / 2));
        }
    }

    /// All waiters look again.
    pub(crate) fn missed_something(&self) {
        self.forget_all();
        for waiting in self.state().waiting.values() {
            waiting.told.send_modify(|told| told.frees += 1);
        }
    }

    /// No session listens any more.
    fn is_deaf(&self) {
        self.was_deaf.store(true, Ordering::SeqCst);
        self.forget_all();
    }

    /// What was said may be true no longer.
    fn forget_all(&self) {
        let mut state = self.state();
        state.announcements.clear();
        state.unproven.clear();
        state.owners.clear();
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
            state.waiting.entry(key).or_default().told.subscribe()
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
            let outcome = watcher::await_end(&connector, &tasks, pid, ONE_WAIT).await;
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
                if state.owners.get(&key) == Some(&pid) {
                    state.forget_owner(key);
                }
                state.may_be_free(key);
            }
        }
    }
}

impl State {
    fn may_be_free(&self, key: AdvisoryKey) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.told.send_modify(|told| told.frees += 1);
        }
    }

    /// What strangers have said since the waiters have looked last.
    fn heed_rumours(&mut self, key: AdvisoryKey) {
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.rumours.look(Instant::now());
        }
        self.may_be_free(key);
    }

    fn forget_owner(&mut self, key: AdvisoryKey) {
        self.owners.remove(&key);
        self.announcements.remove(&key);
    }

    fn held_for(&self, key: AdvisoryKey, left: Duration) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.told.send_modify(|told| told.held_for = left);
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
        if waiting.is_some_and(|waiting| waiting.told.receiver_count() == 0) {
            state.waiting.remove(&self.key);
            state.unproven.remove(&self.key);
            state.forget_key(self.key, None);
        }
    }
}

#[cfg(test)]
mod tests;
