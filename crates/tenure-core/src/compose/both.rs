//! Moving a service from one store to another without ever having two leaders.

mod capabilities;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{self, Either};
use futures_util::{StreamExt as _, stream};

use crate::contract::backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, Holder, LockBackend, Loss, Occupancy,
    Renewal,
};
use crate::contract::capabilities::{Capabilities, Order};
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, Operation};
use crate::contract::name::{Identity, LockName};
use crate::contract::page::Page;
use crate::contract::token::FencingToken;
use crate::contract::wish::Wish;
use crate::sync::{Mutex, MutexGuard};

/// Two stores as one: a candidate leads only while it holds the lock in both of them.
///
/// A service moves to another store in three steps, each rolled out to the last instance before
/// the next begins:
///
/// 1. all instances use the old store;
/// 2. all instances use `Both` of them, the old one first;
/// 3. all instances use the new store.
///
/// Between the first two steps the old store's lock keeps the instances apart, between the last
/// two the new one's. Instances of the first and the third step share no lock: never let them run
/// together.
///
/// All instances name the stores in the same order. The first lock is taken before the second and
/// given back after it, so that two candidates never wait for each other.
///
/// # Tokens
///
/// The token of a term is the larger of the two. Where both stores count by the same counter (a
/// `ConfigMap` and a Lease of one cluster) tokens rise through the whole move. Elsewhere put the
/// new store into a higher [`Generation`](crate::Generation) from the second step on, at least one
/// above [`FencingToken::generation`] of the old store's last token. Then tokens rise from step to
/// step and within each. A warning in the log names that generation if the one in use is too low.
/// Only while the first two steps are mixed may an instance on the old store lead with a smaller
/// token than a term before. A fenced resource refuses its writes; nothing is overwritten.
///
/// # Cost
///
/// An attempt to acquire is a look at the second store and then an attempt on each; a heartbeat is
/// one on each, at the same time. A leader needs both stores: it steps down when it cannot renew
/// in one of them.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure_core::Error> {
/// use std::sync::Arc;
/// use tenure_core::{Both, Election, LockName, MemoryBackend};
///
/// let old = Arc::new(MemoryBackend::private());
/// let new = Arc::new(MemoryBackend::private());
/// let moving = Arc::new(Both::new(old, new)?);
///
/// let election = Election::builder(moving, LockName::new("batch")?).build()?;
/// let leadership = election.campaign().await?;
/// assert!(leadership.term().is_valid());
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Both {
    first: Arc<dyn LockBackend>,
    second: Arc<dyn LockBackend>,
    /// Who may have something in the second store: the lock, because the answer was lost, or a
    /// place in its queue, which becomes the lock by itself.
    tried: Arc<Mutex<HashSet<Owner>>>,
    /// First locks that were given back without the second, by their tokens: such a release may
    /// still be under way.
    given_back: Arc<Mutex<HashMap<Owner, FencingToken>>>,
}

/// Whose an entry is: two candidates may have one of the two in common.
type Owner = (Identity, CampaignId);

fn owner(candidate: &Candidate) -> Owner {
    (candidate.identity.clone(), candidate.campaign)
}

/// The grants of the two stores, behind the one that the engine sees.
struct Grants {
    first: Grant,
    second: Grant,
}

impl Both {
    /// `first` and `second` as one; the lock is taken in this order.
    ///
    /// Fails with [`InvalidInput`](crate::ErrorKind::InvalidInput), before any I/O, when the two
    /// judge by different clocks: a term ends with the earlier of two proofs, which must be
    /// comparable. They must be different stores, or different places in one: on a single lock no
    /// term lasts.
    pub fn new(first: Arc<dyn LockBackend>, second: Arc<dyn LockBackend>) -> Result<Self, Error> {
        let (clock, other) = (first.clock(), second.clock());
        let (before, between, after) = (clock.now(), other.now(), clock.now());
        if between < before || between > after {
            return Err(Error::invalid_input(format!(
                "the stores \"{}\" and \"{}\" judge by different clocks; give both the same one",
                first.capabilities().store,
                second.capabilities().store
            )));
        }
        Ok(Self {
            first,
            second,
            tried: Arc::default(),
            given_back: Arc::default(),
        })
    }

