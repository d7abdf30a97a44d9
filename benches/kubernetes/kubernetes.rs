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
//! What takes seconds because it waits for a clock is waited for at the same time, each on a lock of
//! its own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

mod peers;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt as _, future};
use http_body_util::{BodyDataStream, BodyExt as _};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tenure::Policy;
use tenure_benches::beside::{
    Connects, Lock, Pair, Pause, Rest, Row, calls, connects, hand_overs, handed_over, rounds,
};
use tenure_benches::contenders::{End, contends, failover};
use tenure_benches::{is_asked, ours, record, workers};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::client_go::{self, ClientGo};

/// A call at most so often its floor.
const CALL: f64 = 1.10;

const BARE: &str = "bare GET and PUT, PUT (floor)";
const FLOOR: &str = "bare PUT, its watch event, and one PUT (floor)";
const TABLE: &str = "From a release to the next leader on a Kubernetes Lease";

fn main() {
    if contends() || !is_asked() {
        return;
    }
    peers::choose_cryptography();
    workers().block_on(async {
        let Some(server) = Server::start().await else {
            return;
        };
        let row = Row::new("tenure", ours::Calls::boxed(&url(&server)).await);
        let bare = Bare::new(server.clone(), "bare").await;
        let rows = vec![
            Row::new(BARE, Box::new(bare) as Box<dyn Lock>),
            row.at_most(CALL, BARE, &[]),
        ];
        calls(" on a Kubernetes Lease", None, rows).await;
        hand_overs(TABLE, Duration::from_millis(50), &Pause, &pairs(&server)).await;
        peers_hand_over(&server).await;
        failovers(&server).await;
    });
}

fn url(server: &Server) -> String {
    let kubeconfig = std::env::var("TENURE_TEST_KUBECONFIG").unwrap();
    format!("kube-lease://{}?kubeconfig={kubeconfig}", server.namespace)
}

/// One Lease, and requests through the client library and nothing else.
struct Bare {
    client: Client,
    path: String,
    lease: Value,
    round: u64,
}

impl Bare {
    async fn new(server: Server, name: &str) -> Self {
        let lease = json!({
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
        });
        let mut bare = Self {
            client: server.client().await,
            path: server.lease_path(name),
            lease: lease.clone(),
            round: 0,
        };
        let all = server.lease_path("");
        bare.lease = bare
            .send("POST", all.trim_end_matches('/'), Some(&lease))
            .await;
        bare
    }

    async fn send(&self, method: &str, path: &str, object: Option<&Value>) -> Value {
        let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let response = self.client.send(request).await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// With another time, or the API server would find nothing to write.
    async fn put(&mut self) {
        self.round += 1;
        let time = format!("2021-12-07T15:38:32.{:06}Z", self.round % 1_000_000);
        self.lease["spec"]["renewTime"] = json!(time);
        self.lease = self.send("PUT", &self.path, Some(&self.lease)).await;
    }
}

#[async_trait]
impl Lock for Bare {
    async fn acquire(&mut self) {
        self.lease = self.send("GET", &self.path, None).await;
        self.put().await;
    }

    async fn renew(&mut self) -> bool {
        self.put().await;
        true
    }

