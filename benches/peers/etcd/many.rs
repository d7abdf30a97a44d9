//! Ten thousand elections in one process: what they ask of the server, what they cost here, and
//! what happens when all their leases are gone at once.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tenure::Policy;
use tenure_benches::record::figure;
use tenure_benches::{ours, variable};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::start;

const ELECTIONS: usize = 10_000;
const TABLE: &str = "10,000 elections in one process";
const LOSS: &str = "All leases of 10,000 elections are revoked";

/// Compressed: of the default policy's rhythm only the number counts here. An hour of it has 360;
/// `TENURE_BENCH_HEARTBEATS` for others.
const HEARTBEAT: Duration = Duration::from_millis(500);
const HEARTBEATS: u64 = 360;

/// So long after a loss all have noticed it.
const SETTLED: Duration = Duration::from_millis(1500);

pub(crate) async fn run() {
    let heartbeats = variable("TENURE_BENCH_HEARTBEATS").unwrap_or(HEARTBEATS);
    let heartbeats = u32::try_from(heartbeats).unwrap();
    let server = start().unwrap();
    let metrics = Metrics::of(&server);
    let mut client = Client::connect([crate::endpoint(&server)], None)
        .await
        .unwrap();
    let backend = ours::connect(&server.url()).await;
    let policy = Policy::fast().to_builder().lease(Duration::from_secs(10));
    let policy = policy.heartbeat(HEARTBEAT).build().unwrap();
    let leading = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    for _ in 0..ELECTIONS {
        let election = ours::election(backend.clone(), ours::lock("many"), &policy);
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
    all_lead_for(&leading, Duration::ZERO).await;
    figure(TABLE, "until all lead", began.elapsed().as_secs_f64(), "s");

    // What grows with the first heartbeats is not counted as growth.
    tokio::time::sleep(HEARTBEAT * 20).await;
    figure(TABLE, "memory early", memory(), "MiB");
    let (before, began) = (metrics.read(), Instant::now());
    tokio::time::sleep(HEARTBEAT * heartbeats).await;
    let (after, elapsed) = (metrics.read(), began.elapsed());
    assert_eq!(leading.load(Ordering::Relaxed), ELECTIONS);
    figure(TABLE, "memory at the end", memory(), "MiB");
    let leases = client.leases().await.unwrap().leases().len();
    let beats = elapsed.as_secs_f64() / HEARTBEAT.as_secs_f64() * count(leases as u64);
    let each = count(after.keepalives - before.keepalives) / beats;
    figure(TABLE, "keepalives per lease and heartbeat", each, "");
    for _ in 0..5 {
        lose_all(&mut client, &metrics, &leading).await;
    }
}

fn count(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Revokes all leases, and watches the server until every election leads again.
async fn lose_all(client: &mut Client, metrics: &Metrics, leading: &Arc<AtomicUsize>) {
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
    all_lead_for(leading, SETTLED).await;
    let all = began.elapsed().saturating_sub(SETTLED);
    goes_on.store(false, Ordering::Relaxed);
    let peak = looking.await.unwrap();
    let requests = metrics.read().all() - before.all();
    figure(LOSS, "until all lead again", all.as_secs_f64(), "s");
    figure(LOSS, "requests", count(requests), "");
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
    while leading.load(Ordering::Relaxed) != ELECTIONS || since.elapsed() < long {
        if leading.load(Ordering::Relaxed) != ELECTIONS {
            since = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Resident, in MiB.
fn memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}
