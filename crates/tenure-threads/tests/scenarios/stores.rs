//! Candidates on one backend value.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Untried, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;
use tenure_threads::record::{
    Liveness, Record, RecordEvents, RecordLock, RecordStore, Step, Versioned, Written,
};
use tenure_threads::{
    Acquired, Both, Candidate, Capabilities, Changes, Error, ErrorKind, Grant, Hint, LockBackend,
    LockName, MemoryBackend, MemoryStore, Occupancy, Operation, Renewal, SharedClock, Time,
};

use super::{Hand, at, candidate, join, lock};

/// Records that each candidate judges by its own clock.
#[derive(Debug)]
struct Observed(MemoryStore);

/// The memory's versions begin again after a restart, so each write has a mark of its own.
fn observed(found: Versioned) -> Versioned {
    let mark = format!("{:?}", found.version);
    found.with_liveness(Liveness::Observed).with_mark(mark)
}

#[async_trait]
impl RecordStore for Observed {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        turn();
        let found = self.0.get(lock).await?;
        turn();
        Ok(found.map(observed))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        turn();
        let written = self.0.create(lock, record).await;
        turn();
        written
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        turn();
        let written = self.0.replace(lock, record, step, expected).await;
        turn();
        written
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        self.0.watch(lock)
    }
}

/// Another thread's turn.
fn turn() {
    thread::yield_now();
}

const LEASE: Duration = Duration::from_secs(10);

/// Two threads judge the record of a living holder through one backend value: neither takes its
/// lock, whatever the other notes meanwhile.
pub(crate) fn two_judge_a_living_holder() {
    let clock = Hand::at(10);
    let memory = MemoryBackend::with_clock(clock.clone());
    let other = RecordLock::new(Observed(memory.store().clone()));
    let holder = block_on(acquire(&other, &candidate("holder", 1)));
    let Some(mut grant) = holder else {
        panic!("the lock is free");
    };
    let shared = RecordLock::new(Observed(memory.store().clone()));
    assert!(block_on(acquire(&shared, &candidate("one", 2))).is_none());
    // The holder renews just before its lease would end.
    clock.set(19);
    match block_on(other.renew(&grant, at(19))) {
        Ok(Renewal::Renewed(renewed)) => grant = renewed,
        renewal => panic!("{renewal:?}"),
    }
    clock.set(21);
    let judge = |name: &'static str, campaign| {
        let shared = shared.clone();
        thread::spawn(move || {
            let taken = block_on(acquire(&shared, &candidate(name, campaign))).is_none();
            assert!(taken, "{name} takes the lock of a living holder");
        })
    };
    let (one, two) = (judge("one", 2), judge("two", 3));
    join(one);
    join(two);
    block_on(other.release(&grant)).unwrap_or_else(|error| panic!("{error}"));
}

