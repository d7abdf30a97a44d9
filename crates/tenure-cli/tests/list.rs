//! `tenure list`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use serde_json::Value;
use support::{Place, stderr, stdout, tenure};

fn names(url: &str, options: &[&str]) -> (Vec<String>, Value) {
    let mut list = tenure();
    list.args(["list", "--json", "--backend", url])
        .args(options);
    let output = list.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let list: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let elections = list["elections"].as_array().unwrap();
    let name = |election: &Value| election["lock"].as_str().unwrap().to_owned();
    (elections.iter().map(name).collect(), list["next"].clone())
}

fn hold(url: &str, lock: &str) -> support::Running {
    let mut run = tenure();
    run.args(["run", "--backend", url, "--lock", lock, "--lease", "30s"]);
    let held = support::Running::start(run.args(["--", "sleep", "1000"]));
    support::until("it is led", || {
        let mut status = tenure();
        let status = status.args(["status", "--backend", url, "--lock", lock]);
        status.output().unwrap().status.code() == Some(0)
    });
    held
}

fn pages_are_told(url: &str, prefix: &str) {
    let locks = ["-a", "-b", "-b.1"].map(|end| format!("{prefix}{end}"));
    let _held = [0, 1, 2].map(|number: usize| hold(url, &locks[number]));
    let options = ["--prefix", prefix, "--limit", "2"];
    let (first, next) = names(url, &options);
    assert_eq!(first, locks[..2]);
    assert_eq!(next, *locks[1]);
    let after = ["--after", &locks[1]];
    let (second, next) = names(url, &[&options[..], &after].concat());
    assert_eq!(second, locks[2..]);
    assert_eq!(next, Value::Null);
    // With no prefix too; others may use the store.
    let (all, _) = names(url, &["--limit", "3", "--after", prefix]);
    assert_eq!(all, locks);
    let (none, _) = names(url, &["--prefix", &format!("{prefix}-c")]);
    assert_eq!(none, [""; 0]);
}

#[test]
fn the_elections_of_a_store_are_told_page_by_page() {
    let place = Place::new();
    place.make_store();
    std::fs::create_dir(place.path("store/no-record")).unwrap();
    std::fs::write(place.path("store/file"), "").unwrap();
    pages_are_told(&place.url(), "job");
    assert_eq!(names(&place.url(), &[]).0.len(), 3);
    let prefix = format!("list-{}", std::process::id());
    if let Ok(url) = std::env::var("TENURE_TEST_ETCD_URL") {
        pages_are_told(&url, &prefix);
    }
    if let Ok(file) = std::env::var("TENURE_TEST_KUBECONFIG") {
        for kind in ["kube-lease", "kube-configmap"] {
            pages_are_told(&format!("{kind}://default?kubeconfig={file}"), &prefix);
        }
    }
}

#[test]
fn a_store_that_cannot_list_says_so() {
    for (variable, why) in [
        ("TENURE_TEST_REDIS_URL", "every key"),
        ("TENURE_TEST_POSTGRES_URL", "numbers only"),
    ] {
        let Ok(url) = std::env::var(variable) else {
            continue;
        };
        let output = tenure().args(["list", "--backend", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = stderr(&output);
        assert!(told.contains("cannot list elections"), "{output:?}");
        assert!(told.contains(why), "{output:?}");
    }
}

#[test]
fn who_may_not_list_is_told_the_right_that_is_missing() {
    let Ok(file) = std::env::var("TENURE_TEST_KUBECONFIG_CANDIDATE") else {
        return;
    };
    for (kind, objects) in [("kube-lease", "leases"), ("kube-configmap", "configmaps")] {
        let url = format!("{kind}://default?kubeconfig={file}");
        let output = tenure().args(["list", "--backend", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = stderr(&output);
        assert!(told.contains("does not hold it"), "{told}");
        assert!(told.contains("--verb=list"), "{told}");
        let nameless = format!("{objects} \"\"");
        assert!(!told.contains(&nameless), "{told}");
    }
}

#[test]
fn a_record_that_cannot_be_read_hides_no_other() {
    let place = Place::new();
    let _held = [hold(&place.url(), "a"), hold(&place.url(), "c")];
    let corrupt = place.path("store/b");
    std::fs::create_dir(&corrupt).unwrap();
    std::fs::write(
        corrupt.join("record-00000999999999999999.json"),
        "no record",
    )
    .unwrap();
    let list = |options: &[&str]| {
        let url = place.url();
        let mut list = tenure();
        list.args(["list", "--backend", &url]).args(options);
        let output = list.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("b: "), "{output:?}");
        stdout(&output)
    };
    let text = list(&[]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains("leads a") && text.contains("leads c"),
        "{text}"
    );
    let all: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let states = all["elections"].as_array().unwrap().iter();
    let states: Vec<&str> = states.map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["led", "unknown", "led"]);
}
