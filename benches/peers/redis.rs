//! What the Redis backend costs beside the bare commands through the same client, beside `rslock`
//! and beside the crate `distributed-lock`, on a private server:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench redis`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../../crates/tenure-redis/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_redis::RedisLockProvider;
use futures_util::{StreamExt as _, future};
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{Cmd, cmd};
use rslock::LockManager;
use support::{LONG, Server, candidate, held, is_taken, lock, renewed, start};
use tenure_core::{Acquired, Election, Hint, LockBackend as _, Policy, Time};
use tenure_peers::{Series, quick_rounds, rounds, table};
use tenure_redis::RedisBackend;

/// What a lock with a fencing token cannot do without, in one step.
const SHORTEST_ACQUIRE: &str = "
if redis.call('GET', KEYS[1]) then return 0 end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. token, 'PX', ARGV[2])
return token";

/// What it cannot do without where a failover may forget it: the server's epoch, beside the token.
const SAFE_ACQUIRE: &str = "
if redis.call('GET', KEYS[1]) then return 0 end
local info = redis.call('INFO', 'replication')
local _, at = string.find(info, 'master_replid:', 1, true)
local token = redis.call('INCR', KEYS[2])
local epoch = string.sub(info, at + 1, at + 40)
redis.call('SET', KEYS[1], ARGV[1] .. token .. epoch, 'PX', ARGV[2])
return token";

/// And a renewal that cannot lengthen somebody else's lease.
const SHORTEST_RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// A server that keeps everything in memory, where nothing hides what a call costs, and one as the
/// backend's page asks for, which answers when a write is on its disk.
const SERVERS: [(&[&str], &str); 2] = [
    (&[], "in memory"),
    (
        &["--appendonly", "yes", "--appendfsync", "always"],
        "appendfsync always",
    ),
];

/// So many calls of a kind come one after the other, the first of which does not count, so that
/// each kind finds its own code and its own connection warm.
const IN_A_ROW: u64 = 10;

fn main() {
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // On a worker, where an application's tasks are.
    let all = runtime.spawn(async {
        for (arguments, disk) in SERVERS {
            let Some(server) = start(arguments) else {
                return;
            };
            calls(&server, disk, false).await;
            calls(&server, disk, true).await;
            hand_overs(&server, disk).await;
        }
        takeovers().await;
        many().await;
    });
    runtime.block_on(all).unwrap();
}

fn url(server: &Server) -> String {
    format!("redis://{}", server.address())
}

