//! A session is split when the user has lost the right to one of its keys.
//!
//! A server judges a lease by the keys that hang on it. Newer releases keep it alive no more, and
//! put no other key on it. Older ones keep it alive, and with it that key, which this user cannot
//! delete. So the other keys move to a new lease. A key that moves keeps its create revision: terms,
//! tokens and places in the queue go on. The old lease ends by itself, with what is left on it,
//! unless the right comes back in time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use tenure_core::{ErrorKind, LockName};
use tenure_kit::{Backoff, Deadline};
use tokio::time::sleep;

use super::held_lock::HeldLock;
use super::last_split::LastSplit;
use super::lease::Session;
use super::look::{is, only_key, revision_of};
use crate::errors::{self, StoreError};
use crate::keys;

/// How many keys one request asks for or moves. A server takes 128 operations at a time.
const KEYS: usize = 100;

/// So many requests about rights are under way at a time.
const AT_ONCE: usize = 10;

/// After so many refusals in a row no more is asked: each costs the members an entry in their logs.
const REFUSALS: usize = 500;

/// Between two attempts to move keys.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

type Held = (LockName, Arc<HeldLock>);

impl Session {
    /// Moves the keys that the user may read and write to a new session, all but the one of
    /// `refused`. Not to be dropped while it runs.
    pub(super) fn split<'a>(
        self: &'a Arc<Self>,
        refused: Option<&'a LockName>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let called = self.shared.clock.now();
        Box::pin(async move {
            let mut last = self.turn.lock().await;
            if self.has_ended() {
                return Ok(());
            }
            let began = self.shared.clock.now();
            let last_one = last.as_ref();
            if let Some(outcome) = last_one.and_then(|last| last.serves(called, began, self.lease))
            {
                return outcome;
            }
            let outcome = self.split_in_turn(refused).await;
            let answer = outcome.clone().map(|_| ());
            *last = Some(LastSplit { began, outcome });
            answer
        })
    }

    /// Whether only refused keys are left here.
    async fn split_in_turn(
        self: &Arc<Self>,
        refused: Option<&LockName>,
    ) -> Result<bool, StoreError> {
        let all = self.close_to_new_keys();
        let others = all.into_iter().filter(|(lock, _)| Some(lock) != refused);
        // A lease later there is nothing left to move.
        let deadline = Deadline::for_lease(self.lease);
        let (permitted, are_all) = self.permitted(others.collect(), deadline).await?;
        if permitted.is_empty() || self.has_ended() {
            return Ok(are_all);
        }
        tracing::warn!(
            lease = format_args!("{:x}", self.id),
            elections = permitted.len(),
            "the user may not write a key on an etcd lease: the others move to a new one"
        );
        let new = Self::open(self.shared.clone(), self.lease).await?;
        if deadline.left().is_zero() {
            return Ok(false);
        }
        // No other task knows the new session before all have moved, so no heartbeat of it
        // finds a key missing that is on its way.
        let parts = permitted.chunks(KEYS);
        let moving = parts.map(|some| self.move_to(&new, some, deadline));
        let outcomes = join_all(moving).await;
        self.moved_to().push(new.clone());
        for (lock, held) in &permitted {
            let left = if held.state().is_on(new.id) {
                self
            } else {
                &new
            };
            left.let_go(lock, held);
        }
        self.watch_a_term();
        new.watch_a_term();
        Ok(are_all && outcomes.into_iter().all(|has_left| has_left))
    }

    fn moved_to(&self) -> MutexGuard<'_, Vec<Arc<Self>>> {
        self.moved_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions to which keys of this one have moved.
    pub(crate) fn split_off(&self) -> Vec<Arc<Self>> {
        self.moved_to().clone()
    }

    /// Whether a session that has keys of this one knows this key.
    pub(super) fn has_moved(&self, key: &str) -> bool {
        self.split_off().iter().any(|new| {
            let is_known = new.held_locks().by_lock.values().any(|it| it.key == key);
            is_known || new.has_moved(key)
        })
    }

    /// The session that has the key by now: this one if none has.
    pub(crate) fn home_of(self: &Arc<Self>, held: &HeldLock) -> Arc<Self> {
        self.find(held).unwrap_or_else(|| self.clone())
    }

    fn find(self: &Arc<Self>, held: &HeldLock) -> Option<Arc<Self>> {
        if self.has(held) {
            return Some(self.clone());
        }
        self.split_off().iter().find_map(|new| new.find(held))
    }

    /// Whether the key belongs to this session.
    pub(crate) fn has(&self, held: &HeldLock) -> bool {
        held.state().is_on(self.id)
    }

    /// A candidate was refused here: whether another key on the lease is the reason. Then it goes
    /// on in another session. Not to be dropped while it runs.
    pub(crate) async fn is_refused_for_another(
        self: &Arc<Self>,
        lock: &LockName,
        held: &HeldLock,
    ) -> Result<bool, StoreError> {
        let election = self.shared.connector.config.election(lock);
        let asking = self.shared.connector.call(self.limit, |mut client| {
            let rights = keys::candidates_rights(&election, &held.key);
            async move { client.txn(rights).await }
        });
        match asking.await {
            Err(error) if errors::is_denied(&error) => return Ok(false),
            answer => answer?,
        };
        if self.has(held) {
            self.split(None).await?;
        }
        Ok(true)
    }

    /// The keys that are in the store. Those who are about to put one do it in another session.
    fn close_to_new_keys(&self) -> Vec<Held> {
        let mut held_locks = self.held_locks();
        held_locks.is_split = true;
        let all = held_locks.by_lock.iter();
        let (begun, there): (Vec<_>, Vec<_>) = all
            .map(|(lock, held)| (lock.clone(), held.clone()))
            .partition(|(_, held)| held.close_unless_entered());
        drop(held_locks);
        for (lock, held) in begun {
            self.let_go(&lock, &held);
        }
        there
    }

    /// Those of them that the user may read and write, and whether these are all. Where one is
    /// known after a quarter of the lease, it waits for no other.
    async fn permitted(
        &self,
        mut all: Vec<Held>,
        deadline: Deadline,
    ) -> Result<(Vec<Held>, bool), StoreError> {
        let soon = Deadline::for_lease(self.lease / 4);
        // Those with one prefix mostly have the same rights.
        all.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
        let mut permitted = Vec::new();
        let mut parts: VecDeque<Vec<Held>> = all.chunks(KEYS).map(<[Held]>::to_vec).collect();
        let mut asking = FuturesUnordered::new();
        let mut refusals = 0;
        loop {
            while asking.len() < AT_ONCE
                && refusals < REFUSALS
                && let Some(part) = parts.pop_front()
            {
                asking.push(self.may_write(part));
            }
            let until = if permitted.is_empty() { deadline } else { soon };
            let next = async { asking.next().await.transpose() };
            match until.rest("etcd", next).await {
                Ok(None) => return Ok((permitted, true)),
                Ok(Some((part, true))) => {
                    permitted.extend(part);
                    refusals = 0;
                }
                Ok(Some((mut part, false))) => {
                    refusals += 1;
                    if part.len() > 1 {
                        let half = part.split_off(part.len() / 2);
                        parts.extend([part, half]);
                    }
                }
                Err(error) if permitted.is_empty() => return Err(error),
                Err(_) => return Ok((permitted, false)),
            }
        }
    }

    async fn may_write(&self, some: Vec<Held>) -> Result<(Vec<Held>, bool), StoreError> {
        let asking = self.shared.connector.call(self.limit, |mut client| {
            let rights = keys::rights(some.iter().map(|(_, held)| held.key.as_str()));
            async move { client.txn(rights).await }
        });
        match asking.await {
            Ok(_) => Ok((some, true)),
            Err(error) if errors::is_denied(&error) => Ok((some, false)),
            Err(error) => Err(error),
        }
    }

    /// Moves these keys, as far as they stand unchanged. Where no answer comes in time, a heartbeat
    /// of the new session finds out. False if they stay here.
    async fn move_to(self: &Arc<Self>, new: &Arc<Self>, some: &[Held], deadline: Deadline) -> bool {
        let mut moving = Vec::new();
        for (lock, held) in some {
            let mut state = held.state();
            let Some(own) = state.revision.filter(|_| state.is_on(self.id)) else {
                continue;
            };
            // From now on no request of the old session writes the key: it would take it back.
            state.moves_to(new.id, self.shared.clock.now());
            drop(state);
            new.take_in(lock, held);
            moving.push((held, own));
        }
        let sent = AtomicUsize::new(0);
        let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        loop {
            let asking = self.shared.connector.call(self.limit, |mut client| {
                sent.fetch_add(1, Ordering::Relaxed);
                let txn = self.moves(new, &moving);
                async move { client.txn(txn).await }
            });
            let error = match deadline.rest("etcd", asking).await {
                Ok(answer) => {
                    for ((held, own), response) in moving.iter().zip(answer.op_responses()) {
                        if let TxnOpResponse::Txn(response) = response {
                            new.has_taken(held, *own, &response, revision_of(&answer));
                        }
                    }
                    return true;
                }
                Err(error) => error,
            };
            // An earlier attempt without an answer may have moved them.
            if errors::is_denied(&error) && sent.load(Ordering::Relaxed) == 1 {
                let now = self.shared.clock.now();
                for (held, _) in moving {
                    held.state().moves_to(self.id, now);
                }
                return false;
            }
            tracing::debug!(reason = error.message(), "no answer to the move of keys");
            let is_throttled = matches!(error.kind, ErrorKind::Throttled { .. });
            if deadline.left().is_zero() || !(error.needs_reconnect() || is_throttled) {
                return true;
            }
            sleep(deadline.at_most(backoff.next(None))).await;
        }
    }

    fn moves(&self, new: &Self, moving: &[(&Arc<HeldLock>, i64)]) -> Txn {
        let moves = moving.iter().map(|(held, own)| {
            // The value stays, whatever was written meanwhile.
            let put = PutOptions::new().with_lease(new.id).with_ignore_value();
            let is_here = Compare::lease(held.key.as_str(), CompareOp::Equal, self.id);
            let txn = Txn::new()
                .when([is(&held.key, *own), is_here])
                .and_then([TxnOp::put(held.key.as_str(), "", Some(put))])
                .or_else([TxnOp::get(held.key.as_str(), None)]);
            TxnOp::txn(txn)
        });
        Txn::new().and_then(moves.collect::<Vec<_>>())
    }

    fn take_in(&self, lock: &LockName, held: &Arc<HeldLock>) {
        self.held_locks().by_lock.insert(lock.clone(), held.clone());
        self.shared.notifications.key_added(lock);
    }

    /// What the answer says of a key that was to move here.
    fn has_taken(&self, held: &HeldLock, own: i64, answer: &TxnResponse, revision: i64) {
        let mut state = held.state();
        if state.revision != Some(own) {
            return;
        }
        let written = if answer.succeeded() {
            Some(revision)
        } else {
            // By an attempt whose answer was lost.
            let here = only_key(answer)
                .filter(|found| found.create_revision() == own && found.lease() == self.id);
            here.map(|found| found.mod_revision())
        };
        let Some(written) = written else {
            if state.leads {
                tracing::warn!(key = held.key, "the key of a term is gone");
            }
            state.forget();
            held.gone.notify_waiters();
            return;
        };
        state.written = written;
        state.seen = state.seen.max(revision);
        // The lease was granted before the key was found to stand, and has hung on it since.
        state.proven = state.proven.max(self.proof().lease);
    }
}
