//! One Redis server that syncs its append-only file with each write.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::redis::{self, Server};
use tenure_testkit::wall_clock::WallClock;
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::links::Links;
use crate::stores::topology::{Applies, DELETED, LOCK, Store, beyond, proxies, within};

/// The user that candidates log in as.
const USER: &str = "candidate";

/// How far the wall clock is set ahead, in seconds.
const AHEAD: i64 = 600;

/// All that a candidate may do.
const RIGHTS: &str = "on >hush ~* &* +@all";

/// The topology `redis`.
pub(super) struct Redis {
    // Before the clock's files go, the server does.
    server: Server,
    clock: Option<WallClock>,
    proxies: Vec<Vec<FaultProxy>>,
}

impl Redis {
    pub(super) fn start(links: Option<&Links>) -> Result<Option<Self>> {
        let user = format!("{USER} {RIGHTS}");
        let mut arguments = vec!["--appendonly", "yes", "--appendfsync", "always", "--user"];
        arguments.extend(user.split(' '));
        let clock = block_in_place(WallClock::new);
        let environment = clock.as_ref().map(WallClock::environment);
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .flatten()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let Some(server) = block_in_place(|| redis::start_under(&environment, &arguments)) else {
            return Ok(None);
        };
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, server.port).into();
        Ok(Some(Self {
            proxies: proxies(&[address], links)?,
            server,
            clock,
        }))
    }

    fn key() -> String {
        format!("tenure:{{{LOCK}}}")
    }

    /// How far the server's wall clock is ahead, in seconds.
    fn ahead(&self) -> Result<u64> {
        let time = self.server.text(&["TIME"]);
        let theirs: u64 = time.split(' ').next().unwrap_or_default().parse()?;
        let ours = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(theirs.saturating_sub(ours))
    }

    fn set_ahead(&self, seconds: i64) {
        if let Some(clock) = &self.clock {
            clock.set_ahead(seconds);
        }
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
        const SET: &str = "redis: a jump forward frees locks early, before their holders stop";
        let clock = self.clock.iter().map(|_| beyond(Fault::StoreClock, SET));
        let mut all: Vec<Applies> = clock.collect();
        all.extend([
            // Its replication id changes: a free lock is put in quarantine for a lease.
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze),
            within(Fault::ForeignWriter),
            within(Fault::Revoked),
            beyond(Fault::KeyDeleted, DELETED),
            beyond(Fault::RecordCorrupted, DELETED),
        ]);
        all
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
            Fault::StoreClock => {
                self.set_ahead(AHEAD);
                let ahead = self.ahead()?;
                ensure!(ahead > 500, "the server's clock is {ahead} s ahead");
                Ok(format!("the server's clock was {ahead} s ahead"))
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
                // A lock that was taken meanwhile would last as long as the clock was ahead.
                Fault::StoreClock => {
                    self.set_ahead(0);
                    self.server.command(&["DEL", &Redis::key()]);
                    String::new()
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
