//! A lease at the store, and what is known of it and of its keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, LockName, Process, SharedClock, Time};
use tenure_kit::SingleFlight;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::held_lock::{HeldLock, HeldLocks, KeyOnLease, Owner};
use super::last_split::LastSplit;
use super::look::Ask;
use super::proof::{KeepAlive, Proof};
use crate::connector::Connector;
use crate::errors::{self, EtcdRecovery, StoreError};
use crate::keys;
use crate::notifications::Notifications;

/// What all sessions of a backend share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) connector: Arc<Connector>,
    pub(crate) notifications: Arc<Notifications>,
    pub(crate) clock: SharedClock,
}

impl Shared {
    pub(crate) fn process(&self) -> &Process {
        self.connector.tasks.process()
    }

    /// Runs in this process alone: a forked child would run its copy on the parent's sockets.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.connector.tasks.spawn(work)
    }

    /// How long one endpoint may take when terms of this lease hang on its answer.
    pub(super) fn limit(&self, lease: Duration) -> Duration {
        let most = self.connector.config.request_timeout;
        (lease / 4).max(Duration::from_millis(500)).min(most)
    }
}

pub(crate) struct Session {
    pub(super) shared: Shared,
    pub(crate) id: i64,
    pub(crate) lease: Duration,
    pub(super) limit: Duration,
    pub(super) held_locks: Mutex<HeldLocks>,
    pub(super) proof: Mutex<Proof>,
    /// A heartbeat and a split take turns: a key that moves would be missed.
    pub(super) turn: tokio::sync::Mutex<Option<LastSplit>>,
    /// The session that has the keys which left this one.
    pub(super) moved_to: Mutex<Vec<Arc<Session>>>,
    /// One heartbeat for all who wait for a proof.
    pub(super) heartbeat: SingleFlight<Time, EtcdRecovery>,
    /// The stream of keepalives, unless a heartbeat is using it.
    pub(super) stream: Mutex<Option<KeepAlive>>,
    pub(super) asks: mpsc::UnboundedSender<Ask>,
    /// The term whose key is watched, and the watch's number.
    pub(super) watched_term: Mutex<Option<(LockName, i64)>>,
    pub(super) term_key_gone: Arc<Notify>,
    pub(super) ended: AtomicBool,
    pub(super) keepalives: AtomicU64,
}

impl Session {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How many keepalives were sent.
    pub(crate) fn keepalives(&self) -> u64 {
        self.keepalives.load(Ordering::Relaxed)
    }

    pub(super) fn held_locks(&self) -> MutexGuard<'_, HeldLocks> {
        self.held_locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn proof(&self) -> MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a candidate that begins here.
    pub(super) fn key(&self, lock: &LockName) -> String {
        keys::candidate(&self.shared.connector.config.election(lock), self.id)
    }

    /// What is known of a key that is still to be put, or to be looked for.
    pub(super) fn new_held(&self, lock: &LockName, owner: Option<Owner>) -> Arc<HeldLock> {
        let at = KeyOnLease {
            key: self.key(lock),
            lease: self.id,
        };
        let now = self.shared.clock.now();
        Arc::new(HeldLock::new(owner, at, now, now + self.lease))
    }

    /// The key of this candidate in this campaign, if it has one here.
    pub(crate) fn held(&self, lock: &LockName, candidate: &Candidate) -> Option<Arc<HeldLock>> {
        let held = self.held_locks().by_lock.get(lock).cloned();
        held.filter(|held| held.is_of(candidate))
    }

    /// A key for this candidate, if there is room: one candidate per lock and lease, since two
    /// with one key would both be told that they lead.
    pub(crate) fn reserve(&self, lock: &LockName, candidate: &Candidate) -> Option<Arc<HeldLock>> {
        let mut held_locks = self.held_locks();
        if !self.takes(lock, &held_locks) {
            return None;
        }
        let held = self.new_held(lock, Some(Owner::of(candidate)));
        held_locks.by_lock.insert(lock.clone(), held.clone());
        held_locks.empty_since = None;
        self.shared.notifications.key_added(lock);
        Some(held)
    }

    /// Whether another key has room here.
    pub(crate) fn has_room_for(&self, lock: &LockName) -> bool {
        self.takes(lock, &self.held_locks())
    }

    fn takes(&self, lock: &LockName, held_locks: &HeldLocks) -> bool {
        !self.has_ended()
            && !held_locks.is_split
            && held_locks.by_lock.len() < self.shared.connector.config.keys_per_lease
            && !held_locks.by_lock.contains_key(lock)
    }

    /// The key is gone, or will be.
    pub(super) fn remove(&self, lock: &LockName, held: &Arc<HeldLock>) {
        held.state().close();
        self.let_go(lock, held);
        self.watch_a_term();
    }

