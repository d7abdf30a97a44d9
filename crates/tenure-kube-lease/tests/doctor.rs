//! What `checks` tells of a Lease that others may hold, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Connects as _, config_of};
use tenure_core::{
    Acquired, CampaignId, Candidate, Check, Identity, LockBackend as _, Policy, Verdict,
};
use tenure_kube::KubeConfig;
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::forward_proxy::{ForwardProxy, PASSWORD};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::FaultyApi;
use tenure_testkit::lock;

const NAME: &str = "holder's lease";

async fn looked_at(backend: &KubeLeaseBackend, name: &str, lease: Duration) -> Check {
    one_of(backend, name, lease, NAME).await
}

async fn one_of(backend: &KubeLeaseBackend, name: &str, lease: Duration, wanted: &str) -> Check {
    let checks = backend.checks(&lock(name), lease).await;
    let check = checks.iter().find(|check| check.name == wanted);
    check.unwrap_or_else(|| panic!("{checks:?}")).clone()
}

/// As another program writes it.
async fn held_by_others(server: &Server, name: &str, seconds: u64) {
    let lease = json!({
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": "controller_1\u{7}",
            "leaseDurationSeconds": seconds,
            "acquireTime": "2021-12-07T15:38:32.000000Z",
            "renewTime": "2021-12-07T15:38:32.000000Z",
            "leaseTransitions": 7,
        },
    });
    let path = server.lease_path("");
    let (status, answer) = server
        .send("POST", path.trim_end_matches('/'), Some(&lease))
        .await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn a_shorter_lease_of_another_program_is_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let ours = Policy::default().lease();
    for (name, seconds, choice) in [
        ("eight", 8, Some("--lease 8s")),
        ("fifteen", 15, Some("--policy client-go")),
        ("nineteen", 19, Some("--policy client-go")),
        ("as-long", 20, None),
        ("longer", 60, None),
    ] {
        held_by_others(&server, name, seconds).await;
        let before = server.lease(name).await;
        let check = looked_at(&backend, name, ours).await;
        let told = format!("{seconds}s");
        assert!(check.reason.contains(&told), "{check:?}");
        assert!(check.reason.contains("controller_1\\u{7}"), "{check:?}");
        match choice {
            Some(choice) => {
                assert_eq!(check.verdict, Verdict::Warning, "{check:?}");
                assert!(check.reason.contains("client-go before v0.27"), "{check:?}");
                let remedy = check.remedy.as_deref().unwrap();
                assert!(remedy.contains(choice), "{check:?}");
            }
            None => assert_eq!(check.verdict, Verdict::Fine, "{check:?}"),
        }
        assert_eq!(server.lease(name).await, before, "it only looks");
    }
    // With the policy for fleets with client-go there is nothing to tell.
    let check = looked_at(&backend, "fifteen", Policy::client_go().lease()).await;
    assert_eq!(check.verdict, Verdict::Fine, "{check:?}");
}

/// Candidates of ours judge by the record, so a shorter lease among them is none of doctor's
/// business; and a lock that is free tells nothing.
#[tokio::test]
async fn a_holder_of_ours_and_a_free_lock_are_fine() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let us = Candidate::new(Identity::new("us").unwrap(), CampaignId::new(1));
    let (short, long) = (Duration::from_secs(8), Duration::from_secs(20));
    let free = looked_at(&backend, "ours", long).await;
    assert_eq!(free.verdict, Verdict::Fine, "{free:?}");
    assert!(free.reason.contains("nobody holds"), "{free:?}");

    let outcome = backend.acquire(&lock("ours"), &us, short).await.unwrap();
    let Acquired::Held(grant) = outcome else {
        panic!("{outcome:?}");
    };
    let held = looked_at(&backend, "ours", long).await;
    assert_eq!(held.verdict, Verdict::Fine, "{held:?}");
    assert!(held.reason.contains("candidate of tenure"), "{held:?}");

    // Another program takes it over and leaves our annotation as it is.
    let theirs = json!({ "spec": { "holderIdentity": "theirs", "leaseTransitions": 1 } });
    let (status, answer) = server
        .send("PATCH", &server.lease_path("ours"), Some(&theirs))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert!(!answer["metadata"]["annotations"]["tenure/term"].is_null());
    let stolen = looked_at(&backend, "ours", long).await;
    assert_eq!(stolen.verdict, Verdict::Warning, "{stolen:?}");
    assert!(stolen.reason.contains("\"theirs\""), "{stolen:?}");

    backend.release(&grant).await.unwrap();
    let free = json!({ "spec": { "holderIdentity": "" } });
    let (status, _) = server
        .send("PATCH", &server.lease_path("ours"), Some(&free))
        .await;
    assert_eq!(status, 200);
    let free = looked_at(&backend, "ours", long).await;
    assert_eq!(free.verdict, Verdict::Fine, "{free:?}");
}

