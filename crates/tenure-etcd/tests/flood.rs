//! What other clients of the cluster do to the keys of an election: floods of them, huge ones,
//! thousands.
//!
//! `cargo test -p tenure-etcd --test flood -- --nocapture` prints the figures.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use support::Connects as _;
use support::memory::Memory;
use tenure_conformance::proxy::FaultProxy;
use tenure_core::{Election, LockBackend as _, Observer, Policy};
use tenure_etcd::etcd_client::{Client, PutOptions};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::{
    LIMIT, LONG, candidate, held, leader, lock, renewed, taken, until, within_limit,
};

/// The whole growth of this process, its own flood included.
const MOST_KIB: u64 = 256 * 1024;

/// As much as etcd takes in one request, nearly.
const HUGE: usize = 1_400_000;

/// Another client of the cluster, with a lease for its keys.
struct Other {
    client: Client,
    lease: i64,
}

impl Other {
    async fn of(cluster: &Cluster) -> Self {
        let client = cluster.client().await;
        let granted = client.lease_client().grant(600, None).await.unwrap();
        let lease = granted.id();
        Self { client, lease }
    }

    async fn put(&self, key: String, value: Vec<u8>) {
        let options = PutOptions::new().with_lease(self.lease);
        let mut client = self.client.clone();
        client.put(key, value, Some(options)).await.unwrap();
    }

    async fn put_many(&self, keys: impl Iterator<Item = String>) {
        let keys: Vec<_> = keys.collect();
        for some in keys.chunks(50) {
            let puts = some.iter().map(|key| self.put(key.clone(), Vec::new()));
            join_all(puts).await;
        }
    }

    /// Takes all its keys away.
    async fn leave(&self) {
        let mut client = self.client.clone();
        client.lease_revoke(self.lease).await.unwrap();
    }

    /// Keys come and go, below the lock and everywhere below the prefix.
    async fn flood(&self, goes_on: &AtomicBool) {
        let mut round = 0;
        while goes_on.load(Ordering::Relaxed) {
            let keys = (0..20).map(|number| format!("locks/job/flood-{number}"));
            let more = (0..20).map(|number| format!("locks/other-{round}/{number}"));
            self.put_many(keys.chain(more)).await;
            let mut deleting = self.client.clone();
            deleting.delete("locks/job/flood-7", None).await.unwrap();
            round += 1;
        }
    }

    /// The newest keys before a candidate that waits go one by one, so that it has to look each
    /// time.
    async fn step_back(&self, goes_on: &AtomicBool, keys: impl Iterator<Item = String>) {
        for key in keys {
            if !goes_on.load(Ordering::Relaxed) {
                return;
            }
            let mut deleting = self.client.clone();
            deleting.delete(key, None).await.unwrap();
        }
    }
}

