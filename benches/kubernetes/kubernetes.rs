//! What the Kubernetes Lease backend costs beside bare requests through the same client; how fast a
//! lock changes hands, beside client-go, `kube-leader-election`, `kube-lease-manager` and `kubert` in
//! the same run; and how long it stays without a leader after `kill -9`. On the API server of the
//! environment:
//!
//! ```text
//! eval "$(cargo xtask stores env)"
//! cargo bench --manifest-path benches/kubernetes/Cargo.toml
//! ```
//!
//! Calls of a table are made in turns, so a machine that is busy is busy for all; what takes seconds
//! because it waits for a clock is waited for at the same time, each on a lock of its own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

mod peers;
#[path = "../../crates/tenure-kube/tests/support/mod.rs"]
mod support;
#[path = "../../crates/tenure-kube-lease/tests/support/client_go.rs"]
mod theirs;

use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{Server, lock};
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, Identity, LockBackend as _, Policy, Renewal,
};
use tenure_kube_lease::kube::Client;
use tenure_kube_lease::kube::client::Body;
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_peers::{Series, table};
use theirs::ClientGo;

const CALLS: u64 = 1000;
const HAND_OVERS: usize = 200;
/// Of each peer; they take seconds.
const HAND_OVERS_OF_PEERS: usize = 20;
const FAILOVERS: usize = 30;

/// With it nothing happens by time while something is measured.
const LONG: Duration = Duration::from_secs(3600);

/// A request through the client library and nothing else.
async fn bare(client: &Client, method: &str, path: &str, object: Option<&Value>) -> Value {
    let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn bare_lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name },
        "spec": {
            "holderIdentity": "bare",
            "leaseDurationSeconds": 15,
            "acquireTime": "2021-12-07T15:38:32.000000Z",
            "renewTime": "2021-12-07T15:38:32.000000Z",
            "leaseTransitions": 0,
        },
    })
}

/// Another time, or the API server would find nothing to write.
fn renewed(mut lease: Value, round: u64) -> Value {
    lease["spec"]["renewTime"] = json!(format!("2021-12-07T15:38:32.{:06}Z", round % 1_000_000));
    lease
}

async fn calls(server: &Server) {
    let client = server.client().await;
    let backend = connect(server.config()).await.unwrap();
    let name = lock("calls");
    let path = server.lease_path("bare");
    let all = server.lease_path("");
    table("Calls on a Kubernetes Lease");
    let mut take = Series::new("bare GET and PUT (floor)");
    let mut acquire = Series::new("tenure: acquire");
    let mut put = Series::new("bare PUT (floor)");
    let mut renew = Series::new("tenure: renew");
    bare(
        &client,
        "POST",
        all.trim_end_matches('/'),
        Some(&bare_lease("bare")),
    )
    .await;
    for round in 0..CALLS {
        let lease = take
            .time(async {
                let lease = bare(&client, "GET", &path, None).await;
                bare(&client, "PUT", &path, Some(&renewed(lease, 2 * round + 1))).await
            })
            .await;
        let me = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(round + 1));
        let outcome = acquire.time(backend.acquire(&name, &me, LONG)).await;
        let Ok(Acquired::Held(grant)) = outcome else {
            panic!("{outcome:?}");
        };
        let lease = renewed(lease, 2 * round + 2);
        put.time(bare(&client, "PUT", &path, Some(&lease))).await;
        let now = backend.clock().now();
        let outcome = renew.time(backend.renew(&grant, now)).await;
        let Ok(Renewal::Renewed(grant)) = outcome else {
            panic!("{outcome:?}");
        };
        backend.release(&grant).await.unwrap();
    }
    take.print(None);
    acquire.print(Some(&take));
    put.print(None);
    renew.print(Some(&put));
}

fn election(backend: &KubeLeaseBackend, name: &str, policy: &Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .policy(policy.clone())
        .build()
        .unwrap()
}

async fn hand_over(server: &Server) {
    let (client, woken) = (server.client().await, server.client().await);
    let all = server.lease_path("");
    let all = all.trim_end_matches('/');
    let path = server.lease_path("floor");
    let mut lease = bare(&client, "POST", all, Some(&bare_lease("floor"))).await;
    let watch = http::Request::get(format!(
        "{all}?watch=true&fieldSelector=metadata.name%3Dfloor"
    ));
    let watch = woken.send(watch.body(Body::empty()).unwrap()).await;
    let mut events = watch.unwrap().into_body().into_data_stream();
    events.next().await.unwrap().unwrap();

    let backends = [
        connect(server.config()).await.unwrap(),
        connect(server.config()).await.unwrap(),
    ];
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let mut leader = election(&backends[0], "hand-over", &policy)
        .campaign()
        .await
        .unwrap();
    let mut floor = Series::new("bare PUT, its watch event, and one PUT (floor)");
    let mut ours = Series::new("tenure: resign to the next leader");
    for round in 0..HAND_OVERS {
        // The one who waits hears of the release and writes at once; it need not read.
        let number = 2 * u64::try_from(round).unwrap() + 1;
        let release = renewed(lease, number);
        lease = floor
            .time(async {
                let hearing = async {
                    let event = events.next().await.unwrap().unwrap();
                    let mut event: Value = serde_json::from_slice(&event).unwrap();
                    let taken = renewed(event["object"].take(), number + 1);
                    bare(&woken, "PUT", &path, Some(&taken)).await
                };
                let releasing = bare(&client, "PUT", &path, Some(&release));
                future::join(releasing, hearing).await.1
            })
            .await;
        events.next().await.unwrap().unwrap();

        let next = election(&backends[(round + 1) % 2], "hand-over", &policy);
        let campaign = tokio::spawn(async move { next.campaign().await.unwrap() });
        // It has looked, watches, and has looked again.
        tokio::time::sleep(Duration::from_millis(50)).await;
        leader = ours
            .time(async {
                let (resigned, next) = future::join(leader.resign(), campaign).await;
                resigned.unwrap();
                next.unwrap()
            })
            .await;
        assert!(leader.is_valid());
    }
    floor.print(None);
    ours.print(Some(&floor));
    peers_hand_over(server, &floor).await;
}

