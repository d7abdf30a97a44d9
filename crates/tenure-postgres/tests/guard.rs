//! What an application's own transaction may do to the session it shares with the locks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::future::Future;
use std::time::Duration;

use support::{LIMIT, LONG, Wire, candidate, held, lock, start, win_for};
use tenure_core::{Error, ErrorKind, Grant, LockBackend as _};
use tenure_postgres::PostgresBackend;

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
        let wire = Wire::to(&server).await;
        let backend = wire.connect().await;
        (wire, backend)
    };
    let begin = async {
        let (wire, backend) = connect().await;
        let name = lock("begin");
        let grant = win_for(&backend, &name, &ann, SHORT).await;
        wire.cut();
        let begun = in_time(backend.begin(&name, grant.token)).await;
        assert_silent(&begun.unwrap_err(), "nothing of the transaction");
    };
    let execute = async {
        let (wire, backend) = connect().await;
        let name = lock("execute");
        let grant = win_for(&backend, &name, &ann, SHORT).await;
        let mut transaction = backend.begin(&name, grant.token).await.unwrap();
        wire.cut();
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
        wire.cut();
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

async fn two_terms(backend: &PostgresBackend) -> [Grant; 2] {
    let x = win_for(backend, &lock("x"), &candidate("ann", 1), SHORT).await;
    let y = win_for(backend, &lock("y"), &candidate("ann", 2), SHORT).await;
    [x, y]
}

#[tokio::test]
async fn a_second_transaction_in_one_task_is_refused() {
    let Some(server) = start(&[]) else { return };
    // The server ends the session with the idle transaction; or it cannot be heard to.
    for cut in [false, true] {
        let wire = Wire::to(&server).await;
        let backend = wire.connect().await;
        let [x, y] = two_terms(&backend).await;
        let _open = backend.begin(&x.lock, x.token).await.unwrap();
        if cut {
            wire.cut();
        }
        let second = in_time(backend.begin(&y.lock, y.token)).await;
        let error = second.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("another"), "{error}");
    }
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
