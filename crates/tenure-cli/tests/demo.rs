//! `tenure demo`, which checks itself; and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use support::{Place, Running, command_line, is_alive, stdout, tenure, until};

fn processes_of(place: &Place) -> Vec<Pid> {
    let directory = place.path("").display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|process| command_line(*process).contains(&directory) && is_alive(*process))
        .collect()
}

fn assert_nothing_is_left(place: &Place) {
    until("all processes are gone", || processes_of(place).is_empty());
    let left: Vec<_> = std::fs::read_dir(place.path("")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn leaders_hand_over_die_and_freeze_and_terms_never_overlap() {
    let place = Place::new();
    // Whatever its caller has set is not for the demo's candidates.
    let output = tenure()
        .arg("demo")
        .env("TMPDIR", place.path(""))
        .env("TENURE_LEASE", "nonsense")
        .env("TENURE_EXIT_ON_LOSS", "1")
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("leads, token").count(), 4, "{text}");
    assert_eq!(text.matches("nobody led for").count(), 3, "{text}");
    assert_eq!(text.matches("  yes\n").count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert_nothing_is_left(&place);
}

#[test]
fn an_interrupted_or_killed_demo_leaves_no_process_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let place = Place::new();
        let mut demo = tenure();
        let demo = demo.arg("demo").env("TMPDIR", place.path(""));
        let mut demo = Running::start(demo.stdout(Stdio::piped()));
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().contains("leads") {}
        assert!(!processes_of(&place).is_empty());
        demo.signal(signal);
        assert_eq!(demo.code(), 128 + signal.as_raw());
        if signal == Signal::KILL {
            // Nobody can remove its directory.
            until("all processes are gone", || processes_of(&place).is_empty());
        } else {
            assert_nothing_is_left(&place);
        }
    }
}

#[test]
fn a_store_of_ones_own_serves_too() {
    let place = Place::new();
    let output = tenure()
        .args(["demo", "--backend", &place.url()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains(&place.url()));
}
