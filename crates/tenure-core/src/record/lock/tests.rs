//! Looks at the store, and what it reports of changes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::compose::generation::InGeneration;
use crate::contract::backend::CampaignId;
use crate::contract::capabilities::Rises;
use crate::contract::name::Identity;
use crate::contract::token::Generation;
use crate::memory::{MemoryBackend, MemoryStore};
use crate::record::store::{Liveness, RecordEvents};
use crate::record::version::Version;
use crate::testing::TestClock;

/// A store that tells of two changes and swallows the first `get`.
#[derive(Debug)]
struct Swallowing {
    store: MemoryStore,
    swallowed: AtomicBool,
}

#[async_trait]
impl RecordStore for Swallowing {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        if !self.swallowed.swap(true, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.store.get(lock).await
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.store.create(lock, record).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.store.replace(lock, record, step, expected).await
    }

    fn watch(&self, _: &LockName) -> RecordEvents {
        Box::pin(stream::iter([RecordEvent::Changed, RecordEvent::Changed]))
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_without_an_answer_does_not_hold_back_later_hints() {
    let clock = Arc::new(TestClock::new());
    let lock = RecordLock::new(Swallowing {
        store: MemoryBackend::with_clock(clock).store().clone(),
        swallowed: AtomicBool::new(false),
    });
    let hints = lock
        .changes(&LockName::new("test").unwrap())
        .collect::<Vec<_>>();
    let hints = tokio::time::timeout(Duration::from_secs(60), hints).await;
    assert_eq!(hints.unwrap(), [Hint::MayBeFree, Hint::MayBeFree]);
}

/// Counts the looks at a store in memory.
#[derive(Debug)]
struct Counting {
    store: MemoryStore,
    looks: Arc<std::sync::atomic::AtomicUsize>,
    over_deletion: Rises,
    over_failover: Rises,
}

impl Counting {
    fn new(memory: &MemoryBackend, over_deletion: Rises) -> Self {
        Self {
            store: memory.store().clone(),
            looks: Arc::default(),
            over_deletion,
            over_failover: Rises::Always,
        }
    }
}

#[async_trait]
impl RecordStore for Counting {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.store.capabilities();
        capabilities.fencing.over_crash = Rises::NotApplicable;
        capabilities.fencing.over_deletion = self.over_deletion;
        capabilities.fencing.over_failover = self.over_failover;
        capabilities
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.store.get(lock).await
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.store.create(lock, record).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.store.replace(lock, record, step, expected).await
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        self.store.watch(lock)
    }
}

/// A release that the store has told of is taken without another look, unless another one
/// was quicker.
#[tokio::test]
async fn what_was_told_is_written_upon_at_once_or_looked_at_again() {
    let memory = MemoryBackend::with_clock(Arc::new(TestClock::new()));
    let counting = Counting::new(&memory, Rises::Always);
    let looks = counting.looks.clone();
    let lock = RecordLock::new(counting);
    let name = LockName::new("test").unwrap();
    let candidate = |number: u64| {
        let identity = Identity::new(format!("candidate-{number}")).unwrap();
        Candidate::new(identity, CampaignId::new(number))
    };
    let lease = Duration::from_secs(600);
    let held = |outcome: Result<Acquired, Error>| match outcome {
        Ok(Acquired::Held(grant)) => grant,
        other => panic!("{other:?}"),
    };
    let mut hints = lock.changes(&name);
    let mut heard = async || while hints.next().await != Some(Hint::MayBeFree) {};
    let first = held(memory.acquire(&name, &candidate(1), lease).await);
    for quicker in [false, true] {
        memory.release(&first).await.unwrap();
        let before = looks.load(Ordering::Relaxed);
        heard().await;
        let others = if quicker {
            Some(held(memory.acquire(&name, &candidate(2), lease).await))
        } else {
            None
        };
        let outcome = lock.acquire(&name, &candidate(3), lease).await;
        let looked = looks.load(Ordering::Relaxed) - before;
        if others.is_some() {
            assert!(matches!(outcome, Ok(Acquired::Taken { .. })), "{outcome:?}");
            assert_eq!(looked, 1);
        } else {
            let grant = held(outcome);
            assert!(grant.token > first.token);
            assert_eq!(looked, 0);
            lock.release(&grant).await.unwrap();
        }
    }
}

/// Where versions begin again after a deletion, what was told may be long gone: it is looked at.
#[tokio::test]
async fn what_was_told_is_not_written_upon_where_versions_repeat() {
    let memory = MemoryBackend::with_clock(Arc::new(TestClock::new()));
    let counting = Counting::new(&memory, Rises::Never);
    let looks = counting.looks.clone();
    let lock = RecordLock::new(counting);
    let name = LockName::new("test").unwrap();
    let candidate = |number: u64| {
        let identity = Identity::new(format!("candidate-{number}")).unwrap();
        Candidate::new(identity, CampaignId::new(number))
    };
    let lease = Duration::from_secs(600);
    let mut hints = lock.changes(&name);
    let Ok(Acquired::Held(first)) = memory.acquire(&name, &candidate(1), lease).await else {
        panic!("the lock was free");
    };
    memory.release(&first).await.unwrap();
    while hints.next().await != Some(Hint::MayBeFree) {}
    let before = looks.load(Ordering::Relaxed);
    let outcome = lock.acquire(&name, &candidate(2), lease).await;
    assert!(matches!(outcome, Ok(Acquired::Held(_))), "{outcome:?}");
    assert_eq!(looks.load(Ordering::Relaxed) - before, 1);
}

/// What the store in memory holds, with nothing that tells how long it holds.
#[derive(Debug)]
struct Observed {
    counting: Counting,
    marked: bool,
}

impl Observed {
    fn shown(&self, found: Versioned) -> Versioned {
        let found = found.with_liveness(Liveness::Observed);
        if !self.marked {
            return found;
        }
        let mark = format!("{:?}", found.version);
        found.with_mark(mark)
    }

