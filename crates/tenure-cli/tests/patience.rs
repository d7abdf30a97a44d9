//! `tenure run --try`, `--wait` and `--hold-for`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use rustix::process::Signal;
use support::{ENDLESS, Place, until};

/// What no other end of `tenure run` gives.
const NOT_ELECTED: Option<i32> = Some(69);

#[test]
fn whoever_does_not_wait_gives_up_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut leader = place.start(&["--id", "alice", "--lease", ENDLESS], "exec sleep 1000");
    place.until_led_by("alice");
    for options in [
        &["--try"] as &[&str],
        &["--wait", "100ms"],
        &["--wait", "0s"],
    ] {
        let output = place.run(options, "echo > never").output().unwrap();
        assert_eq!(output.status.code(), NOT_ELECTED, "{output:?}");
    }
    assert_eq!(place.status()["leader"], "alice");
    leader.signal(Signal::TERM);
    assert_eq!(leader.code(), 143);
    assert!(!place.path("never").exists());
    // Nobody stands in the way of the next one.
    for options in [
        &["--try"] as &[&str],
        &["--wait", "100s"],
        &["--wait", "0s"],
    ] {
        let output = place.run(options, "exit 7").output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
}

/// Then the command has run, and "not elected" would say that it has not.
#[test]
fn whoever_does_not_wait_and_loses_its_term_says_that_it_was_lost() {
    let place = Place::new();
    let options = ["--id", "alice", "--policy", "fast", "--try"];
    let mut run = place.start(
        &options,
        "trap 'sleep 0.2' TERM; echo > works; sleep 1000 & wait",
    );
    place.line("works");
    // Others can be elected while its command is told to stop.
    let other = support::tenure()
        .args(["run", "--id", "bob", "--lock", "job", "--backend"])
        .arg(format!("file://{}", place.path("other").display()))
        .args(["--lease", ENDLESS, "--", "sleep", "1000"])
        .spawn();
    let _other = support::Running(other.unwrap());
    until("the other store is led", || {
        place.path("other/job").exists()
    });
    until("the lock is the other's", || {
        std::fs::read_dir(place.path("other/job")).unwrap().count() > 2
    });
    std::fs::rename(place.path("store/job"), place.path("away")).unwrap();
    std::fs::rename(place.path("other/job"), place.path("store/job")).unwrap();
    assert_eq!(run.code(), 75);
}

#[test]
fn the_lock_is_held_after_the_command_has_exited() {
    let place = Place::new();
    let options = ["--id", "alice", "--policy", "fast", "--hold-for"];
    let script = "echo > done; exit 3";
    // For longer than a lease: it is renewed.
    let mut run = place.start(&[&options[..], &["4s"]].concat(), script);
    place.line("done");
    let mut beats = 0;
    let mut before = None;
    until("it renews without a command", || {
        let now = place.status()["expires_in_ms"].as_u64();
        beats += u32::from(now > before);
        before = now;
        beats >= 3 || run.0.try_wait().unwrap().is_some()
    });
    assert!(beats >= 3);
    assert_eq!(run.code(), 3);
    place.assert_free();
    // A signal ends that at once.
    std::fs::remove_file(place.path("done")).unwrap();
    let mut run = place.start(&[&options[..], &["1h"]].concat(), script);
    place.line("done");
    run.signal(Signal::TERM);
    run.code();
    place.assert_free();
}
