//! What the server's wall clock decides, and what it does not.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::{LockBackend as _, Verdict};
use tenure_postgres::PostgresBackend;
use tenure_testkit::postgres::{start, start_under};
use tenure_testkit::wall_clock::WallClock;
use tenure_testkit::{
    LONG, candidate, held, is_lost, is_taken, lock, renewed, taken, until, win_for, within_limit,
};

const AGE: &str = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::int8";

/// A leader that is frozen while the server restarts believes in its lease for what is left of it.
#[tokio::test]
async fn a_clock_that_is_set_over_a_restart_shortens_no_quarantine() {
    let Some(clock) = WallClock::new() else {
        return;
    };
    let Some(mut server) = start_under(clock.environment().into(), &[]) else {
        return;
    };
    let (name, lease) = (lock("batch"), Duration::from_secs(5));
    let holder = server.connect().await;
    let grant = held(
        holder
            .acquire(&name, &candidate("ann", 1), lease)
            .await
            .unwrap(),
    );
    server.stop("INT");
    let valid_from = Instant::now();
    server.restart();
    clock.set_ahead(60);
    // The server says that it is old enough for twelve such leases.
    let admin = server.admin().await;
    let age: i64 = admin.query_one(AGE, &[]).await.unwrap().get(0);
    assert!(age >= 60, "{age}");
    let fresh = server.config().quarantine(true);
    let fresh = PostgresBackend::connect(fresh).await.unwrap();
    win_for(&fresh, &name, &candidate("bob", 2), lease).await;
    let overlap = (grant.lease).saturating_sub(valid_from.elapsed());
    println!("the server's clock says {age} s; overlap {overlap:?}");
    assert!(overlap.is_zero(), "{overlap:?}");

    // Doctor compares the clocks.
    let checks = fresh.checks(&name, lease).await;
    let compared = checks.iter().find(|check| check.name == "clock").unwrap();
    assert_eq!(compared.verdict, Verdict::Warning, "{checks:?}");
    assert!(compared.reason.contains("ahead"), "{compared:?}");
}

/// The wait is for a cold start: it delays no hand-over.
#[tokio::test]
async fn a_lock_that_another_process_gives_back_is_in_no_quarantine() {
    let Some(server) = start(&[]) else { return };
    let leading = server.connect().await;
    let later = server.config().quarantine(true);
    let later = PostgresBackend::connect(later).await.unwrap();
    let (led, free) = (lock("led"), lock("free"));
    let (ann, bob) = (candidate("ann", 1), candidate("bob", 2));
    let grant = held(leading.acquire(&led, &ann, LONG).await.unwrap());
    let holder = taken(later.acquire(&led, &bob, LONG).await.unwrap());
    assert_eq!(holder.unwrap().identity, "ann");
    leading.release(&grant).await.unwrap();
    held(later.acquire(&led, &bob, LONG).await.unwrap());
    // Of this one nothing is known.
    assert!(is_taken(&later.acquire(&free, &bob, LONG).await.unwrap()));
    let believing = server.config().quarantine(true);
    let believing = believing.clock_error(Duration::ZERO);
    let believing = PostgresBackend::connect(believing).await.unwrap();
    win_for(&believing, &free, &ann, Duration::from_millis(100)).await;
}

/// The server ends a silent session by its wall clock: see `docs/reference/backends/postgres.md`.
#[tokio::test]
async fn a_lease_ends_early_when_the_servers_clock_is_set_forward() {
    let Some(clock) = WallClock::new() else {
        return;
    };
    let Some(server) = start_under(clock.environment().into(), &[]) else {
        return;
    };
    let backend = server.connect().await;
    let name = lock("batch");
    let lease = Duration::from_secs(30);
    let mut grant = held(
        backend
            .acquire(&name, &candidate("ann", 1), lease)
            .await
            .unwrap(),
    );
    // A timer of an earlier wait of the session is what fires next.
    until("a part of the lease is over", async || {
        backend.clock().now().since(grant.proven_at) > lease / 10
    })
    .await;
    grant = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    clock.set_ahead(1000);
    within_limit("the end of the session", backend.loss(&grant).unwrap()).await;
    let over = backend.clock().now().since(grant.proven_at);
    println!("a lease of {lease:?} has ended {over:?} after its last heartbeat");
    assert!(over < lease, "{over:?}");
    assert!(is_lost(
        &backend.renew(&grant, backend.clock().now()).await.unwrap()
    ));
}
