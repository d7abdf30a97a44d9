//! The contract's suite on real servers: one, a master with replicas that sentinels watch, and a
//! cluster. Answers are lost and delayed by proxies; candidates run in processes of their own too.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use support::sentinel_config;
use tenure_conformance::proxy::FaultProxy;
use tenure_conformance::{Answers, Hook, Proxied, Target, async_trait};
use tenure_core::{Error, LockBackend, LockName};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{
    self, Server, join_cluster, master_of, start, start_nodes, start_sentinels,
    start_with_password, wait_for_cluster, wait_for_link, wait_for_sentinels,
};
use tenure_testkit::until_seen;
use tokio::sync::Mutex;

const PASSWORD: &str = "a-secret-of-the-suite";

/// Names the store for a candidate in another process.
const URL: &str = "TENURE_TEST_REDIS_URL";

/// What keeps locks over a crash.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

type Opened = Result<Arc<dyn LockBackend>, Error>;

async fn open(config: RedisConfig) -> Opened {
    Ok(Arc::new(RedisBackend::connect(config).await?))
}

fn key(lock: &LockName) -> String {
    format!("tenure:{{{lock}}}")
}

fn contestant_on(url: &str) -> Command {
    let mut command = tenure_conformance::reexec("contestant");
    command.env(URL, url);
    command
}

fn proxy_of(server: &Server) -> FaultProxy {
    FaultProxy::start(([127, 0, 0, 1], server.port).into()).unwrap()
}

/// One server, with a password.
struct Single {
    server: Mutex<Server>,
    proxies: [FaultProxy; 1],
}

impl Single {
    fn start() -> Option<Self> {
        let arguments = [&["--requirepass", PASSWORD], &DURABLE[..]].concat();
        let server = start_with_password(&arguments, Some(PASSWORD))?;
        Some(Self {
            proxies: [proxy_of(&server)],
            server: Mutex::new(server),
        })
    }

    fn url(&self) -> String {
        Self::url_by(&self.proxies[0])
    }

    fn url_by(proxy: &FaultProxy) -> String {
        format!("redis://:{PASSWORD}@{}", proxy.address())
    }
}

#[async_trait]
impl Target for Single {
    async fn connect(&self) -> Opened {
        open(RedisConfig::from_url(&self.url())?).await
    }

    fn conditions_met(&self) -> bool {
        // The log is synced with every write, and the clock is not set back.
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        let server = self.server.lock().await;
        server.command(&["DEL", &key(lock)]);
        Hook::Done
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        let server = self.server.lock().await;
        server.command(&["SET", &key(lock), "no record", "KEEPTTL"]);
        Hook::Done
    }

    async fn restart_store(&self) -> Hook {
        let mut server = self.server.lock().await;
        server.kill();
        server.restart();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through(&self.proxies)
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let proxy = proxy_of(&*self.server.lock().await);
        let config = RedisConfig::from_url(&Self::url_by(&proxy)).unwrap();
        let opened = open(config).await;
        Some(opened.map(|backend| Proxied::new(backend, [proxy])))
    }

    async fn connect_to_nothing(&self) -> Option<Opened> {
        let nothing = format!("127.0.0.1:{}", tenure_testkit::free_port());
        Some(open(RedisConfig::server(&nothing).unwrap()).await)
    }

    fn contestant(&self) -> Option<Command> {
        Some(contestant_on(&self.url()))
    }
}

/// A master with two replicas, watched by three sentinels. Its restart is a failover: the master
/// is killed, and comes back as a replica.
///
/// It has no hook `answers` and no `connect_by_proxy`. Sentinels tell clients and replicas the same
/// address, so a proxy that loses the answers to clients would lose the replication as well.
struct Watched {
    servers: Mutex<Vec<Server>>,
    sentinels: Vec<Server>,
}

impl Watched {
    async fn start() -> Option<Self> {
        let mut servers = vec![start(&DURABLE)?];
        let port = servers[0].port.to_string();
        let arguments = [&["--replicaof", "127.0.0.1", &port], &DURABLE[..]].concat();
        for _ in 0..2 {
            let replica = start(&arguments)?;
            wait_for_link(&replica);
            servers.push(replica);
        }
        let sentinels = start_sentinels(&servers[0]);
        wait_for_sentinels(&sentinels, 2).await;
        Some(Self {
            servers: Mutex::new(servers),
            sentinels,
        })
    }

    /// Both replicas have what counts, so it does not matter which is promoted.
    fn config(&self) -> RedisConfig {
        sentinel_config(&self.sentinels).wait_for_replicas(2, Duration::from_secs(2))
    }

    fn url(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(Server::address).collect();
        format!(
            "redis+sentinel://{}/main?wait_replicas=2&wait_timeout=2s",
            addresses.join(",")
        )
    }

    /// The port that all sentinels name.
    fn agreed_master(&self) -> Option<u16> {
        let first = master_of(&self.sentinels[0]);
        let agreed = self.sentinels.iter().all(|other| master_of(other) == first);
        first.filter(|_| agreed)
    }

    async fn on_master(&self, command: &[&str]) -> Hook {
        let servers = self.servers.lock().await;
        let port = master_of(&self.sentinels[0]);
        let master = servers.iter().find(|server| Some(server.port) == port);
        master.unwrap().command(command);
        Hook::Done
    }
}

