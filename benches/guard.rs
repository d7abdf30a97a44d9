//! What a check beside a side effect costs, beside the floor: one bare read of the boot clock.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tenure_benches::{is_asked, is_quick, one_thread, ours, record};
use tenure_core::MemoryBackend;

/// So many calls are timed together.
const CALLS: u32 = 10_000;

fn main() {
    if !is_asked() {
        return;
    }
    let backend = Arc::new(MemoryBackend::private());
    let election = ours::election(backend, ours::lock("guard"), &ours::patient());
    let runtime = one_thread();
    let leadership = runtime.block_on(election.campaign()).unwrap();
    // The runtime is not driven meanwhile, so the term is only as long as its first lease.
    let term = leadership.term();
    measure("floor: read the boot clock", || {
        clock_gettime(ClockId::Boottime)
    });
    measure("is_valid", || term.is_valid());
    let at_least = Duration::from_millis(1);
    measure("permit", || term.permit(at_least).is_ok());
    assert!(
        term.is_valid(),
        "the term has to be valid throughout, or another path is measured"
    );
}

/// The median of one call.
fn measure<T>(name: &str, call: impl Fn() -> T) {
    let samples = if is_quick() { 500 } else { 5_000 };
    let mut each: Vec<f64> = (0..samples)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(call());
            }
            start.elapsed().as_secs_f64() / f64::from(CALLS) * 1e9
        })
        .collect();
    each.sort_unstable_by(f64::total_cmp);
    record::figure(
        "a check beside a side effect",
        name,
        each[each.len() / 2],
        "ns",
    );
}
