//! Redis: one server, a replica of it, a cluster of three masters, and a set watched by sentinels.
//!
//! All run with the server's own defaults for durability: snapshots, and no append-only file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Env, Kind, Launch, Server};
use crate::net::free_ports;
use crate::paths::write_file;
use crate::process::Ending;
use crate::provision;
use crate::shell::capture;

/// The name under which the sentinels know their master.
const WATCHED: &str = "tenure";

/// One server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Redis {
    pub(crate) port: u16,
}

/// A replica of the one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) port: u16,
    pub(crate) of: u16,
}

/// Three masters that share the slots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) ports: [u16; 3],
}

/// A master and a replica of their own, and three sentinels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sentinel {
    pub(crate) servers: [u16; 2],
    pub(crate) sentinels: [u16; 3],
}

fn launch_server(launch: &mut Launch<'_>, name: &str, port: u16, more: &[&str]) -> Result<()> {
    let folder = launch.folder(name, None)?;
    let mut spec = launch.spec(
        name,
        provision::program("redis-server")?,
        folder,
        Ending::Plain,
    );
    let port = port.to_string();
    spec.args = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
        "--daemonize",
        "no",
        "--dir",
        ".",
        // A master waits five seconds for further replicas before it serves the first.
        "--repl-diskless-sync-delay",
        "0",
    ]
    .iter()
    .chain(more)
    .map(|&argument| argument.to_owned())
    .collect();
    launch.run(&spec)
}

fn cli(port: u16, arguments: &[&str]) -> Result<String> {
    let answer = capture(
        Command::new(provision::program("redis-cli")?)
            .env_remove("REDISCLI_AUTH")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-e"])
            .args(arguments),
    )?;
    Ok(answer.replace('\r', "").trim_end().to_owned())
}

/// One field of `INFO` or `CLUSTER INFO`.
fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().to_owned())
    })
}

fn version(port: u16) -> Result<String> {
    let pong = cli(port, &["PING"])?;
    if pong != "PONG" {
        bail!("port {port} answers PING with {pong:?}");
    }
    field(&cli(port, &["INFO", "server"])?, "redis_version").context("Redis names no version")
}

fn set_get_del(port: u16, options: &[&str]) -> Result<()> {
    let value = super::random_hex(8)?;
    let key = format!("xtask:{value}");
    let run = |command: &[&str]| cli(port, &[options, command].concat());
    run(&["SET", &key, &value, "NX", "PX", "60000"])?;
    let read = run(&["GET", &key])?;
    run(&["DEL", &key])?;
    if read != value {
        bail!("Redis gave back {read:?} for {value:?}");
    }
    Ok(())
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

fn urls(ports: &[u16]) -> String {
    let urls: Vec<String> = ports.iter().map(|port| url(*port)).collect();
    urls.join(",")
}

impl Redis {
    pub(super) fn start(launch: &mut Launch<'_>) -> Result<Self> {
        let [port] = free_ports()?;
        launch_server(launch, "redis", port, &[])?;
        Ok(Self { port })
    }
}

impl Server for Redis {
    fn probe(&self) -> Result<String> {
        version(self.port)
    }

    fn round_trip(&self) -> Result<String> {
        set_get_del(self.port, &[])?;
        Ok("SET, GET, DEL by redis-cli".to_owned())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![("TENURE_TEST_REDIS_URL", url(self.port))])
    }

    fn kind(&self) -> Kind {
        Kind::Redis
    }
}

impl Replica {
    pub(super) fn start(launch: &mut Launch<'_>, of: &Redis) -> Result<Self> {
        let [port] = free_ports()?;
        let master = of.port.to_string();
        launch_server(
            launch,
            "redis-replica",
            port,
            &["--replicaof", "127.0.0.1", &master],
        )?;
        Ok(Self { port, of: of.port })
    }
}

impl Server for Replica {
    fn probe(&self) -> Result<String> {
        let version = version(self.port)?;
        let info = cli(self.port, &["INFO", "replication"])?;
        if field(&info, "master_link_status").as_deref() != Some("up") {
            bail!("the replica is not linked to its master yet");
        }
        Ok(version)
    }

    fn round_trip(&self) -> Result<String> {
        let value = super::random_hex(8)?;
        let key = format!("xtask:{value}");
        cli(self.of, &["SET", &key, &value, "PX", "60000"])?;
        super::eventually("the replica has the master's write", || {
            let read = cli(self.port, &["GET", &key])?;
            if read != value {
                bail!("the replica gave {read:?} for {value:?}");
            }
            Ok(())
        })?;
        cli(self.of, &["DEL", &key])?;
        Ok("SET on the master seen on the replica".to_owned())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![("TENURE_TEST_REDIS_REPLICA_URL", url(self.port))])
    }

    fn kind(&self) -> Kind {
        Kind::RedisReplica
    }
}