/// With the client's own deadlines, as an application has them.
async fn bare(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(url(server)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn send(command: &Cmd, connection: &mut MultiplexedConnection) {
    command.query_async::<()>(connection).await.unwrap();
}

async fn loaded(script: &str, connection: &mut MultiplexedConnection) -> String {
    let mut load = cmd("SCRIPT");
    load.arg("LOAD").arg(script);
    load.query_async(connection).await.unwrap()
}

/// A script by its hash, with these keys and arguments.
fn script(hash: &str, keys: &[&str], arguments: &[&str]) -> Cmd {
    let mut command = cmd("EVALSHA");
    command.arg(hash).arg(keys.len()).arg(keys).arg(arguments);
    command
}

async fn peer(server: &Server) -> RedisLockProvider {
    RedisLockProvider::builder()
        .url(url(server))
        .expiry(LONG)
        .build()
        .await
        .unwrap()
}

async fn pause(resting: bool) {
    if resting {
        rest().await;
    }
}

/// Calls on a free lock, and on one's own: one after the other, or each from rest, as they mostly
/// are.
#[allow(
    clippy::too_many_lines,
    reason = "one table: a floor, and what is beside it"
)]
async fn calls(server: &Server, disk: &str, resting: bool) {
    let millis = LONG.as_millis().to_string();
    let [mut plain, mut scripted] = [bare(server).await, bare(server).await];
    let shortest_acquire = loaded(SHORTEST_ACQUIRE, &mut scripted).await;
    let mut safe = bare(server).await;
    let safe_acquire = loaded(SAFE_ACQUIRE, &mut safe).await;
    let shortest_renew = loaded(SHORTEST_RENEW, &mut scripted).await;
    let backend = server.connect().await;
    let name = lock("calls");
    let rslock = LockManager::new(vec![url(server)]);
    let provider = peer(server).await;
    let distributed = provider.create_lock("calls");

    let mut set = Series::new("bare SET NX PX, no token (floor)");
    let mut with_token = Series::new("bare script: the same, and a token (floor with a token)");
    let mut with_epoch = Series::new("bare script: the epoch too (floor of a safe lock)");
    let mut acquire = Series::new("tenure: acquire");
    let mut rslock_lock = Series::new("rslock: lock, no token");
    let mut distributed_lock = Series::new("distributed-lock: try_acquire, no token");

    let mut expire = Series::new("bare PEXPIRE, whoever holds it (floor)");
    let mut conditional = Series::new("bare script: the same if it is mine");
    let mut renew = Series::new("tenure: renew");
    let mut rslock_extend = Series::new("rslock: extend");

    let mut order = [0, 1, 2, 3, 4, 5];
    for block in 0..quick_rounds().div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for kind in order {
            for number in 0..=IN_A_ROW {
                pause(resting).await;
                let began = Instant::now();
                // The call, and then the renewal; `None` where there is none to be called.
                let (acquired, renewed) = match kind {
                    0 => {
                        let mut command = cmd("SET");
                        command.arg("set").arg("owner").arg("NX");
                        send(command.arg("PX").arg(&millis), &mut plain).await;
                        let acquired = began.elapsed();
                        pause(resting).await;
                        let began = Instant::now();
                        send(cmd("PEXPIRE").arg("set").arg(&millis), &mut plain).await;
                        let renewed = began.elapsed();
                        send(cmd("DEL").arg("set"), &mut plain).await;
                        (acquired, Some(renewed))
                    }
                    1 => {
                        let keys = ["script", "script:n"];
                        let command = script(&shortest_acquire, &keys, &["owner", &millis]);
                        let token: u64 = command.query_async(&mut scripted).await.unwrap();
                        let acquired = began.elapsed();
                        let mine = format!("owner{token}");
                        pause(resting).await;
                        let began = Instant::now();
                        let command = script(&shortest_renew, &["script"], &[&mine, &millis]);
                        let same: u64 = command.query_async(&mut scripted).await.unwrap();
                        let renewed = began.elapsed();
                        assert_eq!(same, 1);
                        send(cmd("DEL").arg("script"), &mut scripted).await;
                        (acquired, Some(renewed))
                    }
                    2 => {
                        let me = candidate("owner", block * (IN_A_ROW + 1) + number);
                        let began = Instant::now();
                        let grant = held(backend.acquire(&name, &me, LONG).await.unwrap());
                        let acquired = began.elapsed();
                        pause(resting).await;
                        let began = Instant::now();
                        let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
                        let renewed = began.elapsed();
                        backend.release(&grant).await.unwrap();
                        (acquired, Some(renewed))
                    }
                    3 => {
                        let lock = rslock.lock("rslock", LONG).await.unwrap();
                        let acquired = began.elapsed();
                        pause(resting).await;
                        let began = Instant::now();
                        let lock = rslock.extend(&lock, LONG).await.unwrap();
                        let renewed = began.elapsed();
                        lock.release().await;
                        (acquired, Some(renewed))
                    }
                    4 => {
                        let keys = ["safe", "safe:n"];
                        let command = script(&safe_acquire, &keys, &["owner", &millis]);
                        let token: u64 = command.query_async(&mut safe).await.unwrap();
                        let acquired = began.elapsed();
                        assert!(token > 0);
                        send(cmd("DEL").arg("safe"), &mut safe).await;
                        (acquired, None)
                    }
                    _ => {
                        let handle = distributed.try_acquire().await.unwrap().unwrap();
                        let acquired = began.elapsed();
                        handle.release().await.unwrap();
                        (acquired, None)
                    }
                };
                if number == 0 {
                    continue;
                }
                let (acquiring, renewing) = match kind {
                    0 => (&mut set, Some(&mut expire)),
                    1 => (&mut with_token, Some(&mut conditional)),
                    2 => (&mut acquire, Some(&mut renew)),
                    3 => (&mut rslock_lock, Some(&mut rslock_extend)),
                    4 => (&mut with_epoch, None),
                    _ => (&mut distributed_lock, None),
                };
                acquiring.add(acquired);
                if let (Some(series), Some(taken)) = (renewing, renewed) {
                    series.add(taken);
                }
            }
        }
    }
    let how = if resting {
        "from rest"
    } else {
        "one after the other"
    };
    table(&format!("To get a free lock, {how}, {disk}"));
    set.print(None);
    acquire.print(Some(&set));
    rslock_lock.print(Some(&set));
    distributed_lock.print(Some(&set));
    with_token.print(Some(&set));
    acquire.print(Some(&with_token));
    with_epoch.print(Some(&set));
    acquire.print(Some(&with_epoch));
    table(&format!("To renew it, {how}, {disk}"));
    expire.print(None);
    renew.print(Some(&expire));
    rslock_extend.print(Some(&expire));
    conditional.print(Some(&expire));
    renew.print(Some(&conditional));
}

