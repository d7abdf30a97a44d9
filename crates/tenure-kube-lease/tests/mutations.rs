//! Admission webhooks that change what a term depends on: it does not begin, and it is said why.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::config_of;
use tenure_core::{Election, ErrorKind, Identity, LockBackend as _, Verdict};
use tenure_kube_lease::connect;
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::{FaultyApi, Mutation};
use tenure_testkit::kube::mutations::{no_term_begins, without};
use tenure_testkit::{LONG, lock, within_limit};

const STRIPS: Mutation = |lease| without(lease, "tenure/term");
const ALTERS: Mutation = |lease| {
    let annotation = &mut lease["metadata"]["annotations"]["tenure/term"];
    if annotation.is_string() {
        *annotation = json!("redacted");
    }
};
/// Others would take the lock before its holder stops.
const SHORTENS: Mutation = |lease| lease["spec"]["leaseDurationSeconds"] = json!(1);
const REMOVES_THE_LEASE: Mutation = |lease| {
    if let Some(spec) = lease["spec"].as_object_mut() {
        spec.remove("leaseDurationSeconds");
    }
};

#[tokio::test]
async fn no_term_begins_without_what_it_depends_on() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let backend = connect(config_of(&api, &server)).await.unwrap();
    for (mutation, part) in [
        (STRIPS, "the annotation tenure/term"),
        (ALTERS, "redacted"),
        (SHORTENS, "the spec"),
        (REMOVES_THE_LEASE, "the spec"),
    ] {
        no_term_begins(&api, &backend, mutation, part).await;
    }
}

#[tokio::test]
async fn a_campaign_ends_with_the_reason() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let backend = connect(config_of(&api, &server)).await.unwrap();
    api.mutate(STRIPS);
    let election = Election::builder(Arc::new(backend), lock("stripped"))
        .identity(Identity::new("us").unwrap())
        .build()
        .unwrap();
    let outcome = within_limit("an error", election.campaign()).await;
    let error = outcome.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("tenure/term"), "{error}");
    let doctor = connect(config_of(&api, &server)).await.unwrap();
    let checks = doctor.checks(&lock("stripped"), LONG).await;
    let check = checks.iter().find(|check| check.name == "writes").unwrap();
    assert_eq!(check.verdict, Verdict::Unusable, "{check:?}");
    assert!(check.reason.contains("tenure/term"), "{check:?}");
    let lease = server.lease("stripped").await;
    assert_eq!(lease["spec"]["holderIdentity"], "", "{lease}");
}
