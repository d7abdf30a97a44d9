//! Whole elections on a real server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_core::{
    Cause, Election, Identity, LockBackend as _, Observation, Observer, Policy, PublishedValue,
};
use tenure_redis::RedisBackend;
use tenure_testkit::redis::start;
use tenure_testkit::{LONG, candidate, held, lock, until, within_limit};

fn election(backend: &RedisBackend, name: &str, identity: &str, policy: Policy) -> Election {
    Election::builder(Arc::new(backend.clone()), lock(name))
        .identity(Identity::new(identity).unwrap())
        .value(PublishedValue::new(format!("http://{identity}")).unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

/// With it nothing happens by time while a test runs.
fn slow() -> Policy {
    Policy::builder().lease(LONG).build().unwrap()
}

/// Short, yet with room for a machine that is busy.
fn quick() -> Policy {
    Policy::fast()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_the_next_candidate() {
    let Some(server) = start(&[]) else { return };
    let (one, two) = (server.connect().await, server.connect().await);
    let mut leader = election(&one, "hand-over", "a", slow())
        .campaign()
        .await
        .unwrap();
    let mut last = leader.token();
    for round in 0..10 {
        let (backend, name) = if round % 2 == 0 {
            (&two, "b")
        } else {
            (&one, "a")
        };
        let next = election(backend, "hand-over", name, slow());
        let campaign = tokio::spawn(async move { next.campaign().await });
        until("the next one waits", async || {
            server
                .text(&["PUBSUB", "NUMSUB", "tenure:{hand-over}:released"])
                .ends_with(" 1")
        })
        .await;
        leader.resign().await.unwrap();
        leader = within_limit("the hand-over", campaign)
            .await
            .unwrap()
            .unwrap();
        assert!(leader.token() > last);
        last = leader.token();
        assert!(leader.is_valid());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_a_crashed_leader_is_taken_when_it_ends() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lease = Duration::from_millis(300);
    let crashed = candidate("crashed", 1);
    let grant = held(
        backend
            .acquire(&lock("crash"), &crashed, lease)
            .await
            .unwrap(),
    );
    let election = election(&backend, "crash", "a", quick());
    let leader = within_limit("the election", election.campaign())
        .await
        .unwrap();
    assert!(leader.token() > grant.token);
    assert!(backend.clock().now() >= grant.proven_at + lease);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stops_by_itself_when_the_server_falls_silent() {
    let Some(server) = start(&[]) else { return };
    let (one, two) = (server.connect().await, server.connect().await);
    let leader = election(&one, "silent", "a", quick())
        .campaign()
        .await
        .unwrap();
    let waiting = election(&two, "silent", "b", quick());
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    until("the other one waits", async || {
        server
            .text(&["PUBSUB", "NUMSUB", "tenure:{silent}:released"])
            .ends_with(" 1")
    })
    .await;
    server.freeze();
    within_limit("the end of the term", leader.lost()).await;
    assert!(!leader.is_valid());
    assert_eq!(leader.cause(), Some(Cause::HeartbeatsMissed));
    assert!(!campaign.is_finished());
    server.thaw();
    let next = within_limit("the next leader", campaign)
        .await
        .unwrap()
        .unwrap();
    assert!(next.is_valid() && next.token() > leader.token());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_term_over_lost_connections_and_a_restart() {
    let Some(mut server) = start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let backend = server.connect().await;
    let leader = election(&backend, "restart", "a", quick())
        .campaign()
        .await
        .unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let _permit = leader.confirm().await.unwrap();
    server.kill();
    server.restart();
    // A heartbeat may have failed meanwhile; this waits for the one that does not.
    until("it is confirmed", async || leader.confirm().await.is_ok()).await;
    assert!(leader.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_lock_ends_the_term_with_the_next_heartbeat() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let leader = election(&backend, "deleted", "a", quick())
        .campaign()
        .await
        .unwrap();
    server.command(&["DEL", "tenure:{deleted}"]);
    within_limit("the end of the term", leader.lost()).await;
    assert_eq!(leader.cause(), Some(Cause::Lost));
    assert_eq!(server.number(&["EXISTS", "tenure:{deleted}"]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_sees_leaders_come_and_go() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let observer = Observer::new(Arc::new(server.connect().await), lock("seen"), slow());
    let mut watch = observer.watch();
    let next = futures_util::StreamExt::next(&mut watch);
    let first = within_limit("what the observer sees", next).await;
    assert_eq!(first, Some(Observation::Free));
    let leader = election(&backend, "seen", "a", slow())
        .campaign()
        .await
        .unwrap();
    assert!(matches!(
        observer.look().await.unwrap(),
        Observation::Led { identity, value, token, .. }
            if identity == "a" && value.as_deref() == Some("http://a") && token == Some(leader.token())
    ));
    leader.resign().await.unwrap();
    assert_eq!(observer.look().await.unwrap(), Observation::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_elections_share_one_connection() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let campaigns: Vec<_> = (0..1000)
        .map(|number| {
            let election = election(&backend, &format!("many-{number}"), "a", slow());
            tokio::spawn(async move { election.campaign().await.unwrap() })
        })
        .collect();
    let mut leaders = Vec::new();
    for campaign in campaigns {
        leaders.push(within_limit("an election", campaign).await.unwrap());
    }
    let confirmed = leaders.iter().map(|leader| leader.confirm());
    let confirmed = futures_util::future::join_all(confirmed);
    for outcome in within_limit("all heartbeats", confirmed).await {
        let _permit = outcome.unwrap();
    }
    // And the one that asks.
    until("wake-ups are given up", async || {
        server
            .text(&["CLIENT", "LIST", "TYPE", "pubsub"])
            .is_empty()
    })
    .await;
    let clients = server.text(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().count(), 2, "{clients}");
}

/// Another user of the server may be allowed to publish there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_costs_few_calls_and_no_term() {
    let Some(server) = start(&[]) else { return };
    let (one, two) = (server.connect().await, server.connect().await);
    let leader = election(&one, "flood", "a", slow())
        .campaign()
        .await
        .unwrap();
    let waiting = election(&two, "flood", "b", slow());
    let waiting = tokio::spawn(async move { waiting.campaign().await.unwrap().token() });
    until("it waits", async || {
        let listeners = server.text(&["PUBSUB", "NUMSUB", "tenure:{flood}:released"]);
        listeners.ends_with(" 1")
    })
    .await;
    let scripts = || {
        let stats = server.text(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = line.unwrap().split_once("calls=").unwrap().1;
        let calls: u64 = calls.split_once(',').unwrap().0.parse().unwrap();
        calls
    };
    let (before, start) = (scripts(), std::time::Instant::now());
    let script = "for _ = 1, 50000 do redis.call('PUBLISH', KEYS[1], '') end";
    for _ in 0..40 {
        // One after the other, as 2,000,000 messages at once are the server's own matter.
        server.command(&["EVAL", script, "1", "tenure:{flood}:released"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (calls, took) = (scripts() - before, start.elapsed());
    println!("2,000,000 messages in {took:?}: {calls} calls");
    assert!(leader.is_valid());
    // 50 at once, and 20 a second; beside that a heartbeat of the leader's, perhaps.
    let most = 60 + took.as_millis() / 40;
    assert!(u128::from(calls) < most, "{calls} calls in {took:?}");
    let token = leader.token();
    leader.resign().await.unwrap();
    let next = within_limit("the next leader", waiting).await.unwrap();
    assert!(next > token);
}
