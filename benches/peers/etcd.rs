//! What the etcd backend costs beside the bare requests through the same client, beside the
//! election API of `etcd-client` and beside Go's `concurrency.Election`, on a private server; how
//! soon a killed leader is followed, and ten thousand elections in one process:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench etcd`.
//!
//! `TENURE_BENCH_ONLY` may name some of its parts: `calls,handovers,failover,many`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../../crates/tenure-etcd/tests/support/mod.rs"]
mod support;

#[path = "../../crates/tenure-etcd/tests/support/metrics.rs"]
mod metrics;

#[path = "etcd/failover.rs"]
mod etcd_failover;
#[path = "etcd/go.rs"]
mod etcd_go;
#[path = "etcd/many.rs"]
mod etcd_many;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future};
use support::{Cluster, LONG, candidate, held, is_taken, lock, renewed, start};
use tenure_core::{Acquired, Election, LockBackend as _, Policy};
use tenure_etcd::EtcdBackend;
use tenure_etcd::etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, LeaseTimeToLiveOptions, PutOptions,
    ResignOptions, SortOrder, SortTarget, Txn, TxnOp, WatchStream,
};
use tenure_peers::{Series, quick_rounds, rounds, table};

/// So many calls of a kind come one after the other, the first of which does not count, so that
/// each kind finds its own code and its own connection warm.
const IN_A_ROW: u64 = 10;

/// A hand-over mostly begins from rest.
const SHORT: Duration = Duration::from_millis(3);

/// Servers bring watches of revisions that have passed up to date every 100 ms; those of the peers
/// are such.
const LONG_ENOUGH: Duration = Duration::from_millis(150);

fn main() {
    if etcd_failover::is_victim() {
        return etcd_failover::victim();
    }
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let only = std::env::var("TENURE_BENCH_ONLY").unwrap_or_default();
    let wanted = move |part: &str| only.is_empty() || only.split(',').any(|one| one == part);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let Some(server) = start() else { return };
    // On a worker, where an application's tasks are.
    let all = runtime.spawn(async move {
        if wanted("calls") {
            Box::pin(calls(&server, false)).await;
            Box::pin(calls(&server, true)).await;
        }
        if wanted("handovers") {
            Box::pin(hand_overs(&server, SHORT)).await;
            Box::pin(hand_overs(&server, LONG_ENOUGH)).await;
        }
        if wanted("failover") {
            etcd_failover::run(&server).await;
        }
        drop(server);
        if wanted("many") {
            etcd_many::run().await;
        }
    });
    runtime.block_on(all).unwrap();
}

async fn leased(server: &Cluster) -> (Client, i64) {
    let mut client = server.client().await;
    let ttl = i64::try_from(LONG.as_secs()).unwrap();
    let lease = client.lease_grant(ttl, None).await.unwrap().id();
    (client, lease)
}

fn first(election: &str) -> TxnOp {
    TxnOp::get(election, Some(first_of()))
}

fn first_of() -> GetOptions {
    GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Ascend)
        .with_limit(1)
}

/// Puts the key if it is not there; with a look at who is first in the same transaction.
fn put_if_absent(election: &str, key: &str, lease: i64, look: bool) -> Txn {
    let options = PutOptions::new().with_lease(lease);
    let mut then = vec![TxnOp::put(key, "ann", Some(options))];
    then.extend(look.then(|| first(election)));
    Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, 0)])
        .and_then(then)
}

/// Lets what goes on behind a call come to its end.
async fn pause(resting: bool) {
    if resting {
        tokio::time::sleep(SHORT).await;
    }
}

/// What the calls of a kind took; `None` where the kind has no such call.
struct Taken {
    acquire: Duration,
    renew: Option<Duration>,
    release: Duration,
}

/// The bare requests, with their own client and lease.
struct Bare {
    client: Client,
    lease: i64,
    keeper: tenure_etcd::etcd_client::LeaseKeeper,
    answers: tenure_etcd::etcd_client::LeaseKeepAliveStream,
}

impl Bare {
    async fn new(server: &Cluster) -> Self {
        let (mut client, lease) = leased(server).await;
        let (keeper, answers) = client.lease_keep_alive(lease).await.unwrap();
        Self {
            client,
            lease,
            keeper,
            answers,
        }
    }