    async fn release(&mut self) {
        self.put().await;
    }
}

fn pairs(server: &Server) -> Vec<Row<Connects>> {
    let of_floor = server.clone();
    let mut rows = vec![Row::new(
        FLOOR,
        connects(move || Floor::new(of_floor.clone())),
    )];
    rows.extend(ours::pairs(&url(server), &[(FLOOR, [&[], &[]])]));
    rows
}

/// One that writes, and one that hears of it and writes at once; it need not read.
struct Floor {
    holder: Bare,
    waiter: Option<(Bare, BodyDataStream<Body>)>,
}

impl Floor {
    async fn new(server: Server) -> Self {
        let name = format!("floor-{:08x}", fastrand::u32(..));
        let holder = Bare::new(server.clone(), &name).await;
        let waiter = Bare {
            client: server.client().await,
            path: holder.path.clone(),
            lease: holder.lease.clone(),
            round: 500_000,
        };
        let watch = format!(
            "{}?watch=true&fieldSelector=metadata.name%3D{name}",
            server.lease_path("").trim_end_matches('/')
        );
        let watch = http::Request::get(watch).body(Body::empty()).unwrap();
        let answer = waiter.client.send(watch).await.unwrap();
        let mut events = answer.into_body().into_data_stream();
        events.next().await.unwrap().unwrap();
        let waiter = Some((waiter, events));
        Self { holder, waiter }
    }
}

#[async_trait]
impl Pair for Floor {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let (mut waiter, mut events) = self.waiter.take().unwrap();
        let waiting = tokio::spawn(async move {
            let event = events.next().await.unwrap().unwrap();
            let mut event: Value = serde_json::from_slice(&event).unwrap();
            waiter.lease = event["object"].take();
            waiter.put().await;
            let at = Instant::now();
            events.next().await.unwrap().unwrap();
            (at, (waiter, events))
        });
        let released = self.holder.put();
        let (taken, (), next) = handed_over((wait, rest), released, waiting).await;
        self.holder.lease = next.0.lease.clone();
        self.waiter = Some(next);
        taken
    }
}

/// Each peer in the way that its documentation shows, with a lease of 15 s: all wait for clocks.
async fn peers_hand_over(server: &Server) {
    let namespace = &server.namespace;
    let mut running = Vec::new();
    // At the same time: they send next to nothing.
    for round in 0..rounds().div_ceil(25) {
        let lock = |peer: &str| format!("{peer}-{round}");
        running.push(future::join4(
            hand_over_of_client_go(server, lock("client-go")),
            peers::leader_election(namespace, lock("leader-election")),
            peers::lease_manager(namespace, lock("lease-manager")),
            peers::kubert(server, lock("kubert")),
        ));
    }
    let mut taken = [const { Vec::new() }; 4];
    for (go, election, manager, claimed) in future::join_all(running).await {
        taken[0].extend(go);
        for (all, one) in taken[1..].iter_mut().zip([election, manager, claimed]) {
            all.push(one);
        }
    }
    let names = [
        "client-go at 15/10/2",
        "kube-leader-election, asking every 5 s",
        "kube-lease-manager, lease 15 s",
        "kubert, lease 15 s",
    ];
    for (name, taken) in names.into_iter().zip(taken) {
        Row::new(name, ())
            .beside(FLOOR)
            .peer("")
            .record(TABLE, 0, &taken);
    }
}

async fn hand_over_of_client_go(server: &Server, lock: String) -> Option<Duration> {
    let program = client_go::program()?;
    let start = |identity: &str| ClientGo::start(&program, server, &lock, identity, &[]);
    let mut leader = start("first");
    leader.says("started").await;
    let mut next = start("second");
    peers::pause().await;
    let begun = Instant::now();
    future::join(leader.release(), next.says("started")).await;
    Some(begun.elapsed())
}

/// Processes that lead on one lock each are killed, each at another moment between its second and
/// its fourth heartbeat.
async fn failovers(server: &Server) {
    let (url, lease) = (url(server), Policy::default().lease());
    let running = (0..rounds().clamp(5, 30)).map(|_| {
        let wait = Duration::from_secs(15) + Duration::from_secs(20).mul_f64(fastrand::f64());
        failover(&url, lease, End::Killed, wait)
    });
    let without = future::join_all(running).await;
    let table = "From kill -9 to the next leader on a Kubernetes Lease, default policy";
    record::series(table, "tenure: kill -9 to the next leader", &without);
    let limit = lease + Duration::from_secs(1);
    assert!(
        without.iter().all(|taken| *taken <= limit),
        "later than the lease and a second"
    );
}
