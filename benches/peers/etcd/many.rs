//! Ten thousand elections in one process: what they ask of the server, what they cost here, and
//! what happens when all their leases are gone at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tenure_core::Policy;
use tenure_peers::record::figure;

use crate::election;
use crate::metrics::Metrics;
use crate::support::{Cluster, start};

const ELECTIONS: usize = 10_000;

const TABLE: &str = "10,000 elections in one process";
const LOSS: &str = "All leases of 10,000 elections are revoked";

/// An hour of the default policy, which has one every 10 s; `TENURE_BENCH_HEARTBEATS` for others.
const HEARTBEATS: u32 = 360;

/// Compressed: of the default policy's rhythm only the number counts here.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// So long after a loss all have noticed it.
const SETTLED: Duration = Duration::from_millis(1500);

pub async fn run() {
    let heartbeats = std::env::var("TENURE_BENCH_HEARTBEATS").ok();
    let heartbeats = heartbeats.map_or(HEARTBEATS, |text| text.parse().unwrap());
    let server = start().unwrap();
    let metrics = Metrics::of(&server);
    let backend = server.connect().await;
    let policy = Policy::fast()
        .to_builder()
        .lease(Duration::from_secs(10))
        .heartbeat(HEARTBEAT)
        .build()
        .unwrap();
    let leading = Arc::new(AtomicUsize::new(0));
    let (empty, before) = (memory(), metrics.read());
    let began = Instant::now();
    for number in 0..ELECTIONS {
        let election = election(&backend, &format!("many-{number}"), &policy);
        let leading = leading.clone();
        tokio::spawn(async move {
            loop {
                let leadership = election.campaign().await.unwrap();
                leading.fetch_add(1, Ordering::Relaxed);
                leadership.term().lost().await;
                leading.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }
    all_lead(&leading, ELECTIONS).await;
    let (taken, after) = (began.elapsed(), metrics.read());
    println!("{TABLE}");
    println!(
        "  all lead after {taken:.2?}: {} transactions, {} watches, {} leases, {} open files here",
        after.transactions - before.transactions,
        after.watches - before.watches,
        backend.traffic().leases,
        files(),
    );

    // What grows with the first heartbeats is not counted as growth.
    tokio::time::sleep(HEARTBEAT * 20).await;
    let (early, before, sent, began) = (
        memory(),
        metrics.read(),
        backend.traffic().keepalives,
        Instant::now(),
    );
    tokio::time::sleep(HEARTBEAT * heartbeats / 2).await;
    let half = memory();
    tokio::time::sleep(HEARTBEAT * heartbeats / 2).await;
    let (after, elapsed) = (metrics.read(), began.elapsed());
    let sent = backend.traffic().keepalives - sent;
    assert_eq!(leading.load(Ordering::Relaxed), ELECTIONS);
    let beats = elapsed.as_secs_f64() / HEARTBEAT.as_secs_f64();
    let leases = f64::from(u32::try_from(backend.traffic().leases).unwrap());
    let seen = after.keepalives - before.keepalives;
    let each = |count: u64| f64::from(u32::try_from(count).unwrap()) / beats / leases;
    println!(
        "  over {beats:.0} heartbeats, one every {HEARTBEAT:?} (an hour of the default policy has \
         360):"
    );
    println!(
        "    keepalives: {sent} sent, {seen} seen by the server: {:.3} for each lease and heartbeat",
        each(seen)
    );
    println!(
        "    requests for the keys of a lease: {:.3}; other requests: {}",
        each(after.lease_keys - before.lease_keys),
        after.others() - before.others(),
    );
    let late = memory();
    println!(
        "    memory here: {empty} KiB before, {early} KiB at the begin, {half} KiB at half time, \
         {late} KiB at the end"
    );
    figure(TABLE, "until all lead", taken.as_secs_f64(), "s");
    figure(TABLE, "keepalives per lease and heartbeat", each(seen), "");
    for (name, kib) in [
        ("early", early),
        ("at half time", half),
        ("at the end", late),
    ] {
        let mib = f64::from(u32::try_from(kib).unwrap()) / 1024.0;
        figure(TABLE, &format!("memory {name}"), mib, "MiB");
    }
    for _ in 0..5 {
        lose_all(&server, &metrics, &leading).await;
    }
}

async fn all_lead(leading: &AtomicUsize, number: usize) {
    while leading.load(Ordering::Relaxed) != number {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Revokes all leases, and watches the server until every election leads again.
async fn lose_all(server: &Cluster, metrics: &Metrics, leading: &Arc<AtomicUsize>) {
    let mut client = server.client().await;
    let leases = client.leases().await.unwrap();
    let before = metrics.read();
    let goes_on = Arc::new(AtomicBool::new(true));
    let (going_on, looking) = (goes_on.clone(), metrics.clone());
    let looking = tokio::task::spawn_blocking(move || looking.watch(&going_on));
    let began = Instant::now();
    for lease in leases.leases() {
        client.lease_revoke(lease.id()).await.unwrap();
    }
    // They learn of it with their next heartbeats.
    while leading.load(Ordering::Relaxed) == ELECTIONS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = began.elapsed();
    all_lead_for(leading, SETTLED).await;
    let all = began.elapsed().saturating_sub(SETTLED);
    goes_on.store(false, Ordering::Relaxed);
    let peak = looking.await.unwrap();
    let after = metrics.read();
    println!("  all {} leases are revoked", leases.leases().len());
    println!(
        "    the first term is known to be lost after {first:.1?}, all lead again after {all:.1?}"
    );
    println!(
        "    {} transactions, {} grants, {} watches, {} requests in all; at most {:.0} requests/s in \
         {:?}, and {} under way at a time; memory here: {} KiB",
        after.transactions - before.transactions,
        after.grants - before.grants,
        after.watches - before.watches,
        after.all() - before.all(),
        peak.per_second,
        Metrics::INTERVAL,
        peak.under_way,
        memory(),
    );
    let count = |count: u64| f64::from(u32::try_from(count).unwrap());
    figure(LOSS, "until all lead again", all.as_secs_f64(), "s");
    figure(LOSS, "requests", count(after.all() - before.all()), "");
    figure(LOSS, "requests per second at most", peak.per_second, "");
    figure(
        LOSS,
        "requests under way at most",
        count(peak.under_way),
        "",
    );
}

/// Until all have led for so long: some may not have lost their terms yet.
async fn all_lead_for(leading: &AtomicUsize, long: Duration) {
    let mut since = Instant::now();
    while since.elapsed() < long {
        if leading.load(Ordering::Relaxed) != ELECTIONS {
            since = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Resident, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
