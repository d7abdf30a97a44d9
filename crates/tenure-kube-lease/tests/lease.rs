//! What stands in the Lease, and what becomes of a term there, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, CampaignId, Candidate, Cause, Election, Error, ErrorKind, Grant, Identity,
    LockBackend as _, Occupancy, Policy, PublishedValue, Renewal,
};
use tenure_kube_lease::{KubeConfig, KubeLeaseBackend, Tls, connect, lazy, with_client};
use tenure_testkit::kube::Server;
use tenure_testkit::{lock, until, within_limit};

/// With it nothing happens by time while a test runs.
const LONG: Duration = Duration::from_secs(600);

fn candidate(identity: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(identity).unwrap(), CampaignId::new(campaign))
        .with_value(PublishedValue::new("http://here").unwrap())
}

async fn held(
    backend: &KubeLeaseBackend,
    name: &str,
    identity: &str,
    campaign: u64,
    lease: Duration,
) -> Grant {
    let candidate = candidate(identity, campaign);
    match backend.acquire(&lock(name), &candidate, lease).await {
        Ok(Acquired::Held(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

async fn renewed(backend: &KubeLeaseBackend, grant: &Grant) -> Grant {
    match backend.renew(grant, backend.clock().now()).await.unwrap() {
        Renewal::Renewed(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn election(backend: &KubeLeaseBackend, name: &str, identity: &str, policy: Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .identity(Identity::new(identity).unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

async fn put(server: &Server, name: &str, method: &str, object: &Value) -> Value {
    let (status, answer) = server
        .send(method, &server.lease_path(name), Some(object))
        .await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test]
async fn what_belongs_to_others_survives_a_whole_term() {
    let Some(server) = Server::start().await else {
        return;
    };
    let theirs = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "foreign",
            "labels": { "team": "a" },
            "annotations": { "note": "keep" },
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "some-uid" }
            ],
            "finalizers": ["example.com/keep"],
        },
        "spec": {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": "2021-12-07T15:38:32.000000Z",
            "renewTime": "2021-12-07T15:38:32.000000Z",
            "leaseTransitions": 7,
        },
    });
    let path = server.lease_path("");
    let (status, answer) = server
        .send("POST", path.trim_end_matches('/'), Some(&theirs))
        .await;
    assert_eq!(status, 201, "{answer}");

    let config = server.config().label("app", "ours").field_manager("mine");
    let backend = connect(config).await.unwrap();
    let grant = held(&backend, "foreign", "us", 1, LONG).await;
    let acquired = server.lease("foreign").await;
    let grant = renewed(&backend, &grant).await;
    let renewed = server.lease("foreign").await;
    backend.release(&grant).await.unwrap();
    let released = server.lease("foreign").await;
    for lease in [&acquired, &renewed, &released] {
        for field in ["ownerReferences", "finalizers", "uid", "creationTimestamp"] {
            assert_eq!(lease["metadata"][field], answer["metadata"][field]);
        }
        let labels = json!({ "team": "a", "app": "ours" });
        assert_eq!(lease["metadata"]["labels"], labels);
        assert_eq!(lease["metadata"]["annotations"]["note"], "keep");
        assert_eq!(lease["spec"]["leaseTransitions"], 8);
        for time in ["acquireTime", "renewTime"] {
            let text = lease["spec"][time].as_str().unwrap();
            assert_eq!(text.len(), "2021-12-07T15:38:32.000000Z".len(), "{text}");
        }
        let fields = lease["metadata"]["managedFields"].as_array().unwrap();
        assert!(fields.iter().any(|field| field["manager"] == "mine"));
    }
    let spec = &renewed["spec"];
    assert_eq!(spec["holderIdentity"], "us");
    assert_eq!(spec["leaseDurationSeconds"], 600);
    assert_eq!(spec["acquireTime"], acquired["spec"]["acquireTime"]);
    assert!(spec["renewTime"].as_str() > acquired["spec"]["renewTime"].as_str());
    assert_eq!(released["spec"]["holderIdentity"], "");
    assert_eq!(released["spec"]["leaseDurationSeconds"], 1);
    assert!(released["metadata"]["annotations"]["tenure/term"].is_null());
}

#[tokio::test]
async fn the_token_is_the_version_of_the_write_that_acquired() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let grant = held(&backend, "token", "us", 1, LONG).await;
    let version = server.lease("token").await["metadata"]["resourceVersion"].clone();
    assert_eq!(
        version.as_str().unwrap(),
        grant.token.to_string(),
        "of a new Lease"
    );
    // A write cannot hold its own version: observers learn the token from the next one.
    let token = async || match backend.holder(&lock("token")).await.unwrap() {
        Occupancy::Led(holder) | Occupancy::Unknown(holder) => holder.token,
        other => panic!("it is held: {other:?}"),
    };
    assert_eq!(token().await, None);
    let grant = renewed(&backend, &grant).await;
    assert_eq!(token().await, Some(grant.token));
    backend.release(&grant).await.unwrap();

    let again = held(&backend, "token", "us", 2, LONG).await;
    let version = server.lease("token").await["metadata"]["resourceVersion"].clone();
    assert_eq!(version.as_str().unwrap(), again.token.to_string());
    assert!(again.token > grant.token);
    let (status, _) = server
        .send("DELETE", &server.lease_path("token"), None)
        .await;
    assert_eq!(status, 200);
    let after_deletion = held(&backend, "token", "us", 3, LONG).await;
    assert!(after_deletion.token > again.token);
}

#[tokio::test]
async fn a_late_release_leaves_the_successor_alone() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let late = held(&backend, "late", "us", 1, LONG).await;
    // Somebody else has it now: another process, or another term of the same identity.
    for (identity, campaign) in [("other", 2), ("us", 3)] {
        put(
            &server,
            "late",
            "PATCH",
            &json!({ "spec": { "holderIdentity": "" } }),
        )
        .await;
        let successor = held(&backend, "late", identity, campaign, LONG).await;
        let before = server.lease("late").await;
        backend.release(&late).await.unwrap();
        assert_eq!(server.lease("late").await, before);
        let _still_theirs = renewed(&backend, &successor).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_heartbeat_that_shows_another_holder_ends_the_term() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let leader = election(&backend, "stolen", "us", Policy::default());
    let leader = within_limit("the election", leader.campaign())
        .await
        .unwrap();
    let theirs = json!({ "spec": { "holderIdentity": "thief" } });
    let after = put(&server, "stolen", "PATCH", &theirs).await;
    assert!(leader.confirm().await.is_err());
    within_limit("the end of the term", leader.lost()).await;
    assert_eq!(leader.cause(), Some(Cause::Lost));
    assert!(!leader.is_valid());
    drop(leader);
    assert_eq!(server.lease("stolen").await, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_dropped_comes_back() {
    let Some(server) = Server::start().await else {
        return;
    };
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let direct = connect(server.config()).await.unwrap();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let behind = connect(server.config_at(proxy.address())).await.unwrap();
    let leader = within_limit(
        "the election",
        election(&direct, "dropped", "a", policy.clone()).campaign(),
    )
    .await
    .unwrap();
    let waiting = election(&behind, "dropped", "b", policy);
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    for _ in 0..3 {
        let seen = proxy.seen(Way::Answers);
        until("it hears of the Lease", async || {
            // Nobody minds it; the watch tells it.
            let note =
                json!({ "metadata": { "annotations": { "n": fastrand::u64(..).to_string() } } });
            put(&server, "dropped", "PATCH", &note).await;
            proxy.seen(Way::Answers) > seen
        })
        .await;
        proxy.reset();
    }
    leader.resign().await.unwrap();
    let next = within_limit("the hand-over", campaign).await.unwrap();
    assert!(next.unwrap().is_valid());
}

#[tokio::test]
async fn a_lock_of_an_earlier_self_is_taken_back_if_asked_for() {
    let Some(server) = Server::start().await else {
        return;
    };
    let earlier = connect(server.config()).await.unwrap();
    let old = held(&earlier, "mine", "pod-0", 1, LONG).await;
    let taken = |outcome| matches!(outcome, Ok(Acquired::Taken { .. }));
    let plain = connect(server.config()).await.unwrap();
    let again = candidate("pod-0", 2);
    assert!(taken(plain.acquire(&lock("mine"), &again, LONG).await));

    let identity = Identity::new("pod-0").unwrap();
    let config = server.config().take_back_from_earlier_self(identity);
    let restarted = connect(config).await.unwrap();
    let new = held(&restarted, "mine", "pod-0", 4, LONG).await;
    assert!(new.token > old.token);
    // Its own term is not an earlier self's.
    let second = candidate("pod-0", 5);
    assert!(taken(restarted.acquire(&lock("mine"), &second, LONG).await));
    let now = earlier.clock().now();
    let outcome = earlier.renew(&old, now).await.unwrap();
    assert!(matches!(outcome, Renewal::Lost { .. }), "{outcome:?}");
}

#[tokio::test]
async fn an_applications_own_client_will_do() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = with_client(server.client().await, server.config());
    let grant = held(&backend, "own", "us", 1, LONG).await;
    backend.release(&grant).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_has_its_kind() {
    let Some(server) = Server::start().await else {
        return;
    };
    let acquire = async |backend: &KubeLeaseBackend| -> Error {
        let outcome = backend.acquire(&lock("x"), &candidate("us", 1), LONG).await;
        outcome.unwrap_err()
    };

    // 403
    let stranger = server
        .config()
        .token_file(Server::token_file_of("stranger"));
    let backend = connect(stranger).await.unwrap();
    let error = acquire(&backend).await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.message().contains("\"get\""), "{error}");

    // 404
    let elsewhere = server.config().namespace("there-is-none").unwrap();
    let error = acquire(&connect(elsewhere).await.unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("there-is-none"), "{error}");

    // 422
    let labelled = server.config().label("app", "not a label!");
    let error = acquire(&connect(labelled).await.unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");

    // 401
    let wrong = server.config().token("0123456789abcdef");
    let error = connect(wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(!error.to_string().contains("0123456789abcdef"), "{error}");

    // TLS: the certificate is for another name.
    let elsewhere = server
        .config()
        .tls(Tls::new().ca(&server.ca).server_name("elsewhere.example"));
    let error = connect(elsewhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("certificate"), "{error}");
}

/// A service account's token ends with the object that it is bound to, as it does by time.
#[tokio::test]
async fn a_token_that_has_ended_is_refused() {
    let Some(server) = Server::start().await else {
        return;
    };
    let base = format!("/api/v1/namespaces/{}", server.namespace);
    let make = async |path: &str, object: Value| {
        let (status, answer) = server
            .send("POST", &format!("{base}{path}"), Some(&object))
            .await;
        assert_eq!(status, 201, "{answer}");
        answer
    };
    make("/serviceaccounts", json!({ "metadata": { "name": "us" } })).await;
    let secret = make("/secrets", json!({ "metadata": { "name": "bound" } })).await;
    let bound = json!({
        "apiVersion": "v1", "kind": "Secret", "name": "bound", "uid": secret["metadata"]["uid"],
    });
    let request = json!({ "spec": { "boundObjectRef": bound } });
    let token = make("/serviceaccounts/us/token", request).await;
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let config = server.config().token(token.clone());
    let backend = connect(config).await.unwrap();
    let (status, answer) = server
        .send("DELETE", &format!("{base}/secrets/bound"), None)
        .await;
    assert_eq!(status, 200, "{answer}");
    // The API server keeps what it has found out about a token for some seconds.
    until("the token is refused", async || {
        let error = backend.holder(&lock("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(!error.to_string().contains(&token));
        error.message().contains("(401)")
    })
    .await;
}

/// No file is read and nothing is asked before a call needs it; the error names that call.
#[tokio::test]
async fn a_lazy_backend_connects_with_its_first_call() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let backend = lazy(server.config().tls(Tls::new().ca(&ca))).unwrap();
    let error = backend.holder(&lock("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert_eq!(error.operation(), tenure_core::Operation::Holder, "{error}");
    assert!(error.message().contains("ca.pem"), "{error}");
    // What was missing is there now.
    std::fs::copy(&server.ca, &ca).unwrap();
    let outcome = backend.acquire(&lock("x"), &candidate("us", 1), LONG).await;
    assert!(matches!(outcome, Ok(Acquired::Held(_))), "{outcome:?}");
}

/// A token that was refused is read again, so that it can change under a running service.
#[tokio::test]
async fn a_token_is_read_again_after_it_was_refused() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef").unwrap();
    let backend = lazy(server.config().token_file(&file)).unwrap();
    let error = backend.holder(&lock("x")).await.unwrap_err();
    assert!(error.message().contains("(401)"), "{error}");
    std::fs::copy(&server.token_file, &file).unwrap();
    backend.holder(&lock("x")).await.unwrap();
}

/// The names of the settings replace what the kubeconfig says.
#[tokio::test]
async fn settings_for_tls_replace_those_of_the_kubeconfig() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "us",
        "clusters": [{
            "name": "test",
            "cluster": {
                "server": format!("https://{}", server.address()),
                "tls-server-name": "elsewhere.example",
            },
        }],
        "users": [{ "name": "us", "user": { "token": "0123456789abcdef" } }],
        "contexts": [{ "name": "us", "context": { "cluster": "test", "user": "us" } }],
    });
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    let config = || {
        let config = KubeConfig::from_file(Some(file.clone()), None);
        config.namespace(&*server.namespace).unwrap()
    };
    let error = connect(config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let name = server.address().ip().to_string();
    let config = config()
        .tls(Tls::new().ca(&server.ca).server_name(name))
        .token_file(&server.token_file);
    let backend = connect(config).await.unwrap();
    assert!(backend.holder(&lock("x")).await.is_ok());
}
