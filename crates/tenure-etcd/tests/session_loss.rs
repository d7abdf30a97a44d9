//! All leases of a process are gone at once: its elections come back together, not as a herd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Election, ErrorKind, FencingToken, LockBackend as _, Policy};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::start;
use tenure_testkit::{candidate, held, lock, until};
use tokio::sync::watch;

const ELECTIONS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_elections_come_back_without_a_herd() {
    let Some(cluster) = start() else { return };
    let proxy = FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap();
    let url = format!("etcd://{}?keys_per_lease=100", proxy.address());
    let config = EtcdConfig::from_url(&url).unwrap();
    let backend = Arc::new(EtcdBackend::connect(config).await.unwrap());
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .heartbeat(Duration::from_secs(3))
        .build()
        .unwrap();
    let mut terms: Vec<watch::Receiver<Option<FencingToken>>> = Vec::new();
    for number in 0..ELECTIONS {
        let election = Election::builder(backend.clone(), lock(&format!("lock-{number}")))
            .policy(policy.clone())
            .build()
            .unwrap();
        let (tell, told) = watch::channel(None);
        terms.push(told);
        tokio::spawn(async move {
            loop {
                let leadership = election.campaign().await.unwrap();
                tell.send_replace(Some(leadership.token()));
                leadership.term().lost().await;
                tell.send_replace(None);
            }
        });
    }
    let token = |term: &watch::Receiver<Option<FencingToken>>| *term.borrow();
    until("all lead", async || {
        terms.iter().all(|term| token(term).is_some())
    })
    .await;
    let before: Vec<_> = terms.iter().map(token).collect();
    assert_eq!(backend.traffic().leases, 3);

    // Whoever needs a new lease has to wait for it.
    proxy.delay(Way::Answers, Duration::from_millis(200));
    let metrics = Metrics::of(&cluster);
    let requests = metrics.read();
    let goes_on = Arc::new(AtomicBool::new(true));
    let (going_on, looking) = (goes_on.clone(), metrics.clone());
    let looking = tokio::task::spawn_blocking(move || looking.watch(&going_on));
    let leases = cluster.ctl(&["lease", "list"]);
    let leases: Vec<_> = leases.lines().skip(1).collect();
    assert_eq!(leases.len(), 3);
    for lease in &leases {
        cluster.ctl(&["lease", "revoke", lease]);
    }
    until("all lead again", async || {
        let mut terms = terms.iter().map(token).zip(&before);
        terms.all(|(token, before)| token > *before)
    })
    .await;
    goes_on.store(false, Ordering::Relaxed);
    let (peak, after) = (looking.await.unwrap(), metrics.read());
    let (transactions, grants, watches) = (
        after.transactions - requests.transactions,
        after.grants - requests.grants,
        after.watches - requests.watches,
    );
    println!("{transactions} transactions, {grants} grants, {watches} watches; {peak:?}");
    assert_eq!(backend.traffic().leases, 3);
    assert!(grants <= 4, "{grants}");
    // A hundred places in a queue are taken by one, and those who ask meanwhile by the next.
    assert!(transactions <= 60, "{transactions}");
    assert!(watches <= 30, "{watches}");
    assert!(peak.under_way <= 30, "{peak:?}");
}

/// The heartbeat that is under way when a renewal begins does not count for it, so it waits for two.
#[tokio::test]
async fn a_renewal_ends_with_the_lease_however_many_heartbeats_it_waits_for() {
    let Some(cluster) = start() else { return };
    let member = cluster.members[0].address().parse().unwrap();
    // So many that a heartbeat that tries them all takes longer than the lease.
    let ways = [(); 8].map(|()| FaultProxy::start(member).unwrap());
    let addresses = ways.each_ref().map(|way| way.address().to_string());
    let config = EtcdConfig::from_url(&format!("etcd://{}", addresses.join(","))).unwrap();
    let backend = EtcdBackend::connect(config).await.unwrap();
    let lease = Duration::from_secs(4);
    let (job, me) = (lock("job"), candidate("me", 1));
    let grant = held(backend.acquire(&job, &me, lease).await.unwrap());
    for way in &ways {
        way.hold(Way::Requests);
    }
    let now = backend.clock().now();
    let both = async { tokio::join!(backend.renew(&grant, now), backend.renew(&grant, now)) };
    // The two heartbeats together would take twice the lease. On a machine that stands still for
    // that long the renewals are over as well, and they are asked first.
    let ended = tokio::time::timeout(lease * 3 / 2, both).await;
    let (first, second) = ended.expect("it waited for both heartbeats");
    for renewal in [first, second] {
        assert_eq!(renewal.unwrap_err().kind(), ErrorKind::Timeout);
    }
}
