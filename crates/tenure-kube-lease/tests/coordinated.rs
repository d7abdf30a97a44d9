//! Elections that the API server decides (KEP-4355, coordinated leader election), on an API server of
//! the test's own with the feature gate on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_core::{
    Cause, Check, Election, ErrorKind, Identity, LockBackend as _, Observation, Observer, Policy,
    Verdict,
};
use tenure_kube::{KubeConfig, LEASES, Subject, Tls, lease_candidates_rule, rbac_yaml};
use tenure_kube_lease::{KubeLeaseBackend, LeaseCandidate, connect};
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::kube::{Server, rights};
use tenure_testkit::{LONG, candidate, lock, until, within_limit};

const ON: [&str; 2] = [
    "--feature-gates=CoordinatedLeaderElection=true",
    "--runtime-config=coordination.k8s.io/v1beta1=true",
];

fn as_candidate(name: &str, version: &str) -> LeaseCandidate {
    LeaseCandidate::new(Identity::new(name).unwrap(), version).unwrap()
}

/// Candidates with the rights that `tenure rbac` prints, and no others.
async fn grant(server: &Server) {
    let user = Subject::User(rights::USER.to_owned());
    let yaml = rbac_yaml(&LEASES, &server.namespace, &lock("coordinated"), &user);
    rights::apply(server, &lease_candidates_rule(&yaml)).await;
}

async fn election(server: &Server, name: &str, version: &str) -> Election {
    let folder = server.ca.parent().unwrap();
    let [certificate, key] =
        ["pem", "key"].map(|end| folder.join(format!("{}.{end}", rights::USER)));
    let tls = Tls::new()
        .ca(&server.ca)
        .client_cert(certificate)
        .client_key(key);
    let config = KubeConfig::server(&*server.url).tls(tls);
    let config = config.namespace(&*server.namespace).unwrap();
    let config = config.lease_candidate(as_candidate(name, version));
    let backend = connect(config).await.unwrap();
    until("the rights count", async || {
        told(&backend).await.verdict == Verdict::Fine
    })
    .await;
    let policy = Policy::builder()
        .lease(Duration::from_secs(8))
        .heartbeat(Duration::from_secs(1))
        .request_timeout(Duration::from_secs(1))
        .retry_interval(Duration::from_millis(200));
    Election::builder(Arc::new(backend), lock("coordinated"))
        .identity(Identity::new(name).unwrap())
        .policy(policy.build().unwrap())
        .build()
        .unwrap()
}

/// What doctor tells of it.
async fn told(backend: &KubeLeaseBackend) -> Check {
    let checks = backend.checks(&lock("coordinated"), LONG).await;
    let check = checks.iter().find(|check| check.name == "lease candidate");
    check.unwrap_or_else(|| panic!("{checks:?}")).clone()
}

async fn has_candidate(server: &Server, name: &str) -> bool {
    let path = format!(
        "/apis/coordination.k8s.io/v1beta1/namespaces/{}/leasecandidates/{name}",
        server.namespace
    );
    server.has(&path).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_chooses_the_leader_and_replaces_it_by_an_older_version() {
    let Some(api) = PrivateApi::start_with(&ON).await else {
        return;
    };
    let server = &api.server;
    grant(server).await;
    let newer = election(server, "newer", "1.2.0").await;
    let first = within_limit("the first term", newer.campaign())
        .await
        .unwrap();
    let lease = server.lease("coordinated").await;
    assert_eq!(
        lease["spec"]["strategy"], "OldestEmulationVersion",
        "{lease}"
    );
    assert_eq!(lease["spec"]["holderIdentity"], "newer", "{lease}");

    // A wish that is over stays beside the record, and hides nothing.
    let asker = connect(server.config()).await.unwrap();
    asker
        .ask_to_resign(&lock("coordinated"), first.token(), Duration::ZERO)
        .await
        .unwrap();

    // An older one comes: the leader's term ends in time for its work, and is given back.
    let older = election(server, "older", "1.1.0").await;
    let campaign = tokio::spawn(async move { older.campaign().await });
    within_limit("the end of the first term", first.cancelled()).await;
    assert_eq!(first.cause(), Some(Cause::Asked));
    let lease = server.lease("coordinated").await;
    assert_eq!(lease["spec"]["preferredHolder"], "older", "{lease}");
    assert!(!campaign.is_finished(), "the first one still works");
    let token = first.token();
    first.resign().await.unwrap();
    let second = within_limit("the second term", campaign).await.unwrap();
    let second = second.unwrap();
    assert!(second.token() > token);
    assert!(!has_candidate(server, "newer").await, "it left");

    // An onlooker with the same configuration is no candidate, and takes the leader for one.
    let config = server
        .config()
        .lease_candidate(as_candidate("older", "1.1.0"));
    let onlooker = Arc::new(connect(config).await.unwrap());
    assert_eq!(told(&onlooker).await.verdict, Verdict::Fine);
    let observer = Observer::new(onlooker, lock("coordinated"), Policy::default());
    until("the leader is seen", async || match observer.look().await {
        Ok(Observation::Led { identity, .. }) => identity == "older",
        Ok(Observation::Free) => panic!("it is led"),
        _ => false,
    })
    .await;

    // It may have a newer version: there is no other any more.
    second.resign().await.unwrap();
    let third = within_limit("the third term", newer.campaign())
        .await
        .unwrap();
    assert!(third.is_valid());
    third.resign().await.unwrap();
}

/// Without the API server's word no candidate takes a lock that is free.
#[tokio::test]
async fn a_server_without_coordinated_elections_is_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    let config = server.config().lease_candidate(as_candidate("us", "1.2.0"));
    let backend = connect(config).await.unwrap();
    let acquire = async |name: &str| {
        let outcome = backend.acquire(&lock("x"), &candidate(name, 1), LONG).await;
        outcome.unwrap_err()
    };
    let error = acquire("us").await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("leasecandidates"), "{error}");
    let error = acquire("another").await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let told = told(&backend).await;
    assert_eq!(told.verdict, Verdict::Unusable, "{told:?}");
    let (status, _) = server.send("GET", &server.lease_path("x"), None).await;
    assert_eq!(status, 404);
}
