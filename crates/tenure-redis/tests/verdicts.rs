//! What `doctor` says of a store is what the next election meets there.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;

use support::{Connects as _, sentinel_config};
use tenure_core::{Acquired, Check, Error, LockBackend as _, Renewal, Time, Verdict};
use tenure_redis::{RedisBackend, RedisConfig, Tls};
use tenure_testkit::redis::{
    Server, join_cluster, start, start_nodes, start_pair, start_sentinels,
};
use tenure_testkit::{LONG, candidate, lock, until};

const NAME: &str = "judged";
const KEY: &str = "tenure:{judged}";
const FENCE: &str = "tenure:{judged}:fence";

/// An election from its beginning to its end, with a candidate that comes too late.
async fn election(backend: &RedisBackend) -> Result<(), Error> {
    let lock = lock(NAME);
    let (first, second) = (candidate("a", 1), candidate("b", 2));
    let Acquired::Held(grant) = backend.acquire(&lock, &first, LONG).await? else {
        panic!("it was free");
    };
    assert!(matches!(
        backend.acquire(&lock, &second, LONG).await?,
        Acquired::Taken { .. }
    ));
    backend.holder(&lock).await?;
    assert!(matches!(
        backend.renew(&grant, Time::ZERO).await?,
        Renewal::Renewed(_)
    ));
    backend.release(&grant).await
}

/// Both see the state, and both the same: that elections go on (`None`), or do not, for a reason that
/// both name by this word.
async fn agree(state: &str, config: RedisConfig, refused: Option<&str>) {
    let backend = RedisBackend::lazy(config).unwrap();
    let checks = backend.checks(&lock(NAME), LONG).await;
    let is_refused = |check: &&Check| check.verdict == Verdict::Unusable;
    let verdict: Vec<&Check> = checks.iter().filter(is_refused).collect();
    let met = election(&backend).await;
    match refused {
        None => {
            assert!(verdict.is_empty(), "{state}: {verdict:?}");
            met.unwrap_or_else(|error| panic!("{state}: {error}"));
        }
        Some(word) => {
            let told = |check: &&&Check| {
                let remedy = check.remedy.as_deref().unwrap_or_default();
                let text = format!("{}; {remedy}", check.reason);
                text.to_lowercase().contains(word)
            };
            assert!(
                verdict.iter().any(|check| told(&check)),
                "{state}: {checks:?}"
            );
            let Err(error) = met else {
                panic!("{state}: an election succeeds");
            };
            let error = error.to_string().to_lowercase();
            assert!(error.contains(word), "{state}: {error}");
        }
    }
    // No remedy asks for what was not found.
    for check in &checks {
        assert_eq!(
            check.remedy.is_some(),
            check.verdict != Verdict::Fine,
            "{state}: {check:?}"
        );
    }
}

/// What the test does to a server, how the backend connects then, and what both say.
type State = (
    &'static str,
    fn(&Server) -> RedisConfig,
    Option<&'static str>,
);

fn user(server: &Server, name: &str, rights: &[&str]) -> RedisConfig {
    let start = ["ACL", "SETUSER", name, "reset", "on", ">pw"];
    server.command(&[&start[..], rights].concat());
    server.config().user(name).password("pw")
}

fn set(server: &Server, settings: &[(&str, &str)]) -> RedisConfig {
    for (name, value) in settings {
        server.command(&["CONFIG", "SET", name, value]);
    }
    server.config()
}

const USERS: [State; 8] = [
    ("a free lock", Server::config, None),
    (
        "a user without rights",
        |server| user(server, "none", &["+ping", "+info"]),
        Some("acl setuser"),
    ),
    (
        "a user of another prefix",
        |server| user(server, "other", &["~other:*", "+@all"]),
        Some("acl setuser"),
    ),
    (
        "a wrong password",
        |server| user(server, "app", &["~*", "&*", "+@all"]).password("wrong"),
        Some("wrongpass"),
    ),
    (
        "a user that is switched off",
        |server| user(server, "away", &["off", "~*", "+@all"]),
        Some("wrongpass"),
    ),
    (
        "TLS at a port without",
        |server| server.config().tls(Tls::new()),
        Some("tls"),
    ),
    (
        "replicas that do not exist",
        |server| {
            server
                .config()
                .wait_for_replicas(1, std::time::Duration::from_millis(50))
        },
        Some("0 of the 1 replicas"),
    ),
    (
        "no right to WAIT",
        |server| {
            let config = user(server, "hasty", &["~*", "&*", "+@all", "-wait"]);
            config.wait_for_replicas(1, std::time::Duration::from_millis(50))
        },
        Some("wait"),
    ),
];

