//! Who looks (`status`, `watch`, `doctor`) writes nothing: not to the keys, and not to the replicas.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use support::{Connects as _, sentinel_config};
use tenure_core::{LockBackend as _, LockName, Observer, Policy, Verdict};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{
    Server, join_cluster, start_nodes, start_pair, start_sentinels, wait_for_sentinels,
};
use tenure_testkit::{LIMIT, LONG, lock, within_limit};

/// What a master has and has sent: its keys with their values, how often one was changed, what it
/// has sent to replicas, and how many messages it was given.
fn state(master: &Server) -> Vec<String> {
    let keys = master.text(&["KEYS", "*"]);
    let values = keys.split_whitespace().map(|key| {
        let (value, left) = (master.text(&["GET", key]), master.number(&["PTTL", key]));
        format!("{key} {value} {}", left >= 0)
    });
    let mut values: Vec<String> = values.collect();
    values.sort();
    let info = master.text(&["INFO", "everything"]);
    let told = |name: &&str| {
        [
            "rdb_changes_since_last_save:",
            "master_repl_offset:",
            "cmdstat_publish:",
        ]
        .iter()
        .any(|start| name.starts_with(start))
    };
    // How long a message took is not compared.
    let told = info
        .lines()
        .filter(told)
        .filter_map(|line| line.split(',').next());
    values.extend(told.map(str::to_owned));
    values
}

/// Everything that looks, at this lock.
async fn look_at(config: RedisConfig, lock: LockName) {
    // Replicas are asked for, so that doctor looks at them.
    let config = config.wait_for_replicas(1, LIMIT / 2);
    let backend = Arc::new(RedisBackend::connect(config).await.unwrap());
    let holder = backend.holder(&lock).await.unwrap();
    let observer = Observer::new(backend.clone(), lock.clone(), Policy::default());
    let mut watch = observer.watch();
    let seen = within_limit("what the observer sees", watch.next()).await;
    assert!(seen.is_some(), "{holder:?}");
    let checks = backend.checks(&lock, LONG).await;
    for name in ["permissions", "replication", "wake-ups"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, Verdict::Fine, "{check:?}");
    }
    let replicas = checks.iter().find(|check| check.name == "replication");
    assert!(
        replicas.unwrap().reason.contains("not measured"),
        "{checks:?}"
    );
}

async fn looking_changes_nothing(master: &Server, config: RedisConfig, lock: &LockName) {
    // A term of another process, and a free lock.
    let key = format!("tenure:{{{lock}}}");
    let value = "1 00000000000000ff 5 3600000 theirs";
    for held in [true, false] {
        if held {
            master.command(&["SET", &key, value, "PX", "3600000"]);
        } else {
            master.command(&["DEL", &key]);
        }
        let before = state(master);
        look_at(config.clone(), lock.clone()).await;
        assert_eq!(state(master), before, "held: {held}");
    }
}

/// A master does not tell its replicas by itself that it lives.
const SILENT: [&str; 2] = ["--repl-ping-replica-period", "3600"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_writes_nothing_to_a_server_or_its_replica() {
    let Some((master, _replica)) = start_pair(&SILENT) else {
        return;
    };
    looking_changes_nothing(&master, master.config(), &lock("looked-at")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_writes_nothing_with_sentinels() {
    let Some((master, _replica)) = start_pair(&SILENT) else {
        return;
    };
    let sentinels = start_sentinels(&master);
    wait_for_sentinels(&sentinels, 1).await;
    for sentinel in &sentinels {
        // They publish on the master that they are there.
        sentinel.command(&["SENTINEL", "DEBUG", "PUBLISH-PERIOD", "3600000"]);
    }
    let config = sentinel_config(&sentinels);
    looking_changes_nothing(&master, config, &lock("looked-at")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_writes_nothing_to_a_cluster() {
    let Some(nodes) = start_nodes(4) else { return };
    join_cluster(&nodes).await;
    // The first node alone has a replica.
    let of_first = |name: &LockName| {
        let slot = nodes[0].number(&["CLUSTER", "KEYSLOT", name.as_str()]);
        slot <= 5460
    };
    let lock = (0..1000)
        .map(|number| lock(&format!("looked-at-{number}")))
        .find(of_first);
    nodes[0].command(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    let seeds: Vec<String> = nodes.iter().map(Server::address).collect();
    let config = RedisConfig::cluster(seeds.iter().map(String::as_str)).unwrap();
    let config = config.connect_timeout(Duration::from_secs(5));
    looking_changes_nothing(&nodes[0], config, &lock.unwrap()).await;
}
