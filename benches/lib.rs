//! Benchmarks of tenure; run them with `cargo bench -p tenure-benches`, and with all else that is
//! measured by `cargo xtask bench`, which also writes the report.
//!
//! - `guard`: what asking a term costs, beside a bare read of the boot clock.
//! - `heartbeat`: what the engine allocates for a heartbeat, and how often it wakes.
//! - `idle`: what elections cost that have nothing to do but their heartbeats, 1 to 10,000.
//! - `stores`: the calls, hand-overs and failovers of each backend on its real store, and how many
//!   requests the store counts.
//! - `takeover`: how long nobody leads after the leader was killed, with 300 real kills.

#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    reason = "for the benchmarks of this package"
)]

pub mod record;

use std::time::Duration;

/// Whether there is little time: fewer samples, shorter windows. `cargo xtask bench --quick` sets
/// the variable.
pub fn is_quick() -> bool {
    std::env::var_os("TENURE_BENCH_QUICK").is_some()
}

/// The value below which so many percent of the durations are; zero when there are none.
pub fn percentile(taken: &[Duration], percent: usize) -> Duration {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last * percent + 50) / 100)
        .copied()
        .unwrap_or_default()
}

/// Prints a line and keeps it for the report.
pub fn report(table: &str, name: &str, taken: &[Duration]) {
    let [early, median, late] = [10, 50, 90].map(|percent| percentile(taken, percent));
    println!(
        "  {table:<28} {name:<16} p10 {early:>9.2?}  median {median:>9.2?}  p90 {late:>9.2?}  ({} samples)",
        taken.len()
    );
    record::series(table, name, None, taken);
}
