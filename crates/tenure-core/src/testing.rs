//! A backend for applications' own tests (feature `test-util`): its lock is lost, its store
//! frozen or its clock jumped on command, on tokio's paused time.
//!
//! ```
//! use std::sync::Arc;
//! use tenure_core::testing::TestBackend;
//! use tenure_core::{Election, LockName};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tenure_core::Error> {
//! let store = TestBackend::new();
//! let lock = LockName::new("batch")?;
//! let election = Election::builder(Arc::new(store.clone()), lock.clone()).build()?;
//! let leadership = election.campaign().await?;
//!
//! store.lose(&lock); // an operator deletes the lock; `end_session` would be noticed at once
//! leadership.lost().await; // noticed with the next heartbeat
//! assert!(!leadership.is_valid());
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::contract::backend::{
    Acquired, Candidate, Changes, Grant, LockBackend, Loss, Occupancy, Renewal,
};
use crate::contract::capabilities::Capabilities;
use crate::contract::clock::{Clock, SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::LockName;
use crate::contract::page::Page;
use crate::contract::token::FencingToken;
use crate::memory::MemoryBackend;

/// A memory backend whose faults are commanded by a test. Clones share locks, faults and clock.
#[derive(Clone, Debug)]
pub struct TestBackend {
    memory: MemoryBackend,
    clock: Arc<TestClock>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    frozen: watch::Sender<bool>,
    failing: Mutex<Option<ErrorKind>>,
    calls: AtomicU64,
    /// How many sessions have ended that held each lock.
    sessions_ended: watch::Sender<HashMap<LockName, u64>>,
}

impl Default for TestBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl TestBackend {
    /// A backend with free locks and no faults.
    pub fn new() -> Self {
        let clock = Arc::new(TestClock::new());
        Self {
            memory: MemoryBackend::with_clock(clock.clone()),
            clock,
            faults: Arc::new(Faults {
                frozen: watch::Sender::new(false),
                failing: Mutex::new(None),
                calls: AtomicU64::new(0),
                sessions_ended: watch::Sender::default(),
            }),
        }
    }

    /// Deletes the lock under its holder.
    pub fn lose(&self, lock: &LockName) {
        self.memory.store().delete(lock);
    }

    /// Deletes the lock under its holder, who learns of it at once: as when a store ties locks to
    /// sessions, and ends the holder's.
    pub fn end_session(&self, lock: &LockName) {
        self.lose(lock);
        self.faults
            .sessions_ended
            .send_modify(|ended| *ended.entry(lock.clone()).or_default() += 1);
    }

    /// From now on calls get no answer, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.faults.frozen.send_replace(true);
    }

    /// Calls are answered again, also those that wait.
    pub fn thaw(&self) {
        self.faults.frozen.send_replace(false);
    }

    /// From now on calls fail with this kind of error, until `None`.
    pub fn fail_with(&self, kind: Option<ErrorKind>) {
        *self.failing() = kind;
    }

    /// Moves the clock forward at once, as when the process or host had been stopped.
    pub fn jump(&self, by: Duration) {
        self.clock.jump(by);
    }

    /// How many calls the store has got, answered or not.
    pub fn calls(&self) -> u64 {
        self.faults.calls.load(Ordering::Relaxed)
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Option<ErrorKind>> {
        self.faults
            .failing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.faults.calls.fetch_add(1, Ordering::Relaxed);
        let mut frozen = self.faults.frozen.subscribe();
        // The sender lives as long as `self`, so the wait ends only by thawing.
        drop(frozen.wait_for(|frozen| !frozen).await);
        let failing = *self.failing();
        match failing {
            Some(kind) => Err(Error::new(kind, operation, "as the test commanded")),
            None => call.await,
        }
    }
}

#[async_trait]
impl LockBackend for TestBackend {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let call = self.memory.acquire(lock, candidate, lease);
        self.call(Operation::Acquire, call).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.call(Operation::Renew, self.memory.renew(grant, not_before))
            .await
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        true
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.call(Operation::Release, self.memory.release(grant))
            .await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.call(Operation::Withdraw, self.memory.withdraw(lock, candidate))
            .await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let call = self.memory.ask_to_resign(lock, token, lasts);
        self.call(Operation::AskToResign, call).await
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let call = self.memory.elections(page);
        self.call(Operation::List, call).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.call(Operation::Holder, self.memory.holder(lock)).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.memory.changes(lock)
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        let mut ended = self.faults.sessions_ended.subscribe();
        let lock = grant.lock.clone();
        let before = ended.borrow().get(&lock).copied();
        Some(Box::pin(async move {
            // Without a sender no more commands can come.
            let told = ended.wait_for(|ended| ended.get(&lock).copied() != before);
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        }))
    }
}

/// tokio's time, which tests can pause, as a [`Clock`] that also jumps.
#[derive(Debug)]
pub struct TestClock {
    start: Instant,
    jumped: AtomicU64,
    jump: Notify,
}

impl TestClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            jumped: AtomicU64::new(0),
            jump: Notify::new(),
        }
    }

    /// Moves the clock forward at once.
    pub fn jump(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.jumped.fetch_add(nanos, Ordering::Relaxed);
        self.jump.notify_waiters();
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Time {
        // One second past the clock's start, so that "a second ago" exists.
        Time::from_nanos(1_000_000_000)
            + self.start.elapsed()
            + Duration::from_nanos(self.jumped.load(Ordering::Relaxed))
    }

    async fn sleep_until(&self, deadline: Time) {
        loop {
            let jumped = self.jump.notified();
            let now = self.now();
            if now >= deadline {
                return;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(deadline.since(now)) => {}
                () = jumped => {}
            }
        }
    }
}
