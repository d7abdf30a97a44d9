//! What a store's hiccup does to a heartbeat: bytes that vanish, answers that are late.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use support::sentinel_config;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Error, Grant, LockBackend as _, Renewal, Time};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{Server, join_cluster, start, start_nodes, start_sentinels};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until};

fn proxy_of(server: &Server) -> FaultProxy {
    FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap()
}

/// One heartbeat as the engine sends it: given up after a while, and repeated after a pause.
async fn heartbeat(
    backend: &RedisBackend,
    grant: &Grant,
    not_before: Time,
) -> Option<Result<Renewal, Error>> {
    let attempt = backend.renew(grant, not_before);
    let answer = tokio::time::timeout(Duration::from_millis(400), attempt).await;
    if answer.is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    answer.ok()
}

async fn acquire(backend: &RedisBackend, name: &str) -> Grant {
    let me = candidate("a", 1);
    held(backend.acquire(&lock(name), &me, LONG).await.unwrap())
}

/// Each attempt meets a network that swallows what it is given, and the next one must not depend on
/// anything that it leaves behind.
async fn each_attempt_connects_anew(backend: &RedisBackend, proxy: &FaultProxy, grant: &Grant) {
    proxy.lose(Way::Both);
    assert!(heartbeat(backend, grant, Time::ZERO).await.is_none());
    for attempt in 2..5 {
        let before = proxy.accepted();
        let answer = heartbeat(backend, grant, Time::ZERO).await;
        assert!(!matches!(answer, Some(Ok(_))), "{answer:?}");
        until(&format!("attempt {attempt} connects"), async || {
            proxy.accepted() > before
        })
        .await;
        // So long the server has for the first answer on a new connection.
        until("the attempt to connect has ended", async || {
            let attempt = backend.renew(grant, Time::ZERO).await;
            attempt.is_err()
        })
        .await;
    }
    proxy.restore();
    until("a heartbeat gets through", async || {
        let answer = heartbeat(backend, grant, Time::ZERO).await;
        matches!(answer, Some(Ok(Renewal::Renewed(_))))
    })
    .await;
}

fn hasty(config: RedisConfig) -> RedisConfig {
    config.connect_timeout(Duration::from_millis(300))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_after_the_first_has_a_new_connection() {
    let Some(server) = start(&[]) else { return };
    let proxy = proxy_of(&server);
    let config = RedisConfig::server(&proxy.address().to_string()).unwrap();
    let backend = RedisBackend::connect(hasty(config)).await.unwrap();
    let grant = acquire(&backend, "swallowed").await;
    each_attempt_connects_anew(&backend, &proxy, &grant).await;
}

/// What comes after a heartbeat was sent may be the answer to another call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_another_call_is_no_reason_to_wait_for_this_one() {
    let Some(server) = start(&[]) else { return };
    let proxy = proxy_of(&server);
    let config = RedisConfig::server(&proxy.address().to_string()).unwrap();
    let backend = RedisBackend::connect(hasty(config)).await.unwrap();
    let grant = acquire(&backend, "overtaken").await;
    proxy.delay(Way::Answers, Duration::from_millis(200));
    let before = proxy.seen(Way::Requests);
    let look = async {
        // The first of its two commands is answered after the heartbeat was sent.
        tokio::time::timeout(Duration::from_millis(300), backend.holder(&grant.lock)).await
    };
    let swallowed = async {
        until("the look has been sent", async || {
            proxy.seen(Way::Requests) > before
        })
        .await;
        proxy.lose(Way::Requests);
        heartbeat(&backend, &grant, Time::ZERO).await
    };
    let (_, swallowed) = tokio::join!(look, swallowed);
    assert!(swallowed.is_none());
    let before = proxy.accepted();
    let _second = heartbeat(&backend, &grant, Time::ZERO).await;
    until("the second attempt connects", async || {
        proxy.accepted() > before
    })
    .await;
}

