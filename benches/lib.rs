//! What the benchmarks of tenure share: `cargo bench -p tenure-benches` runs those of this package,
//! and `cargo xtask bench` all of them, and writes the report.
//!
//! - `guard`: what asking a term costs, beside a bare read of the boot clock.
//! - `heartbeat`: what the engine allocates for a heartbeat, and how often it wakes.
//! - `idle`: what elections cost that have nothing to do but their heartbeats, 1 to 10,000.
//! - `stores`: the calls, hand-overs and failovers of each backend on its real store, and how many
//!   requests the store counts.
//! - `takeover`: how long nobody leads after the leader was killed, with 300 real kills.
//! - `peers/` and `kubernetes/`: each backend beside bare operations and beside other libraries.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

pub mod beside;
pub mod contenders;
pub mod ours;
pub mod record;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// No term ends by time while something is measured.
pub const LONG: Duration = Duration::from_secs(600);

/// Whether the program is to measure; `cargo test --benches` only builds it.
pub fn is_asked() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether there is little time: fewer samples, shorter windows. `cargo xtask bench --quick` sets
/// the variable.
pub fn is_quick() -> bool {
    std::env::var_os("TENURE_BENCH_QUICK").is_some()
}

/// A number of the environment.
pub fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Whether `part` is among those that the variable names; without it all are.
pub fn wants(name: &str, part: &str) -> bool {
    std::env::var(name).map_or(true, |parts| parts.split(',').any(|wanted| wanted == part))
}

/// Two workers, as for an application whose store shares the machine.
pub fn workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Runs on a worker, where an application's tasks are.
pub fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(runtime.spawn(work)).unwrap()
}

/// One thread, for what is not about several.
pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The value below which so many percent of the durations are; zero when there are none.
pub fn percentile(taken: &[Duration], percent: usize) -> Duration {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    let at = (last * percent + 50) / 100;
    sorted.get(at).copied().unwrap_or_default()
}