/// Two threads are told of a released lock through one backend value: one of them has it, and the
/// other is told so.
pub(crate) fn two_are_told_of_a_release() {
    let memory = MemoryBackend::with_clock(Hand::at(10));
    let Some(grant) = block_on(acquire(&memory, &candidate("holder", 1))) else {
        panic!("the lock is free");
    };
    let shared = RecordLock::new(Observed(memory.store().clone()));
    let mut hints = shared.changes(&lock());
    block_on(memory.release(&grant)).unwrap_or_else(|error| panic!("{error}"));
    let held = Arc::new(AtomicUsize::new(0));
    let take = |name: &'static str, campaign| {
        let (shared, held) = (shared.clone(), held.clone());
        thread::spawn(move || {
            if block_on(acquire(&shared, &candidate(name, campaign))).is_some() {
                held.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let told = block_on(heard(&mut hints));
    let (one, two) = (take("one", 2), take("two", 3));
    // A hint that comes while both try tells of the lock as it was or as it is.
    let hints = thread::spawn(move || block_on(async { hints.next().await }));
    join(one);
    join(two);
    join(hints);
    assert!(told);
    assert_eq!(
        held.load(Ordering::SeqCst),
        1,
        "not one of them holds the lock"
    );
}

async fn heard(hints: &mut Changes) -> bool {
    hints.next().await == Some(Hint::MayBeFree)
}

/// The grant, or `None` where somebody else has the lock.
async fn acquire(backend: &impl LockBackend, candidate: &Candidate) -> Option<Grant> {
    match backend.acquire(&lock(), candidate, LEASE).await {
        Ok(Acquired::Held(grant)) => Some(grant),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A store that loses the answers it is told to.
#[derive(Debug)]
struct Losing {
    memory: MemoryBackend,
    /// Whose next `acquire` is applied without an answer.
    loses: Untried<VecDeque<&'static str>>,
}

#[async_trait]
impl LockBackend for Losing {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.memory.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        turn();
        let acquired = self.memory.acquire(lock, candidate, lease).await;
        turn();
        let mut loses = self.loses.lock().unwrap_or_else(PoisonError::into_inner);
        if loses.front() == Some(&candidate.identity.as_str()) {
            loses.pop_front();
            let text = "the answer is lost";
            return Err(Error::new(ErrorKind::Unavailable, Operation::Acquire, text));
        }
        acquired
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.memory.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        turn();
        self.memory.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        turn();
        self.memory.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        turn();
        self.memory.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.memory.changes(lock)
    }
}

/// Two candidates on one `Both`: the first one's answer of the second store is lost. It finds its
/// own lock there when it tries again, whatever the other one does meanwhile.
pub(crate) fn two_candidates_on_both() {
    let clock = Hand::at(10);
    let memory = || MemoryBackend::with_clock(clock.clone());
    let second = Losing {
        memory: memory(),
        loses: Untried::new(VecDeque::from(["one"])),
    };
    let both = Both::new(Arc::new(memory()), Arc::new(second));
    let both = both.unwrap_or_else(|error| panic!("{error}"));
    let first = block_on(both.acquire(&lock(), &candidate("one", 1), LEASE));
    assert!(first.is_err(), "the answer was lost: {first:?}");
    let other = {
        let both = both.clone();
        thread::spawn(move || {
            let other = candidate("other", 2);
            let held = block_on(acquire(&both, &other));
            assert!(held.is_none(), "the second lock is the first candidate's");
            block_on(both.withdraw(&lock(), &other)).unwrap_or_else(|error| panic!("{error}"));
        })
    };
    // The other may hold the first lock for a moment.
    let mut grant = block_on(acquire(&both, &candidate("one", 1)));
    join(other);
    if grant.is_none() {
        grant = block_on(acquire(&both, &candidate("one", 1)));
    }
    let Some(grant) = grant else {
        panic!("a candidate waits for itself");
    };
    block_on(both.release(&grant)).unwrap_or_else(|error| panic!("{error}"));
    let free = block_on(both.holder(&lock()));
    assert!(matches!(free, Ok(Occupancy::Free)), "{free:?}");
}

/// The same from the start: the answer is lost while both compete.
pub(crate) fn two_compete_on_both() {
    let clock = Hand::at(10);
    let memory = || MemoryBackend::with_clock(clock.clone());
    let second = Losing {
        memory: memory(),
        loses: Untried::new(VecDeque::from(["one"])),
    };
    let both = Both::new(Arc::new(memory()), Arc::new(second));
    let both = both.unwrap_or_else(|error| panic!("{error}"));
    let other = {
        let both = both.clone();
        thread::spawn(move || {
            let other = candidate("other", 2);
            let left = match block_on(acquire(&both, &other)) {
                Some(grant) => block_on(both.release(&grant)),
                None => block_on(both.withdraw(&lock(), &other)),
            };
            left.unwrap_or_else(|error| panic!("{error}"));
        })
    };
    let one = candidate("one", 1);
    let _lost_or_taken = block_on(both.acquire(&lock(), &one, LEASE));
    join(other);
    // Nobody else is there any more, but its answer may be lost now.
    let mut attempts = std::iter::repeat_with(|| block_on(both.acquire(&lock(), &one, LEASE)));
    let held = attempts
        .by_ref()
        .take(2)
        .find(|answer| matches!(answer, Ok(Acquired::Held(_))));
    assert!(held.is_some(), "a candidate waits for itself");
}
