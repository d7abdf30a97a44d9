//! Elections on an API server whose store is kine, as in k3s. `cargo xtask test --more` runs them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;

use support::Connects as _;
use tenure_core::{Election, FencingToken, Identity, LockBackend as _, Policy, Verdict};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::on_kine::{Database, OnKine};
use tenure_testkit::{LONG, candidate, held, is_lost, lock, renewed, within_limit};

const HAND_OVERS: usize = 50;

/// No time hands over: only the watch tells of a release.
fn election(backend: &Arc<KubeLeaseBackend>, identity: &str) -> Election {
    Election::builder(backend.clone(), lock("kine"))
        .identity(Identity::new(identity).unwrap())
        .policy(Policy::builder().lease(LONG).build().unwrap())
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hand_overs_and_the_tokens_rise() {
    hand_over(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hand_overs_on_postgres() {
    hand_over(Database::Postgres).await;
}

async fn hand_over(database: Database) {
    let Some(kine) = OnKine::start(database).await else {
        return;
    };
    let backends = [
        Arc::new(connect(kine.server.config()).await.unwrap()),
        Arc::new(connect(kine.server.config()).await.unwrap()),
    ];
    let onlooker = Arc::new(connect(kine.server.config()).await.unwrap());
    let first = election(&backends[1], "1");
    let first = within_limit("the first term", first.campaign()).await;
    let mut leader = first.unwrap();
    let mut tokens: Vec<FencingToken> = vec![leader.token()];
    for turn in 0..HAND_OVERS {
        let next = election(&backends[turn % 2], &(turn % 2).to_string());
        let campaign = tokio::spawn(async move { next.campaign().await });
        let lease = kine.server.lease("kine").await;
        let leads = ((turn + 1) % 2).to_string();
        assert_eq!(lease["spec"]["holderIdentity"], leads, "{lease}");
        assert!(!campaign.is_finished());
        leader.resign().await.unwrap();
        leader = within_limit("the hand-over", campaign)
            .await
            .unwrap()
            .unwrap();
        tokens.push(leader.token());
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");

    let checks = onlooker
        .checks(&lock("kine"), Policy::default().lease())
        .await;
    for check in &checks {
        assert_ne!(check.verdict, Verdict::Unusable, "{check:?}");
    }
    println!("tokens {} to {}", tokens[0], tokens[HAND_OVERS]);
    leader.resign().await.unwrap();
}

/// What our promises rest on: a write on an old version is refused, also over a deletion, and
/// versions never begin again.
#[tokio::test]
async fn a_deletion_ends_the_term_and_the_next_token_is_larger() {
    delete(Database::Sqlite).await;
}

#[tokio::test]
async fn a_deletion_on_postgres() {
    delete(Database::Postgres).await;
}

async fn delete(database: Database) {
    let Some(kine) = OnKine::start(database).await else {
        return;
    };
    let server = &kine.server;
    let backend = connect(server.config()).await.unwrap();
    let mut last = None;
    for turn in 1..=5 {
        let us = candidate("us", turn);
        let grant = held(backend.acquire(&lock("kine"), &us, LONG).await.unwrap());
        assert!(last < Some(grant.token), "{last:?} {grant:?}");
        last = Some(grant.token);
        let newer = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
        let (status, _) = server
            .send("DELETE", &server.lease_path("kine"), None)
            .await;
        assert_eq!(status, 200);
        if turn % 2 == 0 {
            // Another has it by now: neither an old nor the newest version of ours writes over it.
            let other = candidate("other", 100 + turn);
            let theirs = held(backend.acquire(&lock("kine"), &other, LONG).await.unwrap());
            for ours in [&grant, &newer] {
                assert!(is_lost(
                    &backend.renew(ours, backend.clock().now()).await.unwrap()
                ));
                backend.release(ours).await.unwrap();
            }
            let theirs = renewed(backend.renew(&theirs, backend.clock().now()).await.unwrap());
            last = Some(theirs.token);
            backend.release(&theirs).await.unwrap();
        } else {
            assert!(is_lost(
                &backend.renew(&newer, backend.clock().now()).await.unwrap()
            ));
        }
    }
}