#[tokio::test]
async fn a_holder_that_cannot_be_looked_at_is_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    held_by_others(&server, "hidden", 8).await;
    let stranger = server
        .config()
        .token_file(Server::token_file_of("stranger"));
    let backend = connect(stranger).await;
    let check = looked_at(&backend.unwrap(), "hidden", Policy::default().lease()).await;
    assert_eq!(check.verdict, Verdict::Warning, "{check:?}");
    assert!(check.reason.contains("cannot tell who holds"), "{check:?}");
    let shown: Value = json!(check.reason);
    assert!(!shown.to_string().contains("controller_1"), "{check:?}");
}

#[tokio::test]
async fn a_holder_without_a_lease_and_other_writers_are_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let lease = json!({ "metadata": { "name": "odd" }, "spec": { "holderIdentity": "theirs" } });
    let path = server.lease_path("");
    let path = format!("{}?fieldManager=theirs", path.trim_end_matches('/'));
    let (status, answer) = server.send("POST", &path, Some(&lease)).await;
    assert_eq!(status, 201, "{answer}");
    let check = looked_at(&backend, "odd", Policy::default().lease()).await;
    assert_eq!(check.verdict, Verdict::Warning, "{check:?}");
    assert!(check.reason.contains("states no lease"), "{check:?}");

    let checks = backend
        .checks(&lock("odd"), Policy::default().lease())
        .await;
    let versions = checks
        .iter()
        .find(|check| check.name == "resource versions");
    let digits = answer["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .len();
    let told = format!("they have {digits} digits");
    assert!(versions.unwrap().reason.contains(&told), "{versions:?}");
    let writers = async || {
        let checks = backend
            .checks(&lock("odd"), Policy::default().lease())
            .await;
        let check = checks
            .into_iter()
            .find(|check| check.name == "other writers");
        check.unwrap()
    };
    let alone = writers().await;
    assert!(alone.reason.contains("no other program"), "{alone:?}");
    let note = json!({ "metadata": { "annotations": { "note": "x" } } });
    let path = format!("{}?fieldManager=annotator", server.lease_path("odd"));
    let (status, answer) = server.send("PATCH", &path, Some(&note)).await;
    assert_eq!(status, 200, "{answer}");
    let annotated = writers().await;
    assert!(
        annotated.reason.contains("\"annotator\" at 2"),
        "{annotated:?}"
    );
    assert!(!annotated.reason.contains("theirs"), "{annotated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_the_cluster_and_which_one_it_is_are_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    let told = async |backend: &KubeLeaseBackend, name: &str| {
        one_of(backend, "way", Policy::default().lease(), name).await
    };
    let direct = connect(server.config()).await.unwrap();
    let between = told(&direct, "in between").await;
    assert_eq!(between.verdict, Verdict::Fine, "{between:?}");
    assert!(between.reason.contains("no forward proxy"), "{between:?}");
    held_by_others(&server, "way", 60).await;
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let (_, lasting) = server
        .send("GET", "/api/v1/namespaces/kube-system", None)
        .await;
    let cluster = told(&direct, "cluster").await;
    assert_eq!(cluster.verdict, Verdict::Fine, "{cluster:?}");
    for part in [
        server.url.clone(),
        uid(lasting),
        uid(server.lease("way").await),
    ] {
        assert!(cluster.reason.contains(&part), "{part}: {cluster:?}");
    }

    let api = FaultyApi::start(&server).await;
    let behind = connect(config_of(&api, &server)).await.unwrap();
    let between = told(&behind, "in between").await;
    assert_eq!(between.verdict, Verdict::Warning, "{between:?}");
    assert!(between.reason.contains("via: 1.1 faulty"), "{between:?}");

    // A kubeconfig that leads to more than one cluster, by a forward proxy.
    let proxy = ForwardProxy::start(server.address());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let here = json!({
        "server": server.url,
        "certificate-authority": server.ca,
        "proxy-url": proxy.url("http"),
    });
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            { "name": "here", "cluster": here },
            { "name": "there", "cluster": { "server": "https://10.0.0.1:6443" } },
        ],
        "users": [{ "name": "us", "user": { "tokenFile": server.token_file } }],
        "contexts": [
            { "name": "here", "context": { "cluster": "here", "user": "us" } },
            { "name": "there", "context": { "cluster": "there", "user": "us" } },
        ],
    });
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    for (context, verdict) in [(None, Verdict::Warning), (Some("here"), Verdict::Fine)] {
        let config = KubeConfig::from_file(Some(file.clone()), context.map(str::to_owned));
        let config = config.namespace(&*server.namespace).unwrap();
        let backend = connect(config).await.unwrap();
        let cluster = told(&backend, "cluster").await;
        assert_eq!(cluster.verdict, verdict, "{cluster:?}");
        let between = told(&backend, "in between").await;
        let address = proxy.url("http").replace(&format!("ann:{PASSWORD}@"), "");
        assert!(between.reason.contains(&address), "{between:?}");
        assert!(!between.reason.contains(PASSWORD), "{between:?}");
    }
}
