//! Endpoints that serve no locks: a learner, a proxy, a full store. On real servers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;

use futures_util::StreamExt as _;
use support::Connects as _;
use tenure_core::{
    Check, Election, ErrorKind, Event, LockBackend as _, Observation, Observer, Occupancy, Policy,
    Verdict,
};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::{Cluster, Member, start_newer, start_newer_with};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};

/// The check with this name.
fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let found = checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check is named {name}: {checks:?}"))
}

fn config(hosts: &[String]) -> EtcdConfig {
    let url = format!("etcd://{}?connect_timeout=60s", hosts.join(","));
    EtcdConfig::from_url(&url).unwrap()
}

fn with_learner() -> Option<Cluster> {
    let mut cluster = start_newer()?;
    cluster.add_learner();
    Some(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_among_the_endpoints_is_passed_over() {
    let Some(cluster) = with_learner() else {
        return;
    };
    let job = lock("job");
    let hosts: Vec<String> = cluster.members.iter().map(Member::address).collect();
    // Each begins with an endpoint of its own choice.
    for number in 0..12 {
        let backend = EtcdBackend::connect(config(&hosts)).await.unwrap();
        let me = candidate("ann", number);
        let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
        let now = backend.clock().now();
        let grant = renewed(backend.renew(&grant, now).await.unwrap());
        backend.release(&grant).await.unwrap();
        let late = EtcdBackend::lazy(config(&hosts)).unwrap();
        assert!(matches!(late.holder(&job).await, Ok(Occupancy::Free)));
    }
    let alone = EtcdBackend::connect(config(&hosts[1..])).await;
    let error = alone.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("learner"), "{error}");

    let backend = EtcdBackend::connect(config(&hosts)).await.unwrap();
    let checks = backend.checks(&job, LONG).await;
    let found = checks.iter().find(|check| check.reason.contains("learner"));
    assert_eq!(found.unwrap().verdict, Verdict::Warning, "{checks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_goes_on_at_the_voter_that_was_restarted_and_not_at_the_learner() {
    let Some(mut cluster) = with_learner() else {
        return;
    };
    let hosts: Vec<String> = cluster.members.iter().map(Member::address).collect();
    let (job, me) = (lock("job"), candidate("ann", 1));
    let backend = EtcdBackend::connect(config(&hosts)).await.unwrap();
    let mut grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    for _ in 0..3 {
        cluster.members[0].kill();
        let now = backend.clock().now();
        let down = backend.renew(&grant, now).await.unwrap_err();
        assert!(down.is_retryable(), "{down}");
        cluster.members[0].restart();
        let mut last = None;
        until("the term goes on", async || {
            let renewal = backend.renew(&grant, now).await;
            let is_ok = renewal.is_ok();
            last = Some(renewal);
            is_ok
        })
        .await;
        grant = renewed(last.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_proxy_is_refused_by_its_name() {
    let Some(cluster) = start_newer() else {
        return;
    };
    let proxy = cluster.grpc_proxy(&[]);
    let (member, proxy) = (cluster.members[0].address(), proxy.address());
    let refused = EtcdBackend::connect(config(std::slice::from_ref(&proxy))).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("grpc-proxy"), "{error}");
    let client = tenure_etcd::etcd_client::Client::connect([&proxy], None).await;
    let given = EtcdBackend::with_client(client.unwrap(), EtcdConfig::default()).unwrap();
    let error = given
        .acquire(&lock("job"), &candidate("ann", 1), LONG)
        .await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("grpc-proxy"), "{error}");

    // Beside a member it is passed over.
    let backend = EtcdBackend::connect(config(&[proxy, member]))
        .await
        .unwrap();
    let (job, me) = (lock("job"), candidate("ann", 1));
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    let now = backend.clock().now();
    renewed(backend.renew(&grant, now).await.unwrap());
    let checks = backend.checks(&job, LONG).await;
    let found = checks
        .iter()
        .find(|check| check.reason.contains("grpc-proxy"));
    assert_eq!(found.unwrap().verdict, Verdict::Warning, "{checks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_proxy_that_does_not_list_itself_is_named_when_it_ends_a_term() {
    let Some(cluster) = start_newer() else {
        return;
    };
    let proxy = cluster.grpc_proxy(&["--advertise-client-url="]);
    let backend = EtcdBackend::connect(config(&[proxy.address()]));
    let backend = backend.await.unwrap();
    let (job, me) = (lock("job"), candidate("ann", 1));
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    let mut told = String::new();
    until("a heartbeat fails", async || {
        let now = backend.clock().now();
        let failed = backend.renew(&grant, now).await.err();
        told = failed.map(|error| error.to_string()).unwrap_or_default();
        told.contains("grpc-proxy")
    })
    .await;
}

/// Raises the alarm NOSPACE.
fn fill(cluster: &Cluster) {
    let value = "x".repeat(60_000);
    loop {
        let put = cluster.try_ctl_at(0, &["put", "filling", &value]);
        if !put.status.success() {
            let told = String::from_utf8_lossy(&put.stderr).into_owned();
            assert!(told.contains("space exceeded"), "{told}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_writes_nothing_and_works_in_a_store_that_is_full() {
    let Some(cluster) = start_newer_with(1, &["--quota-backend-bytes=2000000"]) else {
        return;
    };
    let job = lock("job");
    let leader = cluster.connect().await;
    let mut grant = held(
        leader
            .acquire(&job, &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
    fill(&cluster);
    let now = leader.clock().now();
    grant = renewed(leader.renew(&grant, now).await.unwrap());

    let metrics = Metrics::of(&cluster);
    let (before, revision) = (metrics.read(), cluster.revision());
    let looking = Arc::new(cluster.connect().await);
    let Occupancy::Led(holder) = looking.holder(&job).await.unwrap() else {
        panic!("it is led");
    };
    assert_eq!(holder.identity, "ann");
    let observer = Observer::new(looking.clone(), job.clone(), Policy::default());
    let mut changes = observer.watch();
    let first = within_limit("an observation", changes.next()).await;
    assert!(matches!(first, Some(Observation::Led { .. })), "{first:?}");
    let checks = looking.checks(&job, LONG).await;
    let alarm = check(&checks, "alarms");
    assert_eq!(alarm.verdict, Verdict::Unusable, "{checks:?}");
    assert!(alarm.reason.contains("Nospace"), "{alarm:?}");
    assert_eq!(metrics.read().grants, before.grants);
    assert_eq!(cluster.revision(), revision);

    leader.release(&grant).await.unwrap();
    until("the release is seen", async || {
        let next = within_limit("an observation", changes.next()).await;
        matches!(next, Some(Observation::Free))
    })
    .await;
    // A candidate says why it cannot lead.
    let election = Election::builder(looking, job).build().unwrap();
    let mut events = election.events();
    let campaign = tokio::spawn(async move { election.campaign().await });
    let told = within_limit("an event", async {
        loop {
            if let Event::StoreFailed(error) = events.recv().await.unwrap() {
                return error;
            }
        }
    })
    .await;
    assert!(told.message().contains("alarm disarm"), "{told}");
    campaign.abort();
}
