//! Every backend on its real store, by the URLs of the environment:
//! `eval "$(cargo xtask stores env)"; cargo bench -p tenure-benches --bench stores`.
//!
//! The calls and the hand-overs are criterion's, with its reports in `target/criterion`; failovers
//! and the stores' own counts of requests take their time, whatever criterion would like, and are
//! measured here. A store without a URL is left out, and named.
//!
//! `TENURE_BENCH_PARTS`: only these, of `calls,handovers,failovers,requests`.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod calls;
mod counters;
mod failovers;
mod hand_overs;
mod place;
mod requests;

use std::time::Duration;

use criterion::Criterion;
use tenure_benches::is_quick;
use tokio::runtime::Runtime;

fn main() {
    if failovers::is_leader_to_be_killed() {
        return failovers::lead();
    }
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let places = place::all(directory.path());
    if wants("calls") {
        calls::measure(&mut criterion(), &runtime, &places);
    }
    if wants("handovers") {
        hand_overs::measure(&mut criterion(), &runtime, &places);
    }
    if wants("failovers") {
        failovers::measure(&runtime, &places);
    }
    if wants("requests") {
        requests::measure(&runtime, &places);
    }
}

fn wants(part: &str) -> bool {
    std::env::var("TENURE_BENCH_PARTS")
        .map_or(true, |parts| parts.split(',').any(|wanted| wanted == part))
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

/// On a worker, where an application's tasks are.
fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(runtime.spawn(work)).unwrap()
}