impl Cluster {
    pub(super) fn start(launch: &mut Launch<'_>) -> Result<Self> {
        let ports = free_ports()?;
        for (index, port) in ports.iter().enumerate() {
            let name = format!("redis-cluster-{index}");
            launch_server(launch, &name, *port, &["--cluster-enabled", "yes"])?;
        }
        Ok(Self { ports })
    }
}

impl Server for Cluster {
    fn probe(&self) -> Result<String> {
        let mut seen = String::new();
        for port in self.ports {
            seen = version(port)?;
        }
        Ok(seen)
    }

    fn settle(&self) -> Result<()> {
        let nodes = self.ports.map(|port| format!("127.0.0.1:{port}"));
        capture(
            Command::new(provision::program("redis-cli")?)
                .env_remove("REDISCLI_AUTH")
                .args(["--cluster", "create"])
                .args(nodes)
                .args(["--cluster-replicas", "0", "--cluster-yes"]),
        )?;
        super::eventually("every node finds the cluster whole", || {
            for port in self.ports {
                let info = cli(port, &["CLUSTER", "INFO"])?;
                let state = field(&info, "cluster_state");
                if state.as_deref() != Some("ok") {
                    bail!("the node on port {port} says {state:?}");
                }
            }
            Ok(())
        })
    }

    fn round_trip(&self) -> Result<String> {
        for port in self.ports {
            // Sent to each node: it is for the client to follow to the node of the key's slot.
            set_get_del(port, &["-c"])?;
        }
        Ok("SET, GET, DEL by redis-cli through each of 3 nodes".to_owned())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![("TENURE_TEST_REDIS_CLUSTER_URLS", urls(&self.ports))])
    }

    fn kind(&self) -> Kind {
        Kind::RedisCluster
    }
}

impl Sentinel {
    pub(super) fn start(launch: &mut Launch<'_>) -> Result<Self> {
        let [master, replica, a, b, c] = free_ports()?;
        let servers = [master, replica];
        let sentinels = [a, b, c];
        let first = master.to_string();
        launch_server(launch, "redis-sentinel-server-0", master, &[])?;
        let follow = ["--replicaof", "127.0.0.1", &first];
        launch_server(launch, "redis-sentinel-server-1", replica, &follow)?;
        // A sentinel looks for replicas when it starts and then every ten seconds.
        super::eventually("the master has its replica", || {
            let info = cli(replica, &["INFO", "replication"])?;
            match field(&info, "master_link_status").as_deref() {
                Some("up") => Ok(()),
                other => bail!("the replica says {other:?} of its link"),
            }
        })?;
        for (index, port) in sentinels.iter().enumerate() {
            let name = format!("redis-sentinel-{index}");
            let folder = launch.folder(&name, None)?;
            write_configuration(&folder.join("sentinel.conf"), *port, master)?;
            let program = provision::program("redis-server")?;
            let mut spec = launch.spec(&name, program, folder, Ending::Plain);
            spec.args = vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()];
            launch.run(&spec)?;
        }
        Ok(Self { servers, sentinels })
    }
}

/// A sentinel keeps its knowledge in its configuration file, so it has to have one.
fn write_configuration(file: &Path, port: u16, master: u16) -> Result<()> {
    let text = format!(
        "port {port}\n\
         bind 127.0.0.1\n\
         dir .\n\
         sentinel monitor {WATCHED} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {WATCHED} 2000\n\
         sentinel failover-timeout {WATCHED} 10000\n"
    );
    write_file(file, 0o600, text.as_bytes())
}

impl Server for Sentinel {
    fn probe(&self) -> Result<String> {
        let mut seen = String::new();
        for port in self.servers.iter().chain(&self.sentinels) {
            seen = version(*port)?;
        }
        for port in self.sentinels {
            let quorum = cli(port, &["SENTINEL", "CKQUORUM", WATCHED])?;
            if !quorum.starts_with("OK 3 ") {
                bail!("the sentinel on port {port} says {quorum:?}");
            }
            if cli(port, &["SENTINEL", "REPLICAS", WATCHED])?.is_empty() {
                bail!("the sentinel on port {port} knows no replica yet");
            }
        }
        Ok(seen)
    }

    fn round_trip(&self) -> Result<String> {
        let answer = cli(
            self.sentinels[0],
            &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", WATCHED],
        )?;
        let port = answer
            .lines()
            .nth(1)
            .and_then(|port| port.parse().ok())
            .with_context(|| format!("the sentinel names no master: {answer:?}"))?;
        set_get_del(port, &[])?;
        Ok("SET, GET, DEL by redis-cli on the master that a sentinel names".to_owned())
    }

    fn env(&self) -> Result<Env> {
        Ok(vec![
            ("TENURE_TEST_REDIS_SENTINEL_URLS", urls(&self.sentinels)),
            ("TENURE_TEST_REDIS_SENTINEL_MASTER", WATCHED.to_owned()),
        ])
    }

    fn kind(&self) -> Kind {
        Kind::RedisSentinel
    }
}
