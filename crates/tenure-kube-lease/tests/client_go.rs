//! One election with candidates of client-go and of ours: real processes of client-go's own leader
//! election, built from `tests/client-go`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, CampaignId, Candidate, Cause, Election, Grant, Identity, Leadership,
    LockBackend as _, Occupancy, Policy, PublishedValue, Verdict,
};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::client_go::{ClientGo, old_program, program};
use tenure_testkit::{lock, within_limit};

/// client-go refuses a lease that is no longer than its deadline, and counts in whole seconds.
const RHYTHM: &[&str] = &["--lease=4s", "--deadline=3s", "--retry=250ms"];

/// The same of an old one, which can do more than Leases.
const OLD: &[&str] = &[
    "--kind=leases",
    "--lease=8s",
    "--deadline=6s",
    "--retry=250ms",
];

/// With a heartbeat so slow that none is in the way of counting.
fn election(backend: &KubeLeaseBackend, name: &str, identity: &str) -> Election {
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .heartbeat(Duration::from_secs(25))
        .build()
        .unwrap();
    Election::builder(Arc::new(backend.clone()), lock(name))
        .identity(Identity::new(identity).unwrap())
        .value(PublishedValue::new("http://here").unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

fn holder(lease: &Value) -> &str {
    lease["spec"]["holderIdentity"].as_str().unwrap()
}

/// A term of "ours-2" that nobody renews or releases, as that of a crashed process.
async fn silent(backend: &KubeLeaseBackend, name: &str, lease: Duration) -> Grant {
    let candidate = Candidate::new(Identity::new("ours-2").unwrap(), CampaignId::new(7));
    let outcome = backend.acquire(&lock(name), &candidate, lease).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("it is free: {outcome:?}");
    };
    grant
}

async fn elected(election: Election) -> Leadership {
    within_limit("our election", election.campaign())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hand_overs_to_and_fro() {
    let (Some(server), Some(program)) = (Server::start().await, program()) else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let mut ours = elected(election(&backend, "shared", "ours")).await;
    for round in 0..25 {
        let last = ours.token();
        // They read whose it is from our record.
        let theirs = format!("theirs-{round}");
        let mut other = ClientGo::start(&program, &server, "shared", &theirs, RHYTHM);
        other.says("leader ours").await;
        assert!(ours.is_valid());
        let before = server.lease("shared").await;
        assert_eq!(holder(&before), "ours");
        ours.resign().await.unwrap();
        other.says("started").await;

        // We read whose it is from theirs, and that our annotation beside it is a stale one.
        let Occupancy::Led(seen) = backend.holder(&lock("shared")).await.unwrap() else {
            panic!("they lead");
        };
        assert_eq!(seen.identity, theirs);
        assert_eq!((seen.token, seen.value), (None, None));
        let after = server.lease("shared").await;
        let transitions = |lease: &Value| lease["spec"]["leaseTransitions"].as_i64().unwrap();
        assert_eq!(transitions(&after), transitions(&before) + 1);

        let waiting = election(&backend, "shared", "ours");
        let campaign = tokio::spawn(elected(waiting));
        other.release().await;
        ours = campaign.await.unwrap();
        assert!(ours.token() > last && ours.is_valid());
        let lease = server.lease("shared").await;
        assert_eq!(holder(&lease), "ours");
        assert_eq!(transitions(&lease), transitions(&after) + 1);
    }
    ours.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_takes_over_from_the_other_one_that_crashed() {
    let (Some(server), Some(program)) = (Server::start().await, program()) else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let mut other = ClientGo::start(&program, &server, "crash", "theirs-1", RHYTHM);
    other.says("started").await;
    let clock = backend.clock();
    let killed = clock.now();
    other.kill().await;
    let ours = elected(election(&backend, "crash", "ours")).await;
    // Never before the lease that they themselves have written: we began to look after the kill.
    assert!(clock.now().since(killed) >= Duration::from_secs(4));

    ours.resign().await.unwrap();
    let lease = Duration::from_secs(2);
    let grant = silent(&backend, "crash", lease).await;
    let mut other = ClientGo::start(&program, &server, "crash", "theirs-2", RHYTHM);
    other.says("leader ours-2").await;
    other.says("started").await;
    assert!(clock.now() >= grant.proven_at + lease);

    // And ours, coming back from wherever it was, takes nothing from them.
    let _refused_or_done = backend.release(&grant).await;
    assert_eq!(holder(&server.lease("crash").await), "theirs-2");
    other.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_stop_when_they_have_the_lock() {
    let (Some(server), Some(program)) = (Server::start().await, program()) else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let policy = Policy::fast();
    let ours = Election::builder(Arc::new(backend.clone()), lock("lost"))
        .identity(Identity::new("ours").unwrap())
        .policy(policy)
        .build()
        .unwrap();
    let ours = elected(ours).await;
    let (status, answer) = server
        .send("DELETE", &server.lease_path("lost"), None)
        .await;
    assert_eq!(status, 200, "{answer}");
    let mut other = ClientGo::start(&program, &server, "lost", "theirs", RHYTHM);
    other.says("started").await;
    within_limit("the end of our term", ours.lost()).await;
    assert_eq!(ours.cause(), Some(Cause::Lost));
    // The release of a term that was lost is none.
    let _refused_or_done = ours.resign().await;
    assert_eq!(holder(&server.lease("lost").await), "theirs");
    other.release().await;
}

/// Since v0.27 client-go judges by the lease in the record; before that by its own, whatever the
/// holder has written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_current_client_go_goes_by_the_record_and_the_old_one_by_its_own_lease() {
    let (Some(server), Some(current), Some(old)) =
        (Server::start().await, program(), old_program())
    else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let clock = backend.clock();
    let twice_theirs = Duration::from_secs(8);
    let grant = silent(&backend, "current", twice_theirs).await;
    let mut other = ClientGo::start(&current, &server, "current", "theirs", RHYTHM);
    other.says("leader ours-2").await;
    other.says("started").await;
    assert!(clock.now() >= grant.proven_at + twice_theirs);

    let much_longer = Duration::from_secs(600);
    let grant = silent(&backend, "old", much_longer).await;
    let mut other = ClientGo::start(&old, &server, "old", "theirs", OLD);
    other.says("leader ours-2").await;
    other.says("started").await;
    assert!(clock.now() < grant.proven_at + much_longer);
}

/// What `docs/reference/backends/kubernetes.md` says of fleets with an old client-go: with its lease ours has
/// ended when it takes over from a leader that was cut off, and with a longer one it has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_an_old_client_go_our_lease_must_not_be_longer_than_its_own() {
    let (Some(server), Some(old)) = (Server::start().await, old_program()) else {
        return;
    };
    let direct = connect(server.config()).await.unwrap();
    for (name, seconds, overlaps) in [("as-long", 8, false), ("longer", 120, true)] {
        let proxy = FaultProxy::start(server.address()).unwrap();
        let backend = connect(server.config_at(proxy.address())).await.unwrap();
        let lease = Duration::from_secs(seconds);
        let policy = Policy::builder()
            .lease(lease)
            .heartbeat(Duration::from_secs(1))
            .build()
            .unwrap();
        let ours = Election::builder(Arc::new(backend), lock(name))
            .identity(Identity::new("ours").unwrap())
            .policy(policy)
            .build()
            .unwrap();
        let ours = elected(ours).await;
        let mut other = ClientGo::start(&old, &server, name, "theirs", OLD);
        other.says("leader ours").await;
        proxy.lose(Way::Both);
        other.says("started").await;
        assert_eq!(ours.is_valid(), overlaps, "with a lease of {lease:?}");

        let checks = direct.checks(&lock(name), lease).await;
        let check = checks.iter().find(|check| check.name == "holder's lease");
        let verdict = if overlaps {
            Verdict::Warning
        } else {
            Verdict::Fine
        };
        assert_eq!(check.map(|check| check.verdict), Some(verdict), "{check:?}");
        other.release().await;
    }
}