    async fn keep_alive(&mut self) {
        self.keeper.keep_alive().await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        assert!(answer.ttl() > 0);
    }

    /// The fewest requests: one for each call, and none looks at anything.
    async fn shortest(&mut self, resting: bool) -> Taken {
        let key = format!("bare/{:x}", self.lease);
        let began = Instant::now();
        let put = put_if_absent("bare/", &key, self.lease, false);
        assert!(self.client.txn(put).await.unwrap().succeeded());
        let acquire = began.elapsed();
        pause(resting).await;
        let began = Instant::now();
        self.keep_alive().await;
        let renew = Some(began.elapsed());
        pause(resting).await;
        let began = Instant::now();
        self.client.delete(key, None).await.unwrap();
        let release = began.elapsed();
        Taken {
            acquire,
            renew,
            release,
        }
    }

    /// What proves as much as a lock has to: who is first is read along with the put, the keys on
    /// the lease are asked for with the keepalive, and a majority of the members with them, and only
    /// one's own key is deleted.
    async fn proving(&mut self, resting: bool) -> Taken {
        let key = format!("proving/{:x}", self.lease);
        let began = Instant::now();
        let put = put_if_absent("proving/", &key, self.lease, true);
        let put = self.client.txn(put).await.unwrap();
        assert!(put.succeeded());
        let acquire = began.elapsed();
        let revision = put.header().unwrap().revision();
        pause(resting).await;
        let began = Instant::now();
        let mut asking = self.client.lease_client();
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let lease = self.lease;
        let mut confirming = self.client.clone();
        let counting = GetOptions::new().with_count_only();
        let ((), keys, confirmed) = future::join3(
            self.keep_alive(),
            asking.time_to_live(lease, Some(options)),
            confirming.get(key.as_str(), Some(counting)),
        )
        .await;
        assert_eq!(keys.unwrap().keys(), [key.as_bytes()]);
        assert_eq!(confirmed.unwrap().count(), 1);
        let renew = Some(began.elapsed());
        pause(resting).await;
        let began = Instant::now();
        let own = Compare::create_revision(key.as_str(), CompareOp::Equal, revision);
        let delete = Txn::new()
            .when([own])
            .and_then([TxnOp::delete(key.as_str(), None)]);
        assert!(self.client.txn(delete).await.unwrap().succeeded());
        let release = began.elapsed();
        Taken {
            acquire,
            renew,
            release,
        }
    }
}

async fn ours(backend: &EtcdBackend, campaign: u64, resting: bool) -> Taken {
    let (name, me) = (lock("calls"), candidate("ann", campaign));
    let began = Instant::now();
    let grant = held(backend.acquire(&name, &me, LONG).await.unwrap());
    let acquire = began.elapsed();
    pause(resting).await;
    let began = Instant::now();
    // A proof of its own, not one that is there already.
    let now = backend.clock().now();
    let grant = renewed(backend.renew(&grant, now).await.unwrap());
    let renew = Some(began.elapsed());
    pause(resting).await;
    let began = Instant::now();
    backend.release(&grant).await.unwrap();
    let release = began.elapsed();
    Taken {
        acquire,
        renew,
        release,
    }
}

/// The election API of the client library, which campaigns at the server.
async fn of_client(client: &mut Client, lease: i64, resting: bool) -> Taken {
    let began = Instant::now();
    let mut won = client.campaign("theirs", "ann", lease).await.unwrap();
    let acquire = began.elapsed();
    pause(resting).await;
    let leader = won.take_leader().unwrap();
    let began = Instant::now();
    let options = ResignOptions::new().with_leader(leader);
    client.resign(Some(options)).await.unwrap();
    let release = began.elapsed();
    Taken {
        acquire,
        renew: None,
        release,
    }
}

