//! What the Postgres backend costs beside the bare statements through the same client, beside
//! `sqlx`'s advisory lock and beside the crate `distributed-lock`, on a private server:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench postgres`.
//!
//! A grant waits for the server's disk, since its token is written to the log; where disks are
//! busy that hides everything else, and with `TMPDIR` in memory it is left out. The peers give no
//! token, and so wait for no disk.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

#[path = "../../crates/tenure-postgres/tests/support/mod.rs"]
mod support;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_postgres::PostgresLockProvider;
use futures_util::{StreamExt as _, future};
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockKey, PgConnection};
use sqlx::{Connection as _, Either};
use support::{LIMIT, LONG, PASSWORD, Server, candidate, held, lock, renewed, start, taken, until};
use tenure_core::{Election, Hint, LockBackend as _, Policy};
use tenure_peers::{Series, quick_rounds, table};
use tenure_postgres::PostgresBackend;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

const KEY: i64 = 7;

/// Two numbers that the server must have to give a token that no crash brings back.
const MINT: &str = "pg_logical_emit_message(true, 'bare', ''), pg_current_xact_id()::text";

/// Whether this very session, on a primary, still holds its locks, of both spaces of keys.
const PROOF: &str = "SELECT pg_backend_pid(), pg_is_in_recovery(), \
    array_agg((classid::int8 << 32) | objid::int8), array_agg(objsubid) FROM pg_locks \
    WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()";

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
    let Some(server) = start(&[]) else { return };
    // On a worker, where an application's tasks are.
    let all = runtime.spawn(async move {
        renewals(&server).await;
        acquisitions(&server).await;
        hand_overs(&server).await;
    });
    runtime.block_on(all).unwrap();
}

/// A session with the settings of the backend's own, but for what they are measured with.
async fn bare(server: &Server) -> Client {
    let client = server.admin().await;
    let millis = LONG.as_millis();
    client
        .batch_execute(&format!(
            "SET idle_session_timeout = {millis}; SET statement_timeout = 0; \
             SET tcp_keepalives_idle = 60; SET client_connection_check_interval = 1000"
        ))
        .await
        .unwrap();
    client
}

fn url(server: &Server) -> String {
    let port = server.port;
    format!("postgres://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable")
}

/// So many calls of a kind come one after the other, so that each kind finds its own code, and its
/// own session at the server, warm.
const IN_A_ROW: u64 = 10;

/// The kinds of calls in random order, each `IN_A_ROW` times, until each has been made in all
/// `rounds`.
fn turns<const KINDS: usize>() -> impl Iterator<Item = (u64, usize)> {
    let blocks = quick_rounds().div_ceil(IN_A_ROW);
    (0..blocks).flat_map(|block| {
        let mut order: [usize; KINDS] = std::array::from_fn(|kind| kind);
        fastrand::shuffle(&mut order);
        let numbers = block * IN_A_ROW..(block + 1) * IN_A_ROW;
        let block = order.map(|kind| numbers.clone().map(move |number| (number, kind)));
        block.into_iter().flatten()
    })
}

/// Lets notifications, and what else goes on behind a call, come to their end. Then has the disk
/// written to, since how long it takes depends on when it was last.
async fn rest(admin: &Client) {
    tokio::time::sleep(Duration::from_millis(3)).await;
    let write = format!("SELECT {MINT}");
    admin.simple_query(&write).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
}

async fn renewals(server: &Server) {
    let admin = server.admin().await;
    let bare = bare(server).await;
    let proof = bare.prepare(PROOF).await.unwrap();
    let locking = format!("SELECT pg_advisory_lock({KEY})");
    bare.batch_execute(&locking).await.unwrap();
    let backend = server.connect().await;
    let (name, me) = (lock("renewals"), candidate("a", 0));
    let acquired = backend.acquire(&name, &me, LONG);
    let mut grant = held(acquired.await.unwrap());

    let mut proofs = Series::new("bare proof: own locks, own session, primary (floor)");
    let mut renewing = Series::new("tenure: renew");
    for (_, kind) in turns::<2>() {
        rest(&admin).await;
        if kind == 0 {
            let call = timeout(LIMIT, bare.query_one(&proof, &[]));
            proofs.time(call).await.unwrap().unwrap();
        } else {
            let now = backend.clock().now();
            let call = renewing.time(backend.renew(&grant, now));
            grant = renewed(call.await.unwrap());
        }
    }
    table("To know that a lock is still held (the peers do not)");
    proofs.print(None);
    renewing.print(Some(&proofs));
}