async fn connect(address: impl std::fmt::Display) -> Arc<EtcdBackend> {
    let config = EtcdConfig::from_url(&format!("etcd://{address}/locks")).unwrap();
    Arc::new(EtcdBackend::connect(config).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_keys_ends_no_term_and_its_cost_has_a_bound() {
    const FOREIGN: usize = 2000;
    const FLOOD: u64 = 2500;
    let Some(cluster) = start() else { return };
    let address = cluster.members[0].address();
    let policy = Policy::builder()
        .lease(LIMIT)
        .heartbeat(Duration::from_secs(1))
        .build()
        .unwrap();
    let campaign = || {
        let (address, policy) = (address.clone(), policy.clone());
        tokio::spawn(async move {
            let election = Election::builder(connect(address).await, lock("job"));
            let election = election.policy(policy).build().unwrap();
            election.campaign().await.unwrap()
        })
    };
    let queue_of = async |length: usize| {
        until(&format!("{length} are in the queue"), async || {
            cluster.queue("locks/job").len() == length
        })
        .await;
    };
    let leadership = within_limit("the leader", campaign()).await.unwrap();
    let first = campaign();
    queue_of(2).await;
    let second = campaign();
    queue_of(3).await;
    let other = Arc::new(Other::of(&cluster).await);
    let foreign = |number| format!("locks/job/foreign-{number:04}");
    other.put_many((0..FOREIGN).map(foreign)).await;
    let last = campaign();
    queue_of(4 + FOREIGN).await;
    let watching = connect(&address).await;
    let mut observations = Observer::new(watching, lock("job"), policy.clone()).watch();
    within_limit("an observation", observations.next()).await;
    let watching = tokio::spawn(async move { while observations.next().await.is_some() {} });

    let metrics = Metrics::of(&cluster);
    let (memory, before, began) = (Memory::watch(), metrics.read(), Instant::now());
    let goes_on = Arc::new(AtomicBool::new(true));
    let flooding = tokio::spawn({
        let (other, goes_on) = (other.clone(), goes_on.clone());
        async move {
            let newest_first = (0..FOREIGN).rev().map(foreign);
            tokio::join!(
                other.flood(&goes_on),
                other.step_back(&goes_on, newest_first)
            );
        }
    });
    let start = cluster.revision();
    until("it is flooded", async || {
        cluster.revision() >= start + FLOOD
    })
    .await;
    goes_on.store(false, Ordering::Relaxed);
    within_limit("the flood's end", flooding).await.unwrap();
    // Puts and deletions are not counted there: all of these are ours.
    let (seconds, after) = (began.elapsed().as_secs_f64(), metrics.read());
    let calls = after.others() - before.others();
    println!(
        "{calls} calls in {seconds:.1} s of a flood of {} keys, {} KiB",
        cluster.revision(),
        memory.grown()
    );
    // One wake-up in 100 ms, 20 more at once, and 5 calls at most for each: of the observer and of
    // the last candidate. The heartbeats beside them.
    let most = 2.0 * 5.0 * (20.0 + 10.0 * seconds) + 20.0 * seconds;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let is_bounded = (calls as f64) < most;
    assert!(is_bounded, "{calls} calls of at most {most}");
    assert!(memory.grown() < MOST_KIB, "{} KiB", memory.grown());

    assert!(leadership.is_valid());
    let mut token = leadership.token();
    leadership.resign().await.unwrap();
    for (name, next) in [("the first", first), ("the second", second)] {
        let next = within_limit(name, next).await.unwrap();
        assert!(next.token() > token);
        token = next.token();
        next.resign().await.unwrap();
    }
    assert!(!last.is_finished(), "it is behind the foreign keys");
    other.leave().await;
    let last = within_limit("the last", last).await.unwrap();
    assert!(last.token() > token);
    watching.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_values_and_thousands_of_keys_keep_nobody_from_leading() {
    const KEYS: usize = 3000;
    let Some(cluster) = start() else { return };
    let proxy = FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap();
    let backend = connect(proxy.address()).await;
    let (job, mine, me) = (lock("job"), lock("mine"), candidate("me", 1));
    let grant = held(backend.acquire(&mine, &me, LONG).await.unwrap());
    let other = Other::of(&cluster).await;
    let memory = Memory::watch();

    // A leader whose value is as large as can be, and thousands that wait behind it.
    let locks: Vec<_> = (0..4)
        .map(|number| lock(&format!("job-{number}")))
        .collect();
    for lock in locks.iter().chain([&job]) {
        other.put(format!("locks/{lock}/a"), vec![b'x'; HUGE]).await;
    }
    let keys = (0..KEYS).map(|number| format!("locks/job/waits-{number}"));
    other.put_many(keys).await;
    let acquiring = locks.iter().map(|lock| backend.acquire(lock, &me, LONG));
    // All in one transaction, which is answered with more than a client takes.
    for acquired in try_join_all(acquiring).await.unwrap() {
        let holder = taken(acquired).unwrap();
        assert!(holder.identity.len() <= 1024, "{}", holder.identity.len());
    }
    taken(backend.acquire(&job, &me, LONG).await.unwrap()).unwrap();
    let position = backend.queue_position(&job, &me).await.unwrap();
    assert_eq!(position, Some(KEYS + 1));
    let holder = leader(backend.holder(&job).await.unwrap());
    assert!(holder.identity.len() <= 1024, "{}", holder.identity.len());
    let checks = backend.checks(&job, LONG).await;
    let queue = checks.iter().find(|check| check.name == "queue").unwrap();
    assert!(queue.reason.contains("3002 keys"), "{queue:?}");

    // What an observer has missed comes at once, and is more than a client takes.
    let observed = lock("observed");
    let looking = connect(proxy.address()).await;
    let mut changes = looking.changes(&observed);
    within_limit("the watch stands", changes.next()).await;
    proxy.refuse(true).await;
    proxy.reset();
    for number in 0..4 {
        let key = format!("locks/observed/{number}");
        other.put(key, vec![b'x'; HUGE]).await;
    }
    proxy.refuse(false).await;
    within_limit("a hint", changes.next()).await;
    let mut next = None;
    until("the term goes on", async || {
        let renewal = backend.renew(&grant, backend.clock().now()).await;
        next = renewal.ok();
        next.is_some()
    })
    .await;
    renewed(next.unwrap());
    println!("{} KiB", memory.grown());
    assert!(memory.grown() < MOST_KIB, "{} KiB", memory.grown());

    other.leave().await;
    let mut acquired = None;
    until("it leads", async || {
        acquired = backend.acquire(&job, &me, LONG).await.ok();
        !acquired.as_ref().is_none_or(tenure_testkit::is_taken)
    })
    .await;
}
