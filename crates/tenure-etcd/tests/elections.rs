//! Elections on real etcd clusters: over the loss of members, thousands of them, and the fence.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::Connects as _;
use tenure_core::{Election, Identity, LockBackend, Policy, Time};
use tenure_etcd::etcd_client::TxnOp;
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{start, start_with};
use tenure_testkit::{LIMIT, LONG, candidate, held, is_taken, lock, renewed, until, within_limit};

/// Every member in turn crashes or stands still, the raft leader among them: the term goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_survives_the_loss_of_each_member() {
    let Some(mut cluster) = start_with(3, &[]) else {
        return;
    };
    let policy = Policy::builder()
        .lease(LIMIT)
        .heartbeat(Duration::from_secs(1))
        .build()
        .unwrap();
    let backend: Arc<dyn LockBackend> = Arc::new(cluster.connect().await);
    let leader = Election::builder(backend, lock("job"))
        .policy(policy.clone())
        .build()
        .unwrap();
    let rival = Election::builder(Arc::new(cluster.connect().await), lock("job"))
        .policy(policy)
        .build()
        .unwrap();
    let leadership = leader.campaign().await.unwrap();
    let waiting = tokio::spawn(async move { rival.campaign().await });
    let first = cluster.raft_leader();
    for number in [first, (first + 1) % 3, (first + 2) % 3] {
        for freeze in [false, true] {
            if freeze {
                cluster.members[number].freeze();
            } else {
                cluster.members[number].kill();
            }
            // A proof that is asked for after the fault.
            until("the store confirms the term", async || {
                leadership.confirm().await.is_ok()
            })
            .await;
            assert!(leadership.is_valid());
            assert!(!waiting.is_finished(), "there are two leaders");
            if freeze {
                cluster.members[number].thaw();
            } else {
                cluster.members[number].restart();
            }
            cluster.wait();
        }
    }
    let token = leadership.token();
    leadership.resign().await.unwrap();
    let next = within_limit("the rival", waiting).await.unwrap().unwrap();
    assert!(next.token() > token);
}

