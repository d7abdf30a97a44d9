//! What refuses or delays a write although its verb is granted: a quota, an admission policy and a
//! webhook on an API server of the test's own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Connects as _, config_of};
use tenure_core::{Check, Election, Error, ErrorKind, Identity, LockBackend as _, Policy, Verdict};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::faulty_api::{Answer, FaultyApi, Kind, instead};
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::kube::{Server, webhook};
use tenure_testkit::log::Log;
use tenure_testkit::{LONG, candidate, lock, until, within_limit};

const DENIAL: &str = "leases of this team have an owner";

async fn refusal(backend: &KubeLeaseBackend, name: &str) -> Option<Error> {
    let us = candidate("us", fastrand::u64(1..));
    backend.acquire(&lock(name), &us, LONG).await.err()
}

async fn apply(server: &Server, method: &str, path: &str, object: &Value) {
    let (status, answer) = server.send(method, path, Some(object)).await;
    assert!(matches!(status, 200 | 201), "{status}: {answer}");
}

/// Names with `policy` are refused, with the status 403, 422 or 413.
async fn apply_policy(server: &Server) {
    let root = "/apis/admissionregistration.k8s.io/v1";
    let rule = |name: &str, reason: &str| {
        json!({
            "expression": format!("!object.metadata.name.startsWith('{name}')"),
            "message": DENIAL,
            "reason": reason,
        })
    };
    let policy = json!({
        "metadata": { "name": "test" },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["coordination.k8s.io"],
                "apiVersions": ["v1"],
                "resources": ["leases"],
                "operations": ["CREATE"],
            }] },
            "validations": [
                rule("policy-forbidden", "Forbidden"),
                rule("policy-invalid", "Invalid"),
                rule("policy-large", "RequestEntityTooLarge"),
                {
                    "expression": "!object.metadata.name.startsWith('labelled') || \
                                   (has(object.metadata.labels) && 'team' in object.metadata.labels)",
                    "message": "a lease has a team",
                },
            ],
        },
    });
    let binding = json!({
        "metadata": { "name": "test" },
        "spec": { "policyName": "test", "validationActions": ["Deny"] },
    });
    let path = format!("{root}/validatingadmissionpolicies");
    apply(server, "POST", &path, &policy).await;
    let path = format!("{root}/validatingadmissionpolicybindings");
    apply(server, "POST", &path, &binding).await;
}

/// As its controller would write it, which does not run here.
async fn apply_quota(server: &Server, hard: &str) {
    let path = format!("/api/v1/namespaces/{}/resourcequotas", server.namespace);
    let amounts = json!({ "count/leases.coordination.k8s.io": hard });
    let mut quota = json!({ "metadata": { "name": "test" }, "spec": { "hard": amounts } });
    apply(server, "POST", &path, &quota).await;
    quota["status"] = json!({
        "hard": amounts,
        "used": { "count/leases.coordination.k8s.io": "0" },
    });
    apply(server, "PUT", &format!("{path}/test/status"), &quota).await;
}

/// The server's own words, and nothing of a Role.
fn is_told(text: &str, words: &str) {
    assert!(text.contains(words), "{text}");
    assert!(text.contains("although the verb is granted"), "{text}");
    for other in ["Role", "create role", "credentials", "1 MiB"] {
        assert!(!text.contains(other), "{other}: {text}");
    }
}

async fn check(backend: &KubeLeaseBackend, name: &str, check: &str) -> Check {
    let checks = backend.checks(&lock(name), Duration::from_secs(20)).await;
    let found = checks.iter().find(|found| found.name == check);
    found.unwrap_or_else(|| panic!("{checks:?}")).clone()
}

/// Waits until it counts, which takes the API server a moment, and looks at what is told then.
async fn is_refused(backend: &KubeLeaseBackend, name: &str, words: &str) {
    let mut refused = None;
    until(name, async || {
        refused = refusal(backend, &format!("{name}-{}", fastrand::u32(..))).await;
        refused.is_some()
    })
    .await;
    let error = refused.unwrap();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    is_told(error.message(), words);
    for part in ["object", "writes"] {
        let check = check(backend, name, part).await;
        assert_eq!(check.verdict, Verdict::Unusable, "{check:?}");
        is_told(&check.reason, words);
        assert!(
            !check.remedy.as_deref().unwrap().contains("rbac"),
            "{check:?}"
        );
    }
}

#[tokio::test]
async fn a_policy_a_webhook_and_a_quota_are_told_in_the_servers_own_words() {
    let Some(api) = PrivateApi::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let backend = connect(api.server.config()).await.unwrap();
    apply_policy(&api.server).await;
    for name in ["policy-forbidden", "policy-invalid", "policy-large"] {
        is_refused(&backend, name, DENIAL).await;
    }
    // Doctor's trial write is the candidate's, with its labels.
    is_refused(&backend, "labelled", "a lease has a team").await;
    let labelled = connect(api.server.config().label("team", "ours"))
        .await
        .unwrap();
    for part in ["object", "writes"] {
        let check = check(&labelled, "labelled-ours", part).await;
        assert_ne!(check.verdict, Verdict::Unusable, "{check:?}");
    }
    assert!(refusal(&labelled, "labelled-ours").await.is_none());
    webhook::start(&api.server, folder.path()).await;
    is_refused(&backend, "refused", webhook::REFUSAL).await;
    a_slow_webhook_is_named_and_survived_by_what_is_advised(&backend).await;
    apply_quota(&api.server, "0").await;
    is_refused(&backend, "counted", "exceeded quota: test").await;
}

/// The API server waits for the webhook longer than a candidate waits for the API server.
async fn a_slow_webhook_is_named_and_survived_by_what_is_advised(backend: &KubeLeaseBackend) {
    let election = |request_timeout: Duration| {
        let policy = Policy::builder()
            .lease(Duration::from_secs(60))
            .request_timeout(request_timeout);
        Election::builder(Arc::new(backend.clone()), lock("slow"))
            .identity(Identity::new("us").unwrap())
            .policy(policy.build().unwrap())
            .build()
            .unwrap()
    };
    // The webhook counts for this name too.
    until("the webhook is slow", async || {
        check(backend, "slow", "writes").await.verdict == Verdict::Warning
    })
    .await;
    let check = check(backend, "slow", "writes").await;
    assert!(
        check.reason.contains("an admission webhook may be slow"),
        "{check:?}"
    );
    let remedy = check.remedy.as_deref().unwrap();
    // An option of `tenure run`; it has none for the request timeout, which scales with the lease.
    assert!(
        remedy.contains("--lease") && !remedy.contains("--request"),
        "{check:?}"
    );

    let (log, _guard) = Log::of_this_thread();
    let impatient = election(webhook::THINKS / 2);
    let campaign = tokio::spawn(async move { impatient.campaign().await });
    until("it is said why nobody is elected", async || {
        log.text()
            .contains("the API server answers reads, but did not create")
    })
    .await;
    assert!(log.text().contains("an admission webhook may be slow"));
    assert!(!campaign.is_finished());
    campaign.abort();

    let patient = election(4 * webhook::THINKS);
    let leader = within_limit("a longer request timeout", patient.campaign());
    leader.await.unwrap().resign().await.unwrap();
    assert_eq!(log.text().matches("answers reads").count(), 1);
}

/// What stands between us and the API server says nothing of rights.
#[tokio::test]
async fn a_403_without_reasons_is_compared_with_the_rights() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let backend = connect(config_of(&api, &server)).await.unwrap();
    api.fail(Kind::Get, instead(Answer::Status(403, None)), 1);
    let error = refusal(&backend, "proxied").await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    is_told(error.message(), "(403)");
}
