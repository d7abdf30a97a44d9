//! A user loses the right to one lock while it leads others: on real servers with authentication.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::breaking::Breaking;
use tenure_core::{
    Acquired, Election, Error, ErrorKind, Grant, LockBackend as _, Policy, PublishedValue, Renewal,
};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::metrics::Metrics;
use tenure_testkit::etcd::{Cluster, start_newer_with, start_with};
use tenure_testkit::{LONG, candidate, held, is_taken, lock, renewed, until, within_limit};

const PASSWORD: &str = "correct-horse-battery";

/// Runs the test on the system's release, and on a newer one, which judges a lease by all its keys.
macro_rules! on_each_release {
    ($($test:ident)*) => {$(
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_the_systems_release() {
                let Some(cluster) = super::start_with(1, &super::FAST) else { return };
                super::$test(super::with_rights(cluster)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_a_newer_release() {
                let Some(cluster) = super::start_newer_with(1, &super::FAST) else { return };
                super::$test(super::with_rights(cluster)).await;
            }
        }
    )*};
}

on_each_release! {
    the_other_terms_and_places_go_on
    after_a_refused_release_others_lead
    a_right_that_comes_back_in_time_costs_no_term
    a_key_that_cannot_be_deleted_is_not_kept_alive
    a_candidate_without_rights_moves_nothing
    the_end_of_another_term_is_told
    a_deletion_that_cannot_be_judged_is_not_looked_at_without_end
    many_refused_keys_cost_few_requests
    a_move_that_does_not_arrive_is_repeated
    a_value_is_published_beside_a_refused_key
}

/// Its default makes each login cost a tenth of a second of a core.
const FAST: [&str; 2] = ["--bcrypt-cost", "4"];

/// `app` may read and write the keys of three locks.
fn with_rights(mut cluster: Cluster) -> Cluster {
    cluster.ctl(&["role", "add", "app"]);
    for name in ["one", "two", "three"] {
        grant(&cluster, "readwrite", name);
    }
    for user in ["app", "root"] {
        cluster.ctl(&["user", "add", &format!("{user}:{PASSWORD}")]);
        cluster.ctl(&["user", "grant-role", user, user]);
    }
    cluster.ctl(&["auth", "enable"]);
    cluster.flags = vec![format!("--user=root:{PASSWORD}")];
    cluster
}

fn grant(cluster: &Cluster, rights: &str, name: &str) {
    grant_prefix(cluster, rights, &format!("app/{name}/"));
}

fn grant_prefix(cluster: &Cluster, rights: &str, keys: &str) {
    let granting = [
        "role",
        "grant-permission",
        "app",
        "--prefix=true",
        rights,
        keys,
    ];
    cluster.ctl(&granting);
}

fn revoke(cluster: &Cluster, name: &str) {
    revoke_prefix(cluster, &format!("app/{name}/"));
}

fn revoke_prefix(cluster: &Cluster, keys: &str) {
    cluster.ctl(&["role", "revoke-permission", "app", "--prefix=true", keys]);
}

async fn connect(cluster: &Cluster, user: &str) -> Arc<EtcdBackend> {
    connect_to(&cluster.members[0].address(), user).await
}

async fn connect_to(address: &str, user: &str) -> Arc<EtcdBackend> {
    let url = format!("etcd://{user}:{PASSWORD}@{address}/app");
    let config = EtcdConfig::from_url(&url).unwrap();
    Arc::new(EtcdBackend::connect(config).await.unwrap())
}

fn election(backend: &Arc<EtcdBackend>, name: &str) -> Election {
    let policy = Policy::builder().lease(Duration::from_secs(4));
    let policy = policy.heartbeat(Duration::from_secs(1)).build().unwrap();
    let election = Election::builder(backend.clone(), lock(name));
    election.policy(policy).build().unwrap()
}

async fn renew(backend: &EtcdBackend, grant: &Grant) -> Result<Renewal, Error> {
    backend.renew(grant, backend.clock().now()).await
}

fn forbidden(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let told = error.to_string();
    assert!(told.contains("role grant-permission"), "{told}");
}

async fn the_other_terms_and_places_go_on(cluster: Cluster) {
    let (app, root) = (
        connect(&cluster, "app").await,
        connect(&cluster, "root").await,
    );
    let first = election(&root, "three").campaign().await.unwrap();
    let one = election(&app, "one").campaign().await.unwrap();
    let two = election(&app, "two").campaign().await.unwrap();
    let third = election(&app, "three");
    let third = tokio::spawn(async move { third.campaign().await });
    until("it waits", async || cluster.queue("app/three").len() == 2).await;
    let rivals = connect(&cluster, "root").await;
    let rival = |name: &str| {
        let election = election(&rivals, name);
        tokio::spawn(async move { election.campaign().await })
    };
    let (rival_of_one, rival_of_two, rival_of_three) = (rival("one"), rival("two"), rival("three"));
    until("all wait", async || {
        let waiting = [("one", 2), ("two", 2), ("three", 3)];
        let waits = |(name, keys)| cluster.queue(&format!("app/{name}")).len() == keys;
        waiting.into_iter().all(waits)
    })
    .await;

    revoke(&cluster, "one");
    until("the term without a right is over", async || !one.is_valid()).await;
    // Its key has ended with its lease, so the others live without that.
    let next = within_limit("its rival", rival_of_one).await.unwrap();
    assert!(next.unwrap().token() > one.token());
    assert!(two.confirm().await.is_ok());
    assert!(two.is_valid());
    assert!(!rival_of_two.is_finished(), "there are two leaders");

    first.resign().await.unwrap();
    let third = within_limit("its turn", third).await.unwrap().unwrap();
    assert!(!rival_of_three.is_finished(), "it has lost its place");
    assert!(third.confirm().await.is_ok());
    two.resign().await.unwrap();
    let next = within_limit("the next", rival_of_two).await.unwrap();
    assert!(next.is_ok());
    third.resign().await.unwrap();
    let next = within_limit("the next", rival_of_three).await.unwrap();
    assert!(next.is_ok());
}

async fn after_a_refused_release_others_lead(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    let one = held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    revoke(&cluster, "one");
    forbidden(&app.release(&one).await.unwrap_err());
    for name in ["two", "three"] {
        let next = held(app.acquire(&lock(name), &me, LONG).await.unwrap());
        renewed(renew(&app, &next).await.unwrap());
    }
    // The right comes back, and so does the lock, once its old key has ended.
    forbidden(
        &app.acquire(&lock("one"), &candidate("me", 2), LONG)
            .await
            .unwrap_err(),
    );
}

async fn a_right_that_comes_back_in_time_costs_no_term(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let (me, other) = (candidate("me", 1), candidate("other", 2));
    let mut grants = Vec::new();
    for name in ["one", "two"] {
        grants.push(held(app.acquire(&lock(name), &me, LONG).await.unwrap()));
    }
    revoke(&cluster, "one");
    forbidden(&renew(&app, &grants[0]).await.unwrap_err());
    renewed(renew(&app, &grants[1]).await.unwrap());
    grant(&cluster, "readwrite", "one");
    for grant in &grants {
        let renewal = renewed(renew(&app, grant).await.unwrap());
        assert_eq!(renewal.token, grant.token);
        assert!(app.guard(&grant.lock, grant.token).is_ok());
        let rival = connect(&cluster, "root").await;
        let attempt = rival.acquire(&grant.lock, &other, LONG).await.unwrap();
        assert!(is_taken(&attempt), "{attempt:?}");
        // The grant of before the move is good for it too.
        app.release(grant).await.unwrap();
        held(rival.acquire(&grant.lock, &other, LONG).await.unwrap());
    }
}

async fn a_key_that_cannot_be_deleted_is_not_kept_alive(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let lease = Duration::from_secs(4);
    let (me, other) = (candidate("me", 1), candidate("other", 2));
    let one = held(app.acquire(&lock("one"), &me, lease).await.unwrap());
    let mut two = held(app.acquire(&lock("two"), &me, lease).await.unwrap());
    grant(&cluster, "read", "one");
    forbidden(&app.release(&one).await.unwrap_err());
    let rival = connect(&cluster, "root").await;
    until("the lock is free", async || {
        two = renewed(renew(&app, &two).await.unwrap());
        let attempt = rival.acquire(&lock("one"), &other, lease).await.unwrap();
        matches!(attempt, Acquired::Held(_))
    })
    .await;
    renewed(renew(&app, &two).await.unwrap());
}

async fn a_candidate_without_rights_moves_nothing(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    let one = held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let lease = Duration::from_secs(4);
    let mut two = held(app.acquire(&lock("two"), &me, lease).await.unwrap());
    for (number, lease) in [(1, LONG), (2, lease), (3, LONG), (4, lease)] {
        let (elsewhere, them) = (
            lock(&format!("elsewhere-{number}")),
            candidate("them", number),
        );
        forbidden(&app.acquire(&elsewhere, &them, lease).await.unwrap_err());
        forbidden(&app.withdraw(&elsewhere, &them).await.unwrap_err());
    }
    // A lease later what they have left behind would be deleted.
    let began = Instant::now();
    until("nobody has asked for long", async || {
        two = renewed(renew(&app, &two).await.unwrap());
        began.elapsed() > lease * 3 / 2
    })
    .await;
    renewed(renew(&app, &one).await.unwrap());
    assert_eq!(app.traffic().leases, 2);
}

/// The watch tells it, and no heartbeat of the old session could find it out.
async fn the_end_of_another_term_is_told(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    // The first term of a session is the one that is watched.
    let two = held(app.acquire(&lock("two"), &me, LONG).await.unwrap());
    let three = held(app.acquire(&lock("three"), &me, LONG).await.unwrap());
    let one = held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let lost = app.loss(&two).unwrap();
    revoke(&cluster, "one");
    cluster.ctl(&["del", "--prefix", "app/two/"]);
    within_limit("the loss", lost).await;
    renewed(renew(&app, &three).await.unwrap());
    forbidden(&renew(&app, &one).await.unwrap_err());
}

/// No heartbeat can judge it, and a watch that begins where the term did tells it once more.
async fn a_deletion_that_cannot_be_judged_is_not_looked_at_without_end(cluster: Cluster) {
    // A server tells what a new watch has missed after a tenth of a second, so a loop takes time.
    const READS: usize = 150;
    for number in 0..30 {
        grant(&cluster, "readwrite", &format!("deleted-{number}"));
    }
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    for number in 0..30 {
        let name = lock(&format!("deleted-{number}"));
        held(app.acquire(&name, &me, LONG).await.unwrap());
    }
    held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let metrics = Metrics::of(&cluster);
    revoke(&cluster, "one");
    let before = metrics.read().watches;
    cluster.ctl(&["del", "--prefix", "app/deleted-"]);
    for _ in 0..READS {
        cluster.queue("app/one");
    }
    let watches = metrics.read().watches - before;
    println!("{watches} watches");
    assert!(watches < 10, "{watches}");
}

/// Each of their terms finds out that it is refused, and so does each deletion.
async fn many_refused_keys_cost_few_requests(cluster: Cluster) {
    const REFUSED: u64 = 40;
    grant_prefix(&cluster, "readwrite", "app/many-");
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    let one = held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let mut refused = Vec::new();
    for number in 0..REFUSED {
        let name = lock(&format!("many-{number}"));
        refused.push(held(app.acquire(&name, &me, LONG).await.unwrap()));
    }
    let metrics = Metrics::of(&cluster);
    revoke_prefix(&cluster, "app/many-");
    let before = metrics.read().transactions;
    for error in join_all(refused.iter().map(|grant| renew(&app, grant))).await {
        forbidden(&error.unwrap_err());
    }
    for grant in &refused {
        forbidden(&app.release(grant).await.unwrap_err());
    }
    renewed(renew(&app, &one).await.unwrap());
    let requests = metrics.read().transactions - before;
    println!("{requests} transactions");
    assert!(requests < REFUSED * 10, "{requests}");
}

/// More often than one request is tried.
async fn a_move_that_does_not_arrive_is_repeated(cluster: Cluster) {
    let breaking = Breaking::start(cluster.members[0].address()).await;
    let app = connect_to(&breaking.address().to_string(), "app").await;
    let me = candidate("me", 1);
    let one = held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let two = held(app.acquire(&lock("two"), &me, LONG).await.unwrap());
    let queue = cluster.queue("app/two");
    let [key] = queue.as_slice() else {
        panic!("{queue:?}")
    };
    // Only the move puts it with a lease and without a value: protobuf's field 3 follows its name.
    breaking.breaks_at([key.as_bytes(), &[0x18]].concat(), 7);
    revoke(&cluster, "one");
    forbidden(&renew(&app, &one).await.unwrap_err());
    assert_eq!(breaking.left(), 0);
    let renewal = renewed(renew(&app, &two).await.unwrap());
    assert_eq!(renewal.token, two.token);
    assert_eq!(cluster.queue("app/two"), queue);
}

/// Without a heartbeat that would have found it out: the last proof is good enough.
async fn a_value_is_published_beside_a_refused_key(cluster: Cluster) {
    let app = connect(&cluster, "app").await;
    let me = candidate("me", 1);
    held(app.acquire(&lock("one"), &me, LONG).await.unwrap());
    let mut two = held(app.acquire(&lock("two"), &me, LONG).await.unwrap());
    revoke(&cluster, "one");
    two.candidate.value = Some(PublishedValue::new("new").unwrap());
    let renewal = renewed(app.renew(&two, two.proven_at).await.unwrap());
    assert_eq!(renewal.token, two.token);
    let queue = cluster.queue("app/two");
    assert!(cluster.ctl(&["get", &queue[0]]).contains("new"));
}
