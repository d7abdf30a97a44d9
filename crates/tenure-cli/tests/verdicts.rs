//! What `tenure doctor` says of a directory or a namespace is what `tenure run` meets there. The
//! tables of the other stores are in their crates.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::process::Output;

#[cfg(all(feature = "kube-lease", feature = "kube-configmap"))]
use serde_json::json;
use support::{Place, stderr, stdout, tenure};
#[cfg(all(feature = "kube-lease", feature = "kube-configmap"))]
use tenure_testkit::kube;

fn call(command: &str, url: &str, more: &[&str]) -> Output {
    let mut tenure = tenure();
    tenure.args([command, "--backend", url, "--lock", "job"]);
    tenure.args(more).output().unwrap()
}

/// Both see the state, and both the same: that elections go on (`None`), or do not, for a reason
/// that both name by this word.
fn agree(state: &str, url: &str, refused: Option<&str>) {
    let doctor = call("doctor", url, &[]);
    // The command does nothing, and nobody else leads.
    let wait = if refused.is_some() { "3s" } else { "60s" };
    let run = call("run", url, &["--wait", wait, "--", "true"]);
    let said = format!("{}{}", stdout(&doctor), stderr(&doctor)).to_lowercase();
    let met = stderr(&run).to_lowercase();
    match refused {
        None => {
            assert_ne!(doctor.status.code(), Some(2), "{state}: {said}");
            assert_eq!(run.status.code(), Some(0), "{state}: {met}");
        }
        Some(word) => {
            assert_eq!(doctor.status.code(), Some(2), "{state}: {said}");
            // A record that cannot be read is waited for: its holder may be alive.
            assert!(matches!(run.status.code(), Some(2 | 69)), "{state}: {met}");
            assert!(said.contains(word), "{state}: no {word:?} in {said}");
            assert!(met.contains(word), "{state}: no {word:?} in {met}");
        }
    }
}

type State = (&'static str, fn(&Place), &'static str, Option<&'static str>);

#[test]
fn a_directory_is_judged_as_the_next_election_finds_it() {
    let record = |place: &Place, name: &str, text: &str| {
        place.make_store();
        fs::create_dir(place.path("store/job")).unwrap();
        fs::write(place.path("store/job").join(name), text).unwrap();
    };
    let states: [State; 7] = [
        ("a directory", |place| place.make_store(), "", None),
        ("none", |_| {}, "?create=false", Some("does not exist")),
        (
            "a file in its place",
            |place| fs::write(place.path("store"), "").unwrap(),
            "",
            Some("no directory"),
        ),
        (
            "a link in the lock's place",
            |place| {
                place.make_store();
                let store = place.path("store");
                std::os::unix::fs::symlink(&store, store.join("job")).unwrap();
            },
            "",
            Some("symbolic link"),
        ),
        (
            "a group that does not exist",
            |place| place.make_store(),
            "?group=no-such-group",
            Some("no-such-group"),
        ),
        (
            "a record of a newer version",
            |_| {},
            "",
            Some("newer version"),
        ),
        ("a record beyond all tokens", |_| {}, "", Some("48 bits")),
    ];
    for (state, prepare, parameters, refused) in states {
        let place = Place::new();
        prepare(&place);
        match state {
            "a record of a newer version" => {
                record(
                    &place,
                    "record-00000000000000000001.json",
                    r#"{"format":9}"#,
                );
            }
            "a record beyond all tokens" => {
                record(&place, "record-09000000000000000000.json", "{}");
            }
            _ => {}
        }
        agree(state, &format!("{}{parameters}", place.url()), refused);
    }
}

#[cfg(all(feature = "kube-lease", feature = "kube-configmap"))]
#[tokio::test]
async fn a_namespace_is_judged_as_the_next_election_finds_it() {
    let Some(server) = kube::Server::start().await else {
        return;
    };
    let admin = std::env::var("TENURE_TEST_KUBECONFIG").unwrap();
    let stranger = std::env::var("TENURE_TEST_KUBECONFIG_STRANGER").unwrap();
    let namespace = server.namespace.clone();
    let url = |namespace: &str, more: &str| format!("kube-lease://{namespace}?kubeconfig={more}");
    agree("all rights", &url(&namespace, &admin), None);
    let states = [
        (
            "no such namespace",
            url("no-such-place", &admin),
            "no-such-place",
        ),
        ("no rights", url(&namespace, &stranger), "leases"),
        (
            "an object that nobody makes",
            url(&namespace, &format!("{admin}&create=false"))
                .replace("kube-lease", "kube-configmap"),
            "kubectl create",
        ),
    ];
    for (state, url, word) in states {
        agree(state, &url, Some(word));
    }
    // Another program's ConfigMap has something else where the record should be.
    let object = json!({
        "metadata": {
            "name": "job",
            "annotations": { "control-plane.alpha.kubernetes.io/leader": "not json" },
        },
    });
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    assert_eq!(server.send("POST", &path, Some(&object)).await.0, 201);
    let configmap = url(&namespace, &admin).replace("kube-lease", "kube-configmap");
    agree("a record that is none", &configmap, Some("cannot be read"));
}
