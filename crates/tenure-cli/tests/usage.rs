//! What is typed: help, options and environment variables, and bad input.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::Command;

use support::{Place, stderr, stdout, tenure};

/// Stands for a password in every test.
const PASSWORD: &str = "hunter2";

/// A command that fails with one sentence and exit code 2.
fn assert_refused(command: &mut Command, expected: &str) {
    let output = command.output().unwrap();
    // A password in the arguments is warned of as well.
    let all = stderr(&output);
    let lines = all.split_inclusive('\n');
    let complaint: String = lines.filter(|it| !it.contains("every user of")).collect();
    assert_harmless(&all);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stdout(&output), "", "{output:?}");
    assert!(complaint.starts_with("tenure: "), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains(expected), "{expected:?}: {complaint}");
    assert_harmless(&complaint);
}

fn assert_harmless(text: &str) {
    assert!(!text.contains(PASSWORD), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn bad_options_of_run_are_refused_with_what_to_do() {
    let place = Place::new();
    let long = "x".repeat(254);
    for (options, expected) in [
        (&["--id", &long] as &[&str], "at most 253"),
        (&["--id", "two words"], "visible ASCII"),
        (&["--id", "\u{1b}[31m"], "visible ASCII"),
        (&["--id", ""], "is empty"),
        (&["--lease", "0s"], "lease of 0ns is outside"),
        (&["--lease", "0"], "lease"),
        (&["--lease", "soon"], "15s or 500ms"),
        (&["--lease", "-5s"], "15s or 500ms"),
        (&["--lease", "68years"], "outside"),
        (&["--heartbeat", "25s"], "heartbeat of 25s"),
        (&["--lease", "5s", "--heartbeat", "5s"], "heartbeat of 5s"),
        (&["--heartbeat", "0ms"], "heartbeat of 0ns"),
        (&["--stop-grace", "19s"], "stop grace of 19s"),
        (&["--drain-limit", "ever"], "--drain-limit"),
        (&["--drain-limit", "584000000000y"], "longer than 100 years"),
    ] {
        // Options may begin with a dash only when they are joined to their names.
        let joined: Vec<String> = options
            .chunks(2)
            .map(|pair| format!("{}={}", pair[0], pair[1]))
            .collect();
        let mut run = place.tenure("run");
        assert_refused(run.args(&joined).args(["--", "true"]), expected);
    }
    assert!(!place.path("store").exists(), "no input was checked late");
}

#[test]
fn bad_stores_and_locks_are_refused_by_every_command() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    let in_the_way = format!("file://{}", place.path("file").display());
    let below = format!("file://{}", place.path("file/below").display());
    for (url, lock, expected) in [
        ("mysql://u:hunter2@h/d", "job", "\"mysql\" is unknown"),
        ("u:hunter2@h", "job", "memory:, file:"),
        ("hunter2", "job", "scheme"),
        ("", "job", "scheme"),
        ("file://u:hunter2@h/d", "job", "file:///absolute/directory"),
        ("file:relative", "job", "absolute"),
        ("file:///a?generation=x", "job", "generation"),
        (&in_the_way, "job", "use another directory"),
        (&below, "job", "use another directory"),
        ("memory:", "Upper", "\"Upper\" holds 'U'"),
        ("memory:", "", "is empty"),
        ("memory:", "a\u{1b}b", "a-z"),
    ] {
        for command in ["run", "status", "watch"] {
            let mut refused = tenure();
            refused.args([command, "--backend", url, "--lock", lock]);
            if command == "run" {
                refused.args(["--", "true"]);
            }
            assert_refused(&mut refused, expected);
        }
    }
    let mut demo = tenure();
    assert_refused(demo.args(["demo", "--backend", "memory:"]), "memory:");
    let mut demo = tenure();
    let url = "etcd://u:hunter2@h:2379/";
    assert_refused(demo.args(["demo", "--backend", url]), "etcd");
}

#[test]
fn wrong_usage_is_explained_without_passwords() {
    let url = "redis://user:hunter2@host/0";
    for arguments in [
        &["run", "--backend", "memory:", "--lock", "job"] as &[&str],
        &["run", "--backend", "memory:", "--lock", "job", "--"],
        &["run", "--backend", url, "--", "true"],
        &["run", url, "--lock", "job", "--", "true"],
        &["run", "--lock", "job", "--", "true"],
        &["run", "--policy", url, "--", "true"],
        &["status", url],
        &["watch", "\u{1b}[31m"],
        &["unknown", url],
        &[url],
        &[],
    ] {
        let output = tenure().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("--help"), "{output:?}");
        assert_harmless(&stderr(&output));
    }
}

