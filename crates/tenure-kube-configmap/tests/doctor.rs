//! What `checks` tells of a `ConfigMap` that others may hold, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use serde_json::json;
use support::Connects as _;
use tenure_core::{LockBackend as _, Policy, Verdict};
use tenure_kube_configmap::{LEADER_ANNOTATION, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::lock;

#[tokio::test]
async fn a_shorter_lease_of_another_program_and_a_broken_record_are_told() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let theirs = |seconds: u64| {
        format!(
            "{{\"holderIdentity\":\"theirs\",\"leaseDurationSeconds\":{seconds},\
             \"acquireTime\":\"2021-12-07T15:38:32Z\",\"renewTime\":\"2021-12-07T15:38:32Z\",\
             \"leaderTransitions\":7}}"
        )
    };
    for (name, record, verdict, told) in [
        ("eight", Some(theirs(8)), Verdict::Warning, "--lease 8s"),
        ("fifteen", Some(theirs(15)), Verdict::Warning, "client-go"),
        ("longer", Some(theirs(60)), Verdict::Fine, "not shorter"),
        (
            "broken",
            Some("leader".to_owned()),
            Verdict::Unusable,
            "stop all programs that use it first",
        ),
        ("empty", None, Verdict::Fine, "nobody holds"),
    ] {
        let mut object = json!({ "metadata": { "name": name } });
        if let Some(record) = record {
            object["metadata"]["annotations"] = json!({ LEADER_ANNOTATION: record });
        }
        let all = server.config_map_path("");
        let (status, made) = server
            .send("POST", all.trim_end_matches('/'), Some(&object))
            .await;
        assert_eq!(status, 201, "{made}");
        let checks = backend.checks(&lock(name), Policy::default().lease()).await;
        let check = checks.iter().find(|check| check.name == "holder's lease");
        let check = check.unwrap_or_else(|| panic!("{checks:?}"));
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(format!("{check:?}").contains(told), "{check:?}");
    }
}
