//! The judge on histories by hand.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::format_collect, reason = "histories of a few lines")]

use std::time::Duration;

use tenure_chaos::history::parse;
use tenure_chaos::judge::{Minimums, Rules, Verdict, judge};
use tenure_sim::invariant::Invariant;

const RULES: fn() -> Rules = || Rules {
    faults: Vec::new(),
    formula: Duration::from_secs(5),
    lease: Duration::from_secs(3),
    forgetting: Vec::new(),
    minimums: Minimums {
        terms: 0,
        led_percent: 0,
        at_leader_percent: 0,
        leaders_killed: 0,
    },
};

/// Milliseconds in the place of nanoseconds.
fn verdict(lines: &[&str]) -> Verdict {
    let text: String = lines
        .iter()
        .map(|line| {
            let (at, rest) = line.split_once(' ').unwrap();
            let rest = match rest.split_once(" until ") {
                Some((before, until)) => format!("{before} {until}000000"),
                None => rest.to_owned(),
            };
            format!("{at}000000 {rest}\n")
        })
        .collect();
    judge(&parse(&text).unwrap(), &RULES()).unwrap()
}

#[track_caller]
fn broken(verdict: &Verdict) -> Vec<Invariant> {
    let violations = verdict.violations.iter();
    let mut all: Vec<_> = violations.map(|violation| violation.invariant).collect();
    all.dedup();
    all
}

const TWO: [&str; 4] = [
    "0 1 starts 0 0 3000",
    "0 2 starts 0 1 3000",
    "1 1 campaigns 0 ",
    "1 2 campaigns 0 ",
];

fn with(lines: &[&'static str]) -> Verdict {
    verdict(&[&TWO, lines].concat())
}

#[test]
fn one_term_after_the_other_is_fine() {
    let verdict = with(&[
        "10 1 elected 5 until 3000",
        "10 1 works 5 ",
        "90 1 valid 5 until 3000",
        "91 1 stops 5 asked",
        "92 1 released 5 ok",
        "93 2 elected 6 until 3090",
        "93 2 works 6 ",
        "99 2 valid 6 until 3090",
        "100 2 stops 6 asked",
        "101 2 released 6 ok",
        "101 0 over 0 ",
    ]);
    assert!(verdict.is_green(), "{verdict:?}");
    assert_eq!(verdict.terms, 2);
}

#[test]
fn a_frozen_process_believes_in_its_term_until_its_clock_ends_it() {
    let lines = [
        "10 1 elected 5 until 3000",
        "20 1 frozen 0 ",
        "2000 2 elected 6 until 5000",
        "2500 2 valid 6 until 5000",
        "6000 1 thawed 0 ",
        "6001 0 over 0 ",
    ];
    assert_eq!(broken(&with(&lines)), [Invariant::Exclusive]);
    let mut late = lines;
    late[2] = "3001 2 elected 6 until 6000";
    late[3] = "3500 2 valid 6 until 6000";
    assert!(with(&late).violations.is_empty());
}

#[test]
fn a_token_that_does_not_rise_is_broken() {
    let lines = |second: &'static str| {
        with(&[
            "10 1 elected 5 until 3000",
            "90 1 valid 5 until 3000",
            "95 2 campaigns 0 ",
            second,
            "110 0 over 0 ",
        ])
    };
    assert!(broken(&lines("100 2 elected 6 until 3090")).is_empty());
    assert_eq!(
        broken(&lines("100 2 elected 4 until 3090")),
        [Invariant::Tokens]
    );
    assert_eq!(
        broken(&lines("100 2 elected 5 until 3090")),
        [Invariant::Tokens]
    );
}

#[test]
fn a_start_without_its_stop_is_broken() {
    let verdict = with(&[
        "10 1 elected 5 until 3000",
        "11 1 works 5 ",
        "12 1 released 5 ok",
        "12 0 over 0 ",
    ]);
    let expected = [Invariant::ReleaseAfterWork, Invariant::StartStop];
    assert_eq!(broken(&verdict), expected);
}

#[test]
fn a_time_without_a_leader_beyond_the_formula_is_broken() {
    let lines = |at: &'static str| {
        with(&[
            "10 1 elected 5 until 3000",
            "20 1 valid 5 until 3000",
            "21 1 killed 0 ",
            at,
            "9000 0 over 0 ",
        ])
    };
    assert_eq!(
        broken(&lines("5500 2 elected 6 until 8500")),
        [Invariant::Leaderless]
    );
}

#[test]
fn a_write_below_what_the_register_has_seen_is_stale() {
    let verdict = with(&["10 1 took 5 0", "11 2 took 6 5", "12 1 took 5 6"]);
    assert_eq!(verdict.stale_writes.len(), 1);
}
