//! The searches that are short enough for every run of the tests; the binary does the others.

use tenure_model::{Fault, Invariant, Options, PLANTED, StoreKind, search};

/// A broken rule has to be found within so many states, or it is left to the binary.
const SHORT: usize = 15_000;

/// Time has to pass until it shows that nobody leads.
const SHORT_FOR_REELECTION: usize = 80_000;

#[test]
fn every_state_without_faults_is_well() {
    for store in StoreKind::ALL {
        let options = Options {
            resigns: 0,
            ..Options::new(store, 0)
        };
        let report = search(&options).unwrap();
        assert!(report.found.is_none(), "{store:?}: {report:#?}");
        assert!(report.complete && report.states > 10_000, "{report:?}");
    }
}

#[test]
fn every_state_after_a_crash_is_well() {
    let options = Options {
        resigns: 0,
        may: vec![Fault::Crash],
        ..Options::new(StoreKind::Keys, 1)
    };
    let report = search(&options).unwrap();
    assert!(report.found.is_none() && report.complete, "{report:#?}");
}

/// Nearly all of them are: a search that finds nothing proves nothing.
#[test]
fn broken_rules_are_found() {
    let mut found = Vec::new();
    for planted in PLANTED {
        for &invariant in planted.breaks {
            let options = Options {
                states: match invariant {
                    Invariant::Reelection => SHORT_FOR_REELECTION,
                    _ => SHORT,
                },
                ..Options::planted(planted, invariant)
            };
            let report = search(&options).unwrap();
            if let Some((violation, _)) = report.found {
                assert_eq!(violation.invariant, invariant);
                found.push((planted.name, invariant));
            } else {
                assert!(!report.complete, "{} survives", planted.name);
            }
        }
    }
    for invariant in Invariant::ALL {
        assert!(
            found.iter().any(|(_, broken)| *broken == invariant),
            "no broken rule breaks {invariant}: {found:?}"
        );
    }
    // Those that take more states are listed in docs/contributing/testing.md.
    assert!(found.len() >= 20, "{} found: {found:?}", found.len());
}
