//! An observer on a store that tells of less than it could.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::testing::TestBackend;
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Election, Error, Grant, LockBackend, LockName,
    Observation, Observer, Occupancy, Policy, Renewal, SharedClock, Time,
};

/// Says that it pushes, and pushes nothing: hints may be missing.
#[derive(Debug)]
struct Silent(TestBackend);

#[async_trait]
impl LockBackend for Silent {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.0.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.0.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.0.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.0.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.0.holder(lock).await
    }

    fn changes(&self, _lock: &LockName) -> Changes {
        Box::pin(futures_util::stream::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_the_next_leader_is_seen_within_a_retry_interval() {
    let store: Arc<dyn LockBackend> = Arc::new(Silent(TestBackend::new()));
    let lock = LockName::new("test").unwrap();
    let policy = Policy::default();
    let clock = store.clock();
    let mut watch = Observer::new(store.clone(), lock.clone(), policy.clone()).watch();
    assert_eq!(watch.next().await, Some(Observation::Free));
    let seen_free = clock.now();
    let election = Election::builder(store, lock).build().unwrap();
    let _leadership = election.campaign().await.unwrap();
    let seen = watch.next().await;
    assert!(matches!(seen, Some(Observation::Led { .. })), "{seen:?}");
    let took = clock.now().since(seen_free);
    // Of paused time, with the timer's grain.
    let grain = Duration::from_millis(2);
    assert!(took <= policy.retry_interval() + grain, "{took:?}");
}
