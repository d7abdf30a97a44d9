//! etcd: one node, or a cluster of three. Also the store underneath kube-apiserver.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Env, Kind, Launch, Server};
use crate::net::{Http, free_ports};
use crate::process::Ending;
use crate::provision;
use crate::shell::capture;

/// A running cluster; a single node is a cluster of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Etcd {
    /// Where clients connect, one port a member.
    pub(crate) ports: Vec<u16>,
}

impl Etcd {
    /// Starts the members. `prefix` names their processes.
    pub(super) fn start(launch: &mut Launch<'_>, prefix: &str, members: u8) -> Result<Self> {
        let program = provision::program("etcd")?;
        let mut ports = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..members {
            let [client, peer] = free_ports()?;
            ports.push(client);
            peers.push(peer);
        }
        let name = |index: usize| format!("{prefix}-{index}");
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(index, port)| format!("{}=http://127.0.0.1:{port}", name(index)))
            .collect();
        for (index, (client, peer)) in ports.iter().zip(&peers).enumerate() {
            let name = name(index);
            let folder = launch.folder(&name, None)?;
            let client = format!("http://127.0.0.1:{client}");
            let peer = format!("http://127.0.0.1:{peer}");
            let mut spec = launch.spec(&name, program.clone(), folder, Ending::Plain);
            spec.args = [
                ("--name", name.as_str()),
                ("--data-dir", "data"),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &cluster.join(",")),
                ("--initial-cluster-state", "new"),
                ("--initial-cluster-token", prefix),
            ]
            .into_iter()
            .map(|(flag, value)| format!("{flag}={value}"))
            .collect();
            if cfg!(target_arch = "aarch64") {
                // Releases before 3.5 want to be told.
                spec.env
                    .insert("ETCD_UNSUPPORTED_ARCH".to_owned(), "arm64".to_owned());
            }
            launch.run(&spec)?;
        }
        Ok(Self { ports })
    }

    /// As `etcdctl` and kube-apiserver take them.
    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect();
        urls.join(",")
    }

    fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let program = provision::program("etcdctl")?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints()))
            .args(arguments);
        capture(&mut command)
    }
}

impl Server for Etcd {
    fn probe(&self) -> Result<String> {
        let mut version = None;
        for port in &self.ports {
            let http = Http::plain(*port);
            let health = http.get("/health")?.expect_status(200, "/health")?;
            let health: serde_json::Value = serde_json::from_str(&health)?;
            if health["health"] != "true" {
                bail!("the member on port {port} is not healthy: {health}");
            }
            let answer = http.get("/version")?.expect_status(200, "/version")?;
            let answer: serde_json::Value = serde_json::from_str(&answer)?;
            version = answer["etcdserver"].as_str().map(str::to_owned);
        }
        version.context("etcd names no version")
    }

    fn round_trip(&self) -> Result<String> {
        let value = super::random_hex(8)?;
        let key = format!("xtask/{value}");
        self.etcdctl(&["put", &key, &value])?;
        let read = self.etcdctl(&["get", &key, "--print-value-only"])?;
        self.etcdctl(&["del", &key])?;
        if read.trim() != value {
            bail!("etcd gave back {read:?} for {value:?}");
        }
        let members = self.etcdctl(&["member", "list"])?.lines().count();
        if members != self.ports.len() {
            bail!("{members} members where {} were started", self.ports.len());
        }
        Ok(format!("put, get, del by etcdctl; {members} member(s)"))
    }

    fn env(&self) -> Result<Env> {
        let hosts: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        Ok(vec![
            (
                "TENURE_TEST_ETCD_URL",
                format!("etcd://{}", hosts.join(",")),
            ),
            ("TENURE_TEST_ETCD_ENDPOINTS", self.endpoints()),
        ])
    }

    fn kind(&self) -> Kind {
        Kind::Etcd
    }
}