async fn calls(server: &Cluster, resting: bool) {
    let mut bare = Bare::new(server).await;
    let backend = server.connect().await;
    let (mut theirs, lease) = leased(server).await;
    let names = [
        "bare request (floor)",
        "bare request, with what proves it (floor of a safe lock)",
        "tenure",
        "etcd-client's election API",
    ];
    let mut acquires = names.map(Series::new);
    let mut renewals = names.map(Series::new);
    let mut releases = names.map(Series::new);
    let mut order = [0, 1, 2, 3];
    for block in 0..quick_rounds().div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for kind in order {
            for number in 0..=IN_A_ROW {
                pause(resting).await;
                let taken = match kind {
                    0 => bare.shortest(resting).await,
                    1 => bare.proving(resting).await,
                    2 => ours(&backend, block * (IN_A_ROW + 1) + number, resting).await,
                    _ => of_client(&mut theirs, lease, resting).await,
                };
                if number == 0 {
                    continue;
                }
                acquires[kind].add(taken.acquire);
                releases[kind].add(taken.release);
                if let Some(renew) = taken.renew {
                    renewals[kind].add(renew);
                }
            }
        }
    }
    let how = if resting {
        "from rest"
    } else {
        "one after the other"
    };
    table(&format!(
        "To get a free lock, {how}: a transaction that puts a key"
    ));
    print(&acquires);
    table(&format!("To renew it, {how}: a keepalive and its answer"));
    print(&renewals[..3]);
    table(&format!("To give it back, {how}: a delete"));
    print(&releases);
}

fn print(series: &[Series]) {
    series[0].print(None);
    for other in &series[1..] {
        other.print(Some(&series[0]));
    }
    println!("  and beside the second line:");
    series[2].print(Some(&series[1]));
}

async fn hand_overs(server: &Cluster, wait: Duration) {
    let mut floor = Series::new("bare delete, its event elsewhere, a read (floor)");
    let mut of_backend = Series::new("tenure: release to the next grant");
    let mut of_elections = Series::new("tenure: resign to the next leader");
    let mut of_client = Series::new("etcd-client: resign to the end of campaign");
    let mut of_go = Series::new("Go's concurrency.Election: Resign to Campaign's end");

    let mut bare = Floor::new(server).await;
    let backends = [server.connect().await, server.connect().await];
    let mut clients = [leased(server).await, leased(server).await];
    let mut looking = server.client().await;
    let mut go = etcd_go::Go::start(server).await;
    let mut order = [0, 1, 2, 3, 4];
    let (in_a_row, rounds) = match wait {
        SHORT => (IN_A_ROW, rounds()),
        _ => (3, rounds() / 5),
    };
    for block in 0..rounds.div_ceil(in_a_row) {
        fastrand::shuffle(&mut order);
        for kind in order {
            for number in 0..=in_a_row {
                let round = block * (in_a_row + 1) + number;
                let (series, taken) = match kind {
                    0 => (&mut floor, bare.hand_over(wait).await),
                    1 => (
                        &mut of_backend,
                        backend_hand_over(&backends, round, wait).await,
                    ),
                    2 => (
                        &mut of_elections,
                        election_hand_over(&backends, &mut looking, wait).await,
                    ),
                    3 => (
                        &mut of_client,
                        client_hand_over(&mut clients, &mut looking, wait).await,
                    ),
                    _ => match &mut go {
                        Some(go) => (&mut of_go, go.hand_over(wait).await),
                        None => continue,
                    },
                };
                if number > 0 {
                    series.add(taken);
                }
            }
        }
    }
    table(&format!(
        "From the end of one holder to the next, who has waited for {wait:?}"
    ));
    floor.print(None);
    for ours in [&of_backend, &of_elections, &of_client] {
        ours.print(Some(&floor));
    }
    if go.is_some() {
        of_go.print(Some(&floor));
    }
}

/// One who deletes a key, and one who watches it and reads what is there then.
struct Floor {
    holder: Client,
    waiter: Option<(Client, WatchStream)>,
}

impl Floor {
    async fn new(server: &Cluster) -> Self {
        let holder = server.client().await;
        let mut waiter = server.client().await;
        let mut events = waiter.watch("floor", None).await.unwrap();
        assert!(events.message().await.unwrap().unwrap().created());
        Self {
            holder,
            waiter: Some((waiter, events)),
        }
    }

