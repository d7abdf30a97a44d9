//! What is found once is not looked for again and again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Election, LockBackend as _, Policy};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};

/// Makes the server forget all that has happened so far.
fn compact(cluster: &Cluster) {
    for _ in 0..3 {
        cluster.ctl(&["put", "other", ""]);
    }
    let read = cluster.ctl(&["get", "other", "-w", "json"]);
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let now = read["header"]["revision"].as_i64().unwrap().to_string();
    cluster.ctl(&["compact", &now]);
}

/// The key of a term is watched. When the watched term ends, an older one is watched instead, whose
/// beginning the store may have forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_that_began_before_a_compaction_is_looked_at_once() {
    const RENEWALS: u64 = 300;
    let Some(cluster) = start() else { return };
    let backend = cluster.connect().await;
    let me = candidate("me", 1);
    let first = held(backend.acquire(&lock("first"), &me, LONG).await.unwrap());
    let mut old = held(backend.acquire(&lock("old"), &me, LONG).await.unwrap());
    compact(&cluster);
    let metrics = Metrics::of(&cluster);
    let before = metrics.read();
    backend.release(&first).await.unwrap();
    for _ in 0..RENEWALS {
        let now = backend.clock().now();
        old = renewed(backend.renew(&old, now).await.unwrap());
    }
    let after = metrics.read();
    let watches = after.watches - before.watches;
    let keepalives = after.keepalives - before.keepalives;
    println!("{watches} watches, {keepalives} keepalives for {RENEWALS} renewals");
    assert!(watches <= 10, "{watches}");
    assert!(keepalives <= RENEWALS + 10, "{keepalives}");

    // It is watched after all.
    let lost = backend.loss(&old).unwrap();
    cluster.ctl(&["del", "--prefix", "old/"]);
    within_limit("the loss", lost).await;
}

/// The stream breaks, and what happened since its watches were begun is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_candidates_are_woken_after_a_compaction_too() {
    let Some(cluster) = start() else { return };
    let leader = cluster.connect().await;
    let proxy = FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap();
    let config = EtcdConfig::from_url(&format!("etcd://{}", proxy.address())).unwrap();
    let waiting = Arc::new(EtcdBackend::connect(config).await.unwrap());
    let me = candidate("me", 1);
    let (mut grants, mut campaigns) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let name = lock(&format!("job-{number}"));
        grants.push(held(leader.acquire(&name, &me, LONG).await.unwrap()));
        // Its next look would be minutes away.
        let policy = Policy::builder().lease(LONG).heartbeat(LONG / 3);
        let election = Election::builder(waiting.clone(), name)
            .policy(policy.build().unwrap())
            .build()
            .unwrap();
        campaigns.push(tokio::spawn(async move { election.campaign().await }));
    }
    until("all wait", async || {
        let waits = |number| cluster.queue(&format!("job-{number}")).len() == 2;
        (0..5).all(waits)
    })
    .await;
    compact(&cluster);
    let metrics = Metrics::of(&cluster);
    let before = metrics.read().watches;
    proxy.reset();
    until("they are watched again", async || {
        metrics.read().watches >= before + 5
    })
    .await;
    for (grant, campaign) in grants.iter().zip(campaigns) {
        leader.release(grant).await.unwrap();
        let next = within_limit("the next leader", campaign).await.unwrap();
        assert!(next.unwrap().token() > grant.token);
    }
}

/// Hundreds of candidates fall silent, and the server takes its time for each key of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_term_is_told_while_many_keys_are_deleted() {
    const SILENT: u64 = 600;
    let lease = Duration::from_secs(4);
    let Some(cluster) = start() else { return };
    let proxy = FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap();
    let config = EtcdConfig::from_url(&format!("etcd://{}", proxy.address())).unwrap();
    let backend = EtcdBackend::connect(config).await.unwrap();
    // The first term of a session is the one that is watched.
    let me = candidate("me", 1);
    let mut term = held(backend.acquire(&lock("term"), &me, lease).await.unwrap());
    let silent: Vec<_> = (0..SILENT)
        .map(|number| {
            (
                lock(&format!("silent-{number}")),
                candidate("silent", number),
            )
        })
        .collect();
    let asking = silent
        .iter()
        .map(|(name, me)| backend.acquire(name, me, lease));
    for acquired in join_all(asking).await {
        held(acquired.unwrap());
    }
    let keys = || {
        let count = cluster.ctl(&["get", "--prefix", "silent-", "--keys-only"]);
        count.lines().filter(|line| !line.is_empty()).count()
    };
    let all = keys();
    proxy.delay(Way::Answers, Duration::from_millis(200));
    until("keys are deleted", async || {
        term = renewed(backend.renew(&term, backend.clock().now()).await.unwrap());
        keys() < all / 2
    })
    .await;
    let lost = backend.loss(&term).unwrap();
    cluster.ctl(&["del", "--prefix", "term/"]);
    within_limit("the loss", lost).await;
    assert!(keys() > 0, "it was told after all keys were deleted");
}
