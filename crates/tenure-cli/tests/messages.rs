//! Who gets the store's URL, and what `tenure run` says when it is started in a wrong way.

mod support;

use rustix::process::Signal;
use support::{ENDLESS, Place, Running, stderr, until};

#[test]
fn only_tenure_itself_gets_the_stores_url() {
    let place = Place::new();
    let start = |options: &[&str]| {
        let mut run = support::tenure();
        run.args(["run", "--lock", "job"]).args(options);
        run.args([
            "--",
            "sh",
            "-c",
            "echo \"${TENURE_BACKEND-none}\" > got; exec sleep 1000",
        ]);
        run.env("TENURE_BACKEND", place.url())
            .current_dir(place.path(""));
        Running::start(&mut run)
    };
    let mut run = start(&[]);
    assert_eq!(place.line("got"), "none");
    for helper in [run.guard(), run.subreaper()] {
        let environment = std::fs::read(format!("/proc/{helper}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(!environment.contains("TENURE_BACKEND"), "{environment}");
    }
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 143);
    std::fs::remove_file(place.path("got")).unwrap();
    let _run = start(&["--pass-backend"]);
    assert_eq!(place.line("got"), place.url());
}

#[test]
fn the_stores_url_can_come_from_a_file_that_others_may_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::write(place.path("url"), format!("{}\n", place.url())).unwrap();
    let run = || {
        let mut run = support::tenure();
        run.args([
            "run",
            "--lock",
            "job",
            "--backend-file",
            "url",
            "--",
            "true",
        ]);
        run.current_dir(place.path("")).output().unwrap()
    };
    for mode in [0o644, 0o602, 0o660] {
        std::fs::set_permissions(place.path("url"), PermissionsExt::from_mode(mode)).unwrap();
        let output = run();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("chmod g-w,o="), "{output:?}");
    }
    std::fs::set_permissions(place.path("url"), PermissionsExt::from_mode(0o640)).unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stderr(&output), "");
    // As an editor of Windows writes it.
    std::fs::write(place.path("url"), format!("\u{feff}{}\r\n", place.url())).unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Nobody ever writes to this one.
    std::fs::remove_file(place.path("url")).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("url"), mode).unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("no regular file"), "{output:?}");
}

/// Before the store is asked, which may not even be there.
#[test]
fn a_password_that_others_see_is_warned_of_by_every_command() {
    let told = |arguments: &[&str]| {
        let url = "redis:u:hunter2@127.0.0.1:1";
        let mut command = support::tenure();
        command.args(arguments).args(["--backend", url]);
        if arguments[0] == "run" {
            command.args(["--", "true"]);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        // `doctor` tells what it has found.
        let told = format!("{}{}", stderr(&output), support::stdout(&output));
        assert!(!told.contains("hunter2"), "{output:?}");
        told
    };
    for arguments in [
        &["run", "--lock", "job"] as &[&str],
        &["status", "--lock", "job"],
        &["watch", "--lock", "job"],
        &["step-down", "--lock", "job"],
        &["list"],
        &["doctor"],
        &["bench", "--yes"],
        &["demo"],
    ] {
        let told = told(arguments);
        let warning = "every user of this host can see the password";
        assert_eq!(told.matches(warning).count(), 1, "{arguments:?}: {told}");
        // The advice on the URL is whole.
        if arguments != ["demo"] {
            assert!(told.contains("host, host:port or [v6]:port"), "{told}");
        }
    }
}

#[test]
fn a_candidate_that_waits_says_so_once_without_a_terminal() {
    let place = Place::new();
    let leader = place.start(&["--id", "alice", "--lease", ENDLESS], "exec sleep 1000");
    place.until_led_by("alice");
    let log = std::fs::File::create(place.path("log")).unwrap();
    let mut run = Running::start(place.run(&["--id", "bob"], "exit 3").stderr(log));
    until("it says that it waits", || {
        place.read("log").contains("alice leads")
    });
    leader.signal(Signal::TERM);
    assert_eq!(run.code(), 3);
    let log = place.read("log");
    // What a test beside this one has killed is told too.
    let own = log.lines().filter(|line| !line.contains("left behind"));
    assert_eq!(own.count(), 1, "{log}");
}

#[test]
fn a_command_that_would_wait_for_itself_is_refused() {
    let place = Place::new();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let inner = format!(
        "'{tenure}' run --lock job --backend '{}' -- true",
        place.url()
    );
    let output = place.run(&["--id", "alice"], &inner).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("wait for itself"), "{output:?}");
    // Another lock is another matter.
    let inner = inner.replace("--lock job", "--lock other");
    let output = place.run(&["--id", "alice"], &inner).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn scripts_that_cannot_run_are_told_apart() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    for (text, code, expected) in [
        ("#!/bin/sh\r\necho\r\n", 127, "Windows line ends"),
        ("#!/no/such/shell\n", 127, "/no/such/shell"),
    ] {
        std::fs::write(place.path("script"), text).unwrap();
        std::fs::set_permissions(place.path("script"), PermissionsExt::from_mode(0o755)).unwrap();
        let mut run = place.tenure("run");
        let output = run.args(["--", "./script"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(expected), "{output:?}");
    }
    let mut run = place.tenure("run");
    let output = run.arg("./script").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("Put -- before the command"),
        "{output:?}"
    );
}