    async fn hand_over(&mut self, wait: Duration) -> Duration {
        let (mut waiter, mut events) = self.waiter.take().unwrap();
        self.holder.put("floor", "ann", None).await.unwrap();
        let put = events.message().await.unwrap().unwrap();
        assert_eq!(put.events()[0].event_type(), EventType::Put);
        let waiting = tokio::spawn(async move {
            let gone = events.message().await.unwrap().unwrap();
            assert_eq!(gone.events()[0].event_type(), EventType::Delete);
            let read = waiter.get("floor", Some(first_of())).await.unwrap();
            let at = Instant::now();
            assert!(read.kvs().is_empty());
            (waiter, events, at)
        });
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let delete = self.holder.delete("floor", None);
        let (gone, outcome) = future::join(delete, waiting).await;
        gone.unwrap();
        let (waiter, events, at) = outcome.unwrap();
        self.waiter = Some((waiter, events));
        at - began
    }
}

/// Until the election has so many candidates.
async fn queued(client: &mut Client, election: &str, candidates: i64) {
    let election = format!("{election}/");
    loop {
        let options = GetOptions::new().with_prefix().with_count_only();
        let found = client.get(election.as_str(), Some(options)).await.unwrap();
        if found.count() == candidates {
            return;
        }
    }
}

/// Without the engine: what the backend alone takes.
async fn backend_hand_over(
    [holder, waiter]: &[EtcdBackend; 2],
    round: u64,
    wait: Duration,
) -> Duration {
    let name = lock("backends");
    let (ann, bob) = (candidate("ann", 2 * round), candidate("bob", 2 * round + 1));
    let grant = held(holder.acquire(&name, &ann, LONG).await.unwrap());
    let mut changes = waiter.changes(&name);
    assert!(is_taken(&waiter.acquire(&name, &bob, LONG).await.unwrap()));
    let backend = waiter.clone();
    let waiting = tokio::spawn(async move {
        loop {
            changes.next().await.unwrap();
            let acquired = backend.acquire(&name, &bob, LONG).await.unwrap();
            // Or it was a hint from before.
            if let Acquired::Held(next) = acquired {
                return (next, Instant::now());
            }
        }
    });
    tokio::time::sleep(wait).await;
    let began = Instant::now();
    let (released, next) = future::join(holder.release(&grant), waiting).await;
    released.unwrap();
    let (next, at) = next.unwrap();
    waiter.release(&next).await.unwrap();
    at - began
}

fn election(backend: &EtcdBackend, name: &str, policy: &Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .policy(policy.clone())
        .build()
        .unwrap()
}

/// As an application sees it.
async fn election_hand_over(
    backends: &[EtcdBackend; 2],
    looking: &mut Client,
    wait: Duration,
) -> Duration {
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let [first, second] = backends
        .each_ref()
        .map(|one| election(one, "elections", &policy));
    let leader = first.campaign().await.unwrap();
    let waiting = tokio::spawn(async move {
        let leader = second.campaign().await.unwrap();
        (leader, Instant::now())
    });
    queued(looking, "elections", 2).await;
    tokio::time::sleep(wait).await;
    let began = Instant::now();
    let (resigned, next) = future::join(leader.resign(), waiting).await;
    resigned.unwrap();
    let (leader, at) = next.unwrap();
    leader.resign().await.unwrap();
    at - began
}

async fn client_hand_over(
    clients: &mut [(Client, i64); 2],
    looking: &mut Client,
    wait: Duration,
) -> Duration {
    let [(first, lease), (second, next)] = clients;
    let mut won = first.campaign("apis", "ann", *lease).await.unwrap();
    let resign = |leader| Some(ResignOptions::new().with_leader(leader));
    let (mut waiter, lease) = (second.clone(), *next);
    let waiting = tokio::spawn(async move {
        let won = waiter.campaign("apis", "bob", lease).await.unwrap();
        (won, Instant::now())
    });
    queued(looking, "apis", 2).await;
    tokio::time::sleep(wait).await;
    let leader = won.take_leader().unwrap();
    let began = Instant::now();
    let (resigned, next) = future::join(first.resign(resign(leader)), waiting).await;
    resigned.unwrap();
    let (mut won, at) = next.unwrap();
    let leader = won.take_leader().unwrap();
    second.resign(resign(leader)).await.unwrap();
    at - began
}
