//! Holders and waiters that are frozen or killed: other processes, really stopped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use support::{Connects as _, again, again_at, told};
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, Changes, Election, Error, ErrorKind, Event, Grant, Hint, LockBackend as _, Policy,
    Renewal,
};
use tenure_postgres::{AdvisoryKey, GuardedTransaction, PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::{self, start, until};
use tenure_testkit::process::Again;
use tenure_testkit::{LIMIT, LONG, candidate, held, lock, renewed, taken, win};

const NAME: &str = "batch";

/// Not a test of its own: what the other processes run.
#[tokio::test]
async fn child_holds() {
    let Some((config, lease)) = told() else {
        return;
    };
    let backend = PostgresBackend::connect(config).await.unwrap();
    let name = lock(NAME);
    let mut grant = held(
        backend
            .acquire(&name, &candidate("child", 1), lease)
            .await
            .unwrap(),
    );
    println!("HELD");
    loop {
        match backend.renew(&grant, backend.clock().now()).await.unwrap() {
            Renewal::Renewed(renewed) => grant = renewed,
            _ => break,
        }
        tokio::time::sleep(lease.min(Duration::from_secs(2)) / 20).await;
    }
    assert!(backend.begin(&name, grant.token).await.is_err());
    println!("LOST");
}

/// Not a test of its own: campaigns as an application would.
#[tokio::test]
async fn child_campaigns() {
    let Some((config, lease)) = told() else {
        return;
    };
    let backend = Arc::new(PostgresBackend::connect(config).await.unwrap());
    // It tries once per heartbeat while it waits, so not at all where no test outlives the lease.
    let policy = Policy::builder()
        .lease(lease)
        .heartbeat(lease / 3)
        .request_timeout(lease / 6)
        .retry_interval(lease / 12)
        .stop_grace(lease / 10);
    let election = Election::builder(backend, lock(NAME)).policy(policy.build().unwrap());
    let election = election.build().unwrap();
    let mut events = election.events();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            if matches!(event, Event::LeaderSeen(_)) {
                println!("WAITS");
                return;
            }
        }
    });
    let leadership = election.campaign().await.unwrap();
    println!("LEADS {}", leadership.token().as_u64());
    leadership.lost().await;
    println!("LOST");
}

/// Not a test of its own: is stopped between a write and its commit.
#[tokio::test]
async fn child_writes() {
    let Some((config, lease)) = told() else {
        return;
    };
    let backend = PostgresBackend::connect(config).await.unwrap();
    let name = lock(NAME);
    let me = candidate("child", 1);
    let grant = held(backend.acquire(&name, &me, lease).await.unwrap());
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO writes VALUES ('child')", &[])
        .await
        .unwrap();
    println!("WROTE");
    let clock = backend.clock();
    clock.sleep_until(grant.proven_at + lease + lease).await;
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = backend.begin(&name, grant.token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // From another session, with the token.
    let port = std::env::var("TENURE_TEST_PORT").unwrap().parse().unwrap();
    let other = postgres::admin(port).await;
    let fence = i64::try_from(grant.token.as_u64()).unwrap();
    let fenced = "UPDATE state SET by = 'child', fence = $1 WHERE fence <= $1";
    assert_eq!(other.execute(fenced, &[&fence]).await.unwrap(), 0);
    println!("REFUSED");
}

/// Not a test of its own: forks while it holds a lock, writes and waits for another lock.
#[test]
fn child_forks() {
    let Some((config, lease)) = told() else {
        return;
    };
    // The only other thread is the harness', which waits for this one.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let inherited = runtime.block_on(inherit(config, lease));
    let before = runtime.block_on(sessions(&inherited.admin));
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                inherited.refuse();
                // What its copies of the tasks would do, if they ran here: say goodbye.
                runtime.block_on(async {
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                });
                drop(runtime);
            }));
            std::process::exit(i32::from(checked.is_err()));
        }
        fork::Fork::Parent(child) => {
            assert_eq!(fork::waitpid(child).unwrap(), 0, "see the panic above");
            runtime.block_on(inherited.go_on(before));
        }
    }
    println!("WENT ON");
}

/// What a forked child has of its parent's.
struct Inherited {
    backend: PostgresBackend,
    grant: Grant,
    transaction: GuardedTransaction,
    changes: Changes,
    admin: tokio_postgres::Client,
}