async fn acquisitions(server: &Server) {
    let admin = server.admin().await;
    // Each kind has a session of its own, since one that was busy just now answers faster.
    let plain = bare(server).await;
    let without = plain.prepare("SELECT pg_try_advisory_lock($1)").await;
    let without = without.unwrap();
    let unlock = plain.prepare("SELECT pg_advisory_unlock($1)").await;
    let unlock = unlock.unwrap();
    // And the floor tells of its locks, and hears of others', as the backend's does.
    let floor = bare(server).await;
    floor.batch_execute("LISTEN tenure").await.unwrap();
    let with_token = format!("SELECT pg_try_advisory_lock($1), {MINT}");
    let with_token = floor.prepare(&with_token).await.unwrap();
    let tell = floor.prepare("SELECT pg_notify('tenure', 'led')").await;
    let tell = tell.unwrap();
    let free = "SELECT pg_advisory_unlock($1), pg_notify('tenure', 'free')";
    let free = floor.prepare(free).await.unwrap();

    let backend = server.connect().await;
    let name = lock("acquisitions");
    let advisory = PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(KEY + 1));
    let mut connection = PgConnection::connect(&url(server)).await.unwrap();
    let provider = PostgresLockProvider::new(url(server)).await.unwrap();
    let distributed = provider.create_lock("acquisitions");

    let mut lock_only = Series::new("bare lock, no token");
    let mut lock_and_token = Series::new("bare lock and durable token, one statement (floor)");
    let mut acquire = Series::new("tenure: acquire");
    let mut of_sqlx = Series::new("sqlx PgAdvisoryLock: try_acquire, no token");
    let mut of_distributed = Series::new("distributed-lock: try_acquire, no token");
    for (round, kind) in turns::<5>() {
        rest(&admin).await;
        match kind {
            0 => {
                let call = timeout(LIMIT, plain.query_one(&without, &[&KEY]));
                lock_only.time(call).await.unwrap().unwrap();
                plain.query_one(&unlock, &[&KEY]).await.unwrap();
            }
            1 => {
                let call = timeout(LIMIT, floor.query_one(&with_token, &[&KEY]));
                lock_and_token.time(call).await.unwrap().unwrap();
                floor.query_one(&tell, &[]).await.unwrap();
                floor.query_one(&free, &[&KEY]).await.unwrap();
            }
            2 => {
                let me = candidate("a", round);
                let call = acquire.time(backend.acquire(&name, &me, LONG));
                let grant = held(call.await.unwrap());
                backend.release(&grant).await.unwrap();
            }
            3 => {
                let call = of_sqlx.time(advisory.try_acquire(&mut connection));
                let Either::Left(guard) = call.await.unwrap() else {
                    panic!("taken");
                };
                guard.release_now().await.unwrap();
            }
            _ => {
                let call = of_distributed.time(distributed.try_acquire());
                call.await.unwrap().unwrap().release().await.unwrap();
            }
        }
    }
    table("To get a free lock");
    lock_only.print(None);
    of_sqlx.print(Some(&lock_only));
    of_distributed.print(Some(&lock_only));
    lock_and_token.print(None);
    acquire.print(Some(&lock_and_token));
}

/// Nobody is blocked but the one who waits now.
const BLOCKED: &str =
    "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