/// The store answers each call, but later than the engine waits for one attempt. No new connection
/// can be had meanwhile.
async fn late_answers_keep_the_term(backend: &RedisBackend, proxies: &[FaultProxy], name: &str) {
    let mut grant = acquire(backend, name).await;
    for proxy in proxies {
        proxy.delay(Way::Answers, Duration::from_millis(600));
    }
    // Two in a row: the connection is of use again after the first.
    for _ in 0..2 {
        let before = backend.clock().now();
        let mut answer = None;
        until("a late answer counts", async || {
            answer = heartbeat(backend, &grant, before).await;
            matches!(answer, Some(Ok(_)))
        })
        .await;
        let next = renewed(answer.unwrap().unwrap());
        assert!(next.proven_at > before, "it counts from when it was sent");
        assert_eq!(next.token, grant.token);
        grant = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_keeps_the_term_on_one_server() {
    let Some(server) = start(&[]) else { return };
    let proxies = [proxy_of(&server)];
    let config = RedisConfig::server(&proxies[0].address().to_string()).unwrap();
    let backend = RedisBackend::connect(hasty(config)).await.unwrap();
    late_answers_keep_the_term(&backend, &proxies, "late").await;
}

/// Sentinels answer in time; their master does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_keeps_the_term_with_sentinels() {
    let Some(master) = start(&[]) else { return };
    let proxies = [proxy_of(&master)];
    let sentinels = start_sentinels(&master);
    for sentinel in &sentinels {
        // As if the network were slow for clients alone.
        sentinel.command(&["SENTINEL", "REMOVE", "main"]);
        let port = proxies[0].address().port().to_string();
        sentinel.command(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "2"]);
        sentinel.command(&[
            "SENTINEL",
            "SET",
            "main",
            "down-after-milliseconds",
            "60000",
        ]);
    }
    let config = sentinel_config(&sentinels);
    let backend = RedisBackend::connect(hasty(config)).await.unwrap();
    each_attempt_connects_anew(&backend, &proxies[0], &acquire(&backend, "swallowed").await).await;
    late_answers_keep_the_term(&backend, &proxies, "late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_keeps_the_term_on_a_cluster() {
    let Some(mut nodes) = start_nodes(3) else {
        return;
    };
    let proxies: Vec<FaultProxy> = nodes.iter().map(proxy_of).collect();
    for (node, proxy) in nodes.iter_mut().zip(&proxies) {
        let (port, bus) = (
            proxy.address().port().to_string(),
            (node.port + 10_000).to_string(),
        );
        node.kill();
        node.restart_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-announce-ip",
            "127.0.0.1",
            "--cluster-announce-port",
            &port,
            "--cluster-announce-bus-port",
            &bus,
        ]);
    }
    join_cluster(&nodes).await;
    let addresses: Vec<String> = proxies
        .iter()
        .map(|proxy| proxy.address().to_string())
        .collect();
    let config = RedisConfig::cluster(addresses.iter().map(String::as_str)).unwrap();
    let backend = RedisBackend::connect(hasty(config)).await.unwrap();
    let grant = acquire(&backend, "swallowed").await;
    let key = "tenure:{swallowed}";
    let has = |node: &Server| {
        let found = node.try_command(&["EXISTS", key]);
        found.is_ok_and(|found| found == tenure_redis::redis::Value::Int(1))
    };
    let holder = nodes.iter().position(has).unwrap();
    each_attempt_connects_anew(&backend, &proxies[holder], &grant).await;
    late_answers_keep_the_term(&backend, &proxies, "late").await;
}

/// The limits of the client library and of this one are no shorter than those of a policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_may_take_as_long_as_its_policy_says() {
    let Some(server) = start(&[]) else { return };
    let proxy = proxy_of(&server);
    let config = RedisConfig::server(&proxy.address().to_string()).unwrap();
    let backend = RedisBackend::connect(config).await.unwrap();
    let grant = acquire(&backend, "slow").await;
    proxy.delay(Way::Answers, Duration::from_millis(2500));
    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    let _unused = server.port;
}