async fn inherit(config: PostgresConfig, lease: Duration) -> Inherited {
    let backend = PostgresBackend::connect(config).await.unwrap();
    let port = std::env::var("TENURE_TEST_PORT").unwrap().parse().unwrap();
    let admin = postgres::admin(port).await;
    // Somebody else holds another lock, so that there is a watcher.
    let other = lock("other");
    let changes = backend.changes(&other);
    taken(
        backend
            .acquire(&other, &candidate("parent", 1), lease)
            .await
            .unwrap(),
    );
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&admin, waits).await;
    let grant = held(
        backend
            .acquire(&lock(NAME), &candidate("parent", 2), lease)
            .await
            .unwrap(),
    );
    let mut transaction = backend.begin(&lock(NAME), grant.token).await.unwrap();
    transaction
        .execute("INSERT INTO writes VALUES ('parent')", &[])
        .await
        .unwrap();
    Inherited {
        backend,
        grant,
        transaction,
        changes,
        admin,
    }
}

/// The processes at the server of all the sessions there are.
async fn sessions(admin: &tokio_postgres::Client) -> Vec<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
                 ORDER BY pid";
    let rows = admin.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

impl Inherited {
    /// In the child: each call fails before it does anything, and the drops do nothing.
    fn refuse(self) {
        fn forked<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
            let answer = call.now_or_never().expect("no I/O in a fork");
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Forked);
        }

        let Self {
            backend,
            grant,
            mut transaction,
            mut changes,
            admin,
        } = self;
        let (name, me) = (lock(NAME), candidate("parent", 2));
        forked(backend.acquire(&name, &me, LONG));
        forked(backend.renew(&grant, backend.clock().now()));
        forked(backend.release(&grant));
        forked(backend.withdraw(&name, &me));
        forked(backend.holder(&name));
        forked(backend.begin(&name, grant.token));
        let checks = backend.checks(&name, LONG).now_or_never().unwrap();
        assert_eq!(checks.first().unwrap().name, "process", "{checks:?}");
        let hint = backend.changes(&name).next().now_or_never();
        assert_eq!(hint, Some(None));
        assert!(backend.loss(&grant).is_none());
        forked(transaction.batch_execute("COMMIT"));
        forked(transaction.execute("INSERT INTO writes VALUES ('child')", &[]));
        assert_eq!(changes.next().now_or_never(), None);
        drop(changes);
        drop(transaction);
        drop(grant);
        drop(backend);
        // Not one of this library's: it would close its socket.
        std::mem::forget(admin);
    }

    /// In the parent, after the child has ended.
    async fn go_on(self, before: Vec<i32>) {
        assert_eq!(sessions(&self.admin).await, before);
        self.transaction.commit().await.unwrap();
        let now = self.backend.clock().now();
        let grant = renewed(self.backend.renew(&self.grant, now).await.unwrap());
        assert_eq!(sessions(&self.admin).await, before);
        self.backend.release(&grant).await.unwrap();
    }
}

#[tokio::test]
async fn a_forked_child_does_nothing_to_its_parents_sessions() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    admin
        .batch_execute("CREATE TABLE writes (by text)")
        .await
        .unwrap();
    let backend = server.connect().await;
    let other = lock("other");
    let _grant = held(
        backend
            .acquire(&other, &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
    let mut child = again("child_forks", &server, LONG);
    child.says("WENT ON");
    let rows = admin.query("SELECT by FROM writes", &[]).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(),
        ["parent"]
    );
}

#[tokio::test]
async fn a_leader_that_was_paused_cannot_write() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let tables = "CREATE TABLE writes (by text); CREATE TABLE state (by text, fence int8); \
                  INSERT INTO state VALUES ('nobody', 0)";
    admin.batch_execute(tables).await.unwrap();
    let mut child = again("child_writes", &server, Duration::from_secs(2));
    child.says("WROTE");
    child.freeze();
    let backend = server.connect().await;
    let name = lock(NAME);
    let grant = win(&backend, &name, &candidate("bob", 2)).await;
    let fence = i64::try_from(grant.token.as_u64()).unwrap();
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    let install = "UPDATE state SET by = 'bob', fence = $1 WHERE fence <= $1";
    assert_eq!(transaction.execute(install, &[&fence]).await.unwrap(), 1);
    transaction.commit().await.unwrap();
    child.signal("CONT");
    child.says("REFUSED");
    let rows = admin.query("SELECT by FROM writes", &[]).await.unwrap();
    assert!(rows.is_empty(), "the paused leader's write was committed");
    let row = admin.query_one("SELECT by FROM state", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "bob");
}

