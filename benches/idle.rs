//! What elections in one process cost when there is nothing to do but heartbeats, on the memory
//! backend: 1, 10, 100, 1,000 and 10,000 of them with a heartbeat each second, and 10,000 at the
//! default policy: share of one core, and resident memory.
//!
//! `TENURE_BENCH_SECONDS` sets how long the 10,000 are measured at the default policy (30 s by
//! default, three heartbeats of each election; 10 s with `TENURE_BENCH_QUICK`).
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure_benches::{is_asked, is_quick, one_thread, record, variable};
use tenure_core::{Election, Identity, Leadership, LockName, MemoryBackend, Policy};

/// Where the cost of one election is looked for as there are more of them.
const SIZES: [u32; 5] = [1, 10, 100, 1_000, 10_000];

/// So long each, at a heartbeat each second.
fn window() -> Duration {
    Duration::from_secs(if is_quick() { 3 } else { 10 })
}

const MOST: u32 = 10_000;

fn main() {
    if !is_asked() {
        return;
    }
    let seconds = variable("TENURE_BENCH_SECONDS").unwrap_or(if is_quick() { 10 } else { 30 });
    one_thread().block_on(async {
        // First, while the process is as small as it was.
        at_the_default_policy(Duration::from_secs(seconds)).await;
        as_they_grow().await;
    });
}

async fn as_they_grow() {
    for size in SIZES {
        let leaderships = lead(size, &Policy::fast()).await;
        let used = cpu_during(window()).await;
        let heartbeats = window().as_secs_f64() / Policy::fast().heartbeat().as_secs_f64();
        let each = used / heartbeats / f64::from(size) * 1e6;
        record::figure("cpu for a heartbeat", &size.to_string(), each, "µs");
        assert!(leaderships.iter().all(|leadership| leadership.is_valid()));
        drop(leaderships);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn at_the_default_policy(duration: Duration) {
    let empty = resident_kib();
    let leaderships = lead(MOST, &Policy::default()).await;
    let start = Instant::now();
    let share = cpu_during(duration).await / start.elapsed().as_secs_f64() * 100.0;
    let resident = resident_kib();
    assert!(leaderships.iter().all(|leadership| leadership.is_valid()));
    let each = f64::from(resident - empty) * 1024.0 / f64::from(MOST);
    let table = "10,000 elections at the default policy";
    record::figure(table, "cpu", share, "% of a core");
    record::figure(
        table,
        "resident memory",
        f64::from(resident) / 1024.0,
        "MiB",
    );
    record::figure(table, "memory of each", each, "bytes");
}

async fn lead(number: u32, policy: &Policy) -> Vec<Leadership> {
    let backend = Arc::new(MemoryBackend::private());
    let identity = Identity::of_this_process().unwrap();
    let mut leaderships = Vec::new();
    for one in 0..number {
        let lock = LockName::new(format!("idle-{one}")).unwrap();
        let election = Election::builder(backend.clone(), lock)
            .identity(identity.clone())
            .policy(policy.clone());
        leaderships.push(election.build().unwrap().campaign().await.unwrap());
        // As in a service that has run for a while, heartbeats do not all fall together.
        tokio::time::sleep(policy.heartbeat() / number / 10).await;
    }
    leaderships
}

/// The seconds of a core that this process uses meanwhile.
async fn cpu_during(duration: Duration) -> f64 {
    let before = cpu_time();
    tokio::time::sleep(duration).await;
    cpu_time().saturating_sub(before).as_secs_f64()
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

fn resident_kib() -> u32 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u32 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * u32::try_from(rustix::param::page_size() / 1024).unwrap()
}
