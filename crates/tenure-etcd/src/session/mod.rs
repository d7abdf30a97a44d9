//! One lease for all elections with one lease duration: their keys hang on it, and one keepalive
//! proves them all.
//!
//! What makes that safe:
//!
//! - A proof counts from the moment at which the keepalive was *sent*.
//! - A keepalive proves the lease, not the keys; so each heartbeat also asks which keys hang on
//!   it, and since which revision. A term whose key is missing, or was deleted and put again, is
//!   lost.
//! - The end of the lease ends all terms here, before another lease is opened.
//! - A keepalive would also keep alive what no caller holds any more. So each key has a deadline
//!   of its own, at which it is deleted unless its owner was heard of (point 6 of the contract);
//!   and a key that hangs on the lease and belongs to nobody, because a request arrived late, is
//!   deleted as soon as it is seen.
//! - Leadership is read from the store in the same transaction that finds the own key alive,
//!   never concluded from the deletion of another key.

mod candidate;
mod heartbeat;
mod held_lock;
mod look;
mod sweep;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, ErrorKind, LockName, Process, SharedClock, Time};
use tenure_kit::SingleFlight;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::connector::Connector;
use crate::errors::{self, EtcdRecovery, StoreError};
use crate::keys;
use crate::notifications::Notifications;

pub(crate) use candidate::Attempt;
pub(crate) use heartbeat::RenewOutcome;
use heartbeat::{KeepAlive, Proof};
pub(crate) use held_lock::HeldLock;
use held_lock::{HeldLocks, Owner};
use look::Ask;

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
    fn limit(&self, lease: Duration) -> Duration {
        let most = self.connector.config.request_timeout;
        (lease / 4).max(Duration::from_millis(500)).min(most)
    }
}

pub(crate) struct Session {
    shared: Shared,
    pub(crate) id: i64,
    pub(crate) lease: Duration,
    limit: Duration,
    held_locks: Mutex<HeldLocks>,
    proof: Mutex<Proof>,
    /// One heartbeat for all who wait for a proof.
    heartbeat: SingleFlight<Time, EtcdRecovery>,
    /// The stream of keepalives, unless a heartbeat is using it.
    stream: Mutex<Option<KeepAlive>>,
    asks: mpsc::UnboundedSender<Ask>,
    /// The term whose key is watched, and the watch's number.
    watched_term: Mutex<Option<(LockName, i64)>>,
    term_key_gone: Arc<Notify>,
    ended: AtomicBool,
    keepalives: AtomicU64,
}

