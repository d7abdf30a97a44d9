//! What the backend costs beside bare requests through the same client, how fast a lock changes
//! hands, also beside client-go, and how long it stays without a leader after `kill -9`; on the API
//! server of the environment: `eval "$(cargo xtask stores env)"; cargo bench -p tenure-kube-lease`.
//!
//! All figures of a block are taken in turns in one run, so a machine that is busy is busy for all.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../../tenure-kube/tests/support/mod.rs"]
mod support;

#[path = "../tests/support/client_go.rs"]
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
use tenure_kube_lease::{KubeLeaseBackend, open};
use theirs::ClientGo;

const CALLS: u64 = 1000;
const HAND_OVERS: usize = 200;
const HAND_OVERS_OF_CLIENT_GO: usize = 20;
const FAILOVERS: usize = 30;

/// With it nothing happens by time while something is measured.
const LONG: Duration = Duration::from_secs(3600);

/// Set in the process that is to be killed.
const VICTIM: &str = "TENURE_BENCH_VICTIM";

struct Series(Vec<Duration>);

impl Series {
    async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let value = call.await;
        self.0.push(start.elapsed());
        value
    }

    fn at(&mut self, percent: usize) -> Duration {
        self.0.sort();
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn print(&mut self, name: &str, beside: Option<Duration>) {
        let (median, late, last) = (self.at(50), self.at(90), self.at(100));
        let ratio = beside.map_or(String::new(), |beside| {
            let ratio = median.as_secs_f64() / beside.as_secs_f64();
            format!("  {ratio:.2} x")
        });
        println!("{name:<46} median {median:>9.2?}  p90 {late:>9.2?}  max {last:>9.2?}{ratio}");
    }
}

fn series<const N: usize>() -> [Series; N] {
    std::array::from_fn(|_| Series(Vec::new()))
}

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
    let backend = open(&server.config()).await.unwrap();
    let name = lock("calls");
    let path = server.lease_path("bare");
    let all = server.lease_path("");
    let [mut take, mut acquire, mut put, mut renew] = series();
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
    take.print("GET and PUT, bare", None);
    acquire.print("acquire", Some(take.at(50)));
    put.print("PUT, bare", None);
    renew.print("renew", Some(put.at(50)));
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
        open(&server.config()).await.unwrap(),
        open(&server.config()).await.unwrap(),
    ];
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let mut leader = election(&backends[0], "hand-over", &policy)
        .campaign()
        .await
        .unwrap();
    let [mut floor, mut ours] = series();
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
    floor.print("PUT to watch event and one PUT, bare", None);
    ours.print("hand-over between two elections", Some(floor.at(50)));
}

async fn hand_over_of_client_go(server: &Server) {
    let Some(program) = theirs::program() else {
        return;
    };
    let start =
        |identity: &str| ClientGo::start(&program, server, "hand-over-of-client-go", identity, &[]);
    let mut leader = start("client-go");
    leader.says("started").await;
    let [mut theirs] = series();
    for round in 0..HAND_OVERS_OF_CLIENT_GO {
        let mut next = start(&format!("client-go-{round}"));
        // It polls; after this pause it is somewhere in its interval.
        let pause = Duration::from_secs(1).mul_f64(3.0 * fastrand::f64());
        tokio::time::sleep(pause).await;
        theirs
            .time(future::join(leader.release(), next.says("started")))
            .await;
        leader = next;
    }
    theirs.print("hand-over of client-go, 15/10/2", None);
}

/// One process leads all locks and is killed; each lock has a candidate that waits here.
async fn failover(server: &Server) {
    let (name, value) = server.environment();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .env(name, value)
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    victim.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let backend = open(&server.config()).await.unwrap();
    let campaigns: Vec<_> = (0..FAILOVERS)
        .map(|number| {
            let election = election(&backend, &format!("failover-{number}"), &Policy::default());
            tokio::spawn(async move {
                let leader = election.campaign().await.unwrap();
                (Instant::now(), leader)
            })
        })
        .collect();
    // The heartbeats are spread by now: each lock is killed at another moment of its lease.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let killed = Instant::now();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let [mut without] = series();
    for campaign in campaigns {
        let (elected, leader) = campaign.await.unwrap();
        without.0.push(elected - killed);
        assert!(leader.is_valid());
    }
    without.0.sort();
    for row in without.0.chunks(10) {
        println!("{row:.2?}");
    }
    let limit = Policy::default().lease() + Duration::from_secs(1);
    println!(
        "kill -9 to the next leader, default policy: min {:.2?}  median {:.2?}  max {:.2?}  limit {limit:?}",
        without.at(0),
        without.at(50),
        without.at(100),
    );
}

async fn victim() {
    let server = Server::of_environment().unwrap();
    let backend = open(&server.config()).await.unwrap();
    let mut leaders = Vec::new();
    for number in 0..FAILOVERS {
        let election = election(&backend, &format!("failover-{number}"), &Policy::default());
        leaders.push(election.campaign().await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(leaders.iter().all(|leader| leader.is_valid()));
    println!();
    // Until it is killed, or the benchmark is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]))
        .await
        .unwrap()
        .unwrap();
}

fn main() {
    // `cargo test` runs benchmarks too, to see that they build.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if std::env::var_os(VICTIM).is_some() {
            return victim().await;
        }
        let Some(server) = Server::start().await else {
            return;
        };
        calls(&server).await;
        hand_over(&server).await;
        failover(&server).await;
        hand_over_of_client_go(&server).await;
    });
}
