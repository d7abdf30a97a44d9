//! What an application's own transaction may do to the session it shares with the locks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::future::Future;
use std::time::{Duration, Instant};

use support::{Connects as _, connect_at};
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Error, ErrorKind, Grant, LockBackend as _, Occupancy, Renewal};
use tenure_postgres::{GuardedTransaction, PostgresBackend};
use tenure_testkit::postgres::{NO_LOCKS, Server, start, until};
use tenure_testkit::{LIMIT, LONG, candidate, held, lock, renewed, win_for};

/// A lease whose end is waited for, and that a machine which stands still for a moment outlasts.
const SHORT: Duration = Duration::from_secs(3);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("no answer")
}

fn assert_silent(error: &Error, fate: &str) {
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.message().contains(fate), "{error}");
}

#[tokio::test]
async fn a_lost_answer_ends_the_call_and_not_the_whole_backend() {
    let Some(server) = start(&[]) else { return };
    let ann = candidate("ann", 1);
    let connect = async || {
        let wire = FaultProxy::start(server.address()).unwrap();
        let backend = connect_at(wire.address().port()).await;
        (wire, backend)
    };
    let begin = async {
        let (wire, backend) = connect().await;
        let name = lock("begin");
        let grant = win_for(&backend, &name, &ann, SHORT).await;
        wire.lose(Way::Both);
        let begun = in_time(backend.begin(&name, grant.token)).await;
        assert_silent(&begun.unwrap_err(), "nothing of the transaction");
    };
    let execute = async {
        let (wire, backend) = connect().await;
        let name = lock("execute");
        let grant = win_for(&backend, &name, &ann, SHORT).await;
        let mut transaction = backend.begin(&name, grant.token).await.unwrap();
        wire.lose(Way::Both);
        let statement = transaction.execute("SELECT 1", &[]);
        let other = lock("other");
        let acquire = backend.acquire(&other, &ann, SHORT);
        let (executed, acquired) = in_time(async { tokio::join!(statement, acquire) }).await;
        assert_silent(&executed.unwrap_err(), "nothing of the transaction");
        // It had waited for the transaction, and does so no longer.
        let error = acquired.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    };
    let commit = async {
        let (wire, backend) = connect().await;
        let name = lock("commit");
        let grant = win_for(&backend, &name, &ann, SHORT).await;
        let mut transaction = backend.begin(&name, grant.token).await.unwrap();
        transaction.execute("SELECT 1", &[]).await.unwrap();
        wire.lose(Way::Both);
        let committed = in_time(transaction.commit()).await;
        assert_silent(&committed.unwrap_err(), "not known");
    };
    tokio::join!(begin, execute, commit);
}

/// The application keeps a transaction whose session has ended, and does nothing with it.
#[tokio::test]
async fn a_transaction_that_is_kept_keeps_nobody_waiting_after_its_session() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let (x, y) = (lock("x"), lock("y"));
    let ann = candidate("ann", 1);
    let grant = held(backend.acquire(&x, &ann, LONG).await.unwrap());
    let mut transaction = backend.begin(&x, grant.token).await.unwrap();
    let admin = server.admin().await;
    let end = async {
        let query =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ann'";
        admin.query(query, &[]).await.unwrap();
    };
    let acquire = async { backend.acquire(&y, &ann, LONG).await };
    let (acquired, released, ()) =
        in_time(async { tokio::join!(acquire, backend.release(&grant), end) }).await;
    let error = acquired.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    released.unwrap();
    let error = transaction.execute("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

async fn two_terms(backend: &PostgresBackend, lease: Duration) -> [Grant; 2] {
    let x = win_for(backend, &lock("x"), &candidate("ann", 1), lease).await;
    let y = win_for(backend, &lock("y"), &candidate("ann", 2), lease).await;
    [x, y]
}

#[tokio::test]
async fn a_second_transaction_in_one_task_is_refused() {
    let Some(server) = start(&[]) else { return };
    // The server ends the session with the idle transaction; or it cannot be heard to.
    for cut in [false, true] {
        let wire = FaultProxy::start(server.address()).unwrap();
        let backend = connect_at(wire.address().port()).await;
        let [x, y] = two_terms(&backend, SHORT).await;
        let _open = backend.begin(&x.lock, x.token).await.unwrap();
        if cut {
            wire.lose(Way::Both);
        }
        let second = in_time(backend.begin(&y.lock, y.token)).await;
        let error = second.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("another"), "{error}");
    }
}

/// Its query is new when its turn comes, however long it has waited.
#[tokio::test]
async fn an_acquire_that_waits_for_longer_than_its_lease_closes_no_session() {
    const LEASE: Duration = Duration::from_secs(6);
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let [x, y] = two_terms(&backend, LEASE).await;
    let half = async |mut transaction: GuardedTransaction| {
        let begun = Instant::now();
        while begun.elapsed() < LEASE * 11 / 20 {
            let sleep = transaction.execute("SELECT pg_sleep(0.2)", &[]);
            sleep.await.unwrap();
        }
        transaction.commit().await.unwrap();
    };
    let first = backend.begin(&x.lock, x.token).await.unwrap();
    // Before the acquire, as it waits in front of it.
    let second = async { half(backend.begin(&x.lock, x.token).await.unwrap()).await };
    let adopt = backend.acquire(&y.lock, &y.candidate, LEASE);
    let ((), adopted, ()) = in_time(async { tokio::join!(second, adopt, half(first)) }).await;
    assert_eq!(held(adopted.unwrap()).token, y.token);
}

