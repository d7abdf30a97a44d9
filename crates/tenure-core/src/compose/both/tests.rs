//! Two stores in memory as one.

use super::capabilities::common_multiple;
use super::*;
use crate::contract::clock::{BootClock, Clock};
use crate::contract::error::ErrorKind;
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
