//! What threads do to one term, one election or one backend at the same time. Each function is one
//! run under one schedule, which shuttle chooses; it panics when something is wrong, and shuttle
//! does when no thread can go on.
//!
//! This is a module of the core as it is built by the package `tenure-threads`, so that it sees
//! what is private there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Untried, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use shuttle::thread;

use crate::compose::both::Both;
use crate::contract::backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, LockBackend, Occupancy, Renewal,
};
use crate::contract::capabilities::Capabilities;
use crate::contract::clock::{Clock, SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::{Identity, LockName, PublishedValue};
use crate::contract::token::FencingToken;
use crate::election::Election;
use crate::election::engine::Control;
use crate::election::leadership::Leadership;
use crate::election::machine::{Cause, Span};
use crate::election::spawn::{Spawn, Task};
use crate::election::term::{Term, TermState};
use crate::memory::{MemoryBackend, MemoryStore};
use crate::policy::Policy;
use crate::record::{
    Liveness, Record, RecordEvents, RecordLock, RecordStore, Step, Versioned, Written,
};

/// A clock that stands still until it is set.
#[derive(Debug)]
struct Hand {
    now: AtomicU64,
    /// Not shuttle's: no schedule can go wrong here.
    sleeping: Untried<Vec<Waker>>,
}

impl Hand {
    fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU64::new(seconds),
            sleeping: Untried::default(),
        })
    }

    fn set(&self, seconds: u64) {
        self.now.store(seconds, Ordering::SeqCst);
        let sleeping: Vec<Waker> = self
            .sleeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        sleeping.into_iter().for_each(Waker::wake);
    }
}

#[async_trait]
impl Clock for Hand {
    fn now(&self) -> Time {
        at(self.now.load(Ordering::SeqCst))
    }

    async fn sleep_until(&self, deadline: Time) {
        std::future::poll_fn(|cx| {
            // Before the look, so that no change between the two is missed.
            self.sleeping
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(cx.waker().clone());
            if self.now() >= deadline {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

fn span(cancel_at: u64, valid_until: u64) -> Span {
    Span {
        cancel_at: at(cancel_at),
        valid_until: at(valid_until),
    }
}

fn lock() -> LockName {
    LockName::new("threads").unwrap_or_else(|error| panic!("{error}"))
}

fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap_or_else(|error| panic!("{error}"))
}

fn candidate(name: &str, campaign: u64) -> Candidate {
    Candidate::new(identity(name), CampaignId::new(campaign))
}

/// A term that is valid until 20 s, and told to stop at 15 s.
fn term(clock: &Arc<Hand>) -> Arc<TermState> {
    let token = FencingToken::from_counter(1).unwrap_or_else(|error| panic!("{error}"));
    let control = Arc::new(Control::default());
    let clock: SharedClock = clock.clone();
    TermState::new(lock(), identity("one"), token, span(15, 20), clock, control)
}

/// The engine extends a term while its owner ends it.
pub fn extend_beside_end() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            state.extend(span(25, 30));
        })
    };
    state.end(Cause::Resigned);
    let term = Term::new(state.clone());
    assert!(!term.is_valid(), "it was ended before");
    join(engine);
    assert!(
        state.has_ended() && !term.is_valid(),
        "an ended term is back"
    );
    assert!(term.is_cancelled(), "the work is not told");
    assert_eq!(term.cause(), Some(Cause::Resigned));
}

/// The engine extends a term at the moment at which it ends by the clock, while the work looks.
pub fn extend_beside_looks() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || state.extend(span(45, 50)))
    };
    let time = {
        let clock = clock.clone();
        thread::spawn(move || clock.set(40))
    };
    let term = Term::new(state.clone());
    let mut over = false;
    let mut cancelled = false;
    for _ in 0..3 {
        let valid = term.is_valid();
        assert!(!(over && valid), "a term that was over is valid again");
        over |= !valid;
        let now_cancelled = term.is_cancelled();
        assert!(
            !cancelled || now_cancelled,
            "what the work was told is taken back"
        );
        cancelled |= now_cancelled;
        if cancelled {
            assert!(term.cause().is_some(), "told to stop without a cause");
        }
    }
    let told = join(engine);
    join(time);
    assert!(
        !(over && term.is_valid()),
        "a term that was over is valid again"
    );
    if over {
        assert!(
            told || !term.is_valid(),
            "the engine does not learn of the end"
        );
    }
}

/// The engine cancels a term while the work looks for the cause.
pub fn cancel_beside_looks() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let engine = {
        let state = state.clone();
        thread::spawn(move || state.cancel(Cause::Shutdown))
    };
    let term = Term::new(state);
    for _ in 0..3 {
        if term.is_cancelled() {
            assert_eq!(term.cause(), Some(Cause::Shutdown));
        }
    }
    join(engine);
    assert!(term.is_cancelled() && term.is_valid());
}