    fn tried(&self) -> MutexGuard<'_, HashSet<Owner>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_back(&self) -> MutexGuard<'_, HashMap<Owner, FencingToken>> {
        self.given_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The campaign or its term is over.
    fn forget(&self, candidate: &Candidate) {
        let owner = owner(candidate);
        self.tried().remove(&owner);
        self.given_back().remove(&owner);
    }

    /// The holder of the second lock, if another candidate holds it.
    async fn second_taken(
        &self,
        lock: &LockName,
        candidate: &Candidate,
    ) -> Result<Option<Acquired>, Error> {
        let holder = match self.second.holder(lock).await? {
            Occupancy::Led(holder) | Occupancy::Unknown(holder) => holder,
            Occupancy::Free => return Ok(None),
        };
        // Perhaps an earlier attempt of ours: acquiring tells, and adopts what that has left. The
        // name alone would not do: its twin's waiting (hazard 19) would never rest.
        if holder.identity == candidate.identity.as_str()
            && self.tried().contains(&owner(candidate))
        {
            return Ok(None);
        }
        // A store judged by observation counts from the first look: were this one left for later,
        // the two leases would run out one after the other.
        let holder = match self.first.holder(lock).await? {
            Occupancy::Free => holder,
            Occupancy::Led(first) | Occupancy::Unknown(first) => {
                let token = larger(first.token, holder.token);
                let is_leader = first.identity == holder.identity;
                Holder {
                    token: token.filter(|_| is_leader),
                    ..holder
                }
            }
        };
        let free_in = holder.expires_in;
        Ok(Some(Acquired::Taken {
            holder: Some(holder),
            free_in,
        }))
    }

    async fn renew_both(&self, grants: &Grants, not_before: Time) -> Result<Renewal, Error> {
        let first = self.first.renew(&grants.first, not_before);
        let second = self.second.renew(&grants.second, not_before);
        let both = match future::select(first, second).await {
            // The other store may be silent, and cannot change that.
            Either::Left((lost @ Ok(Renewal::Lost { .. }), _))
            | Either::Right((lost @ Ok(Renewal::Lost { .. }), _)) => return lost,
            Either::Left((first, second)) => (first, second.await),
            Either::Right((second, first)) => (first.await, second),
        };
        match both {
            (lost @ Ok(Renewal::Lost { .. }), _) | (_, lost @ Ok(Renewal::Lost { .. })) => lost,
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(Renewal::Renewed(first)), Ok(Renewal::Renewed(second))) => {
                Ok(Renewal::Renewed(grant_of(first, second)))
            }
        }
    }

    /// The first lock, never under a token that was given back: a release that arrives late would
    /// end the term. Once the store has confirmed a release, the next token is another.
    async fn acquire_first(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let acquired = self.first.acquire(lock, candidate, lease).await?;
        let given_back = self.given_back().get(&owner(candidate)).copied();
        match &acquired {
            Acquired::Held(grant) if given_back == Some(grant.token) => {
                self.first.release(grant).await?;
                self.first.acquire(lock, candidate, lease).await
            }
            _ => Ok(acquired),
        }
    }

    async fn acquire_second(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        // Before the request: its answer may be lost, here or on the way to the caller.
        self.tried().insert(owner(candidate));
        let acquired = self.second.acquire(lock, candidate, lease).await?;
        let queues = self.second.capabilities().order == Order::Fifo;
        if matches!(acquired, Acquired::Taken { .. }) && !queues {
            self.tried().remove(&owner(candidate));
        }
        Ok(acquired)
    }

    /// Without the second lock the first is of no use, and would keep others out. What cannot be
    /// given back now ends with its lease.
    ///
    /// The second is not withdrawn from: the campaign goes on, and a withdrawal that arrives late
    /// would take from it what it wins until then.
    async fn give_back(&self, first: &Grant) {
        // Before the request: its answer may be lost, or this future dropped.
        self.given_back()
            .insert(owner(&first.candidate), first.token);
        if let Err(error) = self.first.release(first).await {
            tracing::debug!(lock = %first.lock, %error, "half a lock is left to end by itself");
        }
    }
}

/// On the second store alone, the next tokens will be about as large as this one's.
fn warn_of_falling_tokens(first: &Grant, second: &Grant) {
    if second.token < first.token {
        tracing::warn!(
            lock = %first.lock, first = %first.token, second = %second.token,
            "tokens fall when only the second store is used; before that set its generation to {} \
             or more",
            first.token.generation().get() + 1,
        );
    }
}

fn grant_of(first: Grant, second: Grant) -> Grant {
    // Whatever ends earlier ends the term (I1).
    let proven_at = first.proven_at.min(second.proven_at);
    let lease = first.lease.min(second.lease);
    let token = first.token.max(second.token);
    let (lock, candidate) = (first.lock.clone(), first.candidate.clone());
    // A wish names the term as its own store counts it.
    let of = |half: &Grant| half.wish.filter(|wish| wish.token == half.token);
    let wish = of(&first).or(of(&second));
    Grant::new(lock, candidate, token, lease, proven_at)
        .with_wish(wish.map(|wish| Wish { token, ..wish }))
        .with_state(Grants { first, second })
}

/// The grants behind `grant`, with what its candidate publishes now.
fn grants_of(grant: &Grant, operation: Operation) -> Result<Grants, Error> {
    let Some(Grants { first, second }) = grant.state() else {
        return Err(Error::foreign_grant(operation));
    };
    let publishing = |inner: &Grant| {
        let mut inner = inner.clone();
        inner.candidate = grant.candidate.clone();
        inner
    };
    Ok(Grants {
        first: publishing(first),
        second: publishing(second),
    })
}

#[async_trait]
impl LockBackend for Both {
    fn capabilities(&self) -> Capabilities {
        capabilities::common(&self.first.capabilities(), &self.second.capabilities())
    }

