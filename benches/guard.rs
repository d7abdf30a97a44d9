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
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use tenure_core::{Election, LockName, MemoryBackend};

fn guard(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let backend = Arc::new(MemoryBackend::private());
    let election = Election::builder(backend, LockName::new("bench").unwrap())
        .build()
        .unwrap();
    let leadership = runtime.block_on(election.campaign()).unwrap();
    // The runtime is not driven meanwhile, so the term is only as long as its first lease:
    // criterion's warm-up and samples together stay below it, checked at the end.
    let term = leadership.term();

    let mut group = criterion.benchmark_group("guard");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    group.bench_function("floor: read the boot clock", |bench| {
        bench.iter(|| black_box(clock_gettime(ClockId::Boottime)));
    });
    group.bench_function("is_valid", |bench| {
        bench.iter(|| black_box(term.is_valid()));
    });
    group.bench_function("permit", |bench| {
        bench.iter(|| black_box(term.permit(Duration::from_millis(1)).is_ok()));
    });
    group.finish();
    assert!(
        term.is_valid(),
        "the term has to be valid throughout, or another path is measured"
    );
}

criterion_group!(benches, guard);
criterion_main!(benches);
