//! What is made where no object is, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use serde_json::json;
use support::Connects as _;
use tenure_core::{Acquired, ErrorKind, LockBackend as _, Verdict};
use tenure_kube_lease::{KubeConfig, Owner, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::{LONG, candidate, lock};

#[tokio::test]
async fn annotations_and_owners_are_set_on_what_is_made_and_on_nothing_else() {
    let Some(server) = Server::start().await else {
        return;
    };
    let managed = |config: KubeConfig| {
        let owner = Owner::new("apps/v1", "Deployment", "web", "7d9f-11").unwrap();
        config
            .annotation("argocd.argoproj.io/sync-options", "Prune=false")
            .owner(owner)
    };
    let backend = connect(managed(server.config())).await.unwrap();
    let there = json!({ "metadata": { "name": "there", "annotations": { "note": "theirs" } } });
    let path = server.lease_path("");
    let (status, answer) = server
        .send("POST", path.trim_end_matches('/'), Some(&there))
        .await;
    assert_eq!(status, 201, "{answer}");
    for name in ["there", "made"] {
        let outcome = backend
            .acquire(&lock(name), &candidate("us", 1), LONG)
            .await;
        let Ok(Acquired::Held(grant)) = outcome else {
            panic!("{outcome:?}");
        };
        backend.release(&grant).await.unwrap();
    }
    let made = server.lease("made").await;
    let annotations = &made["metadata"]["annotations"];
    assert_eq!(
        annotations["argocd.argoproj.io/sync-options"],
        "Prune=false"
    );
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "7d9f-11",
    });
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
    let there = server.lease("there").await;
    assert_eq!(
        there["metadata"]["annotations"],
        json!({ "note": "theirs" })
    );
    assert!(there["metadata"]["ownerReferences"].is_null(), "{there}");
}

#[tokio::test]
async fn without_creation_the_object_has_to_be_there() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config().create(false)).await.unwrap();
    let (name, us) = (lock("theirs"), candidate("us", 1));
    let error = backend.acquire(&name, &us, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let checks = backend.checks(&name, LONG).await;
    let object = checks.iter().find(|check| check.name == "object").unwrap();
    assert_eq!(object.verdict, Verdict::Unusable, "{object:?}");
    assert!(
        checks
            .iter()
            .all(|check| check.name != "permission to create")
    );
    let (status, _) = server.send("GET", &server.lease_path("theirs"), None).await;
    assert_eq!(status, 404);

    // What the command in both texts sends.
    for text in [error.message(), &object.reason] {
        let (_, command) = text.split_once("kubectl create -f - <<< '").unwrap();
        let (_, rest) = command.split_once('\'').unwrap();
        assert_eq!(rest, "", "{text}");
    }
    let (_, command) = error.message().split_once("<<< '").unwrap();
    let object = serde_json::from_str(command.trim_end_matches('\'')).unwrap();
    let path = server.lease_path("");
    let (status, answer) = server
        .send("POST", path.trim_end_matches('/'), Some(&object))
        .await;
    assert_eq!(status, 201, "{answer}");
    let outcome = backend.acquire(&name, &us, LONG).await;
    assert!(matches!(outcome, Ok(Acquired::Held(_))), "{outcome:?}");
}
