//! A planted password is searched for in all that `tenure` shows: logs at their finest, errors,
//! process titles, and what its command gets. On each store, where it works and where it fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::{Place, Running, command_line, tenure, until};
use tenure_testkit::planted::Planted;

/// Each command that opens a store, beside `run`.
const LOOKS: [&[&str]; 2] = [&["status", "--lock", "job"], &["doctor"]];

/// The longest time that a candidate waits here before it gives up.
const SHORT: &str = "2s";

/// What its command gets: its environment.
const LOOK: &str = "cat /proc/self/environ > environment; echo done > looked; exec sleep 1000";

/// With the URL in the environment, as the documentation says, and everything logged.
fn on(url: &str, arguments: &[&str]) -> Command {
    let mut command = tenure();
    command
        .args(arguments)
        .env("TENURE_BACKEND", url)
        .env("TENURE_LOG", "trace");
    command
}

#[track_caller]
fn assert_hidden(store: &Planted, what: &str, place: &str, text: &str) {
    let name = store.name;
    assert_eq!(store.find_in(text), None, "{name}, {what}: in {place}");
}

fn a_failure_hides_it(store: &Planted, what: &str, url: &str) {
    let run = ["run", "--lock", "job", "--wait", SHORT, "--", "true"];
    for arguments in LOOKS.into_iter().chain([&run[..]]) {
        let output = on(url, arguments).output().unwrap();
        let name = arguments[0];
        assert_ne!(output.status.code(), Some(0), "{what}: {name}: {output:?}");
        for (place, bytes) in [("errors", &output.stderr), ("output", &output.stdout)] {
            let text = String::from_utf8_lossy(bytes);
            assert_hidden(store, what, &format!("{place} of {name}"), &text);
        }
    }
}

/// The store serves, and where it can be killed then fails under a leader.
fn a_term_hides_it(mut store: Planted) {
    let place = Place::new();
    let log = fs::File::create(place.path("log")).unwrap();
    let arguments = ["run", "--policy", "fast", "--exit-on-loss"];
    let mut run = on(&store.right, &arguments);
    run.args(["--lock", &format!("job-{}", std::process::id())])
        .args(["--", "sh", "-c", LOOK])
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(log);
    let mut run = Running::start(&mut run);
    until("its command has looked", || place.path("looked").exists());
    for process in [run.pid(), run.guard(), run.subreaper()] {
        let title = command_line(process);
        assert!(title.contains("tenure"), "{title}");
        assert_hidden(&store, "a term", "a process title", &title);
    }
    if store.is_private() {
        store.kill();
    } else {
        run.signal(Signal::TERM);
    }
    run.code();
    for file in ["environment", "log"] {
        let bytes = fs::read(place.path(file)).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "\n");
        assert!(
            text.contains("TENURE_") || text.contains("tenure"),
            "{text}"
        );
        assert_hidden(&store, "a term", file, &text);
    }
}

fn all_hides_it(store: Planted) {
    for (what, url) in &store.fails {
        a_failure_hides_it(&store, what, url);
    }
    a_term_hides_it(store);
}

#[test]
fn a_planted_password_of_redis_is_nowhere() {
    if let Some(store) = Planted::redis() {
        all_hides_it(store);
    }
}

#[test]
fn a_planted_password_of_etcd_is_nowhere() {
    if let Some(store) = Planted::etcd() {
        all_hides_it(store);
    }
}

#[test]
fn a_planted_password_of_postgres_is_nowhere() {
    if let Some(store) = Planted::postgres() {
        all_hides_it(store);
    }
}

#[test]
fn planted_tokens_of_kubernetes_are_nowhere() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for name in ["kube-lease", "kube-configmap"] {
        let place = Place::new();
        if let Some(store) = runtime.block_on(Planted::kubernetes(name, &place.path(""))) {
            all_hides_it(store);
        }
    }
}
