//! What a campaign does in the store: it enters the queue, looks at it, publishes and leaves.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use tenure_core::{Candidate, ErrorKind, FencingToken, Holder, LockName, Time};
use tokio::sync::oneshot;

use super::held_lock::HeldLock;
use super::lease::Session;
use super::look::{Ask, Intent, Look, is, is_unchanged, only_key, revision_of};

use crate::errors::{self, StoreError};
use crate::keys::{self, First};

/// What became of an attempt.
pub(crate) enum Attempt {
    Held {
        token: FencingToken,
        proven: Time,
    },
    /// By whom, if a candidate has confirmed a term.
    Taken(Option<Holder>),
    /// The key was given up meanwhile; another one is needed.
    Moved,
}

impl Session {
    /// Enters the queue, or looks at it again. Not to be dropped while it runs.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        lock: &LockName,
        held: &Arc<HeldLock>,
        candidate: &Candidate,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, StoreError> {
        let _turn = held.turn.lock().await;
        let (waiting, leading) = (keys::waiting(candidate), keys::proposal(candidate));
        let (mut occupied, mut first_in_queue) = (false, false);
        // A second look, in case the key was deleted since the last, and more, should the
        // predecessor go in between.
        for _ in 0..5 {
            if gone() {
                return Ok(Attempt::Taken(None));
            }
            if !held.state().is_on(self.id) {
                return Ok(Attempt::Moved);
            }
            let young = self.shared.clock.now().minus(self.lease / 4);
            let place = held.state().revision;
            let intent = match place {
                None if occupied => Intent::Join,
                None => Intent::Enter,
                Some(own) if !first_in_queue && self.shared.notifications.waits(lock, self.id) => {
                    Intent::See(own)
                }
                Some(own) => Intent::Lead(own),
            };
            let (looked, proof) = tokio::join!(
                self.look(lock, held, intent, candidate),
                self.prove(young, |proof| proof.lease)
            );
            let (own, first, predecessor, revision) = match self.note(looked)? {
                Look::Occupied => {
                    occupied = true;
                    continue;
                }
                Look::Gone => {
                    held.state().forget();
                    first_in_queue = false;
                    continue;
                }
                Look::Overwritten => return Err(overwritten(held)),
                Look::Queue {
                    own,
                    first,
                    predecessor,
                    revision,
                } => (own, first, predecessor, revision),
            };
            if !held.entered(own, revision, self.shared.clock.now(), self.lease) {
                // What a split of the session has closed, it does not delete.
                self.leave(held, Some(own)).await?;
                return Ok(Attempt::Moved);
            }
            let Some(first) = first else {
                return Err(errors::unreadable("the queue of a lock"));
            };
            if first.create_revision() == own {
                if first.lease() != self.id {
                    return Err(overwritten(held));
                }
                if first.mod_revision() == own && first.value() == waiting.as_bytes() {
                    first_in_queue = true;
                    continue;
                }
                let written = first.mod_revision();
                if first.value() == leading.as_bytes() {
                    held.state().publishes(candidate.value.as_ref(), written);
                } else {
                    // As an earlier attempt or another program has left it.
                    held.state().written = written;
                    self.write(held, own, candidate).await?;
                }
                proof?;
                self.shared.notifications.stop_waiting(lock, self.id);
                let token = keys::token(own)
                    .map_err(|error| StoreError::new(error.kind(), error.message()))?;
                // The session may have ended meanwhile, and everybody been told.
                let until = self.shared.clock.now() + self.lease;
                let Some(proven) = held.elected(own, self.id, &self.proof, until) else {
                    continue;
                };
                self.watch_a_term();
                return Ok(Attempt::Held { token, proven });
            }
            first_in_queue = false;
            let (predecessor, revision) = match predecessor {
                Some(predecessor) => (Some(predecessor), revision),
                None => self.predecessor(lock, own).await?,
            };
            if let Some(predecessor) = predecessor {
                let key = predecessor.key().to_vec();
                self.shared
                    .notifications
                    .wait(lock, self.id, key, revision + 1);
                let first = First::of(&first);
                return match first
                    .map_err(|error| StoreError::new(error.kind(), error.message()))?
                {
                    First::Leader(holder) => Ok(Attempt::Taken(Some(holder))),
                    First::Waiter(_) => Ok(Attempt::Taken(None)),
                    First::Obstacle(key) => Err(keys::obstacle(&key)),
                };
            }
        }
        // The queue moves faster than it can be looked at; the caller will ask again.
        self.shared.notifications.tell(lock);
        Ok(Attempt::Taken(None))
    }

