//! Moving a service from one store to another without ever having two leaders.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, future, stream};

use crate::contract::backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, Holder, LockBackend, Loss, Occupancy,
    Renewal,
};
use crate::contract::capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::{Identity, LockName};
use crate::contract::token::FencingToken;
use crate::sync::{Mutex, MutexGuard};

/// Two stores as one: a candidate leads only while it holds the lock in both of them.
///
/// A service moves to another store in three steps, each rolled out to the last instance before
/// the next begins:
///
/// 1. everybody is on the old store;
/// 2. everybody is on `Both` of them, the old one first;
/// 3. everybody is on the new store.
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
/// `ConfigMap` and a Lease of one cluster) tokens rise through the whole move. Elsewhere put the new
/// store into a higher [`Generation`](crate::Generation) from the second step on: then tokens rise
/// from step to step and within each, and only while the first two steps are mixed may an instance
/// on the old store lead with a smaller token than a term before. A fenced resource refuses its
/// writes; nothing is overwritten.
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
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput), before any I/O, when the two judge by
    /// different clocks: a term ends with the earlier of two proofs, which must be comparable.
    /// They must be different stores, or different places in one: on a single lock no term lasts.
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

    /// Who keeps us from the second lock, if anybody does.
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
        // Before the request: its answer may be lost, here or on the way to whoever asked us.
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

fn grant_of(first: Grant, second: Grant) -> Grant {
    // Whatever ends earlier ends the term (I1).
    let proven_at = first.proven_at.min(second.proven_at);
    let lease = first.lease.min(second.lease);
    let token = first.token.max(second.token);
    let (lock, candidate) = (first.lock.clone(), first.candidate.clone());
    Grant::new(lock, candidate, token, lease, proven_at).with_state(Grants { first, second })
}

/// The grants behind `grant`, with what its candidate publishes now.
fn grants_of(grant: &Grant, operation: Operation) -> Result<Grants, Error> {
    let Some(Grants { first, second }) = grant.state() else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            operation,
            "this grant comes from another backend",
        ));
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

fn weaker(first: Rises, second: Rises) -> Rises {
    match (first, second) {
        (Rises::Never, _) | (_, Rises::Never) => Rises::Never,
        (Rises::If(_), Rises::If(_)) => Rises::If("each store is set up as it asks for"),
        (Rises::If(text), _) | (_, Rises::If(text)) => Rises::If(text),
        (Rises::NotApplicable, Rises::NotApplicable) => Rises::NotApplicable,
        _ => Rises::Always,
    }
}

/// The shortest duration that is a whole multiple of both.
fn common_multiple(first: Duration, second: Duration) -> Duration {
    let (a, b) = (first.as_nanos().max(1), second.as_nanos().max(1));
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    Duration::from_nanos(u64::try_from(a / divisor * b).unwrap_or(u64::MAX))
}

#[async_trait]
impl LockBackend for Both {
    fn capabilities(&self) -> Capabilities {
        let (first, second) = (self.first.capabilities(), self.second.capabilities());
        let fencing = (first.fencing, second.fencing);
        let pushed = first.wakeup == Wakeup::Push && second.wakeup == Wakeup::Push;
        Capabilities {
            store: "both",
            min_lease: first.min_lease.max(second.min_lease),
            lease_granularity: common_multiple(first.lease_granularity, second.lease_granularity),
            expiry: match (first.expiry, second.expiry) {
                (Expiry::Observation, _) | (_, Expiry::Observation) => Expiry::Observation,
                (Expiry::Session, _) | (_, Expiry::Session) => Expiry::Session,
                _ => Expiry::Store,
            },
            expiry_lag: first.expiry_lag.max(second.expiry_lag),
            wakeup: if pushed { Wakeup::Push } else { Wakeup::Poll },
            // Two queues do not make one: the first of one may be the last of the other.
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: weaker(fencing.0.over_crash, fencing.1.over_crash),
                over_failover: weaker(fencing.0.over_failover, fencing.1.over_failover),
                over_deletion: weaker(fencing.0.over_deletion, fencing.1.over_deletion),
                over_restore: weaker(fencing.0.over_restore, fencing.1.over_restore),
            },
        }
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
            Ok(Acquired::Held(second)) => Ok(Acquired::Held(grant_of(first, second))),
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
        let outcomes = future::join(
            self.first.renew(&grants.first, not_before),
            self.second.renew(&grants.second, not_before),
        );
        match outcomes.await {
            (Ok(lost @ Renewal::Lost { .. }), _) | (_, Ok(lost @ Renewal::Lost { .. })) => {
                self.forget(&grant.candidate);
                Ok(lost)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(Renewal::Renewed(first)), Ok(Renewal::Renewed(second))) => {
                Ok(Renewal::Renewed(grant_of(first, second)))
            }
        }
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let grants = grants_of(grant, Operation::Release)?;
        self.forget(&grant.candidate);
        // The second first: whoever takes the first lock then finds the second free. And both,
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

    /// The hints of both stores; they end when those of either end, since then somebody must poll.
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

/// One holder as two stores tell of it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::clock::{BootClock, Clock};
    use crate::contract::name::PublishedValue;
    use crate::memory::MemoryBackend;

