//! Every backend on its real store, by the URLs of the environment:
//! `eval "$(cargo xtask stores env)"; cargo bench -p tenure-benches --bench stores`.
//!
//! The calls and the hand-overs are criterion's, with its reports in `target/criterion`. Failovers
//! and the stores' own counts of requests take their time, whatever criterion would like, and are
//! measured here.
//!
//! A store without a URL is left out, and named. `TENURE_BENCH_PARTS` chooses among
//! `calls,handovers,failovers,requests`, and `TENURE_BENCH_STORES` among the stores.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod calls;
mod counters;
mod failovers;
mod hand_overs;
mod places;
mod requests;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use tenure_benches::{contenders, is_asked, is_quick, record, wants, workers};

/// More durations of a call than these last ones say nothing new; the first ones warm up.
const KEPT: usize = 2_000;

fn main() {
    if contenders::contends() || !is_asked() {
        return;
    }
    let runtime = workers();
    let directory = tempfile::tempdir().unwrap();
    let places = places::all(directory.path());
    if wants("TENURE_BENCH_PARTS", "calls") {
        calls::measure(&mut criterion(), &runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "handovers") {
        hand_overs::measure(&mut criterion(), &runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "failovers") {
        failovers::measure(&runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "requests") {
        requests::measure(&runtime, &places);
    }
}

fn criterion() -> Criterion {
    let (samples, warm_up, measured) = if is_quick() {
        (10, 200, 600)
    } else {
        (50, 1000, 5000)
    };
    let criterion = if is_quick() {
        // Most of the time would go into the analysis.
        Criterion::default().without_plots().nresamples(2_000)
    } else {
        Criterion::default()
    };
    criterion
        .configure_from_args()
        .sample_size(samples)
        .warm_up_time(Duration::from_millis(warm_up))
        .measurement_time(Duration::from_millis(measured))
}

/// Lets criterion measure one store, and keeps the durations for the report.
fn series(
    group: &mut BenchmarkGroup<'_, WallTime>,
    title: &str,
    store: &str,
    mut take: impl FnMut(u64) -> Vec<Duration>,
) {
    let mut kept: Vec<Duration> = Vec::new();
    group.bench_function(store, |bench| {
        bench.iter_custom(|times| {
            let taken = take(times);
            let sum = taken.iter().sum();
            kept.extend(taken);
            kept.drain(..kept.len().saturating_sub(KEPT));
            sum
        });
    });
    // Nothing when the filter of the command line has left it out.
    if !kept.is_empty() {
        record::series(title, store, &kept);
    }
}