    async fn look(
        &self,
        lock: &LockName,
        held: &HeldLock,
        intent: Intent,
        candidate: &Candidate,
    ) -> Result<Look, StoreError> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            election: self.shared.connector.config.election(lock),
            key: held.key.clone(),
            lease: self.id,
            intent,
            waiting: keys::waiting(candidate),
            leading: keys::proposal(candidate),
            answer,
        };
        let gone = || {
            StoreError::new(
                ErrorKind::Internal,
                "the backend's runtime is shutting down",
            )
        };
        self.asks.send(ask).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn predecessor(
        &self,
        lock: &LockName,
        own: i64,
    ) -> Result<(Option<KeyValue>, i64), StoreError> {
        let election = self.shared.connector.config.election(lock);
        let mut answer = self
            .shared
            .connector
            .call(self.limit, |mut client| {
                let election = election.clone();
                async move { client.get(election, Some(keys::before(own))).await }
            })
            .await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok((answer.take_kvs().into_iter().next(), revision))
    }

    /// How many candidates come before this one.
    pub(crate) async fn position(
        &self,
        lock: &LockName,
        held: &HeldLock,
    ) -> Result<Option<usize>, StoreError> {
        let Some(own) = held.state().revision else {
            return Ok(None);
        };
        let election = self.shared.connector.config.election(lock);
        let answer = self
            .shared
            .connector
            .call(self.limit, |mut client| {
                let options = GetOptions::new()
                    .with_prefix()
                    .with_keys_only()
                    .with_max_create_revision(own);
                let election = election.clone();
                async move { client.get(election, Some(options)).await }
            })
            .await?;
        let is_own = |kv: &&KeyValue| kv.create_revision() == own;
        let present = answer.kvs().iter().find(is_own).is_some();
        Ok(present.then(|| answer.kvs().len() - 1))
    }

    /// Writes the candidate's value, if it is not what stands there.
    pub(super) async fn publish(
        &self,
        held: &HeldLock,
        own: i64,
        candidate: &Candidate,
    ) -> Result<(), StoreError> {
        if held.state().value == candidate.value {
            return Ok(());
        }
        self.write(held, own, candidate).await
    }

    /// Puts the leader's value in place of what stood there last. A key that is gone meanwhile is
    /// forgotten, and the term with it.
    pub(super) async fn write(
        &self,
        held: &HeldLock,
        own: i64,
        candidate: &Candidate,
    ) -> Result<(), StoreError> {
        let key = held.key.as_str();
        let proposal = keys::proposal(candidate);
        for _ in 0..3 {
            let written = {
                let state = held.state();
                if !state.is_on(self.id) {
                    return Err(moved());
                }
                state.written
            };
            let outcome = self
                .shared
                .connector
                .call(self.limit, |mut client| {
                    let lease = PutOptions::new().with_lease(self.id);
                    let put = TxnOp::put(key, proposal.clone(), Some(lease));
                    let txn = Txn::new()
                        .when([is(key, own), is_unchanged(key, written)])
                        .and_then([put])
                        .or_else([TxnOp::get(key, None)]);
                    async move { client.txn(txn).await }
                })
                .await;
            let answer = self.note(outcome)?;
            let mut state = held.state();
            if answer.succeeded() {
                state.publishes(candidate.value.as_ref(), revision_of(&answer));
                return Ok(());
            }
            let Some(found) = only_key(&answer).filter(|kv| kv.create_revision() == own) else {
                if state.revision == Some(own) {
                    state.forget();
                    held.gone.notify_waiters();
                }
                return Ok(());
            };
            state.written = found.mod_revision();
            // The value that is written next says nothing of a wish that no heartbeat has read.
            let left = keys::wish(found.value());
            state.wish.found(left, self.shared.clock.now());
            // Written by an attempt whose answer was lost.
            if found.value() == proposal.as_bytes() && found.lease() == self.id {
                state.publishes(candidate.value.as_ref(), found.mod_revision());
                return Ok(());
            }
        }
        Err(StoreError::new(
            ErrorKind::Conflict,
            "another program writes to the leader's key, again and again",
        ))
    }

    /// Gives back the term with this token, or whatever the candidate has here.
    pub(crate) async fn release(
        self: &Arc<Self>,
        lock: &LockName,
        held: &Arc<HeldLock>,
        token: Option<FencingToken>,
    ) -> Result<(), StoreError> {
        let _turn = held.turn.lock().await;
        let home = self.home_of(held);
        // The deletion is no news.
        home.stop_watching_term(lock);
        let own = token.map(keys::revision);
        let known = held.state().revision;
        if let Err(error) = home.leave(held, own.or(known)).await {
            if known.is_some() && errors::is_denied(&error) {
                // Kept alive for the others, the key would keep everybody out of the lock.
                home.split(Some(lock)).await?;
            }
            return Err(error);
        }
        let is_over = {
            let mut state = held.state();
            let is_over = own.is_none_or(|own| state.revision.is_none_or(|now| now == own));
            if is_over {
                state.forget();
            }
            is_over
        };
        if is_over {
            self.home_of(held).remove(lock, held);
        }
        Ok(())
    }

    /// Deletes the key, or only that with this create revision.
    ///
    /// Never without a create revision: a deletion that arrives late would meet the key of a later
    /// campaign on this lease, which may lead by then.
    pub(super) async fn leave(&self, held: &HeldLock, own: Option<i64>) -> Result<(), StoreError> {
        if self.has_ended() {
            return Ok(());
        }
        self.delete(&held.key, own).await
    }

    /// Deletes the key with this create revision; without one, whatever hangs on this lease.
    pub(super) async fn delete(&self, key: &str, own: Option<i64>) -> Result<(), StoreError> {
        let (own, is_here) = match own {
            Some(own) => (own, None),
            None => match self.own_key(key).await? {
                // It may move to another session meanwhile, and lead there.
                Some(own) => (own, Some(Compare::lease(key, CompareOp::Equal, self.id))),
                None => return Ok(()),
            },
        };
        self.shared
            .connector
            .call(self.limit, |mut client| {
                let conditions = [is(key, own)].into_iter().chain(is_here.clone());
                let txn = Txn::new()
                    .when(conditions.collect::<Vec<_>>())
                    .and_then([TxnOp::delete(key, None)]);
                async move { client.txn(txn).await }
            })
            .await?;
        Ok(())
    }

    /// The create revision of the key, while it hangs on this lease.
    async fn own_key(&self, key: &str) -> Result<Option<i64>, StoreError> {
        let mut answer = self
            .shared
            .connector
            .call(self.limit, |mut client| {
                let key = key.to_owned();
                async move { client.get(key, None).await }
            })
            .await?;
        let found = answer.take_kvs().into_iter().next();
        let own = found.filter(|kv| kv.lease() == self.id);
        Ok(own.map(|kv| kv.create_revision()))
    }

    /// The key and create revision of the term with this token, if it is held here.
    pub(crate) fn term(&self, lock: &LockName, token: FencingToken) -> Option<(String, i64)> {
        let held = self.held_locks().by_lock.get(lock).cloned()?;
        let own = held.state().led_by()?;
        let led = keys::token(own).ok()?;
        led.equals_but_for_generation(token)
            .then(|| (held.key.clone(), own))
    }
}

/// Our own key is there, and not ours any more.
fn overwritten(held: &HeldLock) -> StoreError {
    let key = held.key.as_bytes();
    StoreError::new(
        ErrorKind::Corrupted,
        format!(
            "the key {} of this candidate was written by another program without its lease; that \
             program may lead: stop it and this candidate first, and only then delete the key: `{}`",
            keys::shown(key),
            keys::deletion(key)
        ),
    )
}

/// The next call meets the key where it is by then.
fn moved() -> StoreError {
    StoreError::new(ErrorKind::Conflict, "the key has moved to another lease")
}