#[async_trait]
impl Target for Watched {
    async fn connect(&self) -> Opened {
        open(self.config()).await
    }

    fn conditions_met(&self) -> bool {
        // The servers have one clock.
        true
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.on_master(&["DEL", &key(lock)]).await
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.on_master(&["SET", &key(lock), "no record", "KEEPTTL"])
            .await
    }

    async fn restart_store(&self) -> Hook {
        let mut servers = self.servers.lock().await;
        let before = master_of(&self.sentinels[0]).unwrap();
        let place = servers.iter().position(|server| server.port == before);
        let killed = &mut servers[place.unwrap()];
        killed.kill();
        until_seen("all sentinels name another master", || {
            self.agreed_master().is_some_and(|port| port != before)
        })
        .await;
        let port = self.agreed_master().unwrap().to_string();
        killed.restart_with(&[&["--replicaof", "127.0.0.1", &port], &DURABLE[..]].concat());
        for server in servers.iter() {
            if server.port.to_string() != port {
                wait_for_link(server);
            }
        }
        // Or the next failover finds no replica to promote.
        wait_for_sentinels(&self.sentinels, 2).await;
        Hook::Done
    }

    async fn connect_to_nothing(&self) -> Option<Opened> {
        let nothing = format!("127.0.0.1:{}", tenure_testkit::free_port());
        Some(open(RedisConfig::sentinel([nothing.as_str()], "main").unwrap()).await)
    }

    fn contestant(&self) -> Option<Command> {
        Some(contestant_on(&self.url()))
    }
}

/// A cluster of three masters, each behind a proxy whose address it tells clients. So all clients
/// share the proxies, and there is no hook `connect_by_proxy`.
struct Sharded {
    nodes: Mutex<Vec<Server>>,
    proxies: Vec<FaultProxy>,
}

impl Sharded {
    async fn start() -> Option<Self> {
        let mut nodes = start_nodes(3)?;
        let proxies: Vec<FaultProxy> = nodes.iter().map(proxy_of).collect();
        for (node, proxy) in nodes.iter_mut().zip(&proxies) {
            let (port, bus) = (proxy.address().port(), node.port + 10_000);
            let (port, bus) = (port.to_string(), bus.to_string());
            let announce = [
                "--cluster-enabled",
                "yes",
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-announce-port",
                &port,
                "--cluster-announce-bus-port",
                &bus,
            ];
            node.kill();
            node.restart_with(&[&announce, &DURABLE[..]].concat());
        }
        join_cluster(&nodes).await;
        Some(Self {
            nodes: Mutex::new(nodes),
            proxies,
        })
    }

    fn url(&self) -> String {
        let addresses = self.proxies.iter().map(|proxy| proxy.address().to_string());
        let addresses: Vec<String> = addresses.collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// Only the node that has the slot does it; the others answer with its address.
    async fn on_holder(&self, command: &[&str]) -> Hook {
        let nodes = self.nodes.lock().await;
        let done = nodes.iter().any(|node| node.try_command(command).is_ok());
        if done {
            Hook::Done
        } else {
            Hook::Failed(format!("no node does {command:?}"))
        }
    }
}

#[async_trait]
impl Target for Sharded {
    async fn connect(&self) -> Opened {
        open(RedisConfig::from_url(&self.url())?).await
    }

    fn conditions_met(&self) -> bool {
        // The logs are synced with every write, and the nodes have one clock.
        true
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.on_holder(&["DEL", &key(lock)]).await
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.on_holder(&["SET", &key(lock), "no record", "KEEPTTL"])
            .await
    }

    async fn restart_store(&self) -> Hook {
        let mut nodes = self.nodes.lock().await;
        for node in nodes.iter_mut() {
            node.kill();
        }
        for node in nodes.iter_mut() {
            node.restart();
        }
        wait_for_cluster(&nodes).await;
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through(&self.proxies)
    }

    async fn connect_to_nothing(&self) -> Option<Opened> {
        let nothing = format!("127.0.0.1:{}", tenure_testkit::free_port());
        Some(open(RedisConfig::cluster([nothing.as_str()]).unwrap()).await)
    }

    fn contestant(&self) -> Option<Command> {
        Some(contestant_on(&self.url()))
    }
}

/// A store that another process has started.
struct Elsewhere;

#[async_trait]
impl Target for Elsewhere {
    async fn connect(&self) -> Opened {
        open(RedisConfig::from_url(&std::env::var(URL).unwrap())?).await
    }
}

/// A candidate in a process of its own; does nothing among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || Elsewhere);
}

async fn is_green(topology: &str, subject: &dyn Target) {
    let server = if redis::is_valkey() {
        "redis_valkey"
    } else {
        "redis"
    };
    let suite = format!("{server}{topology}");
    let report = tenure_conformance::run_all(&suite, subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green_on_one_server() {
    if let Some(single) = Single::start() {
        is_green("", &single).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green_over_failovers_by_sentinels() {
    if let Some(watched) = Watched::start().await {
        is_green("_sentinel", &watched).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green_on_a_cluster() {
    if let Some(sharded) = Sharded::start().await {
        is_green("_cluster", &sharded).await;
    }
}
