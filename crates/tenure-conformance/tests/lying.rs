//! Whether the suite sees what it is there to see.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tenure_conformance::lying::{self, Honest, Matrix};
use tenure_conformance::{EXPECTED_CASES, Outcome};

/// The part of other processes; does nothing when it is run among the other tests.
#[test]
fn contender() {
    lying::contender();
}

#[test]
fn every_case_finds_a_lie_and_every_lie_is_found() {
    let matrix = lying::judge();
    println!("{matrix}");
    assert_eq!(matrix.blind_cases(), Vec::<&str>::new(), "\n{matrix}");
    assert!(matrix.unseen_lies().is_empty(), "\n{matrix}");
}

/// Runs an honest store through the suite; gives the names of the cases that were left out.
fn left_out_of(kind: Honest) -> Vec<&'static str> {
    let outcomes = Matrix::of_honest(kind);
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
