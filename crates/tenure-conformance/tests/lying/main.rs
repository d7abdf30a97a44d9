//! Whether the suite sees what it is there to see: backends that break the contract, each in one
//! way, and honest ones to compare them with.
//!
//! Every case fails on at least one lie, and every lie fails at least one case. Most are one small
//! store in memory, whose calls have await points as on a network, with one step done wrong.
//! `cargo test -p tenure-conformance --test lying -- --nocapture` prints which case finds which lie.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backend;
mod clock;
mod directory;
mod lies;
mod matrix;
mod model;
mod network;
mod observed;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tenure_conformance::{
    Case, EXPECTED_CASES, Hook, Outcome, Proxied, Target, async_trait, contestant_main, run_all,
};
use tenure_core::{Error, LockBackend, LockName};

use directory::DirectoryTarget;
use lies::{Honest, Lie, honest, lying};

/// The part of other processes; does nothing when it is run among the other tests.
#[test]
fn contestant() {
    contestant_main(async || DirectoryTarget::from_environment());
}

#[test]
fn every_case_finds_a_lie_and_every_lie_is_found() {
    let matrix = matrix::judge();
    println!("{matrix}");
    assert_eq!(matrix.blind_cases(), Vec::<&str>::new(), "\n{matrix}");
    assert!(matrix.unseen_lies().is_empty(), "\n{matrix}");
}

/// The cases of the family `sessions` that fail, and all others that do.
async fn failing(target: &dyn Target) -> (Vec<&'static str>, Vec<&'static str>) {
    let report = run_all("sessions", target).await;
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let failed = report
        .outcomes
        .iter()
        .filter(|(_, outcome)| failed(outcome));
    let (inside, outside): (Vec<_>, Vec<_>) =
        failed.partition(|(case, _)| case.family == "sessions");
    let names = |cases: Vec<&(&'static Case, Outcome)>| cases.iter().map(|(c, _)| c.name).collect();
    (names(inside), names(outside))
}

/// As the `GET_LOCK` backend that led twice for 7.2 s and passed the suite that was.
#[tokio::test(start_paused = true)]
async fn a_backend_that_misses_lost_sessions_passes_every_other_case() {
    let (inside, outside) = failing(&*lying(Lie::NoLoss)).await;
    assert_eq!(outside, Vec::<&str>::new());
    assert_eq!(
        inside,
        [
            "a_reset_ends_the_term_before_the_next",
            "a_reset_under_a_renewal_ends_the_term_before_the_next",
            "an_end_of_answers_ends_the_term_before_the_next",
            "a_session_that_the_store_ends_is_told",
            "a_session_that_an_operator_ends_is_told",
            "a_lost_connection_is_told_to_all_its_terms",
        ]
    );
}

/// A target without the hooks of the family `sessions`.
struct Bare(Arc<dyn Target>);

#[async_trait]
impl Target for Bare {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        self.0.connect().await
    }

    fn patience(&self) -> Duration {
        self.0.patience()
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_store_without_the_proxy_hook_fails_and_others_are_left_out() {
    let (inside, outside) = failing(&Bare(honest(Honest::Session))).await;
    assert_eq!(outside, Vec::<&str>::new());
    assert_eq!(
        inside,
        [
            "a_reset_ends_the_term_before_the_next",
            "a_reset_under_a_renewal_ends_the_term_before_the_next",
            "an_end_of_answers_ends_the_term_before_the_next",
            "a_session_that_the_store_ends_is_told",
            "a_lost_connection_is_told_to_all_its_terms",
            "a_cut_off_holder_keeps_the_lock_for_its_lease",
        ]
    );
    let (inside, outside) = failing(&Bare(honest(Honest::Race))).await;
    assert_eq!((inside, outside), (Vec::new(), Vec::new()));
}

/// A hook that hangs ends its case with the hook's name.
struct HangingHook(Arc<dyn Target>);

#[async_trait]
impl Target for HangingHook {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        self.0.connect().await
    }

    async fn delete_lock(&self, _: &LockName) -> Hook {
        std::future::pending().await
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_fails_its_case_by_name() {
    let target = HangingHook(honest(Honest::Race));
    let report = run_all("hanging", &target).await;
    for (case, hook) in [
        ("a_deleted_lock_is_lost", "delete_lock"),
        ("a_reset_ends_the_term_before_the_next", "connect_by_proxy"),
    ] {
        let outcome = report.outcome(case).unwrap().to_string();
        assert!(outcome.starts_with("failed"), "{case}: {outcome}");
        assert!(outcome.contains(hook), "{case}: {outcome}");
        assert!(outcome.contains("not done within"), "{case}: {outcome}");
    }
}

/// A target that says which hooks it cannot have.
struct Strict(Arc<dyn Target>);

#[async_trait]
impl Target for Strict {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        self.0.connect().await
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.0.delete_lock(lock).await
    }

    fn impossible_hooks(&self) -> Option<&[&str]> {
        Some(&["connect_by_proxy", "end_session", "contestant"])
    }
}

#[tokio::test(start_paused = true)]
async fn in_strict_mode_only_the_hooks_that_are_impossible_may_be_missing() {
    let report = run_all("strict", &Strict(honest(Honest::Race))).await;
    let of = |case: &str| report.outcome(case).unwrap().to_string();
    assert_eq!(of("a_deleted_lock_is_lost"), "passed");
    let possible = of("a_write_beside_the_record_costs_no_term");
    assert!(possible.starts_with("failed"), "{possible}");
    assert!(
        possible.contains("`write_beside`; implement it"),
        "{possible}"
    );
    let impossible = of("a_reset_ends_the_term_before_the_next");
    assert!(impossible.starts_with("left out"), "{impossible}");
    assert!(!report.is_green());
}

/// Runs an honest store through the suite; gives the names of the cases that were left out.
fn left_out_of(kind: Honest) -> Vec<&'static str> {
    let outcomes = matrix::on_honest(kind);
    assert_eq!(outcomes.len(), EXPECTED_CASES);
    let mut left_out = Vec::new();
    for (case, outcome) in outcomes {
        match outcome {
            Outcome::Passed => {}
            Outcome::LeftOut(_) => left_out.push(case.name),
            Outcome::Failed(message) => panic!("{kind:?}: {}: {message}", case.name),
        }
    }
    left_out
}

#[test]
fn honest_stores_pass_and_each_case_runs_on_one_of_them() {
    let mut never_run: Vec<_> = left_out_of(Honest::ALL[0]);
    for kind in &Honest::ALL[1..] {
        let left_out = left_out_of(*kind);
        never_run.retain(|case| left_out.contains(case));
    }
    assert!(never_run.is_empty(), "on no honest store: {never_run:?}");
}
