//! The store by its URL, through the commands of the binary.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::{Command, Output};

use support::{PASSWORD, Server, url};

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-mariadb");

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn text(of: &[u8]) -> &str {
    std::str::from_utf8(of).unwrap()
}

#[test]
fn the_commands_of_the_binary_serve_the_store() {
    let Some(server) = Server::start() else {
        return;
    };
    let url = url(server.address());
    let lock = ["--backend", &url, "--lock", "job"];
    // Who only looks makes nothing.
    let output = run(&[&["status"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("create=off"), "{output:?}");

    let leader = [&["run", "--id", "alice"], &lock[..], &["--", BINARY]].concat();
    let output = run(&[&leader[..], &["status"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("alice"), "{output:?}");

    let output = run(&[&["status"], &lock[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = run(&["doctor", "--backend", &url]);
    let said = text(&output.stdout);
    assert!(said.contains("tokens survive a crash"), "{output:?}");
}

#[test]
fn a_wrong_url_is_told_without_the_password() {
    for (url, expected) in [
        ("mariadb://u:hunter2@h", "mariadb://host:3306/database"),
        ("mariadb://u:hunter2@a,b/locks", "several servers"),
        ("mariadb://u:hunter2@a/locks?colour=x", "colour"),
        ("mariadb://u:hunter2@a/locks?request_timeout=x", "duration"),
    ] {
        let output = run(&["status", "--backend", url, "--lock", "job"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(said.contains(expected), "{url}: {said}");
        assert!(
            !said.contains("hunter2") && !said.contains(PASSWORD),
            "{said}"
        );
    }
}
