//! A session is split when the user has lost the right to one of its keys.
//!
//! A server judges a lease by the keys that hang on it. Newer releases keep it alive no more, and
//! put no other key on it. Older ones keep it alive, and with it that key, which this user cannot
//! delete. So the other keys move to a new lease. A key that moves keeps its create revision: terms,
//! tokens and places in the queue go on. The old lease ends by itself, with what is left on it,
//! unless the right comes back in time.

use std::sync::{Arc, MutexGuard, PoisonError};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt as _, stream};
use tenure_core::LockName;
use tenure_kit::Deadline;

use super::held_lock::HeldLock;
use super::lease::Session;
use super::look::{is, only_key, revision_of};
use crate::errors::{self, StoreError};
use crate::keys;

/// How many keys one request asks for or moves. A server takes 128 operations at a time.
const KEYS: usize = 100;

/// So many requests about rights are under way at a time.
const AT_ONCE: usize = 10;

type Held = (LockName, Arc<HeldLock>);

impl Session {
    /// Moves the keys that the user may read and write to a new session, all but the one of
    /// `refused`. Not to be dropped while it runs.
    pub(super) fn split<'a>(
        self: &'a Arc<Self>,
        refused: Option<&'a LockName>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let all = self.close_to_new_keys();
            let others = all.into_iter().filter(|(lock, _)| Some(lock) != refused);
            // A lease later there is nothing left to move.
            let deadline = Deadline::for_lease(self.lease);
            let permitted = self.permitted(others.collect());
            let permitted = deadline.rest("etcd", permitted).await?;
            if permitted.is_empty() || self.has_ended() {
                return Ok(());
            }
            tracing::warn!(
                lease = format_args!("{:x}", self.id),
                elections = permitted.len(),
                "the user may not write a key on an etcd lease: the others move to a new one"
            );
            let new = Self::open(self.shared.clone(), self.lease).await?;
            // No other task knows the new session before all have moved, so no heartbeat of it
            // finds a key missing that is on its way.
            join_all(permitted.chunks(KEYS).map(|some| self.move_to(&new, some))).await;
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
            Ok(())
        })
    }

    fn moved_to(&self) -> MutexGuard<'_, Vec<Arc<Self>>> {
        self.moved_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions to which keys of this one have moved.
    pub(crate) fn split_off(&self) -> Vec<Arc<Self>> {
        self.moved_to().clone()
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

    /// Those of them that the user may read and write.
    async fn permitted(&self, mut all: Vec<Held>) -> Result<Vec<Held>, StoreError> {
        // Those with one prefix mostly have the same rights.
        all.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
        let mut permitted = Vec::new();
        let mut parts: Vec<Vec<Held>> = all.chunks(KEYS).map(<[Held]>::to_vec).collect();
        while !parts.is_empty() {
            let asking = parts.drain(..).map(|part| self.may_write(part));
            let answers: Vec<_> = stream::iter(asking)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for answer in answers {
                let (mut part, may) = answer?;
                if may {
                    permitted.extend(part);
                } else if part.len() > 1 {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
            }
        }
        Ok(permitted)
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

    /// Moves these keys, as far as they stand unchanged. Where no answer comes, a heartbeat of the
    /// new session finds out.
    async fn move_to(self: &Arc<Self>, new: &Arc<Self>, some: &[Held]) {
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
        let outcome = self
            .shared
            .connector
            .call(self.limit, |mut client| {
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
                let txn = Txn::new().and_then(moves.collect::<Vec<_>>());
                async move { client.txn(txn).await }
            })
            .await;
        match outcome {
            Ok(answer) => {
                for ((held, own), response) in moving.iter().zip(answer.op_responses()) {
                    if let TxnOpResponse::Txn(response) = response {
                        new.has_taken(held, *own, &response, revision_of(&answer));
                    }
                }
            }
            Err(error) if errors::is_denied(&error) => {
                let now = self.shared.clock.now();
                for (held, _) in moving {
                    held.state().moves_to(self.id, now);
                }
            }
            Err(error) => {
                tracing::debug!(reason = error.message(), "no answer to the move of keys");
            }
        }
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
