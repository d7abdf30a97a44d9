//! Another program that writes an annotation of the lock's object hundreds of times a second. The
//! term goes on, nobody else takes over, and the calls to the API server have a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::json;
use tenure_core::{Election, Identity, LockBackend, Observation, Observer, Policy};

use super::faulty_api::{FaultyApi, Kind};
use super::server::Server;
use crate::memory::Memory;
use crate::terms::lock;
use crate::wait::{until, within_limit};

/// The lock.
pub const LOCK: &str = "flooded";

/// So many clients write at a time.
const WRITERS: usize = 6;

/// So many writes are seen through.
const WRITES: u64 = 600;

/// The most calls that a leader, a waiting candidate and an onlooker may send for each second.
/// Between two attempts of the policy below lies a second, and an attempt may read and write the
/// object again where others were quicker.
const MOST_CALLS: usize = 60;

/// Memory of the whole process, the writers and proxies in it too.
const MOST_KIB: u64 = 64 * 1024;

async fn write(client: kube::Client, path: String, written: Arc<AtomicU64>) {
    for number in 0_u64.. {
        let note = json!({ "metadata": { "annotations": { "theirs": number.to_string() } } });
        let request = http::Request::patch(&path)
            .header("Content-Type", "application/merge-patch+json")
            .body(Body::from(note.to_string().into_bytes()))
            .unwrap();
        let Ok(response) = client.send(request).await else {
            continue;
        };
        let is_written = response.status() == 200;
        let _read = response.into_body().collect().await;
        written.fetch_add(u64::from(is_written), Ordering::Relaxed);
    }
}

/// The object of [`LOCK`] is at `path`. `connect` makes a backend behind a proxy.
pub async fn a_flood_of_foreign_writes_costs_nothing<B: LockBackend>(
    server: &Server,
    path: &str,
    connect: impl AsyncFn(&FaultyApi) -> B,
) {
    let policy = Policy::builder()
        .lease(Duration::from_secs(20))
        .heartbeat(Duration::from_secs(2))
        .retry_interval(Duration::from_secs(1));
    let policy = policy.build().unwrap();
    let mut apis = Vec::new();
    let mut backends = Vec::new();
    for _ in 0..3 {
        let api = FaultyApi::start(server).await;
        backends.push(Arc::new(connect(&api).await));
        apis.push(api);
    }
    let election = |number: usize, identity: &str| {
        Election::builder(backends[number].clone(), lock(LOCK))
            .identity(Identity::new(identity).unwrap())
            .policy(policy.clone())
            .build()
            .unwrap()
    };
    let leader = within_limit("the election", election(0, "leader").campaign()).await;
    let leader = leader.unwrap();
    let waiting = election(1, "waiting");
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    let onlooker = Observer::new(backends[2].clone(), lock(LOCK), policy.clone());
    let looking = tokio::spawn(leaders(onlooker));
    until("both watch", async || {
        apis[1..]
            .iter()
            .all(|api| !api.seen(Kind::Watch).is_empty())
    })
    .await;

    let written = Arc::new(AtomicU64::new(0));
    let client = server.client().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| tokio::spawn(write(client.clone(), path.to_owned(), written.clone())))
        .collect();
    let memory = Memory::watch();
    let (start, before) = (
        Instant::now(),
        apis.iter().map(FaultyApi::count).collect::<Vec<_>>(),
    );
    let renewals = || apis[0].seen(Kind::Put).len();
    let (first, token) = (renewals(), leader.token());
    until("it is flooded", async || {
        written.load(Ordering::Relaxed) >= WRITES && renewals() >= first + 3
    })
    .await;
    let took = start.elapsed();
    assert!(
        leader.is_valid() && !leader.is_cancelled(),
        "{:?}",
        leader.cause()
    );
    assert_eq!(leader.token(), token);
    assert!(!campaign.is_finished(), "it leads beside the leader");
    println!(
        "{} foreign writes in {took:.1?}, {} KiB",
        written.load(Ordering::Relaxed),
        memory.grown()
    );
    few_calls(&apis, &before, took);
    assert!(memory.grown() < MOST_KIB, "{} KiB", memory.grown());

    // On a machine too busy no release and no acquire may get between the writes.
    let given_back = leader.resign().await;
    if let Err(error) = &given_back {
        println!("not given back in the flood: {error}");
        writers.iter().for_each(tokio::task::JoinHandle::abort);
    }
    let next = within_limit("the hand-over", campaign)
        .await
        .unwrap()
        .unwrap();
    assert!(next.token() > token);
    assert!(
        given_back.is_err() || writers.iter().all(|writer| !writer.is_finished()),
        "all the time"
    );
    let leaders = within_limit("the onlooker", looking).await.unwrap();
    assert!(
        leaders
            .iter()
            .all(|led| led == "leader" || led == "waiting"),
        "{leaders:?}"
    );
    for writer in writers {
        writer.abort();
    }
    next.resign().await.unwrap();
}

/// Whom an onlooker sees leading, up to the one that waits.
async fn leaders(onlooker: Observer) -> Vec<String> {
    let mut seen = onlooker.watch();
    let mut leaders = Vec::new();
    while leaders.last().is_none_or(|last| last != "waiting") {
        if let Some(Observation::Led { identity, .. }) = seen.next().await {
            leaders.push(identity);
        }
    }
    leaders
}

/// Counts the calls since `before`.
fn few_calls(apis: &[FaultyApi], before: &[usize], took: Duration) {
    for ((api, before), who) in apis
        .iter()
        .zip(before)
        .zip(["leader", "waiting", "onlooker"])
    {
        let calls = api.count() - before;
        println!("| {who} | {calls} calls |");
        let seconds = usize::try_from(took.as_secs() + 1).unwrap();
        let most = MOST_CALLS * seconds;
        assert!(calls <= most, "{who}: {calls} calls in {took:.1?}");
    }
}