async fn hand_overs(server: &Server, disk: &str) {
    let mut floor = Series::new("bare PUBLISH, wake, script with a token (floor)");
    let mut of_backend = Series::new("tenure: release to the next grant");
    let mut of_elections = Series::new("tenure: resign to the next leader");
    let mut of_rslock = Series::new("rslock (polls), no token");

    let mut bare = Floor::new(server).await;
    let backends = [server.connect().await, server.connect().await];
    let managers = [(); 2].map(|()| LockManager::new(vec![url(server)]));
    let mut order = [0, 1, 2];
    for block in 0..quick_rounds().div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for kind in order {
            for number in 0..=IN_A_ROW {
                let round = block * (IN_A_ROW + 1) + number;
                let (series, taken) = match kind {
                    0 => (&mut floor, bare.hand_over().await),
                    1 => (
                        &mut of_backend,
                        backend_hand_over(server, &backends, round).await,
                    ),
                    _ => (
                        &mut of_elections,
                        election_hand_over(server, &backends).await,
                    ),
                };
                if number > 0 {
                    series.add(taken);
                }
            }
        }
        // `distributed-lock` does not wait for a lock that is taken.
        of_rslock.add(rslock_hand_over(&managers).await);
    }
    table(&format!("From the end of one holder to the next, {disk}"));
    floor.print(None);
    of_backend.print(Some(&floor));
    of_elections.print(Some(&floor));
    of_rslock.print(Some(&floor));
}

/// Lets what goes on behind a call come to its end. A hand-over mostly begins from rest.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

async fn subscribed(server: &Server, channel: &str) {
    let one = format!("{channel} 1");
    while server.text(&["PUBSUB", "NUMSUB", channel]) != one {
        tokio::task::yield_now().await;
    }
}

async fn unsubscribed(server: &Server, channel: &str) {
    let none = format!("{channel} 0");
    while server.text(&["PUBSUB", "NUMSUB", channel]) != none {
        tokio::task::yield_now().await;
    }
}

/// One who publishes, and one who waits for that.
struct Floor {
    publisher: MultiplexedConnection,
    waiter: Option<(PubSubStream, MultiplexedConnection)>,
    hash: String,
}

impl Floor {
    async fn new(server: &Server) -> Self {
        let client = redis::Client::open(url(server)).unwrap();
        let mut subscriber = client.get_async_pubsub().await.unwrap();
        subscriber.subscribe("bare").await.unwrap();
        let mut connection = bare(server).await;
        let hash = loaded(SHORTEST_ACQUIRE, &mut connection).await;
        Self {
            publisher: bare(server).await,
            waiter: Some((subscriber.into_on_message(), connection)),
            hash,
        }
    }

    async fn hand_over(&mut self) -> Duration {
        let (mut messages, mut connection) = self.waiter.take().unwrap();
        let millis = LONG.as_millis().to_string();
        let command = script(&self.hash, &["floor", "floor:n"], &["owner", &millis]);
        let waiting = tokio::spawn(async move {
            messages.next().await.unwrap();
            let token: u64 = command.query_async(&mut connection).await.unwrap();
            let at = Instant::now();
            assert!(token > 0);
            (messages, connection, at)
        });
        rest().await;
        let began = Instant::now();
        let mut publish = cmd("PUBLISH");
        publish.arg("bare").arg("");
        let publish = send(&publish, &mut self.publisher);
        let ((), waited) = future::join(publish, waiting).await;
        let (messages, connection, at) = waited.unwrap();
        self.waiter = Some((messages, connection));
        send(cmd("DEL").arg("floor"), &mut self.publisher).await;
        at - began
    }
}

