//! A leader that is asked to resign, on a real etcd: what its key says.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use support::Connects as _;
use tenure_core::{FencingToken, Grant, LockBackend as _};
use tenure_etcd::EtcdBackend;
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until};

/// The leader's key.
struct Key {
    cluster: Cluster,
    backend: EtcdBackend,
    token: FencingToken,
}

impl Key {
    /// As other programs read it.
    fn value(&self) -> String {
        let answer = ["get", "--prefix", "--print-value-only", "job/"];
        self.cluster.ctl(&answer).trim_end_matches('\n').to_owned()
    }

    async fn ask(&self, lasts: Duration) {
        let job = lock("job");
        let asking = self.backend.ask_to_resign(&job, self.token, lasts);
        asking.await.unwrap();
        assert!(self.value().contains("\tresign="), "{}", self.value());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_removes_a_wish_that_is_over_or_obeyed() {
    let Some(cluster) = start() else { return };
    let (backend, me) = (cluster.connect().await, candidate("me", 1));
    let mut grant = held(backend.acquire(&lock("job"), &me, LONG).await.unwrap());
    let key = Key {
        token: grant.token,
        cluster,
        backend,
    };
    let heartbeat = async |grant: Grant| {
        let now = key.backend.clock().now();
        renewed(key.backend.renew(&grant, now).await.unwrap())
    };

    key.ask(Duration::from_millis(1)).await;
    until("the old wish is removed", async || {
        heartbeat(grant.clone()).await;
        key.value() == "me"
    })
    .await;

    key.ask(LONG).await;
    grant = heartbeat(grant).await;
    let wish = grant.wish.unwrap();
    grant = heartbeat(grant).await;
    assert_eq!(key.value(), "me", "the leader has been told");
    let still = grant.wish.unwrap();
    assert_eq!(still.token, wish.token, "it counts to its end");
    assert_eq!(heartbeat(grant).await.wish, Some(still));
}
