//! What 10,000 elections in one process cost when there is nothing to do but heartbeats, on the
//! memory backend at the default policy: share of one core, and resident memory.
//!
//! Not a criterion bench, since it is about minutes of doing nothing. `TENURE_BENCH_SECONDS` sets
//! how long is measured (30 s by default, three heartbeats of each election).
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure_core::{Election, Identity, LockName, MemoryBackend, Policy};

const ELECTIONS: u32 = 10_000;

fn main() {
    let seconds = std::env::var("TENURE_BENCH_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(30);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(Duration::from_secs(seconds)));
}

async fn measure(duration: Duration) {
    let empty = resident_kib();
    let backend = Arc::new(MemoryBackend::private());
    let identity = Identity::of_this_process();
    let mut leaderships = Vec::new();
    let heartbeat = Policy::default().heartbeat();
    for number in 0..ELECTIONS {
        let lock = LockName::new(format!("idle-{number}")).unwrap();
        let election = Election::builder(backend.clone(), lock).identity(identity.clone());
        leaderships.push(election.build().unwrap().campaign().await.unwrap());
        // As in a service that has run for a while, heartbeats do not all fall together.
        tokio::time::sleep(heartbeat / ELECTIONS / 10).await;
    }
    let (cpu, start) = (cpu_time(), Instant::now());
    tokio::time::sleep(duration).await;
    let used = cpu_time().as_secs_f64() - cpu.as_secs_f64();
    let share = used / start.elapsed().as_secs_f64() * 100.0;
    let resident = resident_kib();
    assert!(leaderships.iter().all(|leadership| leadership.is_valid()));
    println!("{ELECTIONS} elections, {duration:?} at the default policy, memory backend");
    println!("  cpu       {share:.2} % of one core");
    println!(
        "  resident  {:.1} MiB (process without elections: {:.1} MiB)",
        mib(resident),
        mib(empty)
    );
    println!(
        "  each      {:.0} bytes",
        f64::from(resident - empty) * 1024.0 / f64::from(ELECTIONS)
    );
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

fn mib(kib: u32) -> f64 {
    f64::from(kib) / 1024.0
}