    const LEASE: Duration = Duration::from_secs(3600);

    fn lock() -> LockName {
        LockName::new("moving").unwrap()
    }

    fn candidate(name: &str, campaign: u64) -> Candidate {
        Candidate::new(Identity::new(name).unwrap(), CampaignId::new(campaign))
    }

    struct Stores {
        old: MemoryBackend,
        new: MemoryBackend,
        both: Both,
    }

    fn stores() -> Stores {
        let (old, new) = (MemoryBackend::private(), MemoryBackend::private());
        let both = Both::new(Arc::new(old.clone()), Arc::new(new.clone())).unwrap();
        Stores { old, new, both }
    }

    async fn held(backend: &dyn LockBackend, candidate: &Candidate) -> Grant {
        match backend.acquire(&lock(), candidate, LEASE).await.unwrap() {
            Acquired::Held(grant) => grant,
            taken @ Acquired::Taken { .. } => panic!("the lock is free: {taken:?}"),
        }
    }

    async fn taken(backend: &dyn LockBackend, candidate: &Candidate) -> Holder {
        match backend.acquire(&lock(), candidate, LEASE).await.unwrap() {
            Acquired::Taken { holder, .. } => holder.unwrap(),
            held @ Acquired::Held(_) => panic!("the lock is held: {held:?}"),
        }
    }

    #[tokio::test]
    async fn it_keeps_out_those_on_either_store() {
        let Stores { old, new, both } = stores();
        let grant = held(&both, &candidate("both", 1)).await;
        assert_eq!(taken(&old, &candidate("old", 2)).await.identity, "both");
        assert_eq!(taken(&new, &candidate("new", 3)).await.identity, "both");
        both.release(&grant).await.unwrap();
        assert_eq!(old.holder(&lock()).await.unwrap(), Occupancy::Free);
        assert_eq!(new.holder(&lock()).await.unwrap(), Occupancy::Free);
    }

    #[tokio::test]
    async fn it_is_kept_out_by_those_on_either_store_and_leaves_no_trace() {
        let Stores { old, new, both } = stores();
        let grant = held(&old, &candidate("old", 1)).await;
        assert_eq!(taken(&both, &candidate("both", 2)).await.identity, "old");
        assert_eq!(new.holder(&lock()).await.unwrap(), Occupancy::Free);
        old.release(&grant).await.unwrap();

        let _grant = held(&new, &candidate("new", 3)).await;
        assert_eq!(taken(&both, &candidate("both", 4)).await.identity, "new");
        assert_eq!(old.holder(&lock()).await.unwrap(), Occupancy::Free);
    }

    #[tokio::test]
    async fn a_waiting_one_does_not_touch_the_first_lock() {
        let Stores { old, new, both } = stores();
        let _grant = held(&new, &candidate("new", 1)).await;
        // The same name as the holder's: only the campaign tells them apart (hazard 19).
        let mut hints = old.changes(&lock());
        assert_eq!(taken(&both, &candidate("new", 2)).await.identity, "new");
        let told = tokio::time::timeout(Duration::ZERO, hints.next()).await;
        assert!(told.is_err(), "{told:?}");
    }

    #[tokio::test]
    async fn what_an_unanswered_attempt_has_left_is_adopted() {
        let Stores { new, both, .. } = stores();
        let campaign = candidate("both", 1);
        // As if this had been our second step, and its answer was lost.
        let _left = held(&new, &campaign).await;
        both.tried().insert(owner(&campaign));
        let grant = held(&both, &campaign).await;
        let Renewal::Renewed(grant) = both.renew(&grant, Time::ZERO).await.unwrap() else {
            panic!("it is ours");
        };
        both.release(&grant).await.unwrap();
        assert!(both.tried().is_empty());
    }

    /// A store that adopts a campaign's lock under the token it has, and loses the first release:
    /// that one arrives later.
    #[derive(Debug, Default)]
    struct Late {
        key: Mutex<Option<Grant>>,
        counter: std::sync::atomic::AtomicU64,
        under_way: Mutex<Option<FencingToken>>,
    }

    impl Late {
        fn key(&self) -> MutexGuard<'_, Option<Grant>> {
            self.key.lock().unwrap()
        }

