//! The engine on a store whose calls are watched and whose answers are altered.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::testing::TestBackend;
use tenure_core::{
    Acquired, Candidate, Capabilities, Cause, Changes, Election, ElectionBuilder, Error, ErrorKind,
    Event, Grant, Leadership, LockBackend, LockName, Occupancy, Operation, Policy, PublishedValue,
    Renewal, SharedClock, Time,
};

const SECOND: Duration = Duration::from_secs(1);

fn lock() -> LockName {
    LockName::new("test").unwrap()
}

type Granted = Box<dyn Fn(&mut Grant) + Send + Sync>;
type Renewing = Box<dyn Fn(Time) + Send + Sync>;

/// A store whose grants are altered, and whose renewals are watched.
struct Altered {
    store: TestBackend,
    granted: Granted,
    renewing: Renewing,
}

impl Altered {
    fn new(store: &TestBackend) -> Self {
        Self {
            store: store.clone(),
            granted: Box::new(|_| {}),
            renewing: Box::new(|_| {}),
        }
    }

    fn election(self) -> ElectionBuilder {
        Election::builder(Arc::new(self), lock())
    }
}

impl fmt::Debug for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Altered").finish_non_exhaustive()
    }
}

#[async_trait]
impl LockBackend for Altered {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let mut acquired = self.store.acquire(lock, candidate, lease).await;
        if let Ok(Acquired::Held(grant)) = &mut acquired {
            (self.granted)(grant);
        }
        acquired
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        (self.renewing)(not_before);
        self.store.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.store.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.store.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.store.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.store.changes(lock)
    }
}

/// The owner gives the term back on another thread, while a heartbeat is answered.
#[tokio::test(start_paused = true)]
async fn a_term_that_its_owner_gives_back_has_missed_no_heartbeat() {
    let store = TestBackend::new();
    let mut altered = Altered::new(&store);
    let kept: Arc<Mutex<Option<Leadership>>> = Arc::default();
    let owner = kept.clone();
    altered.renewing = Box::new(move |_| drop(owner.lock().unwrap().take()));
    let election = altered.election().build().unwrap();
    let mut events = election.events();
    *kept.lock().unwrap() = Some(election.campaign().await.unwrap());
    let mut causes = Vec::new();
    loop {
        match events.recv().await.unwrap() {
            Event::SteppingDown(cause) | Event::SteppedDown(cause) => causes.push(cause),
            Event::Released => break,
            _ => {}
        }
    }
    assert!(
        !causes.is_empty() && causes.iter().all(|cause| *cause == Cause::Resigned),
        "{causes:?}"
    );
}

/// A backend may make its grants from what it has read.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_writes_the_published_value_whatever_the_grant_holds() {
    let store = TestBackend::new();
    let mut altered = Altered::new(&store);
    altered.granted = Box::new(|grant| grant.candidate.value = None);
    let value = PublishedValue::new("10.0.0.1:80").unwrap();
    let election = altered.election().value(value).build().unwrap();
    let mut events = election.events();
    let _leadership = election.campaign().await.unwrap();
    while !matches!(events.recv().await.unwrap(), Event::Renewed { .. }) {}
    let Occupancy::Led(holder) = store.holder(&lock()).await.unwrap() else {
        panic!("it is led");
    };
    assert_eq!(holder.value.as_deref(), Some("10.0.0.1:80"));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_answered_asks_for_no_fresh_proof_again() {
    let store = TestBackend::new();
    let mut altered = Altered::new(&store);
    let asked: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let (ages, clock) = (asked.clone(), store.clock());
    altered.renewing = Box::new(move |not_before| {
        let age = clock.now().since(not_before);
        ages.lock().unwrap().push(age);
    });
    let election = altered.election().build().unwrap();
    let mut events = election.events();
    let leadership = election.campaign().await.unwrap();
    tokio::time::sleep(7 * SECOND).await;
    store.fail_with(Some(ErrorKind::Unavailable));
    assert!(leadership.confirm().await.is_err());
    store.fail_with(None);
    while !matches!(events.recv().await.unwrap(), Event::Renewed { .. }) {}
    let _permit = leadership.confirm().await.unwrap();
    let half = Policy::default().heartbeat() / 2;
    let asked = asked.lock().unwrap();
    assert!(
        matches!(asked[..], [Duration::ZERO, retry, Duration::ZERO] if retry >= half),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_too_short_is_an_error_of_the_acquire_that_got_it() {
    let store = TestBackend::new();
    let mut altered = Altered::new(&store);
    altered.granted = Box::new(|grant| grant.lease = 10 * SECOND);
    let election = altered.election().build().unwrap();
    let error = election.campaign().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert_eq!(error.operation(), Operation::Acquire);
}
