//! One lease for all elections with one lease duration: their keys hang on it, and one keepalive
//! proves them all.
//!
//! What makes that safe:
//!
//! - A proof counts from the moment at which the keepalive was *sent*.
//! - A keepalive proves the lease, not the keys; so each heartbeat also asks which keys hang on
//!   it, and since which revision. A term whose key is missing, or was deleted and put again, is
//!   lost.
//! - The end of the lease ends all terms here, before another lease is opened for anybody.
//! - A keepalive would also keep alive what no caller holds any more. So each key has a deadline
//!   of its own, at which it is deleted unless its owner was heard of (point 6 of the contract);
//!   and a key that hangs on the lease and belongs to nobody, because a request arrived late, is
//!   deleted as soon as it is seen.
//! - Leadership is read from the store in the same transaction that finds the own key alive,
//!   never concluded from the deletion of another key.

mod candidate;
mod heartbeat;
mod look;
mod slot;
mod sweep;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, ErrorKind, LockName, Process, SharedClock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::errors::{Cause, Trouble};
use crate::hub::Hub;
use crate::keys;
use crate::link::Links;

pub(crate) use candidate::Attempt;
pub(crate) use heartbeat::Standing;
use heartbeat::{Keeper, Proof};
use look::Ask;
pub(crate) use slot::Slot;
use slot::{Owner, Slots};

/// What all sessions of a backend share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) links: Arc<Links>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: SharedClock,
    pub(crate) runtime: Handle,
}

impl Common {
    pub(crate) fn process(&self) -> &Process {
        &self.links.process
    }

    /// Runs in this process alone: a forked child would run its copy on the parent's sockets.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.runtime.spawn(self.process().confine(work))
    }

    /// How long one endpoint may take when terms of this lease hang on its answer.
    fn limit(&self, lease: Duration) -> Duration {
        let most = self.links.config.request_timeout;
        (lease / 4).max(Duration::from_millis(500)).min(most)
    }
}

pub(crate) struct Session {
    common: Common,
    pub(crate) id: i64,
    pub(crate) lease: Duration,
    limit: Duration,
    slots: Mutex<Slots>,
    proof: Mutex<Proof>,
    /// The stream of keepalives, and whose turn it is to use it.
    keeper: tokio::sync::Mutex<Option<Keeper>>,
    asks: mpsc::UnboundedSender<Ask>,
    /// The term whose key is watched, and the watch's number.
    guarded: Mutex<Option<(LockName, i64)>>,
    alarm: Arc<Notify>,
    ended: AtomicBool,
    beats: AtomicU64,
}

