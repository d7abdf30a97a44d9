//! The store by its URL: through a registry in a service, and through the commands of the binary.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tenure::{Registry, Store};
use tenure_example_sqlite::connect;

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-sqlite");

fn url(directory: &Path) -> String {
    format!("sqlite://{}/locks.db", directory.display())
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_service_gets_its_election_from_variables_and_its_tokens_in_the_generation() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new().with(Store::new("sqlite", connect)).unwrap();
    let settings = registry.from_variables(|name| match name {
        "TENURE_BACKEND" => Some(format!("{}?generation=3", url(directory.path())).into()),
        "TENURE_LOCK" => Some("job".into()),
        _ => None,
    });
    let election = settings.unwrap().election().await.unwrap();
    let leadership = election.campaign().await.unwrap();
    assert_eq!(leadership.term().token().generation().get(), 3);
    leadership.resign().await.unwrap();
}

#[test]
fn run_and_status_serve_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let lock = ["--backend", &url, "--lock", "job"];
    // Who only looks makes nothing.
    let output = run(&[&["status"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!directory.path().join("locks.db").exists());

    let leader = [&["run", "--id", "alice"], &lock[..], &["--", BINARY]].concat();
    let output = run(&[&leader[..], &["status", "--json"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let seen: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(seen["leader"], "alice", "{seen}");

    let output = run(&[&["status"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn doctor_tells_what_the_store_checks_and_help_and_version_name_it() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path());
    let made = run(&["run", "--backend", &url, "--lock", "job", "--", "true"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let output = run(&["doctor", "--backend", &url]);
    let text = stdout(&output);
    assert!(text.contains("connected to the store sqlite"), "{output:?}");
    assert!(text.contains("journal"), "{output:?}");
    assert!(stdout(&run(&["version"])).contains("sqlite"));
    assert!(stdout(&run(&["status", "--help"])).contains("sqlite:///directory/locks.db"));
}

#[test]
fn scripts_and_pages_bear_the_name_of_the_binary() {
    let script = stdout(&run(&["completions", "bash"]));
    assert!(script.contains("tenure-sqlite"), "{script}");
    let place = tempfile::tempdir().unwrap();
    let output = run(&["man", place.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for page in ["tenure-sqlite.1", "tenure-sqlite-run.1"] {
        assert!(place.path().join(page).is_file(), "no {page}");
    }
}

#[test]
fn a_wrong_url_is_told_without_the_password() {
    for (url, expected) in [
        ("sqlite://u:hunter2@h/locks.db", "sqlite:///absolute"),
        ("sqlite:///locks.db?colour=hunter2", "colour"),
        ("sqlite:///locks.db?generation=hunter2", "generation"),
        ("other://u:hunter2@h", "sqlite:"),
    ] {
        let output = run(&["status", "--backend", url, "--lock", "job"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text.contains(expected), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{url}: {text}");
    }
}