/// Each state goes on from the one before.
const SERVERS: [State; 8] = [
    (
        "a full memory",
        |server| set(server, &[("maxmemory", "1")]),
        Some("oom"),
    ),
    (
        "too few replicas",
        |server| {
            set(
                server,
                &[("maxmemory", "0"), ("min-replicas-to-write", "1")],
            )
        },
        Some("replicas"),
    ),
    (
        "a foreign value",
        |server| {
            let config = set(server, &[("min-replicas-to-write", "0")]);
            server.command(&["SET", KEY, "something else"]);
            config
        },
        Some("has not written"),
    ),
    (
        "a foreign list",
        |server| {
            server.command(&["DEL", KEY]);
            server.command(&["LPUSH", KEY, "x"]);
            server.config()
        },
        Some("wrongtype"),
    ),
    (
        "a foreign fence",
        |server| {
            server.command(&["DEL", KEY]);
            server.command(&["SET", FENCE, "something else"]);
            server.config()
        },
        Some("fence"),
    ),
    (
        "a foreign list as the fence",
        |server| {
            server.command(&["DEL", FENCE]);
            server.command(&["LPUSH", FENCE, "x"]);
            server.config()
        },
        Some("wrongtype"),
    ),
    (
        "a free lock again",
        |server| {
            server.command(&["DEL", FENCE]);
            server.config()
        },
        None,
    ),
    (
        "a disk that fails",
        |server| {
            // Where the file of the data would be.
            fs::create_dir(server.dir.path().join("dump.rdb")).unwrap();
            server.command(&["CONFIG", "SET", "save", "3600 1"]);
            server.command(&["BGSAVE"]);
            tenure_testkit::wait_until("the disk has failed", || {
                server
                    .text(&["INFO", "persistence"])
                    .contains("rdb_last_bgsave_status:err")
            });
            server.config()
        },
        Some("misconf"),
    ),
];

#[tokio::test]
async fn a_diagnosis_is_what_the_next_election_meets() {
    let Some(server) = start(&[]) else { return };
    for (state, config, refused) in USERS.into_iter().chain(SERVERS) {
        agree(state, config(&server), refused).await;
    }
}

#[tokio::test]
async fn each_missing_right_is_told_as_the_election_meets_it() {
    let Some(server) = start(&[]) else { return };
    for (right, needed) in [
        ("evalsha", true),
        ("eval", true),
        ("get", true),
        ("set", true),
        ("del", true),
        ("pexpire", true),
        ("pttl", true),
        ("time", true),
        ("info", true),
        ("getrange", false),
        ("publish", false),
        ("subscribe", false),
        ("wait", false),
        ("config", false),
    ] {
        let without = format!("-{right}");
        let config = user(&server, "lacking", &["~*", "&*", "+@all", &without]);
        // One that another user has loaded may be run by its hash.
        server.command(&["SCRIPT", "FLUSH"]);
        server.command(&["DEL", KEY, FENCE]);
        let refused = needed.then_some("acl setuser");
        agree(right, config, refused).await;
    }
}

#[tokio::test]
async fn each_disabled_command_is_told_as_the_election_meets_it() {
    for (command, needed) in [
        ("TIME", true),
        ("PTTL", true),
        ("PUBLISH", false),
        ("GETRANGE", false),
        ("CONFIG", false),
    ] {
        let Some(server) = start(&["--rename-command", command, ""]) else {
            return;
        };
        let word = command.to_lowercase();
        agree(command, server.config(), needed.then_some(word.as_str())).await;
    }
}

#[tokio::test]
async fn a_replica_is_told_as_the_election_meets_it() {
    let Some((_master, replica)) = start_pair(&[]) else {
        return;
    };
    agree("a replica", replica.config(), Some("replica")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_sentinels_are_told_as_the_election_meets_them() {
    let Some(master) = start(&[]) else { return };
    let sentinels = start_sentinels(&master);
    let config = sentinel_config(&sentinels);
    sentinels[0].freeze();
    agree("one sentinel is down", config.clone(), None).await;
    sentinels[1].freeze();
    agree("two of three sentinels are down", config, Some("sentinel")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_on_its_way_is_told_as_the_election_meets_it() {
    let Some(nodes) = start_nodes(3) else { return };
    join_cluster(&nodes).await;
    let config = RedisConfig::cluster([nodes[0].address().as_str()]).unwrap();
    agree("a cluster", config.clone(), None).await;
    let slot = nodes[0].number(&["CLUSTER", "KEYSLOT", KEY]);
    let from = usize::from(slot > 5460) + usize::from(slot > 10922);
    let (source, target) = (&nodes[from], &nodes[(from + 1) % 3]);
    let slot = slot.to_string();
    let [source_id, target_id] = [source, target].map(|node| node.text(&["CLUSTER", "MYID"]));
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    // The fence is at one node, and the lock would be made at the other.
    agree("a slot left migrating", config.clone(), Some(&slot)).await;
    source.command(&["DEL", FENCE]);
    for node in [source, target] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &source_id]);
    }
    until("the slot is served", async || {
        source
            .text(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
    })
    .await;
    agree("a slot that has come back", config, None).await;
}