impl Session {
    /// Opens a lease. One that is not as long as asked for is given back.
    ///
    /// Not before the other endpoints have been asked for their cluster: a lease on one cluster and
    /// one on another would each elect a leader.
    pub(crate) async fn open(common: Common, lease: Duration) -> Result<Arc<Self>, Trouble> {
        Box::pin(common.links.survey()).await?;
        let limit = common.limit(lease);
        let asked = i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let clock = common.clock.clone();
        let (sent, granted) = common
            .links
            .call(limit, |mut client| {
                let sent = clock.now();
                async move { Ok((sent, client.lease_grant(asked, None).await?)) }
            })
            .await?;
        let id = granted.id();
        if granted.ttl() != asked {
            revoke(&common, id, limit).await;
            return Err(Trouble::new(
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
            slots: Mutex::default(),
            proof: Mutex::new(Proof::new(sent)),
            keeper: tokio::sync::Mutex::default(),
            asks,
            guarded: Mutex::default(),
            alarm: Arc::default(),
            ended: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            common,
        });
        let common = &session.common;
        common.spawn(look::answer(common.links.clone(), limit, taken));
        let alarm = session.alarm.clone();
        common.spawn(sweep::run(Arc::downgrade(&session), common.clone(), alarm));
        Ok(session)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How many keepalives were sent.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proof(&self) -> MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, lock: &LockName) -> String {
        keys::candidate(&self.common.links.config.prefix, lock, self.id)
    }

    /// The slot of this candidate in this campaign, if it has one here.
    pub(crate) fn slot(&self, lock: &LockName, candidate: &Candidate) -> Option<Arc<Slot>> {
        let slot = self.slots().by_lock.get(lock).cloned();
        slot.filter(|slot| slot.is_of(candidate))
    }

    /// A slot for this candidate, if there is room: one candidate per lock and lease, since two
    /// with one key would both be told that they lead.
    pub(crate) fn reserve(&self, lock: &LockName, candidate: &Candidate) -> Option<Arc<Slot>> {
        let mut slots = self.slots();
        if self.has_ended()
            || slots.by_lock.len() >= self.common.links.config.keys_per_lease
            || slots.by_lock.contains_key(lock)
        {
            return None;
        }
        let slot = Arc::new(Slot::new(
            Some(Owner::of(candidate)),
            self.common.clock.now(),
            self.lease,
        ));
        slots.by_lock.insert(lock.clone(), slot.clone());
        slots.empty_since = None;
        self.common.hub.sit(lock);
        Some(slot)
    }

    fn remove(&self, lock: &LockName, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        let is_it = |known: &Arc<Slot>| Arc::ptr_eq(known, slot);
        if slots.by_lock.get(lock).is_some_and(is_it) {
            slots.by_lock.remove(lock);
            slot.state().close();
            if slots.by_lock.is_empty() {
                slots.empty_since = Some(self.common.clock.now());
            }
            drop(slots);
            self.common.hub.rise(lock, self.id);
            self.stop_guarding(lock);
            self.guard_a_term();
        }
    }

    fn guarded(&self) -> MutexGuard<'_, Option<(LockName, i64)>> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the key of one term, if there is any: all of them end with the lease.
    fn guard_a_term(&self) {
        let term = {
            let slots = self.slots();
            let term = |(lock, slot): (&LockName, &Arc<Slot>)| {
                Some((lock.clone(), slot.state().led_by()?))
            };
            slots.by_lock.iter().find_map(term)
        };
        let Some((lock, own)) = term else { return };
        let mut guarded = self.guarded();
        if guarded.is_none() && !self.has_ended() {
            let (key, alarm) = (self.key(&lock), self.alarm.clone());
            let id = self.common.hub.guard(&lock, key, own + 1, alarm);
            *guarded = Some((lock, id));
        }
    }

    fn stop_guarding(&self, lock: &LockName) {
        let mut guarded = self.guarded();
        if let Some((_, id)) = guarded.take_if(|(guarded, _)| guarded == lock) {
            self.common.hub.unguard(id);
        }
    }

    /// The key that was watched is gone: what that means, a heartbeat finds out.
    async fn alarmed(self: Arc<Self>) {
        // That watch has ended.
        self.guarded().take();
        let now = self.common.clock.now();
        if let Err(trouble) = self.prove(now, |proof| proof.keys).await {
            tracing::debug!(
                reason = trouble.message(),
                "a heartbeat after an alarm failed"
            );
        }
        self.guard_a_term();
    }

    /// The lease is gone, and with it all terms on it: they are over when this returns.
    fn end(&self) {
        let slots = {
            let mut slots = self.slots();
            if self.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            std::mem::take(&mut slots.by_lock)
        };
        tracing::warn!(
            lease = format_args!("{:x}", self.id),
            elections = slots.len(),
            "an etcd lease has ended, and the terms on it with it"
        );
        if let Some((_, id)) = self.guarded().take() {
            self.common.hub.unguard(id);
        }
        for (lock, slot) in slots {
            slot.state().close();
            slot.gone.notify_waiters();
            self.common.hub.rise(&lock, self.id);
        }
        self.revoke_later();
    }

    fn revoke_later(&self) {
        let (common, id, limit) = (self.common.clone(), self.id, self.limit);
        self.common
            .spawn(async move { revoke(&common, id, limit).await });
    }

    fn note<T>(&self, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        if let Err(trouble) = &outcome
            && matches!(trouble.cause, Cause::LeaseGone | Cause::OtherCluster)
        {
            self.end();
        }
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The lease is the parent's, and another thread's lock may be held for ever in a child.
        if !self.common.process().is_current() {
            return;
        }
        if !self.ended.swap(true, Ordering::AcqRel) {
            if let Some((_, id)) = self.guarded().take() {
                self.common.hub.unguard(id);
            }
            for lock in self.slots().by_lock.keys() {
                self.common.hub.rise(lock, self.id);
            }
            self.revoke_later();
        }
    }
}

async fn revoke(common: &Common, id: i64, limit: Duration) {
    let revoking = common.links.call(
        limit,
        |mut client| async move { client.lease_revoke(id).await },
    );
    if let Err(trouble) = revoking.await
        && trouble.cause != Cause::LeaseGone
    {
        tracing::debug!(
            reason = trouble.message(),
            "an etcd lease is left to expire"
        );
    }
}
