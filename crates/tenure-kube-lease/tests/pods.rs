//! Taking over from a holder whose pod is gone, on a real API server: it keeps pods without any
//! kubelet.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use support::{Connects as _, config_of};
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, Event, Grant, Hint, Identity, LockBackend as _,
    Policy,
};
use tenure_kube::{LEASES, Subject, pods_rule, rbac_yaml};
use tenure_kube_lease::{KubeLeaseBackend, connect, pod_identity};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::{Answer, FaultyApi, Kind, instead};
use tenure_testkit::kube::rights;
use tenure_testkit::{lock, until, within_limit};

/// With it nothing happens by time while a test runs.
const LONG: Duration = Duration::from_secs(600);

fn pods(server: &Server) -> String {
    format!("/api/v1/namespaces/{}/pods", server.namespace)
}

/// A new pod, as the identity of a candidate in it.
async fn pod(server: &Server, name: &str) -> Identity {
    let pod = json!({
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "a", "image": "none" }] },
    });
    let (status, made) = server.send("POST", &pods(server), Some(&pod)).await;
    assert_eq!(status, 201, "{made}");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    pod_identity(&server.namespace, name, uid).unwrap()
}

async fn delete_pod(server: &Server, name: &str) {
    let path = format!("{}/{name}?gracePeriodSeconds=0", pods(server));
    let (status, answer) = server.send("DELETE", &path, None).await;
    assert_eq!(status, 200, "{answer}");
}

async fn acquire(
    backend: &KubeLeaseBackend,
    name: &str,
    identity: &Identity,
    campaign: u64,
) -> Option<Grant> {
    let candidate = Candidate::new(identity.clone(), CampaignId::new(campaign));
    match backend.acquire(&lock(name), &candidate, LONG).await {
        Ok(Acquired::Held(grant)) => Some(grant),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_waits_takes_over_when_the_pod_is_deleted() {
    let Some(server) = Server::start().await else {
        return;
    };
    let plain = connect(server.config()).await.unwrap();
    let config = server.config().take_over_from_gone_pods(true);
    let minding = connect(config).await.unwrap();
    let silent = pod(&server, "web-0").await;
    let old = acquire(&plain, "waiting", &silent, 1).await.unwrap();

    let us = pod(&server, "web-1").await;
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let waiting = Election::builder(Arc::new(minding), lock("waiting"))
        .identity(us.clone())
        .policy(policy)
        .build()
        .unwrap();
    let mut events = waiting.events();
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    let seen = async { while !matches!(events.recv().await.unwrap(), Event::LeaderSeen(_)) {} };
    within_limit("the leader", seen).await;
    assert!(!campaign.is_finished(), "its pod is there");

    delete_pod(&server, "web-0").await;
    assert!(
        acquire(&plain, "waiting", &us, 2).await.is_none(),
        "without the option the lease counts"
    );
    let leader = within_limit("the takeover", campaign).await.unwrap();
    let leader = leader.unwrap();
    assert!(leader.is_valid() && leader.token() > old.token);
}

/// What waits hears of it although nothing has happened to the Lease.
#[tokio::test]
async fn the_pods_end_is_a_hint() {
    let Some(server) = Server::start().await else {
        return;
    };
    let config = server.config().take_over_from_gone_pods(true);
    let minding = connect(config).await.unwrap();
    let silent = pod(&server, "web-0").await;
    let _held = acquire(&minding, "hint", &silent, 1).await.unwrap();
    let mut hints = minding.changes(&lock("hint"));
    for what in [
        "the look that follows the watch's beginning",
        "its first event",
    ] {
        let hint = within_limit(what, hints.next()).await;
        assert!(matches!(hint, Some(Hint::HeldFor(_))), "{hint:?}");
    }
    delete_pod(&server, "web-0").await;
    let hint = within_limit("the hint", hints.next()).await;
    assert_eq!(hint, Some(Hint::MayBeFree));
    let us = Identity::new("us").unwrap();
    assert!(acquire(&minding, "hint", &us, 2).await.is_some());
}

#[tokio::test]
async fn the_uid_tells_a_pod_from_its_successor_of_the_same_name() {
    let Some(server) = Server::start().await else {
        return;
    };
    let config = server.config().take_over_from_gone_pods(true);
    let minding = connect(config).await.unwrap();
    let us = Identity::new("us").unwrap();
    let silent = pod(&server, "db-0").await;
    let old = acquire(&minding, "restarted", &silent, 1).await.unwrap();
    assert!(acquire(&minding, "restarted", &us, 2).await.is_none());
    delete_pod(&server, "db-0").await;
    let again = pod(&server, "db-0").await;
    let new = acquire(&minding, "restarted", &again, 3).await.unwrap();
    assert!(new.token > old.token);
    assert!(acquire(&minding, "restarted", &us, 4).await.is_none());

    // Whose pods are not known, or not here, keep their lease.
    let foreign = pod_identity("elsewhere", "web-0", "1").unwrap();
    let client_go = Identity::new("db-0_0d9a3c1e-3c0a-4a77-9d6a-1f0e8e0c9b1a").unwrap();
    for (number, holder) in [foreign, client_go].into_iter().enumerate() {
        let name = &*format!("unknown-{number}");
        let _held = acquire(&minding, name, &holder, 1).await.unwrap();
        assert!(acquire(&minding, name, &us, 2).await.is_none());
    }
}

#[tokio::test]
async fn the_right_to_look_at_pods_is_needed_for_that_alone() {
    let Some(server) = Server::start().await else {
        return;
    };
    let config = server.config_of_candidate().take_over_from_gone_pods(true);
    let restricted = connect(config).await.unwrap();
    let admin = connect(server.config()).await.unwrap();
    let gone = pod_identity(&server.namespace, "gone", "1").unwrap();
    let _held = acquire(&admin, "rights", &gone, 1).await.unwrap();
    let user = Subject::User(rights::USER.to_owned());
    let yaml = rbac_yaml(&LEASES, &server.namespace, &lock("rights"), &user);
    rights::apply(&server, &yaml).await;
    until("the Role counts", async || {
        restricted.holder(&lock("rights")).await.is_ok()
    })
    .await;
    let us = Identity::new("us").unwrap();
    assert!(acquire(&restricted, "rights", &us, 2).await.is_none());

    rights::apply(&server, &pods_rule(&yaml)).await;
    let mut campaign = 2;
    until("the right counts", async || {
        campaign += 1;
        acquire(&restricted, "rights", &us, campaign)
            .await
            .is_some()
    })
    .await;
}

/// Two would lead: a proxy on the way knows nothing of pods.
#[tokio::test]
async fn a_404_that_is_not_the_api_servers_makes_no_pod_gone() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let plain = connect(server.config()).await.unwrap();
    let config = config_of(&api, &server).take_over_from_gone_pods(true);
    let minding = connect(config).await.unwrap();
    let leader = pod(&server, "web-0").await;
    acquire(&plain, "proxied", &leader, 1).await.unwrap();
    let us = pod(&server, "web-1").await;
    api.fail(Kind::Pod, instead(Answer::Status(404, None)), 1);
    assert!(acquire(&minding, "proxied", &us, 2).await.is_none());
    assert_eq!(api.seen(Kind::Pod).len(), 1);
    delete_pod(&server, "web-0").await;
    assert!(acquire(&minding, "proxied", &us, 2).await.is_some());
}