#[test]
fn help_shows_what_there_is_and_no_password() {
    let output = tenure().arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for word in [
        "run",
        "status",
        "watch",
        "bench",
        "demo",
        "Examples:",
        "TENURE_LOG",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(!help.contains("__"), "{help}");
    for command in ["run", "status", "watch", "bench", "demo"] {
        let output = tenure()
            .args([command, "--help"])
            .env("TENURE_BACKEND", "redis://user:hunter2@host")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("TENURE_BACKEND"));
        assert_harmless(&stdout(&output));
    }
    let output = tenure().arg("--version").output().unwrap();
    assert!(stdout(&output).starts_with("tenure "));
}

/// The switches with a variable, and an option that each could be at odds with.
#[test]
fn a_switch_that_its_variable_turns_off_is_off() {
    let place = Place::new();
    for off in ["0", "", "no", "false"] {
        let mut run = place.tenure("run");
        for switch in [
            "TRY",
            "EXIT_ON_LOSS",
            "PASS_BACKEND",
            "ALLOW_UNGUARDED",
            "NO_CGROUP",
            "JSON",
        ] {
            run.env(format!("TENURE_{switch}"), off);
        }
        let script = "echo ${TENURE_BACKEND-none}";
        let output = run
            .args(["--wait", "100s", "--", "sh", "-c", script])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{off:?}: {output:?}");
        assert_eq!(stdout(&output), "none\n", "{off:?}");
    }
    let mut run = place.tenure("run");
    run.env("TENURE_TRY", "1");
    assert_refused(
        run.args(["--wait", "3s", "--", "true"]),
        "exclude each other; give one",
    );
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for arguments in [&["--help"] as &[&str], &["run", "--help"], &["--version"]] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut help = tenure();
        let output = help.args(arguments).stdout(full.unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            stderr(&output).starts_with("tenure: cannot write"),
            "{output:?}"
        );
    }
}

#[test]
fn environment_variables_do_what_options_do() {
    let place = Place::new();
    let output = tenure()
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "echo $TENURE_LOCK $TENURE_IDENTITY",
        ])
        .env("TENURE_BACKEND", place.url())
        .env("TENURE_LOCK", "from-env")
        .env("TENURE_IDENTITY", "eve")
        .env("TENURE_POLICY", "client-go")
        .env("TENURE_LEASE", "10s")
        .env("TENURE_HEARTBEAT", "1s")
        .env("TENURE_STOP_GRACE", "1s")
        .env("TENURE_DRAIN_LIMIT", "1s")
        .env("TENURE_EXIT_ON_LOSS", "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stdout(&output), "from-env eve\n");

    let output = tenure()
        .arg("status")
        .env("TENURE_BACKEND", place.url())
        .env("TENURE_LOCK", "from-env")
        .env("TENURE_JSON", "1")
        .output()
        .unwrap();
    assert!(stdout(&output).starts_with('{'), "{output:?}");

    // Each one is read: a bad one is refused like the option.
    for (variable, value, expected) in [
        ("TENURE_BACKEND", "x:", "unknown"),
        ("TENURE_LOCK", "X", "'X'"),
        ("TENURE_IDENTITY", "a b", "visible ASCII"),
        ("TENURE_LEASE", "0s", "lease of 0ns"),
        ("TENURE_LEASE", "", "TENURE_LEASE \"\" is not a duration"),
        ("TENURE_HEARTBEAT", "1h", "heartbeat of 3600s"),
        ("TENURE_STOP_GRACE", "1h", "stop grace of 3600s"),
        ("TENURE_DRAIN_LIMIT", "x", "--drain-limit"),
    ] {
        let mut run = tenure();
        run.args(["run", "--", "true"])
            .env("TENURE_BACKEND", place.url())
            .env("TENURE_LOCK", "job")
            .env(variable, value);
        assert_refused(&mut run, expected);
    }
    // And an option goes before its variable.
    let mut status = place.tenure("status");
    let output = status.env("TENURE_LOCK", "X").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