/// Without the engine: what the backend alone takes.
async fn backend_hand_over(
    server: &Server,
    [holder, waiter]: &[RedisBackend; 2],
    round: u64,
) -> Duration {
    const CHANNEL: &str = "tenure:{backends}:released";
    let name = lock("backends");
    let (ann, bob) = (candidate("ann", 2 * round), candidate("bob", 2 * round + 1));
    let grant = held(holder.acquire(&name, &ann, LONG).await.unwrap());
    let mut changes = waiter.changes(&name);
    // The one that comes with the subscription.
    assert_eq!(changes.next().await, Some(Hint::MayBeFree));
    assert!(is_taken(&waiter.acquire(&name, &bob, LONG).await.unwrap()));
    let backend = waiter.clone();
    let waiting = tokio::spawn(async move {
        loop {
            assert_eq!(changes.next().await, Some(Hint::MayBeFree));
            let acquired = backend.acquire(&name, &bob, LONG).await.unwrap();
            // Or it was a message from before.
            if let Acquired::Held(next) = acquired {
                return (next, Instant::now());
            }
        }
    });
    rest().await;
    let began = Instant::now();
    let (released, next) = future::join(holder.release(&grant), waiting).await;
    released.unwrap();
    let (next, at) = next.unwrap();
    waiter.release(&next).await.unwrap();
    unsubscribed(server, CHANNEL).await;
    at - began
}

fn election(backend: &RedisBackend, name: &str) -> Election {
    let policy = Policy::builder().lease(LONG).build().unwrap();
    Election::builder(Arc::new(backend.clone()), lock(name))
        .policy(policy)
        .build()
        .unwrap()
}

/// As an application sees it.
async fn election_hand_over(server: &Server, backends: &[RedisBackend; 2]) -> Duration {
    const CHANNEL: &str = "tenure:{elections}:released";
    let [first, second] = backends.each_ref().map(|one| election(one, "elections"));
    let leader = first.campaign().await.unwrap();
    let waiting = tokio::spawn(async move {
        let leader = second.campaign().await.unwrap();
        (leader, Instant::now())
    });
    subscribed(server, CHANNEL).await;
    // And it looks again, now that it is subscribed.
    rest().await;
    let began = Instant::now();
    let (resigned, next) = future::join(leader.resign(), waiting).await;
    resigned.unwrap();
    let (leader, at) = next.unwrap();
    leader.resign().await.unwrap();
    unsubscribed(server, CHANNEL).await;
    at - began
}

async fn rslock_hand_over([first, second]: &[LockManager; 2]) -> Duration {
    let guard = first.acquire("hand-over", LONG).await.unwrap();
    let second = second.clone();
    let waiting = tokio::spawn(async move {
        let guard = second.acquire("hand-over", LONG).await.unwrap();
        let at = Instant::now();
        guard.release().await;
        at
    });
    out_of_step().await;
    let began = Instant::now();
    let ((), at) = future::join(guard.release(), waiting).await;
    at.unwrap() - began
}

/// Until some moment between two looks of those who poll.
async fn out_of_step() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(20..250))).await;
}

/// From the end of a silent leader's lease to the next one's election, by an election that waits.
async fn takeovers() {
    const LEASE: Duration = Duration::from_millis(100);
    const LATE: Duration = Duration::from_millis(5);
    let server = start(&[]).unwrap();
    let backend = server.connect().await;
    let name = lock("takeovers");
    let mut after = Series::new("tenure: end of the lease to the next leader");
    let mut in_time = 0;
    for round in 0..rounds() {
        let silent = candidate("silent", round);
        // Before the server begins to count, so the figures are rather too large.
        let began = Instant::now();
        held(backend.acquire(&name, &silent, LEASE).await.unwrap());
        let leader = election(&backend, "takeovers").campaign().await.unwrap();
        let taken = began.elapsed().saturating_sub(LEASE);
        in_time += u64::from(taken <= LATE);
        after.add(taken);
        leader.resign().await.unwrap();
    }
    table("When a leader has fallen silent");
    after.print(None);
    println!("  {in_time} of {} within {LATE:?}", rounds());
}

/// Many elections in one process, over one connection.
async fn many() {
    const ELECTIONS: u32 = 10_000;
    let server = start(&[]).unwrap();
    let backend = server.connect().await;
    let began = Instant::now();
    let campaigns = (0..ELECTIONS).map(|number| {
        let election = election(&backend, &format!("many-{number}"));
        async move { election.campaign().await.unwrap() }
    });
    let leaders = future::join_all(campaigns).await;
    table(&format!("{ELECTIONS} elections in one process"));
    println!("  won in {:.1?}", began.elapsed());
    let mut all = Series::new("tenure: a heartbeat of all of them at once");
    for _ in 0..5 {
        let confirming = leaders.iter().map(|leader| leader.confirm());
        let confirmed = all.time(future::join_all(confirming)).await;
        assert!(confirmed.iter().all(Result::is_ok));
    }
    all.print(None);

    // But for the one that asks.
    let clients = server.text(&["CLIENT", "LIST"]).lines().count() - 1;
    println!("  on {clients} connection");
}