async fn hand_overs(server: &Server) {
    let mut unlock = Series::new("bare unlock to a blocked session (floor)");
    let mut unlock_and_mint = Series::new("the same, then a durable token (floor with a token)");
    let mut told = Series::new("bare unlock that tells, a try without a token: no ghosts");
    let mut told_and_mint = Series::new("the same with a durable token (floor without ghosts)");
    let mut of_backend = Series::new("tenure: release to the next grant");
    let mut of_elections = Series::new("tenure: resign to the next leader");
    let mut of_sqlx = Series::new("sqlx PgAdvisoryLock, no token");
    let mut of_distributed = Series::new("distributed-lock, no token");

    let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
    for _ in 0..quick_rounds().div_ceil(IN_A_ROW) {
        fastrand::shuffle(&mut order);
        for kind in order {
            match kind {
                0 => several::<Floor<false>>(server, &mut unlock).await,
                1 => several::<Floor<true>>(server, &mut unlock_and_mint).await,
                2 => several::<Backends>(server, &mut of_backend).await,
                3 => several::<Elections>(server, &mut of_elections).await,
                4 => several::<Sqlx>(server, &mut of_sqlx).await,
                5 => several::<Told<false>>(server, &mut told).await,
                6 => several::<Told<true>>(server, &mut told_and_mint).await,
                _ => several::<Distributed>(server, &mut of_distributed).await,
            }
        }
    }
    table("From the end of one holder to the next");
    unlock.print(None);
    of_sqlx.print(Some(&unlock));
    of_distributed.print(Some(&unlock));
    of_backend.print(Some(&unlock));
    of_elections.print(Some(&unlock));
    told.print(Some(&unlock));
    told_and_mint.print(Some(&unlock));
    unlock_and_mint.print(None);
    of_backend.print(Some(&unlock_and_mint));
    of_elections.print(Some(&unlock_and_mint));
    told_and_mint.print(None);
    of_backend.print(Some(&told_and_mint));
    of_elections.print(Some(&told_and_mint));
}

/// Two who hand over. They are connected for so long only: others would be woken too.
trait Pair {
    async fn new(server: &Server) -> Self;
    async fn hand_over(&mut self) -> Duration;
}

async fn several<P: Pair>(server: &Server, series: &mut Series) {
    let mut pair = P::new(server).await;
    let _warm = pair.hand_over().await;
    for _ in 0..IN_A_ROW {
        series.add(pair.hand_over().await);
    }
}

/// Two sessions, the first of which holds the lock, and the statements of each.
struct Floor<const WITH_TOKEN: bool> {
    admin: Client,
    sessions: [Arc<Bare>; 2],
}

struct Bare {
    client: Client,
    lock: Statement,
    unlock: Statement,
    mint: Statement,
}

impl<const WITH_TOKEN: bool> Pair for Floor<WITH_TOKEN> {
    async fn new(server: &Server) -> Self {
        let session = async || {
            let client = bare(server).await;
            let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
            let lock = prepare("SELECT pg_advisory_lock($1)").await;
            let unlock = prepare("SELECT pg_advisory_unlock($1)").await;
            let mint = prepare(&format!("SELECT {MINT}")).await;
            Arc::new(Bare {
                client,
                lock,
                unlock,
                mint,
            })
        };
        let sessions = [session().await, session().await];
        let admin = server.admin().await;
        Self { admin, sessions }
    }

    async fn hand_over(&mut self) -> Duration {
        let [holder, waiter] = self.sessions.clone();
        let lock = holder.client.query_one(&holder.lock, &[&KEY]);
        lock.await.unwrap();
        let waiting = tokio::spawn(async move {
            let lock = waiter.client.query_one(&waiter.lock, &[&KEY]);
            lock.await.unwrap();
            if WITH_TOKEN {
                let mint = waiter.client.query_one(&waiter.mint, &[]);
                mint.await.unwrap();
            }
            let at = Instant::now();
            let unlock = waiter.client.query_one(&waiter.unlock, &[&KEY]);
            unlock.await.unwrap();
            at
        });
        until(&self.admin, BLOCKED).await;
        rest(&self.admin).await;
        let began = Instant::now();
        let unlock = holder.client.query_one(&holder.unlock, &[&KEY]);
        let (unlocked, next) = future::join(unlock, waiting).await;
        unlocked.unwrap();
        next.unwrap() - began
    }
}

