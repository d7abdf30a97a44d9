//! `tenure rbac`: what it prints is applied to a real API server as it stands, and suffices there.
#![cfg(all(feature = "kube-configmap", feature = "kube-lease"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Output;

use support::{stderr, stdout, tenure};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::rights::{USER, apply};
use tenure_testkit::until;

fn rbac(arguments: &[&str]) -> Output {
    tenure().arg("rbac").args(arguments).output().unwrap()
}

#[tokio::test]
async fn what_is_printed_is_enough_to_lead_and_for_that_lock_alone() {
    let Some(server) = Server::start().await else {
        return;
    };
    let kubeconfig = std::env::var("TENURE_TEST_KUBECONFIG_CANDIDATE").unwrap();
    for scheme in ["kube-lease", "kube-configmap"] {
        let place = format!("{scheme}://{}", server.namespace);
        let run = |lock: &str| {
            let url = format!("{place}?kubeconfig={kubeconfig}");
            let mut run = tenure();
            run.args(["run", "--backend", &url, "--lock", lock, "--", "true"]);
            run.output().unwrap()
        };
        let refused = run("job");
        assert!(!refused.status.success(), "{refused:?}");
        assert!(stderr(&refused).contains("the verb \"get\""), "{refused:?}");

        let printed = rbac(&["--backend", &place, "--lock", "job", "--user", USER]);
        assert!(printed.status.success(), "{printed:?}");
        apply(&server, &stdout(&printed)).await;
        // The API server learns of a Role some time after it has been applied. The first run makes
        // the object, the second one takes over what the first has released.
        for _ in 0..2 {
            until("the rights suffice", async || run("job").status.success()).await;
        }
        assert!(!run("other").status.success());
    }
}

#[test]
fn service_accounts_are_meant_unless_a_user_is_named() {
    let place = ["--backend", "kube-lease://team", "--lock", "job"];
    for (option, name) in [
        (&[] as &[&str], "\"default\""),
        (&["--service-account", "worker"], "\"worker\""),
    ] {
        let output = rbac(&[&place as &[&str], option].concat());
        assert!(output.status.success(), "{output:?}");
        let subject = format!("- kind: ServiceAccount\n  name: {name}\n  namespace: team\n");
        assert!(stdout(&output).contains(&subject), "{output:?}");
    }
}

#[test]
fn the_right_to_look_at_pods_comes_with_the_option() {
    for (url, count) in [
        ("kube-lease://team", 0),
        ("kube-lease://team?gone_pods=false", 0),
        ("kube-configmap://team?gone_pods=true", 1),
    ] {
        let output = rbac(&["--backend", url, "--lock", "job"]);
        assert!(output.status.success(), "{output:?}");
        let pods = stdout(&output).matches("resources: [\"pods\"]").count();
        assert_eq!(pods, count, "{output:?}");
    }
}

#[test]
fn bad_input_is_refused_without_asking_anybody() {
    let password = "hunter2";
    for (arguments, expected) in [
        (
            &["--backend", "kube-lease://", "--lock", "job"] as &[&str],
            "in which namespace",
        ),
        (
            &["--backend", "kube-lease://Team", "--lock", "job"],
            "is no name for a namespace",
        ),
        (
            &["--backend", "kube-lease://a?contxt=b", "--lock", "job"],
            "unknown",
        ),
        (
            &["--backend", "kube-lease://a", "--lock", "Two Words"],
            "lock",
        ),
        (&["--backend", "kube-lease://a", "--lock", ""], "lock"),
        (
            &["--backend", "redis://:hunter2@host", "--lock", "job"],
            "only Kubernetes",
        ),
        (
            &["--backend", "file:///tmp", "--lock", "job"],
            "only Kubernetes",
        ),
        (
            &["--backend", "nonsense", "--lock", "job"],
            "only Kubernetes",
        ),
        (&["--backend", "kube-lease://a"], "--lock"),
        (&["--lock", "job"], "--backend"),
        (
            &[
                "--backend",
                "kube-lease://a",
                "--lock",
                "job",
                "--user",
                "a",
                "--service-account",
                "b",
            ],
            "cannot be used with",
        ),
    ] {
        let output = rbac(arguments);
        let complaint = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
        assert!(!complaint.contains(password), "{complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
    }
}