/// Work waits for the end of its term, which comes by an order.
pub fn waits_beside_end() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = Term::new(state.clone());
        thread::spawn(move || {
            let stopped = block_on(term.until_cancelled(std::future::pending::<()>()));
            assert!(stopped.is_err() && term.is_cancelled());
            block_on(term.lost());
            assert!(!term.is_valid());
        })
    };
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            state.extend(span(25, 30));
            state.cancel(Cause::Shutdown);
        })
    };
    state.end(Cause::Lost);
    join(engine);
    join(waits);
}

/// Work waits for the end of its term, which the engine moves, and which comes by the clock.
pub fn waits_beside_time() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = Term::new(state.clone());
        thread::spawn(move || {
            block_on(term.lost());
            assert!(!term.is_valid(), "it was lost before");
            assert!(!term.is_valid(), "a term that was over is valid again");
        })
    };
    let engine = {
        let state = state.clone();
        thread::spawn(move || {
            // A shorter lease: the waiting must notice.
            state.extend(span(12, 14));
        })
    };
    clock.set(15);
    join(engine);
    join(waits);
}

/// Work waits for the end of its term, which comes by the clock while the engine still moves it.
pub fn waits_beside_extension() {
    let clock = Hand::at(10);
    let state = term(&clock);
    let waits = {
        let term = Term::new(state.clone());
        thread::spawn(move || {
            block_on(term.lost());
            for _ in 0..3 {
                assert!(!term.is_valid(), "a term that was lost is valid again");
            }
        })
    };
    let engine = thread::spawn(move || {
        state.extend(span(45, 50));
    });
    clock.set(21);
    join(engine);
    clock.set(60);
    join(waits);
}

/// Runs engines as shuttle's tasks.
#[derive(Debug)]
struct Tasks;

impl Spawn for Tasks {
    fn spawn(&self, task: Task) -> Result<(), Error> {
        drop(shuttle::future::spawn(task));
        Ok(())
    }
}

fn election(backend: &MemoryBackend, name: &str) -> Election {
    Election::builder(Arc::new(backend.clone()), lock())
        .identity(identity(name))
        .policy(Policy::default())
        .spawn_on(Tasks)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn elected(election: &Election) -> Leadership {
    block_on(election.campaign()).unwrap_or_else(|error| panic!("{error}"))
}

/// Three threads give orders to one engine, and one of them ends it: each gets an answer.
pub fn orders_to_one_engine() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let election = election(&backend, "one");
    let leadership = Arc::new(elected(&election));
    let publishes = {
        let leadership = leadership.clone();
        thread::spawn(move || {
            let value = PublishedValue::new("here").ok();
            // The term may be over before, which is an answer too.
            let _answer = block_on(leadership.publish(value));
        })
    };
    let confirms = {
        let term = leadership.term();
        thread::spawn(move || {
            let _answer = block_on(term.confirm());
        })
    };
    let term = leadership.term();
    leadership.stop(Cause::Shutdown);
    block_on(term.cancelled());
    match Arc::try_unwrap(leadership) {
        Ok(leadership) => {
            block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
        }
        // The last of the two gives it back.
        Err(shared) => drop(shared),
    }
    join(publishes);
    join(confirms);
    block_on(term.lost());
    // Whoever asks after the end gets an answer too.
    assert!(block_on(term.confirm()).is_err());
}

/// An engine is dropped by its runtime while somebody asks it.
pub fn asked_beside_the_end_of_the_engine() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let election = election(&backend, "one");
    let leadership = elected(&election);
    let term = leadership.term();
    let asks = thread::spawn(move || {
        for _ in 0..3 {
            let _answer = block_on(term.confirm());
        }
    });
    block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
    join(asks);
}

/// Two elections on one backend value lead one after the other, woken by a release alone: the
/// clock stands still.
pub fn two_elections_on_one_backend() {
    let backend = MemoryBackend::with_clock(Hand::at(10));
    let leading = Arc::new(AtomicUsize::new(0));
    let lead = |name: &'static str| {
        let election = election(&backend, name);
        let leading = leading.clone();
        thread::spawn(move || {
            let leadership = elected(&election);
            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead");
            assert!(leadership.is_valid());
            leading.fetch_sub(1, Ordering::SeqCst);
            block_on(leadership.resign()).unwrap_or_else(|error| panic!("{error}"));
        })
    };
    let (one, other) = (lead("one"), lead("other"));
    join(one);
    join(other);
}

/// Records that each candidate judges by its own clock.
#[derive(Debug)]
struct Observed(MemoryStore);

fn observed(found: Versioned) -> Versioned {
    found.with_liveness(Liveness::Observed)
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
pub fn two_judge_a_living_holder() {
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
pub fn two_are_told_of_a_release() {
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
        Ok(Acquired::Taken { .. }) => None,
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
pub fn two_candidates_on_both() {
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
pub fn two_compete_on_both() {
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

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