    /// The key is not this session's any more.
    pub(super) fn let_go(&self, lock: &LockName, held: &Arc<HeldLock>) {
        let mut held_locks = self.held_locks();
        let is_it = |known: &Arc<HeldLock>| Arc::ptr_eq(known, held);
        if held_locks.by_lock.get(lock).is_some_and(is_it) {
            held_locks.by_lock.remove(lock);
            if held_locks.by_lock.is_empty() {
                held_locks.empty_since = Some(self.shared.clock.now());
            }
            drop(held_locks);
            self.shared.notifications.key_removed(lock, self.id);
            self.stop_watching_term(lock);
        }
    }

    fn watched_term(&self) -> MutexGuard<'_, Option<(LockName, i64)>> {
        self.watched_term
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the key of one term, if there is any: all of them end with the lease. From where it
    /// was seen last: what is older is known, or forgotten by the store.
    pub(super) fn watch_a_term(&self) {
        if self.watched_term().is_some() {
            return;
        }
        let term = {
            let held_locks = self.held_locks();
            let term = |(lock, held): (&LockName, &Arc<HeldLock>)| {
                let state = held.state();
                state.led_by()?;
                Some((lock.clone(), held.key.clone(), state.seen + 1))
            };
            held_locks.by_lock.iter().find_map(term)
        };
        let Some((lock, key, from)) = term else {
            return;
        };
        let mut watched_term = self.watched_term();
        if watched_term.is_none() && !self.has_ended() {
            let term_key_gone = self.term_key_gone.clone();
            let id = self
                .shared
                .notifications
                .watch_term(&lock, key, from, term_key_gone);
            *watched_term = Some((lock, id));
        }
    }

    pub(super) fn stop_watching_term(&self, lock: &LockName) {
        let mut watched_term = self.watched_term();
        if let Some((_, id)) = watched_term.take_if(|(watched_term, _)| watched_term == lock) {
            self.shared.notifications.unwatch_term(id);
        }
    }

    /// The key that was watched is gone, or the store has forgotten what became of it. A heartbeat
    /// finds out, and only one that succeeds begins another watch: it would tell the same again.
    pub(super) async fn on_term_key_gone(self: Arc<Self>) {
        // That watch has ended.
        self.watched_term().take();
        let now = self.shared.clock.now();
        if let Err(error) = self.prove(now, |proof| proof.keys).await {
            tracing::debug!(
                reason = error.message(),
                "a heartbeat after the key of a term was gone failed"
            );
        }
    }

    /// The lease is gone, and with it all terms on it: they are over when this returns.
    pub(super) fn end(&self) {
        let held_locks = {
            let mut held_locks = self.held_locks();
            if self.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            std::mem::take(&mut held_locks.by_lock)
        };
        tracing::warn!(
            lease = format_args!("{:x}", self.id),
            elections = held_locks.len(),
            "an etcd lease has ended, and the terms on it with it"
        );
        if let Some((_, id)) = self.watched_term().take() {
            self.shared.notifications.unwatch_term(id);
        }
        for (lock, held) in held_locks {
            let mut state = held.state();
            // One that is moving to another session goes on there.
            if state.is_on(self.id) {
                state.close();
                held.gone.notify_waiters();
            }
            drop(state);
            self.shared.notifications.key_removed(&lock, self.id);
        }
        self.revoke_later();
    }

    pub(super) fn revoke_later(&self) {
        let (shared, id, limit) = (self.shared.clone(), self.id, self.limit);
        self.shared
            .spawn(async move { revoke(&shared, id, limit).await });
    }

    pub(super) fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &outcome
            && (errors::is_lease_gone(error) || errors::asks_for(error, EtcdRecovery::OtherCluster))
        {
            self.end();
        }
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The lease is the parent's, and another thread's lock may be held without end in a child.
        if !self.shared.process().is_current() {
            return;
        }
        if !self.ended.swap(true, Ordering::AcqRel) {
            if let Some((_, id)) = self.watched_term().take() {
                self.shared.notifications.unwatch_term(id);
            }
            for lock in self.held_locks().by_lock.keys() {
                self.shared.notifications.key_removed(lock, self.id);
            }
            self.revoke_later();
        }
    }
}

pub(super) async fn revoke(shared: &Shared, id: i64, limit: Duration) {
    let revoking =
        shared.connector.call(
            limit,
            |mut client| async move { client.lease_revoke(id).await },
        );
    if let Err(error) = revoking.await
        && !errors::is_lease_gone(&error)
    {
        tracing::debug!(reason = error.message(), "an etcd lease is left to expire");
    }
}
