//! The move from `ConfigMaps` to Leases, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_core::{Both, Election, Event, Identity, LockBackend, LockName, Policy};
use tenure_testkit::kube::Server;
use tokio::time::timeout;

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

fn election(backend: Arc<dyn LockBackend>, identity: &str) -> Election {
    // A lease that a machine which stands still for a while does not outlast.
    let policy = Policy::builder().lease(Duration::from_secs(60));
    let policy = policy.heartbeat(Duration::from_secs(1)).build().unwrap();
    Election::builder(backend, LockName::new("job").unwrap())
        .identity(Identity::new(identity).unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

async fn open(server: &Server) -> Arc<dyn LockBackend> {
    Arc::new(
        tenure_kube_configmap::connect(server.config())
            .await
            .unwrap(),
    )
}

/// One store counts for both kinds of object, so tokens rise all through the move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_moves_to_leases_under_one_rising_token() {
    let Some(server) = Server::start().await else {
        return;
    };
    let old = open(&server).await;
    let new: Arc<dyn LockBackend> =
        Arc::new(tenure_kube_lease::connect(server.config()).await.unwrap());
    let both: Arc<dyn LockBackend> = Arc::new(Both::new(old.clone(), new.clone()).unwrap());
    let order = [&old, &both, &old, &both, &both, &new, &both, &new];
    let mut tokens = Vec::new();
    let mut leading = election(order[0].clone(), "0").campaign().await.unwrap();
    for (turn, backend) in order.into_iter().enumerate().skip(1) {
        tokens.push(leading.token());
        let next = election(backend.clone(), &turn.to_string());
        let mut waits = next.events();
        let campaign = tokio::spawn(async move { next.campaign().await });
        let seen = async { while !matches!(waits.recv().await.unwrap(), Event::LeaderSeen(_)) {} };
        timeout(LIMIT, seen).await.unwrap();
        assert!(!campaign.is_finished() && leading.is_valid(), "turn {turn}");
        let term = leading.term();
        leading.resign().await.unwrap();
        leading = timeout(LIMIT, campaign).await.unwrap().unwrap().unwrap();
        assert!(!term.is_valid());
    }
    tokens.push(leading.token());
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}