    fn written(&self, written: Written) -> Written {
        match written {
            Written::Applied(written) => Written::Applied(self.shown(written)),
            other => other,
        }
    }
}

#[async_trait]
impl RecordStore for Observed {
    fn capabilities(&self) -> Capabilities {
        self.counting.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.counting.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let found = self.counting.get(lock).await?;
        Ok(found.map(|found| self.shown(found)))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        let written = self.counting.create(lock, record).await?;
        Ok(self.written(written))
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        let written = self.counting.replace(lock, record, step, expected).await?;
        Ok(self.written(written))
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        self.counting.watch(lock)
    }
}

/// A deleted record that its own campaign writes again would look unchanged to an observer, who
/// would count its lease from the first one's sight.
#[tokio::test]
async fn where_versions_repeat_an_observed_record_without_a_mark_begins_no_term() {
    for (over_deletion, over_failover, marked, served) in [
        (Rises::Never, Rises::Always, false, false),
        (Rises::If("it is so"), Rises::Always, false, false),
        (Rises::Always, Rises::Never, false, false),
        (Rises::Never, Rises::Never, true, true),
        (Rises::Always, Rises::Always, false, true),
    ] {
        let memory = MemoryBackend::private();
        let mut counting = Counting::new(&memory, over_deletion);
        counting.over_failover = over_failover;
        let lock = RecordLock::new(Observed { counting, marked });
        for attempt in 1..=2 {
            let outcome = lock.acquire(&name(), &numbered(attempt), LONG).await;
            if served {
                let Ok(Acquired::Held(grant)) = outcome else {
                    panic!("{outcome:?}");
                };
                lock.release(&grant).await.unwrap();
                continue;
            }
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert_eq!(lock.holder(&name()).await.unwrap(), Occupancy::Free);
        }
    }
}

/// A store in memory whose versions are larger by `offset`, as those of some clusters are.
#[derive(Debug)]
struct Numbered {
    store: MemoryStore,
    offset: u128,
    writes: Arc<std::sync::atomic::AtomicUsize>,
}

impl Numbered {
    fn lock(memory: &MemoryBackend, offset: u128) -> RecordLock<Self> {
        RecordLock::new(Self {
            store: memory.store().clone(),
            offset,
            writes: Arc::default(),
        })
    }

    fn shown(&self, mut found: Versioned) -> Versioned {
        let inner = Arc::new(found.clone());
        let number = u128::from(found.version.as_u64().unwrap()) + self.offset;
        found.version = Version::parse(&number.to_string()).unwrap();
        if let Some(holder) = &mut found.record.holder {
            holder.token = None;
        }
        found.with_state(inner)
    }

    fn written(&self, written: Written) -> Written {
        match written {
            Written::Applied(written) => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                Written::Applied(self.shown(written))
            }
            other => other,
        }
    }
}

#[async_trait]
impl RecordStore for Numbered {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let found = self.store.get(lock).await?;
        Ok(found.map(|found| self.shown(found)))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        let written = self.store.create(lock, record).await?;
        Ok(self.written(written))
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        let expected = expected.state::<Versioned>().unwrap();
        let written = self.store.replace(lock, record, step, &expected).await?;
        Ok(self.written(written))
    }

    fn watch(&self, _: &LockName) -> RecordEvents {
        Box::pin(stream::empty())
    }
}

/// As GKE serves them.
const LARGE: u128 = 1_753_647_547_040_000_000;

