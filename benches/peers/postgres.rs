//! What the Postgres backend costs beside the bare statements through the same client, beside
//! `sqlx`'s advisory lock and beside the crate `distributed-lock`, on a private server:
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench postgres`.
//!
//! A grant waits for the server's disk, since its token is written to the log; where disks are
//! busy that hides everything else, and with `TMPDIR` in memory it is left out. The peers give no
//! token, and so wait for no disk.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_postgres::PostgresLockProvider;
use distributed_lock_postgres::handle::PostgresLockHandle;
use distributed_lock_postgres::lock::PostgresDistributedLock;
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockKey, PgConnection};
use sqlx::{Connection as _, Either};
use tenure_benches::beside::{
    CALL, Connects, Lock, Pair, Rest, Row, calls, connects, hand_overs, handed_over,
};
use tenure_benches::{LONG, is_asked, on_worker, ours, workers};
use tenure_testkit::postgres::start;
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

/// Two numbers that the server must have to give a token that no crash brings back.
const MINT: &str = "pg_logical_emit_message(true, 'bare', ''), pg_current_xact_id()::text";

/// Whether this very session, on a primary, still holds its locks, of both spaces of keys.
const PROOF: &str = "SELECT pg_backend_pid(), pg_is_in_recovery(), \
    array_agg((classid::int8 << 32) | objid::int8), array_agg(objsubid) FROM pg_locks \
    WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()";

/// Unlocks and tells, without waiting for the disk.
const FREE: &str = "SELECT CASE WHEN pg_advisory_unlock($1) THEN \
    CASE WHEN set_config('synchronous_commit', 'off', true) IS NOT NULL \
    THEN pg_notify('bare', 'free') IS NOT NULL END END";

const BARE: &str = "bare lock, no token";
const TOKEN: &str = "bare lock and durable token, one statement (floor)";
const BUSY: &[&str] = &[
    "the server's disk and a busy machine are most of it: see the spread. Over 200 \
    rounds and more a renewal is 1.1 x, an acquisition 1.1 x and a hand-over 1.1 to 1.5 x",
];
const NO_DISK: &str = "the peer gives no fencing token, and so waits for no disk";

fn main() {
    if !is_asked() {
        return;
    }
    let Some(server) = start(&[]) else { return };
    on_worker(&workers(), async move {
        // Without what only the backend knows.
        let url = server.url();
        let url = url.split('&').next().unwrap();
        let disk = Disk(connected(url).await);
        calls("", Some(&disk), rows(url).await).await;
        let table = "From the end of one holder to the next";
        hand_overs(table, Duration::from_millis(20), &disk, &pairs(url)).await;
    });
}

/// The backend's: nobody led before, so it need not wait for such a leader's lease.
fn ours(url: &str) -> String {
    format!("{url}&quarantine=off")
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Lets notifications come to their end. Then has the disk written to: how long that takes depends
/// on when it was last.
struct Disk(Client);

#[async_trait]
impl Rest for Disk {
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let write = format!("SELECT {MINT}");
        self.0.simple_query(&write).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn rows(url: &str) -> Vec<Row<Box<dyn Lock>>> {
    let bare = async |with_token| Box::new(Bare::new(url, with_token).await);
    let provider = PostgresLockProvider::new(url).await.unwrap();
    let distributed = provider.create_lock("calls");
    let sqlx = PgConnection::connect(url).await.unwrap();
    vec![
        Row::new(BARE, bare(false).await as Box<dyn Lock>),
        Row::new("sqlx PgAdvisoryLock, no token", Box::new(Sqlx(sqlx)) as _).beside(BARE),
        Row::new(
            "distributed-lock, no token",
            Box::new(Distributed(distributed, None)) as _,
        )
        .beside(BARE),
        Row::new(TOKEN, bare(true).await as _),
        Row::new("tenure", ours::Calls::boxed(&ours(url)).await).at_most(CALL, TOKEN, BUSY),
    ]
}

/// A session with the settings of the backend's own, and the statements that it needs.
struct Bare {
    client: Client,
    with_token: bool,
    key: i64,
    lock: Statement,
    try_lock: Statement,
    proof: Statement,
    mint: Statement,
    unlock: Statement,
    tell: Statement,
    free: Statement,
    heard: watch::Receiver<u64>,
}

impl Bare {
    async fn new(url: &str, with_token: bool) -> Self {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (count, heard) = watch::channel(0);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        let millis = LONG.as_millis();
        let settings = format!(
            "SET idle_session_timeout = {millis}; SET statement_timeout = 0; \
             SET tcp_keepalives_idle = 60; SET client_connection_check_interval = 1000"
        );
        client.batch_execute(&settings).await.unwrap();
        let mut try_lock = "SELECT pg_try_advisory_lock($1)".to_owned();
        if with_token {
            // Its floor tells of its locks, and hears of others', as the backend's does.
            client.batch_execute("LISTEN bare").await.unwrap();
            try_lock = format!("{try_lock}, {MINT}");
        }
        let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
        Self {
            with_token,
            key: i64::from(fastrand::i32(..)),
            lock: prepare("SELECT pg_advisory_lock($1)").await,
            try_lock: prepare(&try_lock).await,
            proof: prepare(PROOF).await,
            mint: prepare(&format!("SELECT {MINT}")).await,
            unlock: prepare("SELECT pg_advisory_unlock($1)").await,
            tell: prepare("SELECT pg_notify('bare', 'led')").await,
            free: prepare(FREE).await,
            heard,
            client,
        }
    }

    /// A statement for the key.
    async fn ask(&self, statement: &Statement) -> tokio_postgres::Row {
        self.client
            .query_one(statement, &[&self.key])
            .await
            .unwrap()
    }
}

#[async_trait]
impl Lock for Bare {
    async fn acquire(&mut self) {
        assert!(self.ask(&self.try_lock).await.get::<_, bool>(0));
    }

    async fn renew(&mut self) -> bool {
        self.client.query_one(&self.proof, &[]).await.unwrap();
        if self.with_token {
            self.client.query_one(&self.tell, &[]).await.unwrap();
        }
        self.with_token
    }

    async fn release(&mut self) {
        let how = if self.with_token {
            &self.free
        } else {
            &self.unlock
        };
        self.ask(how).await;
    }
}

struct Sqlx(PgConnection);

fn advisory() -> PgAdvisoryLock {
    PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(8))
}

#[async_trait]
impl Lock for Sqlx {
    async fn acquire(&mut self) {
        let lock = advisory();
        let Either::Left(guard) = lock.try_acquire(&mut self.0).await.unwrap() else {
            panic!("taken");
        };
        // The guard borrows the connection; its lock stays with the session.
        guard.leak();
    }

    async fn release(&mut self) {
        assert!(advisory().force_release(&mut self.0).await.unwrap().1);
    }
}

struct Distributed(PostgresDistributedLock, Option<PostgresLockHandle>);

#[async_trait]
impl Lock for Distributed {
    async fn acquire(&mut self) {
        self.1 = Some(self.0.try_acquire().await.unwrap().unwrap());
    }

    async fn release(&mut self) {
        self.1.take().unwrap().release().await.unwrap();
    }
}

fn pairs(url: &str) -> Vec<Row<Connects>> {
    const FLOOR: &str = "bare unlock to a blocked session (floor)";
    const MINTED: &str = "the same, then a durable token (floor with a token)";
    const TOLD: &str = "bare unlock that tells, a try with a durable token (floor without ghosts)";
    const GHOST: &[&str] = &[
        "the floor is an unlock alone: it gives no token, and a session that is \
        blocked in the lock can be dead. Ours is told, tries, and waits until its token is on the \
        server's disk; the bare statements for that are in the same table, and ours is judged \
        beside them too",
    ];
    let floor = |waits| {
        let url = url.to_owned();
        connects(move || Floor::new(url.clone(), waits))
    };
    let (sqlx, providers) = (url.to_owned(), url.to_owned());
    let sqlx = connects(move || Blocked::new(sqlx.clone()));
    let providers = connects(move || Providers::new(providers.clone()));
    let peer = |name, pair| Row::new(name, pair).beside(FLOOR).peer(NO_DISK);
    let mut rows = vec![
        Row::new(FLOOR, floor(Waits::Blocked)),
        peer("sqlx PgAdvisoryLock, no token", sqlx),
        peer("distributed-lock, no token", providers),
    ];
    let whys = [(FLOOR, GHOST), (MINTED, BUSY), (TOLD, BUSY)];
    rows.extend(ours::pairs(
        &ours(url),
        &whys.map(|(floor, why)| (floor, [why; 2])),
    ));
    rows.push(Row::new(TOLD, floor(Waits::Told)).beside(FLOOR));
    rows.push(Row::new(MINTED, floor(Waits::BlockedForToken)).beside(FLOOR));
    rows
}

/// How the second session waits: in the lock's queue, or until it is told, so that a waiter that
/// was killed or frozen gets nothing.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    Blocked,
    BlockedForToken,
    Told,
}

struct Floor {
    sessions: [Arc<Bare>; 2],
    waits: Waits,
}

impl Floor {
    async fn new(url: String, waits: Waits) -> Self {
        let told = waits == Waits::Told;
        let holder = Bare::new(&url, told).await;
        let mut waiter = Bare::new(&url, told).await;
        waiter.key = holder.key;
        let sessions = [Arc::new(holder), Arc::new(waiter)];
        Self { sessions, waits }
    }
}

#[async_trait]
impl Pair for Floor {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let ([holder, waiter], waits) = (self.sessions.clone(), self.waits);
        holder.ask(&holder.lock).await;
        let mut heard = waiter.heard.clone();
        heard.borrow_and_update();
        let waiting = tokio::spawn(async move {
            if waits == Waits::Told {
                heard.changed().await.unwrap();
                assert!(waiter.ask(&waiter.try_lock).await.get::<_, bool>(0));
            } else {
                waiter.ask(&waiter.lock).await;
            }
            if waits == Waits::BlockedForToken {
                waiter.client.query_one(&waiter.mint, &[]).await.unwrap();
            }
            let at = Instant::now();
            waiter.ask(&waiter.unlock).await;
            (at, ())
        });
        let end = if waits == Waits::Told {
            &holder.free
        } else {
            &holder.unlock
        };
        handed_over((wait, rest), holder.ask(end), waiting).await.0
    }
}

struct Blocked([Option<PgConnection>; 2]);

impl Blocked {
    async fn new(url: String) -> Self {
        let connect = async || Some(PgConnection::connect(&url).await.unwrap());
        Self([connect().await, connect().await])
    }
}

#[async_trait]
impl Pair for Blocked {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let [mut holder, mut waiter] = [0, 1].map(|at| self.0[at].take().unwrap());
        advisory().acquire(&mut holder).await.unwrap().leak();
        let waiting = tokio::spawn(async move {
            let lock = advisory();
            let guard = lock.acquire(&mut waiter).await.unwrap();
            let at = Instant::now();
            guard.release_now().await.unwrap();
            (at, waiter)
        });
        let lock = advisory();
        let release = lock.force_release(&mut holder);
        let (taken, released, waiter) = handed_over((wait, rest), release, waiting).await;
        assert!(released.unwrap().1);
        self.0 = [Some(holder), Some(waiter)];
        taken
    }
}

struct Providers([PostgresLockProvider; 2]);

impl Providers {
    async fn new(url: String) -> Self {
        let connect = async || PostgresLockProvider::new(&*url).await.unwrap();
        Self([connect().await, connect().await])
    }
}

#[async_trait]
impl Pair for Providers {
    async fn hand_over(&mut self, wait: Duration, rest: &dyn Rest) -> Duration {
        let [first, second] = self.0.each_ref().map(|one| one.create_lock("hand"));
        let handle = first.acquire(None).await.unwrap();
        let waiting = tokio::spawn(async move {
            let handle = second.acquire(None).await.unwrap();
            let at = Instant::now();
            handle.release().await.unwrap();
            (at, ())
        });
        let (taken, released, ()) = handed_over((wait, rest), handle.release(), waiting).await;
        released.unwrap();
        taken
    }
}