/// Longer than that it would keep VACUUM from its work, for a term that is over.
#[tokio::test]
async fn a_transaction_ends_with_its_lease() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let x = win_for(&backend, &lock("x"), &candidate("ann", 1), SHORT).await;
    let mut transaction = backend.begin(&x.lock, x.token).await.unwrap();
    let working = async {
        loop {
            let sleep = transaction.execute("SELECT pg_sleep(0.2)", &[]).await;
            if let Err(error) = sleep {
                return error;
            }
        }
    };
    let error = in_time(working).await;
    assert!(error.message().contains("longer than the lease"), "{error}");
    transaction.commit().await.unwrap_err();
}

#[tokio::test]
async fn a_second_transaction_waits_for_the_first() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let (x, y) = (lock("x"), lock("y"));
    let (ann, eve) = (candidate("ann", 1), candidate("ann", 2));
    let one = held(backend.acquire(&x, &ann, LONG).await.unwrap());
    let two = held(backend.acquire(&y, &eve, LONG).await.unwrap());
    let first = backend.begin(&x, one.token).await.unwrap();
    let second = async {
        let transaction = backend.begin(&y, two.token).await.unwrap();
        transaction.commit().await.unwrap();
    };
    let first = async { first.commit().await.unwrap() };
    in_time(async { tokio::join!(second, first) }).await;
}

/// What makes the server lose the last tokens in a crash, if they are not made durable each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Volatile {
    BySession,
    ByServer,
}

#[tokio::test]
async fn tokens_rise_over_a_crash_whatever_synchronous_commit_became() {
    // What is in its files outlives the server's crash; what it has not written yet does not, and
    // nobody but a commit that waits for it makes it write so soon.
    const SETTINGS: [&str; 2] = ["fsync=off", "wal_writer_delay=10s"];
    for volatile in [Volatile::BySession, Volatile::ByServer] {
        let Some(mut server) = start(&SETTINGS) else {
            return;
        };
        let backend = server.connect().await;
        let (x, y) = (lock("x"), lock("y"));
        let (ann, eve) = (candidate("ann", 1), candidate("ann", 2));
        let grant = held(backend.acquire(&x, &ann, LONG).await.unwrap());
        if volatile == Volatile::ByServer {
            let admin = server.admin().await;
            let alter = "ALTER SYSTEM SET synchronous_commit = off";
            admin.batch_execute(alter).await.unwrap();
            admin.query("SELECT pg_reload_conf()", &[]).await.unwrap();
        }
        let switching = async {
            loop {
                let mut transaction = backend.begin(&x, grant.token).await.unwrap();
                if volatile == Volatile::BySession {
                    let set = "SET synchronous_commit = off";
                    transaction.batch_execute(set).await.unwrap();
                }
                let rows = transaction.query("SHOW synchronous_commit", &[]).await;
                transaction.commit().await.unwrap();
                if rows.unwrap()[0].get::<_, &str>(0) == "off" {
                    return;
                }
            }
        };
        in_time(switching).await;
        let last = held(backend.acquire(&y, &eve, LONG).await.unwrap());
        server.stop("QUIT");
        server.restart();
        let config = server.config().options("-c synchronous_commit=on");
        let backend = PostgresBackend::connect(config).await.unwrap();
        let next = held(backend.acquire(&y, &eve, LONG).await.unwrap());
        assert!(next.token > last.token, "{volatile:?}: {next:?} {last:?}");
    }
}

#[tokio::test]
async fn a_session_whose_timeouts_were_changed_is_ended() {
    let Some(server) = start(&[]) else { return };
    let ann = candidate("ann", 1);
    let x = lock("x");
    let renewal_after = async |backend: &PostgresBackend, sql: &str| {
        let grant = win_for(backend, &x, &ann, LONG).await;
        let mut transaction = backend.begin(&x, grant.token).await.unwrap();
        transaction.batch_execute(sql).await.unwrap();
        transaction.commit().await.unwrap();
        let renewal = backend.renew(&grant, backend.clock().now()).await.unwrap();
        backend.release(&grant).await.unwrap();
        renewal
    };
    let backend = server.connect().await;
    let own = "SET LOCAL idle_session_timeout = 0; SET LOCAL synchronous_commit = off;
               SET work_mem = '8MB'";
    renewed(renewal_after(&backend, own).await);
    for sql in [
        "SET idle_session_timeout = 0",
        "SET idle_in_transaction_session_timeout = '1d'",
        "RESET ALL",
    ] {
        let renewal = renewal_after(&backend, sql).await;
        assert!(matches!(renewal, Renewal::Lost { .. }), "{sql}");
    }
    // There it is none of the session's.
    let config = server.config().without_server_lease(true);
    let backend = PostgresBackend::connect(config).await.unwrap();
    renewed(renewal_after(&backend, "SET idle_session_timeout = '1d'").await);
}