        fn delete(&self, token: FencingToken) {
            self.key().take_if(|key| key.token == token);
        }
    }

    #[async_trait]
    impl LockBackend for Late {
        fn capabilities(&self) -> Capabilities {
            MemoryBackend::private().capabilities()
        }

        fn clock(&self) -> SharedClock {
            MemoryBackend::private().clock()
        }

        async fn acquire(
            &self,
            lock: &LockName,
            candidate: &Candidate,
            lease: Duration,
        ) -> Result<Acquired, Error> {
            let mut key = self.key();
            if let Some(key) = &*key {
                return Ok(Acquired::Held(key.clone()));
            }
            let counter = &self.counter;
            let token = 1 + counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let token = FencingToken::from_counter(token)?;
            let now = BootClock.now();
            let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, now);
            *key = Some(grant.clone());
            Ok(Acquired::Held(grant))
        }

        async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
            Ok(Renewal::Renewed(grant.clone()))
        }

        async fn release(&self, grant: &Grant) -> Result<(), Error> {
            let mut under_way = self.under_way.lock().unwrap();
            if under_way.is_none() {
                *under_way = Some(grant.token);
                return Err(Error::timeout(Operation::Release, LEASE));
            }
            self.delete(grant.token);
            Ok(())
        }

        async fn withdraw(&self, _lock: &LockName, _candidate: &Candidate) -> Result<(), Error> {
            Ok(())
        }

        async fn holder(&self, _lock: &LockName) -> Result<Occupancy, Error> {
            Ok(Occupancy::Free)
        }

        fn changes(&self, _lock: &LockName) -> Changes {
            Box::pin(stream::empty())
        }
    }

    /// The simulator's seed 2320: without the second lock the first was given back, the release was
    /// late, and the next attempt led under the same token until the release arrived.
    #[tokio::test]
    async fn a_late_release_of_half_a_lock_does_not_end_a_later_term() {
        let (old, new) = (Arc::new(Late::default()), MemoryBackend::private());
        let both = Both::new(old.clone(), Arc::new(new.clone())).unwrap();
        let campaign = candidate("both", 1);
        let other = held(&new, &candidate("new", 2)).await;
        // The second lock was free at the look and is taken at the attempt.
        both.tried().insert(owner(&campaign));
        let first = both.acquire_first(&lock(), &campaign, LEASE).await.unwrap();
        let Acquired::Held(first) = first else {
            panic!("it is free");
        };
        both.give_back(&first).await;
        new.release(&other).await.unwrap();
        let grant = held(&both, &campaign).await;
        let late = old.under_way.lock().unwrap().unwrap();
        old.delete(late);
        let key = old.key().clone();
        assert_eq!(key.map(|key| key.candidate), Some(campaign));
        both.release(&grant).await.unwrap();
        assert!(both.given_back().is_empty());
    }

    #[tokio::test]
    async fn a_term_is_as_its_weaker_half() {
        let Stores { old, both, .. } = stores();
        for (name, campaign) in [("a", 1), ("b", 2)] {
            let grant = held(&old, &candidate(name, campaign)).await;
            old.release(&grant).await.unwrap();
        }
        let grant = held(&both, &candidate("both", 3)).await;
        let Grants { first, second } = grants_of(&grant, Operation::Renew).unwrap();
        assert!(first.token > second.token);
        assert_eq!(grant.token, first.token);
        assert_eq!(grant.proven_at, first.proven_at.min(second.proven_at));
        let late = Grant::new(
            lock(),
            candidate("both", 3),
            second.token,
            LEASE * 2,
            second.proven_at + LEASE,
        );
        let grant = grant_of(first.clone(), late);
        assert_eq!((grant.proven_at, grant.lease), (first.proven_at, LEASE));
    }

    #[tokio::test]
    async fn a_loss_in_one_store_is_a_loss() {
        for first in [true, false] {
            let Stores { old, new, both } = stores();
            let grant = held(&both, &candidate("both", 1)).await;
            let store = if first { &old } else { &new };
            store.store().delete(&lock());
            let renewal = both.renew(&grant, Time::ZERO).await.unwrap();
            assert!(matches!(renewal, Renewal::Lost { .. }), "{renewal:?}");
        }
    }

    #[tokio::test]
    async fn two_holders_are_nobody_known() {
        let Stores { old, new, both } = stores();
        assert_eq!(both.holder(&lock()).await.unwrap(), Occupancy::Free);
        let grant = held(&old, &candidate("old", 1)).await;
        let alone = both.holder(&lock()).await.unwrap();
        assert!(matches!(alone, Occupancy::Led(holder) if holder.identity == "old"));
        let _other = held(&new, &candidate("new", 2)).await;
        let two = both.holder(&lock()).await.unwrap();
        assert!(matches!(two, Occupancy::Unknown(_)), "{two:?}");
        old.release(&grant).await.unwrap();
    }

    #[tokio::test]
    async fn a_published_value_reaches_both_stores() {
        let Stores { old, new, both } = stores();
        let mut grant = held(&both, &candidate("both", 1)).await;
        grant.candidate.value = Some(PublishedValue::new("http://b/").unwrap());
        both.renew(&grant, Time::ZERO).await.unwrap();
        for store in [&old, &new] {
            let Occupancy::Led(holder) = store.holder(&lock()).await.unwrap() else {
                panic!("it is held");
            };
            assert_eq!(holder.value.as_deref(), Some("http://b/"));
        }
    }

    /// A clock of its own.
    #[derive(Debug)]
    struct Ahead;

    impl Clock for Ahead {
        fn now(&self) -> Time {
            BootClock.now() + Duration::from_secs(1)
        }
    }

    #[test]
    fn two_clocks_are_refused() {
        let old = Arc::new(MemoryBackend::private());
        let new = Arc::new(MemoryBackend::with_clock(Arc::new(Ahead)));
        let error = Both::new(old, new).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn leases_suit_both() {
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(common_multiple(ms, s), s);
        assert_eq!(common_multiple(2 * s, 3 * s), 6 * s);
    }
}
