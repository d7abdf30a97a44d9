//! Five minutes of waiting, in which no session of ours keeps VACUUM from its work:
//! `cargo test -p tenure-postgres --test snapshots -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::{Election, LockBackend as _};
use tenure_testkit::lock;
use tenure_testkit::postgres::{start, until};

const MINUTE: Duration = Duration::from_secs(60);

/// Who holds what back, of all sessions but the one that asks.
const HELD_BACK: &str = "SELECT pid, application_name, coalesce(backend_xmin::text, '') || '/' || \
    coalesce(backend_xid::text, '') FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
    AND backend_type = 'client backend' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes five minutes"]
async fn no_session_holds_back_vacuum_for_a_minute() {
    let Some(server) = start(&["autovacuum=off"]) else {
        return;
    };
    let seconds = std::env::var("TENURE_TEST_SECONDS").ok();
    let seconds = seconds.map_or(300, |seconds| seconds.parse().unwrap());
    let elect = async || {
        let backend = Arc::new(server.connect().await);
        Election::builder(backend, lock("batch")).build().unwrap()
    };
    let observer = server.connect().await;
    let ann = elect().await.campaign().await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let election = elect().await;
        waiting.push(tokio::spawn(async move { election.campaign().await }));
    }
    let admin = server.admin().await;
    let waits = "SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(&admin, waits).await;
    admin
        .batch_execute("CREATE TABLE busy (n int)")
        .await
        .unwrap();
    let mut since: HashMap<(i32, String), Instant> = HashMap::new();
    let mut longest = Duration::ZERO;
    for second in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = Instant::now();
        // A number of its own, so that a snapshot of this second differs from the last one.
        let number = "SELECT pg_current_xact_id()::text";
        admin.query(number, &[]).await.unwrap();
        let rows = admin.query(HELD_BACK, &[]).await.unwrap();
        let seen: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(2))).collect();
        since.retain(|held, _| seen.contains(held));
        for held in seen {
            longest = longest.max(now - *since.entry(held).or_insert(now));
        }
        if second % 10 == 0 {
            observer.holder(&lock("batch")).await.unwrap();
            println!(
                "{second} s: held back by {}, longest {longest:?}",
                since.len()
            );
        }
        assert!(longest < MINUTE, "{longest:?}");
        // Dead rows that are as old as a minute can be removed.
        if second % 60 == 0 && second > 0 {
            let vacuum = "VACUUM busy";
            admin.batch_execute(vacuum).await.unwrap();
            let left = "SELECT pg_relation_size('busy') / 8192";
            let row = admin.query_one(left, &[]).await.unwrap();
            println!("{second} s: {} pages after VACUUM", row.get::<_, i64>(0));
            assert!(row.get::<_, i64>(0) < 100);
        }
        if second % 60 == 5 {
            let dead = "INSERT INTO busy SELECT generate_series(1, 60000); DELETE FROM busy";
            admin.batch_execute(dead).await.unwrap();
        }
    }
    println!("the longest that a session held back VACUUM: {longest:?}");
    assert!(ann.is_valid());
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
}
