//! Every backend on its real store, by the URLs of the environment:
//! `eval "$(cargo xtask stores env)"; cargo bench -p tenure-benches --bench stores`.
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

use tenure_benches::{contenders, is_asked, wants, workers};

fn main() {
    if contenders::contends() || !is_asked() {
        return;
    }
    let runtime = workers();
    let directory = tempfile::tempdir().unwrap();
    let places = places::all(directory.path());
    if wants("TENURE_BENCH_PARTS", "calls") {
        calls::measure(&runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "handovers") {
        hand_overs::measure(&runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "failovers") {
        failovers::measure(&runtime, &places);
    }
    if wants("TENURE_BENCH_PARTS", "requests") {
        requests::measure(&runtime, &places);
    }
}
