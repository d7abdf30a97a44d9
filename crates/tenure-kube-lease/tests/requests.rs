//! How many requests an election costs, by the API server's own count. The count is of all Leases,
//! so the server is the test's own: on a shared one the elections of other tests are counted too.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::{Election, Identity, Policy};
use tenure_kube_lease::connect;
use tenure_testkit::kube::Server;
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::{lock, until, within_limit};

const HEARTBEATS: u64 = 20;

/// The requests for Leases that have been answered so far, by verb.
async fn answered(server: &Server) -> BTreeMap<String, u64> {
    let (status, text) = server
        .send_as("GET", "/metrics", "text/plain", Vec::new())
        .await;
    assert_eq!(status, 200);
    let mut counts = BTreeMap::new();
    for line in String::from_utf8(text).unwrap().lines() {
        let ours =
            line.starts_with("apiserver_request_total{") && line.contains("resource=\"leases\"");
        if !ours {
            continue;
        }
        let (_, verb) = line.split_once("verb=\"").unwrap();
        let (verb, _) = verb.split_once('"').unwrap();
        let (_, count) = line.rsplit_once(' ').unwrap();
        let count: f64 = count.parse().unwrap();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count, which the format writes as a float"
        )]
        let count = count as u64;
        *counts.entry(verb.to_owned()).or_default() += count;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_is_one_put_and_waiting_is_no_request() {
    let Some(api) = PrivateApi::start().await else {
        return;
    };
    let server = &api.server;
    let policy = Policy::builder()
        .lease(Duration::from_secs(10))
        .heartbeat(Duration::from_millis(500))
        .build()
        .unwrap();
    let election = async |identity: &str| {
        let backend = connect(server.config()).await.unwrap();
        Election::builder(Arc::new(backend), lock("counted"))
            .identity(Identity::new(identity).unwrap())
            .policy(policy.clone())
            .build()
            .unwrap()
    };
    let leader = within_limit("the election", election("leader").await.campaign())
        .await
        .unwrap();
    let waiting = election("waiting").await;
    let before = answered(server).await;
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    // It has looked: from here on its watch tells it all.
    until("the other one waits", async || {
        answered(server).await.get("GET") >= before.get("GET").map(|gets| gets + 2).as_ref()
    })
    .await;

    // The server watches Leases itself, and its watches end every five to ten minutes. One of them
    // may do so while we count, but not twice in a row.
    if counted(server).await > 0 {
        assert_eq!(counted(server).await, 0, "watches that ended");
    }

    leader.resign().await.unwrap();
    let next = within_limit("the hand-over", campaign).await.unwrap();
    next.unwrap().resign().await.unwrap();
}

/// Counts over some heartbeats, and checks all but the watches that ended, which it returns.
async fn counted(server: &Server) -> u64 {
    let renewed = async || {
        let fields = server.lease("counted").await;
        fields["spec"]["renewTime"].clone()
    };
    let begin = Instant::now();
    let before = answered(server).await;
    let mut looks = 0;
    let mut beats = 0;
    let mut last = renewed().await;
    looks += 1;
    while beats < HEARTBEATS {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = renewed().await;
        looks += 1;
        beats += u64::from(now != last);
        last = now;
    }
    let after = answered(server).await;
    let since =
        |verb: &str| after.get(verb).copied().unwrap_or(0) - before.get(verb).copied().unwrap_or(0);
    // The API server renews a Lease of its own every ten seconds; and a heartbeat may have come
    // between two looks, on a machine that is busy.
    let of_others = begin.elapsed().as_secs() / 10 + 1;
    let by_time = begin.elapsed().as_millis() / 400;
    let puts = since("PUT");
    assert!(puts >= HEARTBEATS, "{puts}");
    assert!(
        u128::from(puts) <= by_time + u128::from(of_others) + 1,
        "{puts}"
    );
    // The API server reads its own Lease where a write of it has failed.
    let looks = u128::from(looks)..=u128::from(looks + of_others);
    let gets = u128::from(since("GET"));
    assert!(
        looks.contains(&gets),
        "{gets} reads, of which {looks:?} are not a candidate's"
    );
    for verb in ["LIST", "POST", "PATCH", "DELETE"] {
        assert_eq!(since(verb), 0, "{verb}");
    }
    println!(
        "{beats} heartbeats seen: {puts} PUTs, of which the server itself makes up to {of_others}"
    );
    since("WATCH")
}
