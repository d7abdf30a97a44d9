//! What the backend costs beside the bare commands through the same client, on a private server:
//! `cargo bench -p tenure-redis`.
//!
//! All figures of a line are taken in turns in one run, so a machine that is busy is busy for all.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future};
use redis::aio::MultiplexedConnection;
use support::{LONG, Server, candidate, held, lock, renewed, start};
use tenure_core::{Acquired, Election, LockBackend as _, Policy, Time};
use tenure_redis::RedisBackend;

const ROUNDS: u64 = 5000;

/// The durations of one kind of call.
struct Series(Vec<Duration>);

impl Series {
    fn new() -> Self {
        Self(Vec::new())
    }

    async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let value = call.await;
        self.0.push(start.elapsed());
        value
    }

    fn median(&mut self) -> Duration {
        self.at(50)
    }

    fn at(&mut self, percent: usize) -> Duration {
        self.0.sort();
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn print(&mut self, name: &str, beside: Option<Duration>) {
        let (median, late) = (self.median(), self.at(99));
        let ratio = beside.map_or(String::new(), |beside| {
            let ratio = median.as_secs_f64() / beside.as_secs_f64();
            format!("  {ratio:.2} x")
        });
        println!("{name:<44} median {median:>10.1?}  p99 {late:>10.1?}{ratio}");
    }
}

async fn bare(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn calls(server: &Server) {
    let backend = server.connect().await;
    let mut bare = bare(server).await;
    let lock = lock("calls");
    let millis = LONG.as_millis().to_string();
    let [mut set, mut acquire, mut expire, mut renew] = [(); 4].map(|()| Series::new());
    for round in 0..ROUNDS {
        let mut command = redis::cmd("SET");
        command
            .arg("bare")
            .arg("owner")
            .arg("NX")
            .arg("PX")
            .arg(&millis);
        set.time(command.query_async::<()>(&mut bare))
            .await
            .unwrap();
        let me = candidate("a", round);
        let grant = held(
            acquire
                .time(backend.acquire(&lock, &me, LONG))
                .await
                .unwrap(),
        );
        let mut command = redis::cmd("PEXPIRE");
        command.arg("bare").arg(&millis);
        expire
            .time(command.query_async::<()>(&mut bare))
            .await
            .unwrap();
        renewed(renew.time(backend.renew(&grant, Time::ZERO)).await.unwrap());
        backend.release(&grant).await.unwrap();
        redis::cmd("DEL")
            .arg("bare")
            .query_async::<()>(&mut bare)
            .await
            .unwrap();
    }
    set.print("SET NX PX, bare", None);
    acquire.print("acquire", Some(set.median()));
    expire.print("PEXPIRE, bare", None);
    renew.print("renew", Some(expire.median()));
}

fn election(backend: &RedisBackend, name: &str, policy: &Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .policy(policy.clone())
        .build()
        .unwrap()
}

async fn hand_over(server: &Server) {
    let client = redis::Client::open(format!("redis://{}", server.address())).unwrap();
    let mut subscriber = client.get_async_pubsub().await.unwrap();
    subscriber.subscribe("bare-channel").await.unwrap();
    let mut messages = Some(subscriber.into_on_message());
    let (mut bare, mut woken) = (bare(server).await, bare(server).await);
    let script = redis::Script::new(
        "local n = redis.call('INCR', KEYS[2]) redis.call('SET', KEYS[1], n, 'PX', 10000) return n",
    );

    let backends = [server.connect().await, server.connect().await];
    let policy = Policy::builder().lease(LONG).build().unwrap();
    let mut leader = election(&backends[0], "hand-over", &policy)
        .campaign()
        .await
        .unwrap();
    let [mut floor, mut ours] = [(); 2].map(|()| Series::new());
    for round in 0..500 {
        let mut hearing = messages.take().unwrap();
        let waiter = tokio::spawn(async move {
            hearing.next().await.unwrap();
            hearing
        });
        tokio::task::yield_now().await;
        floor
            .time(async {
                redis::cmd("PUBLISH")
                    .arg("bare-channel")
                    .arg("")
                    .query_async::<()>(&mut bare)
                    .await
                    .unwrap();
                messages = Some(waiter.await.unwrap());
                let mut call = script.key("{bare}");
                call.key("{bare}:n")
                    .invoke_async::<()>(&mut woken)
                    .await
                    .unwrap();
            })
            .await;

        let next = election(&backends[(round + 1) % 2], "hand-over", &policy);
        let campaign = tokio::spawn(async move { next.campaign().await.unwrap() });
        while !server
            .text(&["PUBSUB", "NUMSUB", "tenure:{hand-over}:released"])
            .ends_with(" 1")
        {
            tokio::task::yield_now().await;
        }
        // It has looked again after it was subscribed.
        tokio::time::sleep(Duration::from_millis(5)).await;
        leader = ours
            .time(async {
                let (resigned, next) = future::join(leader.resign(), campaign).await;
                resigned.unwrap();
                next.unwrap()
            })
            .await;
    }
    floor.print("PUBLISH, wake and one script, bare", None);
    ours.print("hand-over between two elections", Some(floor.median()));
}

async fn takeover(server: &Server) {
    let backend = server.connect().await;
    let lock = lock("takeover");
    let lease = Duration::from_millis(50);
    let mut after = Series::new();
    for round in 0..200 {
        let grant = backend
            .acquire(&lock, &candidate("gone", 2 * round), lease)
            .await;
        let granted = Instant::now();
        held(grant.unwrap());
        let me = candidate("next", 2 * round + 1);
        let taken = loop {
            match backend.acquire(&lock, &me, lease).await.unwrap() {
                Acquired::Held(grant) => break grant,
                Acquired::Taken { free_in, .. } => tokio::time::sleep(free_in.unwrap()).await,
            }
        };
        after.0.push(granted.elapsed().saturating_sub(lease));
        backend.release(&taken).await.unwrap();
    }
    after.print("takeover of an expired lock, after its end", None);
}

async fn many(server: &Server) {
    const ELECTIONS: u32 = 10_000;
    let backend = server.connect().await;
    let policy = Policy::default();
    let start = Instant::now();
    let campaigns = (0..ELECTIONS).map(|number| {
        let election = election(&backend, &format!("many-{number}"), &policy);
        async move { election.campaign().await.unwrap() }
    });
    let leaders = future::join_all(campaigns).await;
    println!("10,000 elections won in {:.1?}", start.elapsed());
    let mut all = Series::new();
    for _ in 0..5 {
        let confirmed = future::join_all(leaders.iter().map(|leader| leader.confirm()));
        assert!(all.time(confirmed).await.iter().all(Result::is_ok));
    }
    let each = all.median() / ELECTIONS;
    println!(
        "10,000 heartbeats at once in {:.1?}, {each:.1?} each",
        all.median()
    );
    let clients = server.text(&["CLIENT", "LIST"]);
    println!("on {} connection", clients.lines().count() - 1);
}

fn main() {
    // `cargo test` runs benchmarks too, to see that they build.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(server) = start(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        calls(&server).await;
        hand_over(&server).await;
        takeover(&server).await;
        many(&server).await;
    });
}
