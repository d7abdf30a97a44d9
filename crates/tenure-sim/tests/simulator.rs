//! A short run of the simulator, its determinism, and what only fencing can stop.
//!
//! The long runs are `cargo run --release -p tenure-sim --bin sim -- --seeds 5000` and
//! `cargo run --release -p tenure-sim --bin mutants`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_sim::history::{Event, Fault};
use tenure_sim::invariant::Invariant;
use tenure_sim::mutants;
use tenure_sim::plan::Plan;
use tenure_sim::run::{run, run_plan};
use tenure_sim::unfenced;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn no_seed_breaks_an_invariant() {
    let next = AtomicU64::new(100_001);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| run_until(&next, 100_101)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run_until(next: &AtomicU64, end: u64) -> Vec<String> {
    let mut failures = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return failures;
        }
        let report = run(seed, 10 * MINUTE, false);
        for violation in &report.violations {
            failures.push(format!("seed {seed}: {violation}\n  {}", report.replay()));
        }
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 1..=12 {
        let first = run(seed, 10 * MINUTE, false);
        let again = run(seed, 10 * MINUTE, false);
        assert_eq!(
            first.history.hash(),
            again.history.hash(),
            "seed {seed} differs from run to run"
        );
        let other = run(seed + 1, 10 * MINUTE, false);
        assert_ne!(first.history.hash(), other.history.hash(), "seed {seed}");
    }
}

#[test]
fn faults_and_takeovers_do_happen() {
    // A simulator in which nothing goes wrong would pass everything.
    let (mut terms, mut maybe, mut beyond) = (0, 0, 0);
    for seed in 1..=10 {
        let report = run(seed, 10 * MINUTE, true);
        terms += report.history.terms.len();
        for (_, event) in &report.history.events {
            match event {
                Event::Sent { fate, .. } if fate.lose_reply => maybe += 1,
                Event::Effect {
                    at_least, after, ..
                } if after > at_least => beyond += 1,
                _ => {}
            }
        }
    }
    assert!(terms > 50, "{terms} terms");
    assert!(maybe > 100, "{maybe} lost replies");
    assert!(beyond > 0, "no effect came later than its permit allows");
}

/// What the invariants are asserted over: each kind of store, and each kind of fault.
#[test]
fn every_kind_of_fleet_and_fault_is_played() {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for seed in 1..=48 {
        let report = run(seed, 10 * MINUTE, false);
        let plan = &report.plan;
        seen.insert(format!("{:?}", plan.family));
        seen.insert(format!("knows {:?}", plan.knowledge));
        if plan.repeats {
            seen.insert("versions repeat".to_owned());
        }
        if plan.tells_of_loss {
            seen.insert("tells of loss".to_owned());
        }
        if let Some((drill, _)) = &report.drill {
            seen.insert(format!("{drill:?}"));
        }
        let moved = report.moved.iter().flat_map(|history| &history.events);
        for (_, event) in report.history.events.iter().chain(moved) {
            let name = match event {
                Event::Fault(Fault::Moves { from, to }) => format!("moves {from:?} {to:?}"),
                Event::Fault(fault) => format!("{fault:?}"),
                event => format!("{event:?}"),
            };
            let word = name.split([' ', '(', '{']).next().unwrap_or_default();
            seen.insert(word.to_owned());
            if let Event::Fault(Fault::Moves { from, to }) = event {
                seen.insert(format!("from {from:?}"));
                seen.insert(format!("to {to:?}"));
            }
        }
    }
    for expected in [
        "Records",
        "Ttl",
        "Session",
        "knows None",
        "knows End",
        "knows Death",
        "versions repeat",
        "tells of loss",
        "Preempted",
        "Shared",
        "Counter",
        "Queue",
        "Wishes",
        "from Session",
        "to Session",
        "Touched",
        "Denied",
        "Stingy",
        "Throttled",
        "Unwell",
        "Deleted",
        "Refused",
        "GaveUp",
        "OverrunTold",
        "Published",
        "MustNotice",
        "GivesBoth",
    ] {
        assert!(seen.contains(expected), "{expected} is missing in {seen:?}");
    }
}

/// Hazard 32: two processes that share their memory up to a moment draw the same numbers after
/// it, unless these come from the operating system.
#[test]
fn clones_that_draw_the_same_numbers_are_caught() {
    let length = 30 * MINUTE;
    let caught = (1..=20).any(|seed| {
        let report = run_plan(Plan::new(seed, length).with_clones(), false);
        let broken = report
            .violations
            .iter()
            .map(|violation| violation.invariant);
        broken
            .into_iter()
            .any(|broken| broken == Invariant::Exclusive)
    });
    assert!(
        caught,
        "no checker has noticed two candidates with one memory"
    );
}

/// The promise without fencing is that at most one process REPORTS leadership. A pause between
/// the check and the effect escapes it: shown here, and that the fenced register stops it.
#[test]
fn a_pause_between_check_and_effect_escapes_every_lock_but_not_the_fence() {
    let shown = unfenced::show();
    assert!(shown.checked, "the old leader was entitled when it asked");
    assert!(shown.successor_led, "the new leader led at the effect");
    assert!(
        shown.old_effect_after_new,
        "without a fence the old leader's write lands over the new one's"
    );
    assert!(
        !shown.accepted_by_fence,
        "the fenced register must refuse the old token"
    );
    assert!(
        !shown.both_valid,
        "even so no two terms were valid at the same moment"
    );
}

#[test]
fn the_mutants_fit_the_code() {
    let mutants = mutants::read().unwrap();
    for mutant in &mutants {
        for edit in &mutant.edits {
            let source = std::fs::read_to_string(mutants::root().join(&edit.file)).unwrap();
            let changed = edit.apply(&source);
            assert!(changed.is_ok(), "mutant {}: {changed:?}", mutant.name);
        }
        assert!(!mutant.edits.is_empty(), "mutant {}", mutant.name);
    }
    assert!(mutants.len() >= 90);
}
