//! One Redis server that syncs its append-only file with each write.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::redis::{self, Server};
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::stores::topology::{Applies, DELETED, LOCK, Store, beyond, proxies, within};

/// The user that candidates log in as.
const USER: &str = "candidate";

/// All that a candidate may do.
const RIGHTS: &str = "on >hush ~* &* +@all";

/// The topology `redis`.
pub(super) struct Redis {
    server: Server,
    proxies: Vec<Vec<FaultProxy>>,
}

impl Redis {
    pub(super) fn start() -> Result<Option<Self>> {
        let user = format!("{USER} {RIGHTS}");
        let mut arguments = vec!["--appendonly", "yes", "--appendfsync", "always", "--user"];
        arguments.extend(user.split(' '));
        let Some(server) = block_in_place(|| redis::start(&arguments)) else {
            return Ok(None);
        };
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, server.port).into();
        Ok(Some(Self {
            proxies: proxies(&[address])?,
            server,
        }))
    }

    fn key() -> String {
        format!("tenure:{{{LOCK}}}")
    }

    fn set_rights(&self, rights: &[&str]) {
        let mut command = vec!["ACL", "SETUSER", USER];
        command.extend(rights);
        self.server.command(&command);
    }
}

#[async_trait]
impl Store for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn url(&self, candidate: usize) -> String {
        let address = self.proxies[candidate][0].address();
        format!("redis://{USER}:hush@{address}")
    }

    fn proxies(&self, candidate: usize) -> &[FaultProxy] {
        &self.proxies[candidate]
    }

    fn faults(&self) -> Vec<Applies> {
        vec![
            // Its replication id changes: a free lock is put in quarantine for a lease.
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze),
            within(Fault::ForeignWriter),
            within(Fault::Revoked),
            beyond(Fault::KeyDeleted, DELETED),
            beyond(Fault::RecordCorrupted, DELETED),
        ]
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        block_in_place(|| match fault {
            Fault::StoreKill => {
                self.server.kill();
                Ok(String::new())
            }
            Fault::StoreFreeze => {
                self.server.freeze();
                Ok(format!("process {} stood still", self.server.pid()))
            }
            Fault::ForeignWriter => {
                let channel = format!("{}:released", Redis::key());
                let mut heard = 0;
                for _ in 0..200 {
                    heard += self.server.number(&["PUBLISH", &channel, ""]);
                }
                Ok(format!(
                    "{heard} receipts of 200 messages that are not true"
                ))
            }
            Fault::Revoked => {
                self.set_rights(&["-@all", "+ping"]);
                Ok(String::new())
            }
            Fault::KeyDeleted => {
                let gone = self.server.number(&["DEL", &Redis::key()]);
                ensure!(gone == 1, "there was no key to delete");
                Ok("DEL said 1".to_owned())
            }
            Fault::RecordCorrupted => {
                self.server.command(&["SET", &Redis::key(), "\u{1}garbage"]);
                Ok("the key holds garbage".to_owned())
            }
            _ => bail!("{fault} does not apply"),
        })
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        block_in_place(|| {
            Ok(match fault {
                Fault::StoreKill => {
                    let refused = self.server.try_command(&["PING"]).is_err();
                    ensure!(refused, "a killed server answers");
                    self.server.restart();
                    format!("no answer, then process {}", self.server.pid())
                }
                Fault::StoreFreeze => {
                    self.server.thaw();
                    String::new()
                }
                Fault::Revoked => {
                    let log = self.server.text(&["ACL", "LOG"]);
                    self.set_rights(&["+@all"]);
                    let refusals = log.matches("username candidate").count();
                    ensure!(refusals > 0, "the server refused nothing: {log}");
                    self.server.command(&["ACL", "LOG", "RESET"]);
                    format!("{refusals} kinds of refusals in ACL LOG")
                }
                Fault::RecordCorrupted => {
                    self.server.command(&["DEL", &Redis::key()]);
                    String::new()
                }
                _ => String::new(),
            })
        })
    }
}