/// Each peer in the way that its documentation shows, with a lease of 15 s: all wait for clocks.
async fn peers_hand_over(server: &Server, floor: &Series) {
    let namespace = &server.namespace;
    let mut rounds = Vec::new();
    for round in 0..HAND_OVERS_OF_PEERS {
        let lock = |peer: &str| format!("{peer}-{round}");
        rounds.push(future::join4(
            hand_over_of_client_go(server, lock("client-go")),
            peers::leader_election(namespace, lock("leader-election")),
            peers::lease_manager(namespace, lock("lease-manager")),
            peers::kubert(server, lock("kubert")),
        ));
    }
    let mut client_go = Series::new("client-go at 15/10/2");
    let mut leader_election = Series::new("kube-leader-election, asking every 5 s");
    let mut lease_manager = Series::new("kube-lease-manager, lease 15 s");
    let mut kubert = Series::new("kubert, lease 15 s");
    // At the same time: they send next to nothing.
    for (go, election, manager, claimed) in future::join_all(rounds).await {
        if let Some(taken) = go {
            client_go.add(taken);
        }
        leader_election.add(election);
        lease_manager.add(manager);
        kubert.add(claimed);
    }
    if !client_go.is_empty() {
        client_go.print(Some(floor));
    }
    leader_election.print(Some(floor));
    lease_manager.print(Some(floor));
    kubert.print(Some(floor));
}

async fn hand_over_of_client_go(server: &Server, lock: String) -> Option<Duration> {
    let program = theirs::program()?;
    let start = |identity: &str| ClientGo::start(&program, server, &lock, identity, &[]);
    let mut leader = start("first");
    leader.says("started").await;
    let mut next = start("second");
    peers::pause().await;
    let begun = Instant::now();
    future::join(leader.release(), next.says("started")).await;
    Some(begun.elapsed())
}

/// Processes that lead on one lock each are killed, each at another moment between its heartbeats.
async fn failover(server: &Server) {
    let (name, value) = server.environment();
    let mut victims = Vec::new();
    for number in 0..FAILOVERS {
        let victim = std::process::Command::new(env!("CARGO_BIN_EXE_victim"))
            .arg(format!("failover-{number}"))
            .env(name, &value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        victims.push(victim.unwrap());
    }
    for victim in &mut victims {
        let told = victim.stdout.as_mut().unwrap();
        told.read_exact(&mut [0]).unwrap();
    }
    let backend = connect(server.config()).await.unwrap();
    let failovers = victims.into_iter().enumerate().map(|(number, mut victim)| {
        let election = election(&backend, &format!("failover-{number}"), &Policy::default());
        let campaign = tokio::spawn(async move {
            let leader = election.campaign().await.unwrap();
            (Instant::now(), leader)
        });
        async move {
            // Between the second and the fourth heartbeat.
            let after = Duration::from_secs(15) + Duration::from_secs(20).mul_f64(fastrand::f64());
            tokio::time::sleep(after).await;
            let killed = Instant::now();
            victim.kill().unwrap();
            victim.wait().unwrap();
            let (elected, leader) = campaign.await.unwrap();
            assert!(leader.is_valid());
            elected - killed
        }
    });
    let mut without = future::join_all(failovers).await;
    without.sort_unstable();
    table("From kill -9 to the next leader on a Kubernetes Lease, default policy");
    for row in without.chunks(10) {
        println!("  {row:.2?}");
    }
    let limit = Policy::default().lease() + Duration::from_secs(1);
    let (first, median, last) = (without[0], without[FAILOVERS / 2], without[FAILOVERS - 1]);
    println!("  min {first:.2?}  median {median:.2?}  max {last:.2?}  limit {limit:?}");
    assert!(last <= limit, "later than the lease and a second");
    let mut all = Series::new("tenure: kill -9 to the next leader");
    for taken in without {
        all.add(taken);
    }
    all.print(None);
}

fn main() {
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    peers::choose_cryptography();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Some(server) = Server::start().await else {
            return;
        };
        calls(&server).await;
        table("From a release to the next leader on a Kubernetes Lease");
        hand_over(&server).await;
        failover(&server).await;
    });
}
