//! Looks at the store, and what it reports of changes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::contract::backend::CampaignId;
use crate::contract::capabilities::Rises;
use crate::contract::name::Identity;
use crate::memory::{MemoryBackend, MemoryStore};
use crate::record::store::RecordEvents;
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
}

impl Counting {
    fn new(memory: &MemoryBackend, over_deletion: Rises) -> Self {
        Self {
            store: memory.store().clone(),
            looks: Arc::default(),
            over_deletion,
        }
    }
}

#[async_trait]
impl RecordStore for Counting {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.store.capabilities();
        capabilities.fencing.over_deletion = self.over_deletion;
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

/// A release that the store has told of is taken without another look, unless somebody else
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