/// The session's own are for the statements of this library.
#[tokio::test]
async fn a_transaction_has_the_settings_of_the_application() {
    let Some(server) = start(&[]) else { return };
    let settings = [
        ("search_path", "app, public", "pg_catalog"),
        ("lock_timeout", "'7s'", "0"),
        ("statement_timeout", "'2s'", "0"),
        ("client_min_messages", "error", "debug5"),
        ("standard_conforming_strings", "off", "on"),
    ];
    let admin = server.admin().await;
    for (name, value, _) in settings {
        let alter = format!("ALTER ROLE app SET {name} = {value}");
        admin.batch_execute(&alter).await.unwrap();
    }
    let backend = server.connect().await;
    let x = lock("x");
    let grant = win_for(&backend, &x, &candidate("o'ann\\", 1), LONG).await;
    // What one transaction leaves behind is not there in the next.
    for _ in 0..2 {
        let mut transaction = backend.begin(&x, grant.token).await.unwrap();
        for (name, value, other) in settings {
            let rows = transaction
                .query(&format!("SHOW {name}"), &[])
                .await
                .unwrap();
            assert_eq!(
                rows[0].get::<_, &str>(0),
                value.trim_matches('\''),
                "{name}"
            );
            let set = format!("SET {name} = {other}");
            if name != "standard_conforming_strings" {
                transaction.batch_execute(&set).await.unwrap();
            }
        }
        transaction.commit().await.unwrap();
        renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    }
    let named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'o''ann\\'";
    let named = admin.query_one(named, &[]).await.unwrap();
    assert_eq!(named.get::<_, i64>(0), 1);
}

/// From now on each commit waits for a standby that does not come.
async fn lose_the_standby(server: &Server) {
    let admin = server.admin().await;
    let missing = "ALTER SYSTEM SET synchronous_standby_names = 'missing'";
    admin.batch_execute(missing).await.unwrap();
    admin.query("SELECT pg_reload_conf()", &[]).await.unwrap();
    let waiter = server.admin().await;
    tokio::spawn(async move {
        let commit = "SELECT pg_logical_emit_message(true, 'test', '')";
        while waiter.batch_execute(commit).await.is_ok() {}
    });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    until(&admin, waits).await;
}

/// A try waits for the standby in the session of the other terms, whose heartbeats wait behind it.
#[tokio::test]
async fn a_try_that_waits_for_a_standby_costs_no_other_term() {
    const LEASE: Duration = Duration::from_secs(40);
    let Some(server) = start(&[]) else { return };
    let (backend, x, y) = (server.connect().await, lock("x"), lock("y"));
    let ann = candidate("ann", 1);
    let grant = win_for(&backend, &x, &ann, LEASE).await;
    lose_the_standby(&server).await;
    let renewing = async {
        let admin = server.admin().await;
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
            AND application_name = 'ann')";
        until(&admin, waits).await;
        backend.renew(&grant, backend.clock().now()).await
    };
    let trying = backend.acquire(&y, &ann, LEASE);
    let (tried, renewal) = in_time(async { tokio::join!(trying, renewing) }).await;
    renewed(renewal.unwrap());
    let error = tried.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // Nobody has the other lock: its token is on no standby.
    let observer = server.connect().await;
    let seen = observer.holder(&y).await.unwrap();
    assert_eq!(seen, Occupancy::Free);
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// The server only warns when an administrator ends a commit's wait for its standby.
#[tokio::test]
async fn a_cancelled_wait_for_a_standby_is_an_error() {
    const CANCEL: &str = "SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity \
        WHERE wait_event = 'SyncRep' AND application_name = 'ann'";
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    // The warning is not shown by default here, and is none of the language of this library.
    for sql in [
        "CREATE TABLE sums (n int8)",
        "ALTER ROLE app SET client_min_messages = error",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let (backend, x, y) = (server.connect().await, lock("x"), lock("y"));
    let ann = candidate("ann", 1);
    let grant = win_for(&backend, &x, &ann, LONG).await;
    lose_the_standby(&server).await;

    let (acquired, ()) =
        in_time(async { tokio::join!(backend.acquire(&y, &ann, LONG), until(&admin, CANCEL)) })
            .await;
    let error = acquired.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("failover"), "{error}");
    // The session goes on, with the other lock, and that one is free.
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    let mut transaction = backend.begin(&x, grant.token).await.unwrap();
    let insert = transaction.execute("INSERT INTO sums VALUES (1)", &[]);
    insert.await.unwrap();
    let (committed, ()) =
        in_time(async { tokio::join!(transaction.commit(), until(&admin, CANCEL)) }).await;
    let error = committed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("committed"), "{error}");
    backend.release(&grant).await.unwrap();
    until(&admin, NO_LOCKS).await;
}
