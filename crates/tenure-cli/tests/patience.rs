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
    for options in [&["--try"] as &[&str], &["--wait", "100ms"]] {
        let output = place.run(options, "echo > never").output().unwrap();
        assert_eq!(output.status.code(), NOT_ELECTED, "{output:?}");
    }
    assert_eq!(place.status()["leader"], "alice");
    leader.signal(Signal::TERM);
    assert_eq!(leader.code(), 143);
    assert!(!place.path("never").exists());
    // Nobody stands in the way of the next one.
    for options in [&["--try"] as &[&str], &["--wait", "100s"]] {
        let output = place.run(options, "exit 7").output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
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