const LONG: Duration = Duration::from_secs(600);

fn name() -> LockName {
    LockName::new("test").unwrap()
}

fn numbered(number: u64) -> Candidate {
    let identity = Identity::new(format!("candidate-{number}")).unwrap();
    Candidate::new(identity, CampaignId::new(number))
}

#[tokio::test]
async fn tokens_of_large_versions_rise_with_each_term_over_deletion_and_from_small_to_large() {
    let memory = MemoryBackend::private();
    let mut last = None;
    for offset in [0, LARGE] {
        let lock = Numbered::lock(&memory, offset);
        for term in 0..8 {
            let outcome = lock.acquire(&name(), &numbered(term), LONG).await;
            let Ok(Acquired::Held(grant)) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(Some(grant.token) > last, "{:?} after {last:?}", grant.token);
            last = Some(grant.token);
            if term % 2 == 0 {
                // The next term is one write later: versions are never rounded.
                memory.store().delete(&name());
            } else {
                let renewed = lock.renew(&grant, Time::ZERO).await.unwrap();
                let Renewal::Renewed(grant) = renewed else {
                    panic!("{renewed:?}");
                };
                lock.release(&grant).await.unwrap();
            }
        }
    }
    assert!(last.is_some_and(|last| u128::from(last.as_u64()) > LARGE));
}

#[tokio::test]
async fn a_version_that_fits_no_token_is_refused_before_the_write() {
    let memory = MemoryBackend::private();
    for (offset, generation, kind) in [
        (u128::from(u64::MAX), 0, ErrorKind::Unsupported),
        (10_u128.pow(30), 0, ErrorKind::Unsupported),
        (
            u128::from(FencingToken::MAX.as_u64()),
            0,
            ErrorKind::Unsupported,
        ),
        (LARGE, 30_000, ErrorKind::Misconfigured),
    ] {
        let inner = Numbered::lock(&memory, offset);
        let writes = inner.store().writes.clone();
        let generation = Generation::new(generation).unwrap();
        let lock = InGeneration::new(Arc::new(inner.clone()), generation);
        // Nothing tells the version of the first record before it is written.
        let error = lock.acquire(&name(), &numbered(1), LONG).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(lock.holder(&name()).await.unwrap(), Occupancy::Free);
        assert_eq!(writes.load(Ordering::Relaxed), 2, "written and given back");
        let error = lock.acquire(&name(), &numbered(1), LONG).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(writes.load(Ordering::Relaxed), 2);
        // Observers see who leads, by a program that needs no token.
        let found = inner.store().store.get(&name()).await.unwrap().unwrap();
        let record = Record {
            holder: Some(holder_record(&numbered(2), None)),
            lease: LONG,
        };
        let store = &inner.store().store;
        let held = store.replace(&name(), &record, Step::Renew, &found).await;
        assert!(matches!(held, Ok(Written::Applied(_))), "{held:?}");
        let occupancy = lock.holder(&name()).await.unwrap();
        assert!(matches!(occupancy, Occupancy::Led(_)), "{occupancy:?}");
        memory.store().delete(&name());
    }
}

#[tokio::test]
async fn large_versions_keep_their_generation_through_renewal_and_release() {
    let memory = MemoryBackend::private();
    let inner = Numbered::lock(&memory, LARGE);
    let generation = Generation::new(8192).unwrap();
    let lock = InGeneration::new(Arc::new(inner), generation);
    let outcome = lock.acquire(&name(), &numbered(1), LONG).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("{outcome:?}");
    };
    let Ok(Renewal::Renewed(renewed)) = lock.renew(&grant, Time::ZERO).await else {
        panic!("the term was ours");
    };
    assert_eq!(renewed.token, grant.token);
    assert_eq!(renewed.candidate, numbered(1));
    assert!(u128::from(grant.token.as_u64()) > LARGE + 8192 * u128::from(Generation::STEP));
    lock.release(&renewed).await.unwrap();
    assert_eq!(lock.holder(&name()).await.unwrap(), Occupancy::Free);
}

#[tokio::test]
async fn a_grant_from_another_backend_is_refused_in_the_name_of_the_call() {
    let lock = MemoryBackend::private();
    let name = LockName::new("test").unwrap();
    let candidate = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(1));
    let token = FencingToken::from_counter(1).unwrap();
    let foreign = Grant::new(name, candidate, token, Duration::from_secs(20), Time::ZERO);
    let renewed = lock.renew(&foreign, Time::ZERO).await.unwrap_err();
    assert_eq!(renewed.operation(), Operation::Renew);
    let released = lock.release(&foreign).await.unwrap_err();
    assert_eq!(released.operation(), Operation::Release);
}