    fn clock(&self) -> SharedClock {
        self.first.clock()
    }

    /// Takes the first lock and then the second, and gives the first back when the second cannot
    /// be had.
    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        // Before the first lock is touched: those who wait for the second would take it and give
        // it back in turns, and each time wake each other.
        if let Some(taken) = self.second_taken(lock, candidate).await? {
            return Ok(taken);
        }
        let first = match self.acquire_first(lock, candidate, lease).await? {
            Acquired::Held(grant) => grant,
            Acquired::Taken { holder, free_in } => {
                // It may be taking the second right now: half a token is not the term's.
                let holder = holder.map(|holder| Holder {
                    token: None,
                    ..holder
                });
                return Ok(Acquired::Taken { holder, free_in });
            }
        };
        match self.acquire_second(lock, candidate, lease).await {
            Ok(Acquired::Held(second)) => {
                warn_of_falling_tokens(&first, &second);
                Ok(Acquired::Held(grant_of(first, second)))
            }
            not_held => {
                self.give_back(&first).await;
                not_held
            }
        }
    }

    /// Renews in both stores at once. A term that is over in one is over; the other lock is left
    /// to end with its lease, since the work may not have stopped yet.
    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        let grants = grants_of(grant, Operation::Renew)?;
        let renewal = self.renew_both(&grants, not_before).await;
        if let Ok(Renewal::Lost { .. }) = &renewal {
            self.forget(&grant.candidate);
        }
        renewal
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        // Both are asked: each makes a new connection for what follows.
        let first = self.first.may_go_on(began_at);
        self.second.may_go_on(began_at) && first
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let grants = grants_of(grant, Operation::Release)?;
        self.forget(&grant.candidate);
        // The second first: a candidate that takes the first lock finds the second free. And both,
        // also when one of them cannot be reached.
        let second = self.second.release(&grants.second).await;
        let first = self.first.release(&grants.first).await;
        second.and(first)
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.forget(candidate);
        let second = self.second.withdraw(lock, candidate).await;
        let first = self.first.withdraw(lock, candidate).await;
        second.and(first)
    }

    /// Asks through the store whose own token is the term's, for that one names the term; the
    /// leader renews in both.
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let (first, second) = future::join(self.first.holder(lock), self.second.holder(lock)).await;
        let (first, second) = (first?.token(), second?.token());
        if first.max(second) != Some(token) {
            Ok(())
        } else if first == Some(token) {
            self.first.ask_to_resign(lock, token, lasts).await
        } else {
            self.second.ask_to_resign(lock, token, lasts).await
        }
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        self.first.elections(page).await
    }

    /// Who holds whatever is held; unknown while the two stores name different holders, as they
    /// may for the moment in which one of them is being taken.
    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        let (first, second) = future::join(self.first.holder(lock), self.second.holder(lock)).await;
        Ok(match (first?, second?) {
            (Occupancy::Free, other) | (other, Occupancy::Free) => other,
            (Occupancy::Led(first), Occupancy::Led(second))
                if first.identity == second.identity =>
            {
                Occupancy::Led(holder_of(first, second))
            }
            (_, Occupancy::Led(second) | Occupancy::Unknown(second)) => Occupancy::Unknown(second),
        })
    }

    /// The notifications of both stores; they end when those of either end: then the candidate must
    /// poll.
    fn changes(&self, lock: &LockName) -> Changes {
        let hints = |store: &Arc<dyn LockBackend>| {
            let told = store.changes(lock).map(Some);
            told.chain(stream::once(future::ready(None)))
        };
        let merged = stream::select(hints(&self.first), hints(&self.second));
        Box::pin(
            merged
                .take_while(|hint| future::ready(hint.is_some()))
                .filter_map(future::ready::<Option<Hint>>),
        )
    }

    /// In either of the stores.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        let Grants { first, second } = grant.state()?;
        match (self.first.loss(first), self.second.loss(second)) {
            (Some(first), Some(second)) => Some(Box::pin(async move {
                future::select(first, second).await;
            })),
            (first, second) => first.or(second),
        }
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        let of = async |store: &Arc<dyn LockBackend>| {
            let name = store.capabilities().store;
            let mut checks = store.checks(lock, lease).await;
            for check in &mut checks {
                check.reason = format!("{name}: {}", check.reason);
            }
            checks
        };
        let (first, second) = future::join(of(&self.first), of(&self.second)).await;
        [first, second].concat()
    }
}

/// The token of a term in both stores; one half does not tell it.
fn larger(first: Option<FencingToken>, second: Option<FencingToken>) -> Option<FencingToken> {
    first.zip(second).map(|(a, b)| a.max(b))
}

/// One holder, as two stores record it.
fn holder_of(first: Holder, second: Holder) -> Holder {
    let earlier = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Holder {
        token: larger(first.token, second.token),
        value: second.value.or(first.value),
        expires_in: earlier(first.expires_in, second.expires_in),
        identity: first.identity,
    }
}