/// What a hand-over cannot do without in which a waiter that was killed or frozen gets nothing: who
/// waits is not in the lock's queue, but told, and tries itself then.
struct Told<const WITH_TOKEN: bool> {
    admin: Client,
    sessions: [Arc<Bare>; 2],
    /// Unlocks and tells, without waiting for the disk.
    free: Statement,
    try_lock: Statement,
    heard: watch::Receiver<u64>,
}

impl<const WITH_TOKEN: bool> Pair for Told<WITH_TOKEN> {
    async fn new(server: &Server) -> Self {
        let Floor { admin, sessions } = Floor::<WITH_TOKEN>::new(server).await;
        let (listening, heard) = listening(server).await;
        let prepare = async |client: &Client, sql: &str| client.prepare(sql).await.unwrap();
        let free = "SELECT CASE WHEN pg_advisory_unlock($1) THEN \
            CASE WHEN set_config('synchronous_commit', 'off', true) IS NOT NULL \
            THEN pg_notify('tenure', 'free') IS NOT NULL END END";
        let free = prepare(&sessions[0].client, free).await;
        let minted = if WITH_TOKEN {
            "CASE WHEN pg_logical_emit_message(true, 'bare', '') IS NOT NULL \
             THEN pg_current_xact_id()::text END"
        } else {
            "'none'"
        };
        let try_lock = format!("SELECT CASE WHEN pg_try_advisory_lock($1) THEN {minted} END");
        let try_lock = prepare(&listening, &try_lock).await;
        let unlock = prepare(&listening, "SELECT pg_advisory_unlock($1)").await;
        let [holder, waiter] = sessions;
        let waiter = Arc::new(Bare {
            client: listening,
            lock: waiter.lock.clone(),
            unlock,
            mint: waiter.mint.clone(),
        });
        Self {
            admin,
            sessions: [holder, waiter],
            free,
            try_lock,
            heard,
        }
    }

    async fn hand_over(&mut self) -> Duration {
        let [holder, waiter] = self.sessions.clone();
        let lock = holder.client.query_one(&holder.lock, &[&KEY]);
        lock.await.unwrap();
        let (mut heard, try_lock) = (self.heard.clone(), self.try_lock.clone());
        heard.borrow_and_update();
        let waiting = tokio::spawn(async move {
            heard.changed().await.unwrap();
            let row = waiter.client.query_one(&try_lock, &[&KEY]).await.unwrap();
            let at = Instant::now();
            assert!(row.get::<_, Option<&str>>(0).is_some());
            let unlock = waiter.client.query_one(&waiter.unlock, &[&KEY]);
            unlock.await.unwrap();
            at
        });
        rest(&self.admin).await;
        let began = Instant::now();
        let free = holder.client.query_one(&self.free, &[&KEY]);
        let (freed, next) = future::join(free, waiting).await;
        freed.unwrap();
        next.unwrap() - began
    }
}

/// A session that counts what it is told.
async fn listening(server: &Server) -> (Client, watch::Receiver<u64>) {
    let config: tokio_postgres::Config = url(server).parse().unwrap();
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (count, heard) = watch::channel(0);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if matches!(message, AsyncMessage::Notification(_)) {
                count.send_modify(|count| *count += 1);
            }
        }
    });
    client.batch_execute("LISTEN tenure").await.unwrap();
    (client, heard)
}

/// Without the engine: what the backend alone takes.
struct Backends {
    admin: Client,
    pair: [PostgresBackend; 2],
    round: u64,
}

impl Pair for Backends {
    async fn new(server: &Server) -> Self {
        let pair = [server.connect().await, server.connect().await];
        let admin = server.admin().await;
        Self {
            admin,
            pair,
            round: 0,
        }
    }

