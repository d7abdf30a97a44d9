//! Redis with replicas: a master with one replica and three sentinels, or a cluster of three masters
//! with a replica each. Clients find the servers by themselves, so there are no proxies in between.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::redis::{self, Server, WATCHED};
use tenure_testkit::wait::wait_until;
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::stores::topology::{Applies, DELETED, LOCK, Store, beyond, within};

/// The topologies `redis-sentinel` and `redis-cluster`.
pub(super) struct Replicas {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    /// The server that a fault goes on at.
    struck: usize,
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

impl Replicas {
    pub(super) async fn sentinel() -> Result<Option<Self>> {
        let Some((master, replica)) = block_in_place(|| redis::start_pair(&DURABLE)) else {
            return Ok(None);
        };
        let sentinels = block_in_place(|| redis::start_sentinels(&master));
        redis::wait_for_sentinels(&sentinels, 1).await;
        Ok(Some(Self {
            servers: vec![master, replica],
            sentinels,
            struck: 0,
        }))
    }

    pub(super) async fn cluster() -> Result<Option<Self>> {
        let Some(servers) = block_in_place(|| redis::start_nodes(6)) else {
            return Ok(None);
        };
        redis::join_cluster(&servers).await;
        Ok(Some(Self {
            servers,
            sentinels: Vec::new(),
            struck: 0,
        }))
    }

    fn key() -> String {
        format!("tenure:{{{LOCK}}}")
    }

    /// The server that has the lock.
    fn master(&self) -> Result<usize> {
        let has_it = |server: &Server| {
            if server.try_command(&["PING"]).is_err() {
                return false;
            }
            let role = server.text(&["ROLE"]);
            // A node of a cluster refuses keys of others.
            role.starts_with("master") && server.try_command(&["GET", &Self::key()]).is_ok()
        };
        self.servers
            .iter()
            .position(has_it)
            .context("no master has the lock's key")
    }

    /// Waits until another server than the struck one is the master.
    fn until_promoted(&self) -> Result<usize> {
        let mut other = None;
        wait_until("a replica is promoted", || {
            other = self.master().ok().filter(|master| *master != self.struck);
            other.is_some()
        });
        other.context("no other master")
    }

    /// Waits until each server is linked again, so that the next failover can begin.
    fn until_whole(&self) {
        for sentinel in &self.sentinels {
            wait_until("the sentinels see a replica", || {
                let known = sentinel.text(&["SENTINEL", "REPLICAS", WATCHED]);
                known.contains(" flags slave ") && known.contains(" master-link-status ok ")
            });
        }
        if self.sentinels.is_empty() {
            for server in &self.servers {
                wait_until("the cluster is whole", || {
                    let state = server.text(&["CLUSTER", "INFO"]);
                    let linked = server.text(&["INFO", "replication"]);
                    state.contains("cluster_state:ok") && !linked.contains("link_status:down")
                });
            }
        }
    }
}

#[async_trait]
impl Store for Replicas {
    fn name(&self) -> &'static str {
        if self.sentinels.is_empty() {
            "redis-cluster"
        } else {
            "redis-sentinel"
        }
    }

    fn url(&self, _candidate: usize) -> String {
        let addresses = |servers: &[Server]| -> String {
            let all: Vec<String> = servers.iter().map(Server::address).collect();
            all.join(",")
        };
        if self.sentinels.is_empty() {
            format!("redis+cluster://{}", addresses(&self.servers))
        } else {
            format!("redis+sentinel://{}/{WATCHED}", addresses(&self.sentinels))
        }
    }

    fn proxies(&self, _candidate: usize) -> &[FaultProxy] {
        &[]
    }

    fn faults(&self) -> Vec<Applies> {
        vec![
            // A quarantine of a lease and 3.1 s, or half the nodes' timeout and half a second; and
            // the time in which the sentinels or nodes agree.
            within(Fault::StoreFailover).and_leases(4),
            within(Fault::StoreKill).and_leases(4),
            within(Fault::StoreFreeze).and_leases(4),
            beyond(Fault::KeyDeleted, DELETED),
        ]
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        block_in_place(|| {
            self.struck = self.master()?;
            let server = &mut self.servers[self.struck];
            match fault {
                Fault::StoreFailover | Fault::StoreKill => {
                    server.kill();
                    Ok(String::new())
                }
                Fault::StoreFreeze => {
                    server.freeze();
                    Ok(format!("process {} stood still", server.pid()))
                }
                Fault::KeyDeleted => {
                    let gone = server.number(&["DEL", &Self::key()]);
                    ensure!(gone == 1, "there was no key to delete");
                    Ok("DEL said 1".to_owned())
                }
                _ => bail!("{fault} does not apply"),
            }
        })
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        block_in_place(|| {
            let mut evidence = String::new();
            match fault {
                Fault::StoreFailover => {
                    let promoted = self.until_promoted()?;
                    self.servers[self.struck].restart();
                    evidence = format!("server {promoted} followed {}", self.struck);
                }
                Fault::StoreKill => {
                    let refused = self.servers[self.struck].try_command(&["PING"]).is_err();
                    ensure!(refused, "a killed server answers");
                    self.servers[self.struck].restart();
                    "no answer, then a new process".clone_into(&mut evidence);
                }
                Fault::StoreFreeze => self.servers[self.struck].thaw(),
                _ => return Ok(evidence),
            }
            self.until_whole();
            Ok(evidence)
        })
    }
}
