//! What a check beside a side effect costs, beside the floor: one bare read of the boot clock.
#![allow(
    missing_docs,
    reason = "criterion's macros generate items without docs"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use tenure_benches::{one_thread, ours, record};
use tenure_core::MemoryBackend;

fn guard(criterion: &mut Criterion) {
    let backend = Arc::new(MemoryBackend::private());
    let election = ours::election(backend, ours::lock("guard"), &ours::patient());
    let runtime = one_thread();
    let leadership = runtime.block_on(election.campaign()).unwrap();
    // The runtime is not driven meanwhile, so the term is only as long as its first lease.
    let term = leadership.term();

    let mut group = criterion.benchmark_group("guard");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    let floor = "floor: read the boot clock";
    run(&mut group, floor, || clock_gettime(ClockId::Boottime));
    run(&mut group, "is_valid", || term.is_valid());
    let at_least = Duration::from_millis(1);
    run(&mut group, "permit", || term.permit(at_least).is_ok());
    group.finish();
    assert!(
        term.is_valid(),
        "the term has to be valid throughout, or another path is measured"
    );
}

/// Lets criterion measure it, and keeps the median for the report.
fn run<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, call: impl Fn() -> T) {
    let mut each = Vec::new();
    group.bench_function(name, |bench| {
        bench.iter_custom(|times| {
            let start = Instant::now();
            for _ in 0..times {
                black_box(call());
            }
            let taken = start.elapsed();
            let times = f64::from(u32::try_from(times).unwrap());
            each.push(taken.as_secs_f64() / times * 1e9);
            taken
        });
    });
    each.sort_unstable_by(f64::total_cmp);
    if let Some(median) = each.get(each.len() / 2) {
        record::figure("a check beside a side effect", name, *median, "ns");
    }
}

criterion_group!(benches, guard);
criterion_main!(benches);