    async fn hand_over(&mut self) -> Duration {
        self.round += 1;
        let (round, name) = (self.round, lock("backends"));
        let [holder, waiter] = self.pair.clone();
        let (ann, bob) = (candidate("ann", round), candidate("bob", round));
        let grant = held(holder.acquire(&name, &ann, LONG).await.unwrap());
        let mut changes = waiter.changes(&name);
        taken(waiter.acquire(&name, &bob, LONG).await.unwrap());
        until(&self.admin, BLOCKED).await;
        let waiting = waiter.clone();
        let waiting = tokio::spawn(async move {
            while changes.next().await != Some(Hint::MayBeFree) {}
            let next = held(waiting.acquire(&name, &bob, LONG).await.unwrap());
            (next, Instant::now())
        });
        rest(&self.admin).await;
        let began = Instant::now();
        let (released, next) = future::join(holder.release(&grant), waiting).await;
        released.unwrap();
        let (next, at) = next.unwrap();
        waiter.release(&next).await.unwrap();
        until(&self.admin, NOBODY_BLOCKED).await;
        at - began
    }
}

const NOBODY_BLOCKED: &str =
    "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

/// As an application sees it.
struct Elections {
    admin: Client,
    elections: [Election; 2],
}

impl Pair for Elections {
    async fn new(server: &Server) -> Self {
        let policy = Policy::builder().lease(LONG).build().unwrap();
        let elect = |backend: PostgresBackend| {
            let election = Election::builder(Arc::new(backend), lock("elections"));
            election.policy(policy.clone()).build().unwrap()
        };
        let elections = [server.connect().await, server.connect().await].map(elect);
        let admin = server.admin().await;
        Self { admin, elections }
    }

    async fn hand_over(&mut self) -> Duration {
        let [first, second] = self.elections.clone();
        let leader = first.campaign().await.unwrap();
        let waiting = tokio::spawn(async move {
            let leader = second.campaign().await.unwrap();
            (leader, Instant::now())
        });
        until(&self.admin, BLOCKED).await;
        rest(&self.admin).await;
        let began = Instant::now();
        let (resigned, next) = future::join(leader.resign(), waiting).await;
        resigned.unwrap();
        let (leader, at) = next.unwrap();
        leader.resign().await.unwrap();
        until(&self.admin, NOBODY_BLOCKED).await;
        at - began
    }
}

struct Sqlx {
    admin: Client,
    connections: Option<[PgConnection; 2]>,
}

impl Pair for Sqlx {
    async fn new(server: &Server) -> Self {
        let connect = async || PgConnection::connect(&url(server)).await.unwrap();
        let connections = Some([connect().await, connect().await]);
        let admin = server.admin().await;
        Self { admin, connections }
    }

    async fn hand_over(&mut self) -> Duration {
        let [holder, mut waiter] = self.connections.take().unwrap();
        let advisory = || PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(KEY + 2));
        let first = advisory();
        let guard = first.acquire(Mine(holder)).await.unwrap();
        let waiting = tokio::spawn(async move {
            let second = advisory();
            let guard = second.acquire(&mut waiter).await.unwrap();
            let at = Instant::now();
            guard.release_now().await.unwrap();
            (waiter, at)
        });
        until(&self.admin, BLOCKED).await;
        rest(&self.admin).await;
        let began = Instant::now();
        let (released, next) = future::join(guard.release_now(), waiting).await;
        let (waiter, at) = next.unwrap();
        self.connections = Some([released.unwrap().0, waiter]);
        at - began
    }
}

/// A connection that moves into the guard and out of it.
struct Mine(PgConnection);

impl AsMut<PgConnection> for Mine {
    fn as_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

struct Distributed {
    admin: Client,
    providers: [PostgresLockProvider; 2],
}

impl Pair for Distributed {
    async fn new(server: &Server) -> Self {
        let connect = async || PostgresLockProvider::new(url(server)).await.unwrap();
        let providers = [connect().await, connect().await];
        let admin = server.admin().await;
        Self { admin, providers }
    }

    async fn hand_over(&mut self) -> Duration {
        let [first, second] = self.providers.each_ref().map(|one| one.create_lock("hand"));
        let handle = first.acquire(None).await.unwrap();
        let waiting = tokio::spawn(async move {
            let handle = second.acquire(None).await.unwrap();
            let at = Instant::now();
            handle.release().await.unwrap();
            at
        });
        until(&self.admin, BLOCKED).await;
        rest(&self.admin).await;
        let began = Instant::now();
        let (released, at) = future::join(handle.release(), waiting).await;
        released.unwrap();
        at.unwrap() - began
    }
}
