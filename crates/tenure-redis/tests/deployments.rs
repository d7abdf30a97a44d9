//! URLs that lead to servers of two deployments, each of which would elect a leader, on real
//! servers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;

use support::sentinel_config;
use tenure_core::{Acquired, Error, ErrorKind, LockBackend as _, Renewal, Time, Verdict};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{
    Server, start, start_nodes, start_sentinels, wait_for_cluster, wait_for_link,
    wait_for_sentinels,
};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};
use tokio::net::{TcpListener, TcpStream};

/// A cluster of one node.
async fn lone_node() -> Option<Vec<Server>> {
    let nodes = start_nodes(1)?;
    nodes[0].command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_for_cluster(&nodes).await;
    Some(nodes)
}

fn cluster_of<'a>(nodes: impl IntoIterator<Item = &'a Server>) -> RedisConfig {
    let addresses: Vec<String> = nodes.into_iter().map(Server::address).collect();
    RedisConfig::cluster(addresses.iter().map(String::as_str)).unwrap()
}

fn is_misconfigured(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    for part in [&["two deployments", "restart this process"], parts].concat() {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

/// As `doctor` sees it, which has no connection yet.
async fn deployment_check(config: &RedisConfig) -> (Verdict, String) {
    let backend = RedisBackend::lazy(config.clone()).unwrap();
    let checks = backend.checks(&lock("doctor"), LONG).await;
    let found = checks.iter().find(|check| check.name == "deployment");
    let found = found.unwrap_or_else(|| panic!("{checks:?}"));
    (found.verdict, found.reason.clone())
}

#[tokio::test]
async fn seeds_of_two_clusters_elect_nobody() {
    let (Some(one), Some(other)) = (lone_node().await, lone_node().await) else {
        return;
    };
    let ids = [&one[0], &other[0]].map(|node| node.text(&["CLUSTER", "MYID"]));
    let ids = [ids[0].as_str(), ids[1].as_str()];
    for seeds in [[&one[0], &other[0]], [&other[0], &one[0]]] {
        let config = cluster_of(seeds);
        let error = RedisBackend::connect(config.clone()).await.unwrap_err();
        is_misconfigured(&error, &ids);
        let lazy = RedisBackend::lazy(config.clone()).unwrap();
        let (lock, me) = (lock("two"), candidate("a", 1));
        is_misconfigured(&lazy.acquire(&lock, &me, LONG).await.unwrap_err(), &ids);
        is_misconfigured(&lazy.holder(&lock).await.unwrap_err(), &ids);
        let (verdict, reason) = deployment_check(&config).await;
        assert_eq!(verdict, Verdict::Unusable, "{reason}");
        assert!(ids.iter().all(|id| reason.contains(id)), "{reason}");
    }
}

/// Each of two processes finds another cluster alone to answer, and leads there. When they see
/// both, neither goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_on_two_clusters_end_when_both_can_be_seen() {
    let (Some(one), Some(other)) = (lone_node().await, lone_node().await) else {
        return;
    };
    let config = cluster_of(one.iter().chain(&other));
    let lead = async |silent: &Server| {
        silent.freeze();
        let backend = RedisBackend::connect(config.clone()).await.unwrap();
        let me = candidate("a", 1);
        let grant = held(backend.acquire(&lock("two"), &me, LONG).await.unwrap());
        let loss = backend.loss(&grant).unwrap();
        silent.thaw();
        (backend, grant, loss)
    };
    let terms = [lead(&one[0]).await, lead(&other[0]).await];
    for (backend, grant, loss) in terms {
        // Told at once, and not with the next heartbeat.
        within_limit("the loss is told", loss).await;
        let mut error = None;
        until("the term ends", async || {
            error = backend.renew(&grant, Time::ZERO).await.err();
            error.is_some()
        })
        .await;
        is_misconfigured(&error.unwrap(), &[]);
    }
}

/// A node's address may come to a node of another cluster.
#[tokio::test]
async fn an_address_that_comes_to_another_cluster_is_not_followed() {
    let (Some(mut one), Some(other)) = (lone_node().await, lone_node().await) else {
        return;
    };
    let backend = RedisBackend::connect(cluster_of(&one)).await.unwrap();
    let (lock, me) = (lock("address"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    one[0].kill();
    // The same port, with nothing that it has known.
    let id = other[0].text(&["CLUSTER", "MYID"]);
    let conf = format!(
        "{id} 127.0.0.1:{0}@{1} myself,master - 0 0 1 connected 0-16383\n\
         vars currentEpoch 1 lastVoteEpoch 0\n",
        one[0].port,
        one[0].port + 10_000
    );
    fs::write(one[0].dir.path().join("nodes.conf"), conf).unwrap();
    one[0].restart();
    wait_for_cluster(&one).await;
    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    is_misconfigured(&error, &[&id]);
    let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
    is_misconfigured(&error, &[&id]);
}

/// One after the other, until none of the first ones is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_nodes_are_replaced_goes_on() {
    let Some(mut nodes) = start_nodes(3) else {
        return;
    };
    nodes[0].command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_for_cluster(&nodes[..1]).await;
    let config = cluster_of(&nodes);
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    let lock = lock("replaced");
    let me = candidate("a", 1);
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    for place in 1..3 {
        let (former, new) = (&nodes[place - 1], &nodes[place]);
        let (port, bus) = (new.port.to_string(), (new.port + 10_000).to_string());
        former.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        let id = former.text(&["CLUSTER", "MYID"]);
        until("the new node knows the former one", async || {
            let state = new.text(&["CLUSTER", "INFO"]);
            state.contains("cluster_slots_assigned:16384")
                && new.try_command(&["CLUSTER", "REPLICATE", &id]).is_ok()
        })
        .await;
        wait_for_link(new);
        until("the new node is the one's with all slots", async || {
            let nodes = new.text(&["CLUSTER", "NODES"]);
            let mine = nodes.lines().find(|line| line.contains("myself"));
            mine.is_some_and(|line| line.contains(&id)) && nodes.contains(" 0-16383")
        })
        .await;
        new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
        until("the term goes on at the new one", async || {
            // Or the former one may renew it once more, and the new one was never met.
            let is_master = |node: &Server| node.text(&["ROLE"]).starts_with("master");
            let handed_over = is_master(new) && !is_master(former);
            let renewal = backend.renew(&grant, Time::ZERO).await;
            if let Err(error) = &renewal {
                assert_ne!(error.kind(), ErrorKind::Misconfigured, "{error}");
            }
            handed_over && matches!(renewal, Ok(Renewal::Renewed(_)))
        })
        .await;
        new.command(&["CLUSTER", "FORGET", &id]);
        nodes[place - 1].kill();
    }
    until("the term goes on without the former ones", async || {
        let renewal = backend.renew(&grant, Time::ZERO).await;
        if let Err(error) = &renewal {
            assert_ne!(error.kind(), ErrorKind::Misconfigured, "{error}");
        }
        matches!(renewal, Ok(Renewal::Renewed(_)))
    })
    .await;
    // What is down is told, and no trouble.
    let (verdict, reason) = deployment_check(&config).await;
    assert_eq!(verdict, Verdict::Warning, "{reason}");
    assert!(reason.contains("1 of the 3 servers"), "{reason}");
    RedisBackend::connect(config).await.unwrap();
}

/// The rights that releases before this one asked for.
#[tokio::test]
async fn who_may_not_ask_for_the_nodes_is_told_and_elected() {
    let Some(nodes) = lone_node().await else {
        return;
    };
    let rights = ["allkeys", "allchannels", "+@all", "-cluster|nodes"];
    let user = [&["ACL", "SETUSER", "app", "on", ">secret"][..], &rights].concat();
    nodes[0].command(&user);
    let config = cluster_of(&nodes).user("app").password("secret");
    let (verdict, reason) = deployment_check(&config).await;
    assert_eq!(verdict, Verdict::Warning, "{reason}");
    let backend = RedisBackend::connect(config).await.unwrap();
    let me = candidate("a", 1);
    held(backend.acquire(&lock("rights"), &me, LONG).await.unwrap());
}

/// By their addresses in the errors.
fn of_two<'a>(one: &'a [Server], other: &'a [Server]) -> Vec<Vec<&'a Server>> {
    vec![
        one.iter().take(1).chain(&other[..1]).collect(),
        // More than half name the same master; but who has another list may see the other half.
        one.iter().chain(&other[..1]).collect(),
        one.iter().chain(other).collect(),
    ]
}

#[tokio::test]
async fn sentinels_of_two_masters_elect_nobody() {
    let (Some(one), Some(other)) = (start(&[]), start(&[])) else {
        return;
    };
    let [mine, theirs] = [start_sentinels(&one), start_sentinels(&other)];
    for sentinels in [&mine, &theirs] {
        wait_for_sentinels(sentinels, 0).await;
    }
    let masters = [one.address(), other.address()];
    let masters = [masters[0].as_str(), masters[1].as_str()];
    for sentinels in of_two(&mine, &theirs) {
        let addresses: Vec<String> = sentinels.iter().map(|server| server.address()).collect();
        let addresses = addresses.iter().map(String::as_str);
        let config = RedisConfig::sentinel(addresses, "main").unwrap();
        let error = RedisBackend::connect(config.clone()).await.unwrap_err();
        is_misconfigured(&error, &masters);
        let (verdict, reason) = deployment_check(&config).await;
        assert_eq!(verdict, Verdict::Unusable, "{reason}");
        assert!(masters.iter().all(|at| reason.contains(at)), "{reason}");
    }
    let (verdict, reason) = deployment_check(&sentinel_config(&mine)).await;
    assert_eq!(verdict, Verdict::Fine, "{reason}");
}

/// An address that leads to each of two servers in turn, as a service's name does.
async fn in_turn(ports: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for port in ports.into_iter().cycle() {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// Waits until a backend, which may have been lucky so far, has seen both.
async fn ends_misconfigured(config: RedisConfig, parts: &[&str]) {
    let backend = RedisBackend::lazy(config).unwrap();
    let (lock, me) = (lock("in-turn"), candidate("a", 1));
    let mut error = None;
    until("both were seen", async || {
        error = backend.acquire(&lock, &me, LONG).await.err();
        error.is_some()
    })
    .await;
    is_misconfigured(&error.unwrap(), parts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_sentinels_of_two_masters_elects_nobody() {
    let (Some(one), Some(other)) = (start(&[]), start(&[])) else {
        return;
    };
    let [mine, theirs] = [start_sentinels(&one), start_sentinels(&other)];
    let port = in_turn([mine[0].port, theirs[0].port]).await;
    let address = format!("127.0.0.1:{port}");
    let config = || RedisConfig::sentinel([address.as_str()], "main").unwrap();
    let masters = [one.address(), other.address()];
    for _ in 0..2 {
        ends_misconfigured(config(), &[&masters[0], &masters[1]]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_two_servers_elects_nobody() {
    let (Some(one), Some(other)) = (start(&[]), start(&[])) else {
        return;
    };
    let id = |server: &Server| {
        let info = server.text(&["INFO", "replication"]);
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix("master_replid:"));
        found.unwrap().to_owned()
    };
    let ids = [id(&one), id(&other)];
    let port = in_turn([one.port, other.port]).await;
    let config = || RedisConfig::server(&format!("localhost:{port}")).unwrap();
    for _ in 0..2 {
        ends_misconfigured(config(), &[&ids[0], &ids[1]]).await;
    }
    // One that is restarted is the same one.
    let (mut server, me) = (one, candidate("a", 1));
    let config = RedisConfig::server(&format!("localhost:{}", server.port)).unwrap();
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    held(backend.acquire(&lock("a"), &me, LONG).await.unwrap());
    server.kill();
    server.restart();
    until("it is used again", async || {
        backend.holder(&lock("a")).await.is_ok()
    })
    .await;
    let checks = backend.checks(&lock("a"), LONG).await;
    let found = checks.iter().find(|check| check.name == "deployment");
    assert_eq!(found.unwrap().verdict, Verdict::Fine, "{checks:?}");
}

/// It has another id, and names the first master again until it has heard of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_is_replaced_is_no_stranger() {
    let Some(master) = start(&[]) else { return };
    let mut sentinels = start_sentinels(&master);
    wait_for_sentinels(&sentinels, 0).await;
    let config = sentinel_config(&sentinels);
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    let (lock, me) = (lock("sentinel"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    let id = |server: &Server| server.text(&["SENTINEL", "MYID"]);
    let former = id(&sentinels[0]);
    sentinels[0].kill();
    // One that is down is no trouble either.
    renewed(
        within_limit("a heartbeat", backend.renew(&grant, Time::ZERO))
            .await
            .unwrap(),
    );
    let text = format!("sentinel monitor main 127.0.0.1 {} 2\n", master.port);
    fs::write(sentinels[0].dir.path().join("sentinel.conf"), text).unwrap();
    sentinels[0].restart();
    assert_ne!(id(&sentinels[0]), former);
    let (verdict, reason) = deployment_check(&config).await;
    assert_eq!(verdict, Verdict::Fine, "{reason}");
    let other = RedisBackend::connect(config).await.unwrap();
    let taken = other
        .acquire(&lock, &candidate("b", 2), LONG)
        .await
        .unwrap();
    assert!(matches!(taken, Acquired::Taken { .. }));
    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
}