impl Session {
    /// Opens a lease. One that is not as long as asked for is given back.
    ///
    /// Not before the other endpoints have been asked for their cluster: a lease on one cluster and
    /// one on another would each elect a leader.
    pub(crate) async fn open(shared: Shared, lease: Duration) -> Result<Arc<Self>, StoreError> {
        Box::pin(shared.connector.compare_clusters()).await?;
        let limit = shared.limit(lease);
        let asked = i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let clock = shared.clock.clone();
        let (sent, granted) = shared
            .connector
            .call(limit, |mut client| {
                let sent = clock.now();
                async move { Ok((sent, client.lease_grant(asked, None).await?)) }
            })
            .await?;
        let id = granted.id();
        if granted.ttl() != asked {
            revoke(&shared, id, limit).await;
            return Err(StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "etcd grants a lease of {} s where {asked} s were asked for (its shortest is \
                     one and a half election timeouts, in whole seconds); set the policy's lease \
                     to {} s",
                    granted.ttl(),
                    granted.ttl(),
                ),
            ));
        }
        let (asks, taken) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            id,
            lease,
            limit,
            held_locks: Mutex::default(),
            proof: Mutex::new(Proof::new(sent)),
            heartbeat: SingleFlight::new(shared.connector.tasks.clone()),
            stream: Mutex::default(),
            asks,
            watched_term: Mutex::default(),
            term_key_gone: Arc::default(),
            ended: AtomicBool::new(false),
            keepalives: AtomicU64::new(0),
            shared,
        });
        let shared = &session.shared;
        shared.spawn(look::answer(shared.connector.clone(), limit, taken));
        let term_key_gone = session.term_key_gone.clone();
        shared.spawn(sweep::run(
            Arc::downgrade(&session),
            shared.clone(),
            term_key_gone,
        ));
        // Opened now, so that the first heartbeat takes one round trip, as all others do.
        let opening = session.clone();
        shared.spawn(async move { opening.keep_alive().await.map(|_| ()) });
        Ok(session)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How many keepalives were sent.
    pub(crate) fn keepalives(&self) -> u64 {
        self.keepalives.load(Ordering::Relaxed)
    }

    fn held_locks(&self) -> MutexGuard<'_, HeldLocks> {
        self.held_locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn proof(&self) -> MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, lock: &LockName) -> String {
        keys::candidate(&self.shared.connector.config.election(lock), self.id)
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
        if self.has_ended()
            || held_locks.by_lock.len() >= self.shared.connector.config.keys_per_lease
            || held_locks.by_lock.contains_key(lock)
        {
            return None;
        }
        let held = Arc::new(HeldLock::new(
            Some(Owner::of(candidate)),
            self.shared.clock.now(),
            self.lease,
        ));
        held_locks.by_lock.insert(lock.clone(), held.clone());
        held_locks.empty_since = None;
        self.shared.notifications.key_added(lock);
        Some(held)
    }

    fn remove(&self, lock: &LockName, held: &Arc<HeldLock>) {
        let mut held_locks = self.held_locks();
        let is_it = |known: &Arc<HeldLock>| Arc::ptr_eq(known, held);
        if held_locks.by_lock.get(lock).is_some_and(is_it) {
            held_locks.by_lock.remove(lock);
            held.state().close();
            if held_locks.by_lock.is_empty() {
                held_locks.empty_since = Some(self.shared.clock.now());
            }
            drop(held_locks);
            self.shared.notifications.key_removed(lock, self.id);
            self.stop_watching_term(lock);
            self.watch_a_term();
        }
    }

    fn watched_term(&self) -> MutexGuard<'_, Option<(LockName, i64)>> {
        self.watched_term
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the key of one term, if there is any: all of them end with the lease.
    fn watch_a_term(&self) {
        let term = {
            let held_locks = self.held_locks();
            let term = |(lock, held): (&LockName, &Arc<HeldLock>)| {
                Some((lock.clone(), held.state().led_by()?))
            };
            held_locks.by_lock.iter().find_map(term)
        };
        let Some((lock, own)) = term else { return };
        let mut watched_term = self.watched_term();
        if watched_term.is_none() && !self.has_ended() {
            let (key, term_key_gone) = (self.key(&lock), self.term_key_gone.clone());
            let id = self
                .shared
                .notifications
                .watch_term(&lock, key, own + 1, term_key_gone);
            *watched_term = Some((lock, id));
        }
    }

    fn stop_watching_term(&self, lock: &LockName) {
        let mut watched_term = self.watched_term();
        if let Some((_, id)) = watched_term.take_if(|(watched_term, _)| watched_term == lock) {
            self.shared.notifications.unwatch_term(id);
        }
    }

    /// The key that was watched is gone: what that means, a heartbeat finds out.
    async fn on_term_key_gone(self: Arc<Self>) {
        // That watch has ended.
        self.watched_term().take();
        let now = self.shared.clock.now();
        if let Err(error) = self.prove(now, |proof| proof.keys).await {
            tracing::debug!(
                reason = error.message(),
                "a heartbeat after the key of a term was gone failed"
            );
        }
        self.watch_a_term();
    }

    /// The lease is gone, and with it all terms on it: they are over when this returns.
    fn end(&self) {
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
            held.state().close();
            held.gone.notify_waiters();
            self.shared.notifications.key_removed(&lock, self.id);
        }
        self.revoke_later();
    }

    fn revoke_later(&self) {
        let (shared, id, limit) = (self.shared.clone(), self.id, self.limit);
        self.shared
            .spawn(async move { revoke(&shared, id, limit).await });
    }

    fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
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

async fn revoke(shared: &Shared, id: i64, limit: Duration) {
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
