//! The suite on the memory backend: one test per case, and the report of all.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tenure_conformance::{MemoryTarget, Outcome, run_all};

tenure_conformance::suite!(memory, MemoryTarget::new());

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_memory_is_green() {
    let report = run_all("memory", &MemoryTarget::new()).await;
    println!("{report}");
    assert!(report.is_green(), "{report}");
    for (case, outcome) in &report.outcomes {
        if let Outcome::LeftOut(reason) = outcome {
            assert!(
                !reason.is_empty(),
                "{} is left out without a reason",
                case.name
            );
        }
    }
}
