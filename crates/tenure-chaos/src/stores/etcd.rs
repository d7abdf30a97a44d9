//! etcd: one member, or three.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::etcd::{self, Cluster};
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::links::Links;
use crate::stores::topology::{Applies, DELETED, LOCK, Store, beyond, proxies, within};

/// The topologies `etcd` and `etcd-cluster`.
pub(super) struct Etcd {
    cluster: Cluster,
    proxies: Vec<Vec<FaultProxy>>,
    /// The member that a fault goes on at.
    struck: usize,
}

/// What the lock's keys begin with.
const PREFIX: &str = "runs";

impl Etcd {
    pub(super) fn start(members: usize, links: Option<&Links>) -> Result<Option<Self>> {
        let Some(cluster) = block_in_place(|| etcd::start_with(members, &[])) else {
            return Ok(None);
        };
        let servers = cluster
            .members
            .iter()
            .map(|member| member.address().parse());
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Self {
            proxies: proxies(&servers, links)?,
            cluster,
            struck: 0,
        }))
    }

    fn election() -> String {
        format!("{PREFIX}/{LOCK}")
    }

    fn leader_key(&self) -> Result<String> {
        let queue = self.cluster.queue(&Self::election());
        let first = queue.into_iter().next();
        first.ok_or_else(|| anyhow::anyhow!("nobody is in the queue"))
    }

    fn foreign() -> String {
        format!("{}/foreign", Self::election())
    }
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> &'static str {
        if self.cluster.members.len() == 1 {
            "etcd"
        } else {
            "etcd-cluster"
        }
    }

    fn url(&self, candidate: usize) -> String {
        let proxies = self.proxies[candidate].iter();
        let hosts: Vec<String> = proxies.map(|proxy| proxy.address().to_string()).collect();
        format!("etcd://{}/{PREFIX}", hosts.join(","))
    }

    fn proxies(&self, candidate: usize) -> &[FaultProxy] {
        &self.proxies[candidate]
    }

    fn faults(&self) -> Vec<Applies> {
        let mut all = vec![
            // All leases begin again when a raft leader is elected.
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze).and_leases(1),
            within(Fault::RecordCorrupted),
            within(Fault::ForeignWriter),
            beyond(Fault::KeyDeleted, DELETED),
        ];
        if self.cluster.members.len() > 1 {
            all.push(within(Fault::StoreFailover).and_leases(1));
        }
        all
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        block_in_place(|| match fault {
            Fault::StoreKill | Fault::StoreFailover => {
                self.struck = self.cluster.raft_leader();
                self.cluster.members[self.struck].kill();
                Ok(String::new())
            }
            Fault::StoreFreeze => {
                self.struck = self.cluster.raft_leader();
                let member = &self.cluster.members[self.struck];
                member.freeze();
                Ok(format!("process {} stood still", member.pid()))
            }
            Fault::RecordCorrupted => {
                let key = self.leader_key()?;
                self.cluster
                    .ctl(&["put", "--ignore-lease", &key, "\u{1}garbage"]);
                Ok(format!("{key} holds garbage"))
            }
            Fault::ForeignWriter => {
                let key = Self::foreign();
                self.cluster.ctl(&["put", &key, "no candidate"]);
                Ok(format!("{key} stood without a lease"))
            }
            Fault::KeyDeleted => {
                let key = self.leader_key()?;
                let said = self.cluster.ctl(&["del", &key]);
                ensure!(said.trim() == "1", "etcdctl del said {said}");
                Ok(format!("{key} is gone"))
            }
            _ => bail!("{fault} does not apply"),
        })
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        block_in_place(|| {
            Ok(match fault {
                Fault::StoreKill | Fault::StoreFailover => {
                    let answer = self.cluster.try_ctl_at(self.struck, &["get", "-"]);
                    ensure!(!answer.status.success(), "a killed member answers");
                    let mut more = String::new();
                    if fault == Fault::StoreFailover {
                        let alive: Vec<usize> = (0..self.cluster.members.len())
                            .filter(|number| *number != self.struck)
                            .collect();
                        for number in &alive {
                            self.cluster.wait_for(*number);
                        }
                        more = format!("; the others answered without member {}", self.struck);
                    }
                    self.cluster.members[self.struck].restart();
                    self.cluster.wait();
                    format!(
                        "no answer, then process {}{more}",
                        self.cluster.members[self.struck].pid()
                    )
                }
                Fault::StoreFreeze => {
                    self.cluster.members[self.struck].thaw();
                    self.cluster.wait();
                    String::new()
                }
                Fault::ForeignWriter => {
                    self.cluster.ctl(&["del", &Self::foreign()]);
                    String::new()
                }
                _ => String::new(),
            })
        })
    }
}
