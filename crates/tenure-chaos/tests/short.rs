//! The fixed set of the test command: a few faults on two stores, and what a broken candidate shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

use std::time::Duration;

use tenure_chaos::candidate::Broken;
use tenure_chaos::fault::Fault;
use tenure_chaos::judge::Minimums;
use tenure_chaos::links::Links;
use tenure_chaos::report::text;
use tenure_chaos::run::{Outcome, Plan, run};
use tenure_sim::invariant::Invariant;

/// A few faults and three candidates.
fn plan(backend: &str, only: &[Fault]) -> Plan {
    Plan {
        faults: only.len(),
        only: only.to_vec(),
        candidates: 3,
        lease: Duration::from_secs(2),
        minimums: Minimums {
            terms: 1,
            led_percent: 0,
            at_leader_percent: 0,
            leaders_killed: 0,
        },
        ..Plan::new(backend, env!("CARGO_BIN_EXE_chaos-candidate").into())
    }
}

async fn outcome(plan: &Plan) -> Option<Outcome> {
    let outcome = run(plan).await.unwrap()?;
    println!("{}", text(plan, &outcome));
    Some(outcome)
}

/// How long nobody leads is judged by the long runs alone: it depends on the machine.
fn assert_safe(outcome: &Outcome) {
    let verdict = &outcome.verdict;
    let mut violations = verdict.violations.iter();
    assert!(violations.all(|violation| violation.invariant == Invariant::Leaderless));
    assert!(verdict.stale_writes.is_empty() && verdict.shortfalls.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_on_a_directory_make_no_second_leader() {
    let faults = [
        Fault::Freeze,
        Fault::Kill,
        Fault::RecordCorrupted,
        Fault::Terminate,
    ];
    let outcome = outcome(&plan("file", &faults)).await.unwrap();
    assert_safe(&outcome);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_on_redis_make_no_second_leader() {
    let faults = [
        Fault::StoreKill,
        Fault::Swallow,
        Fault::Kill,
        Fault::AnswersLost,
    ];
    let Some(outcome) = outcome(&plan("redis", &faults)).await else {
        return;
    };
    assert_safe(&outcome);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_taken_down_makes_no_second_leader() {
    // Where this user may not make a network namespace there is nothing to take down.
    if let Err(error) = Links::make(1) {
        tenure_testkit::environment::left_out(&format!("no link to take down: {error:#}"));
        return;
    }
    let Some(outcome) = outcome(&plan("redis", &[Fault::LinkDown; 2])).await else {
        return;
    };
    assert_safe(&outcome);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_trusts_a_flag_overlaps_with_the_next() {
    let plan = Plan {
        broken: Broken::StaleFlag,
        ..plan("file", &[Fault::Freeze; 3])
    };
    let outcome = outcome(&plan).await.unwrap();
    let mut violations = outcome.verdict.violations.iter();
    assert!(violations.any(|violation| violation.invariant == Invariant::Exclusive));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fence_the_write_of_a_frozen_leader_stands() {
    // A freeze has to outlast the lease and to come between a permit and its write.
    for seed in 1..=20 {
        let plan = Plan {
            fenced: false,
            seed,
            ..plan("file", &[Fault::Freeze; 3])
        };
        if !outcome(&plan)
            .await
            .unwrap()
            .verdict
            .stale_writes
            .is_empty()
        {
            return;
        }
    }
    panic!("no late write stood in 20 runs");
}
