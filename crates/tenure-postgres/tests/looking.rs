//! Those who only look: they take no lock, write nothing, and need no server that can be written to.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use support::Connects as _;
use tenure_core::{Check, ErrorKind, LockBackend as _, Occupancy, Verdict};
use tenure_postgres::PostgresBackend;
use tenure_testkit::postgres::{PASSWORD, start};
use tenure_testkit::{LONG, candidate, held, leader, lock, until};

const ADVISORY: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let found = checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no {name}: {checks:?}"))
}

/// A standby has locks of its own, so it must not be asked who leads.
#[tokio::test]
async fn a_hot_standby_can_be_looked_at_and_says_where_the_locks_are() {
    let Some(primary) = start(&[]) else { return };
    let standby = primary.standby();
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let leading = primary.connect().await;
    let grant = held(leading.acquire(&name, &ann, LONG).await.unwrap());

    let alone = PostgresBackend::connect(standby.config().only_looks(true)).await;
    let alone = alone.unwrap();
    for error in [
        alone.holder(&name).await.unwrap_err(),
        alone.acquire(&name, &ann, LONG).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("primary"), "{error}");
    }
    let checks = alone.checks(&name, LONG).await;
    assert_eq!(
        find(&checks, "writes").verdict,
        Verdict::Unusable,
        "{checks:?}"
    );
    assert!(find(&checks, "server version").reason.contains("a standby"));
    assert_eq!(find(&checks, "encryption").verdict, Verdict::Fine);
    let admin = standby.admin().await;
    let locks: i64 = admin.query_one(ADVISORY, &[]).await.unwrap().get(0);
    assert_eq!(locks, 0, "on the standby");

    // Where the list has the primary too, it is found behind the standby.
    let url = format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/postgres?sslmode=disable\
         &target_session_attrs=any&connect_timeout=20",
        standby.port, primary.port
    );
    let both = PostgresBackend::connect(url.parse().unwrap())
        .await
        .unwrap();
    until("the leader and its token are seen", async || {
        let seen = leader(both.holder(&name).await.unwrap());
        (seen.identity.as_str(), seen.token) == ("ann", Some(grant.token))
    })
    .await;
    let checks = both.checks(&name, LONG).await;
    assert!(
        checks
            .iter()
            .all(|check| check.verdict == Verdict::Fine || check.name == "replication"),
        "{checks:?}"
    );
}

/// A role for monitoring, that may only read.
#[tokio::test]
async fn a_role_that_may_only_read_sees_who_leads_and_takes_no_lock() {
    let Some(server) = start(&[]) else { return };
    let admin = server.admin().await;
    let role = format!(
        "CREATE ROLE monitor LOGIN PASSWORD '{PASSWORD}';
         ALTER ROLE monitor SET default_transaction_read_only = on;
         ALTER ROLE monitor SET synchronous_commit = off"
    );
    admin.batch_execute(&role).await.unwrap();
    let looking = server.config().user("monitor").only_looks(true);
    let looking = PostgresBackend::connect(looking).await.unwrap();
    let (name, ann) = (lock("batch"), candidate("ann", 1));
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let before: String = admin.query_one(next, &[]).await.unwrap().get(0);
    assert_eq!(looking.holder(&name).await.unwrap(), Occupancy::Free);
    let locks: i64 = admin.query_one(ADVISORY, &[]).await.unwrap().get(0);
    assert_eq!(locks, 0);
    let after: String = admin.query_one(next, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "something was written");

    let leading = server.connect().await;
    let grant = held(leading.acquire(&name, &ann, LONG).await.unwrap());
    until("the leader and its token are seen", async || {
        let seen = leader(looking.holder(&name).await.unwrap());
        (seen.identity.as_str(), seen.token) == ("ann", Some(grant.token))
    })
    .await;
    // An election would be refused, and doctor says so.
    let error = looking
        .acquire(&lock("other"), &ann, LONG)
        .await
        .unwrap_err();
    assert!(
        error.message().contains("default_transaction_read_only"),
        "{error}"
    );
    let checks = looking.checks(&name, LONG).await;
    let writes = find(&checks, "writes");
    assert_eq!(writes.verdict, Verdict::Unusable);
    assert!(
        writes.reason.contains("default_transaction_read_only"),
        "{writes:?}"
    );
}