#[tokio::test]
async fn a_frozen_holder_loses_the_lock_at_the_lease() {
    let Some(server) = start(&[]) else { return };
    let mut child = again("child_holds", &server, Duration::from_secs(2));
    child.says("HELD");
    let backend = server.connect().await;
    let name = lock(NAME);
    let bob = candidate("bob", 2);
    let mut changes = backend.changes(&name);
    assert_eq!(
        taken(backend.acquire(&name, &bob, LONG).await.unwrap())
            .unwrap()
            .identity,
        "child"
    );
    let frozen = Instant::now();
    child.freeze();
    // Woken by the end of its session; no look of our own in between.
    let waiting = async {
        loop {
            if let Acquired::Held(grant) = backend.acquire(&name, &bob, LONG).await.unwrap() {
                return grant;
            }
            while changes.next().await != Some(Hint::MayBeFree) {}
        }
    };
    let grant = tokio::time::timeout(LIMIT, waiting).await.unwrap();
    println!(
        "frozen holder: lock after {:?} of a lease of 2s",
        frozen.elapsed()
    );
    // It runs on, and does not believe that it leads.
    child.signal("CONT");
    child.says("LOST");
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// Then its session hangs in sending, where it is not idle.
#[tokio::test]
async fn a_frozen_holder_that_is_sent_too_much_loses_the_lock_all_the_same() {
    let Some(server) = start(&[]) else { return };
    let mut child = again("child_holds", &server, Duration::from_secs(2));
    child.says("HELD");
    let backend = server.connect().await;
    let admin = server.admin().await;
    child.freeze();
    let flood =
        "SELECT pg_notify('tenure', repeat('x', 7900) || n) FROM generate_series(1, 3000) n";
    admin.execute(flood, &[]).await.unwrap();
    let frozen = Instant::now();
    let grant = win(&backend, &lock(NAME), &candidate("bob", 2)).await;
    println!(
        "frozen and flooded holder: lock after {:?} of a lease of 2s",
        frozen.elapsed()
    );
    child.signal("CONT");
    child.says("LOST");
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

#[tokio::test]
async fn a_killed_holder_wakes_the_waiter_at_once() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let admin = server.admin().await;
    let name = lock(NAME);
    for round in 0..5 {
        // A lease that no test outlives: what frees the lock is the end of the process.
        let mut child = again("child_holds", &server, LONG);
        child.says("HELD");
        let bob = candidate("bob", 2 + round);
        let mut changes = backend.changes(&name);
        taken(backend.acquire(&name, &bob, LONG).await.unwrap());
        until(
            &admin,
            "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        )
        .await;
        let killed = Instant::now();
        child.signal("KILL");
        let waiting = async {
            loop {
                while changes.next().await != Some(Hint::MayBeFree) {}
                if let Acquired::Held(grant) = backend.acquire(&name, &bob, LONG).await.unwrap() {
                    return grant;
                }
            }
        };
        let grant = tokio::time::timeout(LIMIT, waiting).await.unwrap();
        println!("killed holder: lock after {:?}", killed.elapsed());
        backend.release(&grant).await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_or_frozen_waiter_never_leads() {
    let Some(server) = start(&[]) else { return };
    let (a, b) = (server.connect().await, server.connect().await);
    let admin = server.admin().await;
    let name = lock(NAME);
    let grant = held(a.acquire(&name, &candidate("ann", 1), LONG).await.unwrap());
    let mut killed = again("child_campaigns", &server, LONG);
    let mut frozen = again("child_campaigns", &server, LONG);
    // Their tries are answered, so none is under way.
    killed.says("WAITS");
    frozen.says("WAITS");
    let waiting = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&admin, waiting).await;
    killed.kill();
    frozen.freeze();
    let mut changes = b.changes(&name);
    taken(b.acquire(&name, &candidate("bob", 2), LONG).await.unwrap());
    a.release(&grant).await.unwrap();
    while tokio::time::timeout(LIMIT, changes.next()).await.unwrap() != Some(Hint::MayBeFree) {}
    // Nobody else can have it, so the first attempt succeeds.
    let grant = held(b.acquire(&name, &candidate("bob", 2), LONG).await.unwrap());
    renewed(b.renew(&grant, b.clock().now()).await.unwrap());
    // The frozen one had not taken anything when it runs on.
    frozen.signal("CONT");
    b.release(&grant).await.unwrap();
    frozen.says("LEADS");
}

/// What was sent before cannot be taken back: then it is as if it had been stopped right after it
/// had won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_under_way_of_a_frozen_waiter_is_over_with_its_lease() {
    let Some(server) = start(&[]) else { return };
    let (a, b) = (server.connect().await, server.connect().await);
    let (admin, name) = (server.admin().await, lock(NAME));
    let lease = Duration::from_secs(5);
    loop {
        let grant = win(&a, &name, &candidate("ann", 1)).await;
        let proxy = FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap();
        let mut frozen = waiter_with_a_try_under_way(&server, &proxy, lease).await;
        frozen.freeze();
        let session = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                       AND application_name NOT IN \
                       ('admin', 'tenure', 'tenure waits', 'tenure listens', 'ann', \
                       'bob')";
        a.release(&grant).await.unwrap();
        proxy.restore();
        // It wins, unless it had been silent for a lease before its try came.
        let has_won = format!(
            "{session} AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' \
             AND objsubid = 1)"
        );
        let settled = format!("SELECT ({has_won}) = 1 OR ({session}) = 0");
        until(&admin, &settled).await;
        let row = admin.query_one(&has_won, &[]).await.unwrap();
        if row.get::<_, i64>(0) == 0 {
            continue;
        }
        let grant = win(&b, &name, &candidate("bob", 2)).await;
        // It runs on, and does not believe that it had won.
        frozen.signal("CONT");
        renewed(b.renew(&grant, b.clock().now()).await.unwrap());
        b.release(&grant).await.unwrap();
        let token: u64 = frozen.says("LEADS").parse().unwrap();
        assert!(token > grant.token.as_u64());
        return;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_under_way_of_a_killed_waiter_is_over_with_its_connection() {
    let Some(server) = start(&[]) else { return };
    let (a, b) = (server.connect().await, server.connect().await);
    let name = lock(NAME);
    let grant = win(&a, &name, &candidate("ann", 1)).await;
    let proxy = FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap();
    // No test outlives its lease.
    let killed = waiter_with_a_try_under_way(&server, &proxy, LONG).await;
    killed.kill();
    a.release(&grant).await.unwrap();
    proxy.restore();
    let grant = win(&b, &name, &candidate("bob", 2)).await;
    renewed(b.renew(&grant, b.clock().now()).await.unwrap());
}

/// Another process behind the proxy, which holds its try for the lock.
async fn waiter_with_a_try_under_way(
    server: &postgres::Server,
    proxy: &FaultProxy,
    lease: Duration,
) -> Again {
    let port = proxy.address().port();
    let mut waiter = again_at("child_campaigns", server, port, lease);
    tokio::task::block_in_place(|| waiter.says("WAITS"));
    let admin = server.admin().await;
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&admin, waits).await;
    let before = proxy.seen(Way::Requests);
    proxy.hold(Way::Requests);
    // It is not so, but it makes the waiter try.
    let key = AdvisoryKey::of(&lock(NAME));
    let free = format!("NOTIFY tenure, '1 free {key}'");
    let trying = async {
        while proxy.seen(Way::Requests) == before {
            admin.batch_execute(&free).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, trying).await.unwrap();
    waiter
}

#[tokio::test]
async fn elections_hand_over_and_notice_the_loss() {
    let Some(server) = start(&[]) else { return };
    let policy = Policy::fast();
    let elect = |backend: PostgresBackend| {
        let election = Election::builder(Arc::new(backend), lock(NAME)).policy(policy.clone());
        election.build().unwrap()
    };
    let (one, two) = (elect(server.connect().await), elect(server.connect().await));
    let first = one.campaign().await.unwrap();
    let second = tokio::spawn(async move { (two.campaign().await.unwrap(), two) });
    let before = first.token();
    first.resign().await.unwrap();
    let (second, _two) = tokio::time::timeout(LIMIT, second).await.unwrap().unwrap();
    assert!(second.token() > before);
    let permit = second.confirm().await.unwrap();
    assert_eq!(permit.token, second.token());
    let admin = server.admin().await;
    let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
    admin.query(query, &[]).await.unwrap();
    tokio::time::timeout(LIMIT, second.lost()).await.unwrap();
    assert!(!second.is_valid());
    drop(second);
    // And it goes on.
    let third = tokio::time::timeout(LIMIT, one.campaign())
        .await
        .unwrap()
        .unwrap();
    assert!(third.token() > before);
}

/// The server frees the lock with the connection, whatever has broken it: a proxy, a router, an
/// administrator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_connection_is_reset_stops_before_the_next_leads() {
    let Some(server) = start(&[]) else { return };
    let address = ([127, 0, 0, 1], server.port).into();
    let proxy = FaultProxy::start(address).unwrap();
    let elect = |backend: PostgresBackend| {
        let election = Election::builder(Arc::new(backend), lock(NAME));
        election.build().unwrap()
    };
    let port = |port: u16| format!(":{port}/");
    let url = server.url();
    let url = url.replace(&port(server.port), &port(proxy.address().port()));
    let config = PostgresConfig::from_url(&url).unwrap();
    let config = config.connect_timeout(LIMIT);
    let ann = elect(PostgresBackend::connect(config).await.unwrap());
    let bob = elect(server.connect().await);
    let ann = ann.campaign().await.unwrap();
    let bob = tokio::spawn(async move { bob.campaign().await.unwrap() });
    let waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&server.admin().await, waits).await;
    proxy.reset();
    let bob = tokio::time::timeout(LIMIT, bob).await.unwrap().unwrap();
    assert!(!ann.is_valid(), "two leaders for {:?}", ann.remaining());
    assert!(bob.is_valid() && bob.token() > ann.token());
}
