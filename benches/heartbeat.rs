//! What one heartbeat of an election costs inside the process: blocks and bytes allocated, and how
//! often its engine is woken; on a store that does nothing, so that all of it is the engine's, and
//! on the memory store.
//!
//! `TENURE_BENCH_DHAT=file.json` also writes where the blocks come from, for DHAT's viewer.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tenure_benches::{is_asked, one_thread, record};
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Election, Error, Event, Expiry,
    FencingGuarantee, FencingToken, Grant, LockBackend, LockName, MemoryBackend, Occupancy, Policy,
    Renewal, SharedClock, Spawn, Task, Time, Wakeup,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const HEARTBEATS: u32 = 200;

const TABLE: &str = "one heartbeat";

fn main() {
    if !is_asked() {
        return;
    }
    let profiler = match std::env::var("TENURE_BENCH_DHAT") {
        Ok(file) => dhat::Profiler::builder().file_name(file).build(),
        Err(_) => dhat::Profiler::builder().testing().build(),
    };
    one_thread().block_on(async {
        measure("engine, a store that does nothing", Arc::new(Nothing)).await;
        measure("memory store", Arc::new(MemoryBackend::private())).await;
    });
    drop(profiler);
}

async fn measure(name: &str, backend: Arc<dyn LockBackend>) {
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .heartbeat(Duration::from_millis(5))
        .jitter_percent(0)
        .build()
        .unwrap();
    let counting = Counting::default();
    let election = Election::builder(backend, LockName::new("heartbeat").unwrap())
        .policy(policy)
        .spawn_on(counting.clone())
        .build()
        .unwrap();
    let leadership = election.campaign().await.unwrap();
    let mut events = election.events();
    // What is allocated once, or grows to its size.
    renewals(&mut events, 20).await;
    let before = (dhat::HeapStats::get(), counting.polls());
    renewals(&mut events, HEARTBEATS).await;
    let after = (dhat::HeapStats::get(), counting.polls());
    let of_each = |more: u64| f64::from(u32::try_from(more).unwrap()) / f64::from(HEARTBEATS);
    let blocks = of_each(after.0.total_blocks - before.0.total_blocks);
    let bytes = of_each(after.0.total_bytes - before.0.total_bytes);
    let wakes = of_each(after.1 - before.1);
    assert!(leadership.is_valid());
    for (what, mean, unit) in [
        ("allocated", blocks, "blocks"),
        ("allocated, in all", bytes, "bytes"),
        ("wake-ups", wakes, "polls of its task"),
    ] {
        record::figure(TABLE, &format!("{name}: {what}"), mean, unit);
    }
    leadership.resign().await.unwrap();
}

async fn renewals(events: &mut tokio::sync::broadcast::Receiver<Event>, number: u32) {
    let mut seen = 0;
    while seen < number {
        if matches!(events.recv().await.unwrap(), Event::Renewed { .. }) {
            seen += 1;
        }
    }
}

/// Counts how often the tasks that it runs are polled.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicU64>);

impl Counting {
    fn polls(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Spawn for Counting {
    fn spawn(&self, mut task: Task) -> Result<(), Error> {
        let polls = self.0.clone();
        let counted = std::future::poll_fn(move |cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut task).poll(cx)
        });
        drop(tokio::spawn(counted));
        Ok(())
    }
}

/// Grants everything at once, and keeps nothing. Its own part of each call is the box that the
/// trait asks for.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl LockBackend for Nothing {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("nothing", Expiry::Store, FencingGuarantee::none())
            .with_min_lease(Duration::from_millis(1))
            .with_lease_granularity(Duration::from_nanos(1))
            .with_wakeup(Wakeup::Push)
    }

    fn clock(&self) -> SharedClock {
        BootClock::shared()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let token = FencingToken::from_counter(1)?;
        let now = self.clock().now();
        let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, now);
        Ok(Acquired::Held(grant))
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        let mut grant = grant.clone();
        grant.proven_at = not_before;
        Ok(Renewal::Renewed(grant))
    }

    async fn release(&self, _grant: &Grant) -> Result<(), Error> {
        Ok(())
    }

    async fn withdraw(&self, _lock: &LockName, _candidate: &Candidate) -> Result<(), Error> {
        Ok(())
    }

    async fn holder(&self, _lock: &LockName) -> Result<Occupancy, Error> {
        Ok(Occupancy::Free)
    }

    fn changes(&self, _lock: &LockName) -> Changes {
        stream::pending().boxed()
    }
}
