//! One election with candidates of an old client-go, the last one with locks on `ConfigMaps`, and
//! the move from there to Leases: real processes, built from `tests/client-go-configmap`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use support::Connects as _;
use tenure_core::{
    Acquired, Both, CampaignId, Candidate, Election, Event, Identity, Leadership, LockBackend,
    Policy,
};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::client_go::{ClientGo, old_program};
use tenure_testkit::{lock, within_limit};
use tokio::task::JoinHandle;

/// client-go refuses a lease that is no longer than its deadline, and counts in whole seconds.
const OLD: &[&str] = &["--lease=8s", "--deadline=6s", "--retry=250ms"];
const BOTH: &[&str] = &[
    "--kind=configmapsleases",
    "--lease=8s",
    "--deadline=6s",
    "--retry=250ms",
];
const NEW: &[&str] = &[
    "--kind=leases",
    "--lease=8s",
    "--deadline=6s",
    "--retry=250ms",
];

async fn open(server: &Server) -> Arc<dyn LockBackend> {
    Arc::new(
        tenure_kube_configmap::connect(server.config())
            .await
            .unwrap(),
    )
}

fn election(backend: &Arc<dyn LockBackend>, name: &str, identity: &str) -> Election {
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .heartbeat(Duration::from_secs(1));
    Election::builder(backend.clone(), lock(name))
        .identity(Identity::new(identity).unwrap())
        .policy(policy.build().unwrap())
        .build()
        .unwrap()
}

/// A candidate of ours that has seen who leads.
async fn waiting(backend: &Arc<dyn LockBackend>, name: &str, us: &str) -> JoinHandle<Leadership> {
    let election = election(backend, name, us);
    let mut events = election.events();
    let campaign = tokio::spawn(async move { election.campaign().await.unwrap() });
    let seen = async { while !matches!(events.recv().await.unwrap(), Event::LeaderSeen(_)) {} };
    within_limit("the leader", seen).await;
    assert!(!campaign.is_finished());
    campaign
}

/// Whom the annotation of the `ConfigMap` names.
async fn holder(server: &Server, name: &str) -> String {
    let (_, object) = server
        .send("GET", &server.config_map_path(name), None)
        .await;
    let annotations = &object["metadata"]["annotations"];
    let text = annotations[tenure_kube_configmap::LEADER_ANNOTATION].as_str();
    let record: Value = serde_json::from_str(text.unwrap()).unwrap();
    record["holderIdentity"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_overs_to_and_fro_with_the_old_client_go() {
    let (Some(server), Some(program)) = (Server::start().await, old_program()) else {
        return;
    };
    let backend = open(&server).await;
    let mut ours = within_limit("ours", election(&backend, "shared", "ours").campaign())
        .await
        .unwrap();
    for round in 0..10 {
        let last = ours.token();
        let theirs = format!("theirs-{round}");
        let mut other = ClientGo::start(&program, &server, "shared", &theirs, OLD);
        other.says("leader ours").await;
        assert!(ours.is_valid());
        ours.resign().await.unwrap();
        other.says("started").await;
        assert_eq!(holder(&server, "shared").await, theirs);
        let campaign = waiting(&backend, "shared", "ours").await;
        other.release().await;
        ours = within_limit("ours", campaign).await.unwrap();
        assert!(ours.token() > last && ours.is_valid());
        assert_eq!(holder(&server, "shared").await, "ours");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_takes_over_from_the_other_one_that_crashed() {
    let (Some(server), Some(program)) = (Server::start().await, old_program()) else {
        return;
    };
    let backend = open(&server).await;
    let clock = backend.clock();
    let mut other = ClientGo::start(&program, &server, "crash", "theirs-1", OLD);
    other.says("started").await;
    let killed = clock.now();
    other.kill().await;
    let ours = within_limit("ours", election(&backend, "crash", "ours").campaign())
        .await
        .unwrap();
    assert!(clock.now().since(killed) >= Duration::from_secs(8));
    ours.resign().await.unwrap();

    // A term of ours that nobody renews or releases is that of a crashed process.
    let silent = Candidate::new(Identity::new("ours-2").unwrap(), CampaignId::new(7));
    let lease = Duration::from_secs(2);
    let outcome = backend.acquire(&lock("crash"), &silent, lease).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("it is free: {outcome:?}");
    };
    let mut other = ClientGo::start(&program, &server, "crash", "theirs-2", OLD);
    other.says("leader ours-2").await;
    other.says("started").await;
    assert!(clock.now() >= grant.proven_at + lease);
    let _refused_or_done = backend.release(&grant).await;
    assert_eq!(holder(&server, "crash").await, "theirs-2");
}

/// Old candidates know the `ConfigMap` alone, new ones the Lease alone, and those in between both:
/// old and new never run at a time, and no two lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_move_to_leases_with_client_go_among_the_candidates() {
    let (Some(server), Some(program)) = (Server::start().await, old_program()) else {
        return;
    };
    let start =
        |identity: &str, kind: &[&str]| ClientGo::start(&program, &server, "moved", identity, kind);
    let old = open(&server).await;
    let new: Arc<dyn LockBackend> =
        Arc::new(tenure_kube_lease::connect(server.config()).await.unwrap());
    let both: Arc<dyn LockBackend> = Arc::new(Both::new(old.clone(), new.clone()).unwrap());
    let lead_on_lease = async || server.lease("moved").await["spec"]["holderIdentity"].clone();

    // All are old; the first of ours that knows both comes to wait, and then leads.
    let mut theirs = start("their-old", OLD);
    theirs.says("started").await;
    let campaign = waiting(&both, "moved", "our-both").await;
    theirs.release().await;
    let ours = within_limit("ours", campaign).await.unwrap();
    assert_eq!(holder(&server, "moved").await, "our-both");
    assert_eq!(lead_on_lease().await, "our-both");

    // One more of the old ones, which is the next to lead, before one of theirs that knows both.
    let mut theirs = start("their-old-again", OLD);
    theirs.says("leader our-both").await;
    assert!(ours.is_valid());
    let term = ours.term();
    ours.resign().await.unwrap();
    theirs.says("started").await;
    assert!(!term.is_valid());
    let campaign = waiting(&both, "moved", "our-both-again").await;
    theirs.release().await;
    let ours = within_limit("ours", campaign).await.unwrap();
    assert!(ours.token() > term.token());
    let mut theirs = start("their-both", BOTH);
    theirs.says("leader our-both-again").await;
    assert!(ours.is_valid());
    let term = ours.term();
    ours.resign().await.unwrap();
    theirs.says("started").await;
    assert!(!term.is_valid());
    assert_eq!(holder(&server, "moved").await, "their-both");
    assert_eq!(lead_on_lease().await, "their-both");

    // No old one runs any more: ours that knows the Lease alone waits for theirs that knows both.
    let campaign = waiting(&new, "moved", "our-new").await;
    theirs.release().await;
    let ours = within_limit("ours", campaign).await.unwrap();
    assert!(ours.token() > term.token());
    let campaign = waiting(&both, "moved", "our-last-both").await;
    let term = ours.term();
    ours.resign().await.unwrap();
    let ours = within_limit("ours", campaign).await.unwrap();
    assert!(!term.is_valid() && ours.token() > term.token());
    let mut theirs = start("their-new", NEW);
    theirs.says("leader our-last-both").await;
    assert!(ours.is_valid());
    ours.resign().await.unwrap();
    theirs.says("started").await;
    assert_eq!(lead_on_lease().await, "their-new");
    theirs.release().await;
}