/// Whoever finds the lease gone finds it for all, whose own heartbeats are minutes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_lease_ends_all_its_terms_at_once() {
    let Some(cluster) = start() else { return };
    let backend = Arc::new(cluster.connect().await);
    let campaign = async |name: &str| {
        let policy = Policy::builder()
            .lease(LONG)
            .heartbeat(LONG / 3)
            .build()
            .unwrap();
        Election::builder(backend.clone(), lock(name))
            .policy(policy)
            .build()
            .unwrap()
            .campaign()
            .await
            .unwrap()
    };
    let (first, second) = (campaign("first").await, campaign("second").await);
    let third = campaign("third").await;
    // One key alone.
    cluster.ctl(&["del", "--prefix", "third/"]);
    assert!(first.confirm().await.is_ok());
    until("its term is over", async || !third.is_valid()).await;
    assert!(second.is_valid());

    let key = cluster.queue("first").remove(0);
    cluster.ctl(&["lease", "revoke", key.strip_prefix("first/").unwrap()]);
    assert!(first.confirm().await.is_err());
    until("the other one's term is over", async || !second.is_valid()).await;
    assert!(!first.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_elections_share_their_keepalives() {
    const ELECTIONS: usize = 2500;
    let Some(cluster) = start() else { return };
    let backend = Arc::new(cluster.connect().await);
    let heartbeat = Duration::from_secs(3);
    let policy = Policy::builder().lease(Duration::from_secs(60));
    let policy = policy.heartbeat(heartbeat).build().unwrap();
    let elections: Vec<_> = (0..ELECTIONS)
        .map(|number| {
            Election::builder(backend.clone(), lock(&format!("lock-{number}")))
                .policy(policy.clone())
                .identity(Identity::new("ann").unwrap())
                .build()
                .unwrap()
        })
        .collect();
    let mut leaders = Vec::new();
    for some in elections.chunks(100) {
        let campaigns = join_all(some.iter().map(Election::campaign));
        let campaigns = within_limit("a hundred campaigns", campaigns).await;
        leaders.extend(campaigns.into_iter().map(Result::unwrap));
    }
    let (began, before) = (Instant::now(), backend.traffic());
    // A thousand keys hang on each.
    assert_eq!(before.leases, 3);
    // How often each was renewed: then its end moves.
    let mut renewals = vec![(0, Duration::ZERO); ELECTIONS];
    while renewals.iter().any(|(renewed, _)| *renewed < 4) {
        assert!(began.elapsed() < LIMIT, "some were not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (leader, (renewed, end)) in leaders.iter().zip(&mut renewals) {
            assert!(leader.is_valid());
            let found = began.elapsed() + leader.remaining();
            if found > *end + Duration::from_millis(500) {
                *renewed += 1;
                *end = found;
            }
        }
    }
    let elapsed = began.elapsed();
    let sent = backend.traffic().keepalives - before.keepalives;
    println!("{sent} keepalives in {elapsed:?} for {ELECTIONS} elections on 3 leases");
    // One per lease and interval, and at both ends. Where some began later than others, they are
    // renewed together after an interval or two.
    let intervals = elapsed.as_secs_f64() / heartbeat.as_secs_f64();
    let sent = u32::try_from(sent).unwrap();
    assert!(f64::from(sent) <= 3.0 * (4.0 + 1.1 * intervals), "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_under_a_guard_is_committed_only_while_the_term_goes_on() {
    let Some(cluster) = start() else { return };
    let backends = [
        Arc::new(cluster.connect().await),
        Arc::new(cluster.connect().await),
    ];
    let election = |backend: &Arc<_>| {
        Election::builder(Arc::clone(backend) as Arc<dyn LockBackend>, lock("job"))
            .build()
            .unwrap()
    };
    let old = election(&backends[0]).campaign().await.unwrap();
    let guard = backends[0].guard(&lock("job"), old.token()).unwrap();
    let mut client = cluster.client().await;
    let write = |text: &str| guard.txn().and_then([TxnOp::put("balance", text, None)]);
    assert!(client.txn(write("1")).await.unwrap().succeeded());

    // As if the process had been paused for longer than its lease: it has not looked since.
    let key = cluster.queue("job")[0].clone();
    let (_, lease) = key.rsplit_once('/').unwrap();
    cluster.ctl(&["lease", "revoke", lease]);
    let candidate = election(&backends[1]);
    let new = within_limit("the next leader", candidate.campaign())
        .await
        .unwrap();
    let newer = backends[1].guard(&lock("job"), new.token()).unwrap();
    let put = newer.txn().and_then([TxnOp::put("balance", "2", None)]);
    assert!(client.txn(put).await.unwrap().succeeded());

    assert!(!client.txn(write("3")).await.unwrap().succeeded());
    let balance = client.get("balance", None).await.unwrap();
    assert_eq!(balance.kvs()[0].value(), b"2");
}

#[tokio::test]
async fn an_applications_own_client_serves_too() {
    let Some(cluster) = start() else {
        return;
    };
    let config = EtcdConfig::default().prefix("apps").unwrap();
    let client = cluster.client().await;
    let backend = EtcdBackend::with_client(client.clone(), config.clone()).unwrap();
    let other = EtcdBackend::with_client(client, config).unwrap();
    let (me, you) = (candidate("a", 1), candidate("b", 2));
    let grant = held(backend.acquire(&lock("own"), &me, LONG).await.unwrap());
    assert!(is_taken(
        &other.acquire(&lock("own"), &you, LONG).await.unwrap()
    ));
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert_eq!(cluster.queue("apps/own").len(), 2);
    backend.release(&grant).await.unwrap();
    let next = held(other.acquire(&lock("own"), &you, LONG).await.unwrap());
    assert!(next.token > grant.token);
}
