//! A store that is silent, slow or restarted for a while: the term goes on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Grant, LockBackend as _, Policy, Renewal};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::line::Line;
use tenure_testkit::{LONG, candidate, held, is_taken, lock, renewed, until, within_limit};

async fn connect(address: impl std::fmt::Display, parameters: &str) -> EtcdBackend {
    let config = EtcdConfig::from_url(&format!("etcd://{address}{parameters}")).unwrap();
    EtcdBackend::connect(config).await.unwrap()
}

fn proxy(cluster: &Cluster) -> FaultProxy {
    FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap()
}

/// Packets are lost for a while. What was sent then hangs for good, on the old connection and on
/// each that was begun meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_hangs_keeps_no_later_one_waiting() {
    let Some(cluster) = start() else { return };
    let line = Line::start(cluster.members[0].address().parse().unwrap());
    let backend = Arc::new(connect(line.address(), "?request_timeout=10s").await);
    let (job, me) = (lock("job"), candidate("me", 1));
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());

    line.silence();
    let before = line.accepted();
    let now = backend.clock().now();
    let renewal = tokio::spawn({
        let backend = backend.clone();
        async move { backend.renew(&grant, now).await }
    });
    assert!(backend.may_go_on(now));
    until(
        "three connections were begun beside each other",
        async || line.accepted() >= before + 3,
    )
    .await;
    line.restore();
    // One and the same call.
    renewed(within_limit("the renewal", renewal).await.unwrap().unwrap());
}

/// A heartbeat after `grant`, as the engine sends it: with a limit for each call, a pause, and a
/// proof that may be older than the call by half a heartbeat.
async fn heartbeat(backend: &EtcdBackend, grant: &Grant, policy: &Policy) -> Grant {
    let mut next = None;
    until("a heartbeat counts", async || {
        let not_before = backend.clock().now().minus(policy.heartbeat() / 2);
        let not_before = not_before.max(grant.proven_at + Duration::from_nanos(1));
        let renewal = backend.renew(grant, not_before);
        match tokio::time::timeout(policy.request_timeout(), renewal).await {
            Ok(Ok(Renewal::Renewed(renewed))) => next = Some(renewed),
            Ok(Ok(lost)) => panic!("{lost:?}"),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(policy.retry_interval()).await,
        }
        next.is_some()
    })
    .await;
    next.unwrap()
}

/// The answers of an established connection are late. They count from when they were asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_ends_no_term() {
    let Some(cluster) = start() else { return };
    println!(
        "| every answer late by | heartbeats | age of the proof when it counted |\n|---|---|---|"
    );
    let policy = Policy::default();
    let delays = [2, 4].map(Duration::from_secs);
    join_all(delays.map(async |delay| {
        let proxy = proxy(&cluster);
        let backend = connect(proxy.address(), "").await;
        let job = lock(&format!("late-{}", delay.as_secs()));
        let mut grant = held(
            backend
                .acquire(&job, &candidate("me", 1), policy.lease())
                .await
                .unwrap(),
        );
        let now = backend.clock().now();
        grant = renewed(backend.renew(&grant, now).await.unwrap());
        proxy.delay(Way::Answers, delay);
        for number in 1..=2 {
            let before = grant.proven_at;
            grant = heartbeat(&backend, &grant, &policy).await;
            let age = backend.clock().now().since(grant.proven_at);
            println!("| {delay:?} | {number} | {age:?} |");
            assert!(grant.proven_at > before);
            assert!(age >= delay, "{age:?}");
        }
    }))
    .await;
}

/// Thousands of candidates lose their connections with the server's restart. The leader must not
/// queue behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_candidates_come_back_spread_over_time_and_the_leader_at_once() {
    const WAITERS: u64 = 12;
    let Some(cluster) = start() else { return };
    let job = lock("job");
    let mut all = Vec::new();
    for number in 0..=WAITERS {
        let proxy = proxy(&cluster);
        let backend = connect(proxy.address(), "").await;
        let acquired = backend.acquire(&job, &candidate("c", number), LONG).await;
        assert_eq!(is_taken(&acquired.unwrap()), number > 0);
        all.push((proxy, backend));
    }
    let before: Vec<u64> = all.iter().map(|(proxy, _)| proxy.accepted()).collect();
    let reset = Instant::now();
    for (proxy, _) in &all {
        proxy.reset();
    }
    let mut back = vec![None; all.len()];
    until("all are back", async || {
        for ((back, before), (proxy, _)) in back.iter_mut().zip(&before).zip(&all) {
            if back.is_none() && proxy.accepted() > *before {
                *back = Some(reset.elapsed());
            }
        }
        back.iter().all(Option::is_some)
    })
    .await;
    let mut back: Vec<Duration> = back.into_iter().flatten().collect();
    let leader = back.remove(0);
    back.sort_unstable();
    println!("the leader after {leader:?}, the others after {back:?}");
    let spread = back[back.len() - 1].saturating_sub(back[0]);
    assert!(spread > Duration::from_millis(200), "{back:?}");
    assert!(leader < back[back.len() / 2], "{leader:?}, {back:?}");
}
