//! One Postgres server, with a wall clock of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::postgres::{self, PASSWORD, Server};
use tenure_testkit::process;
use tenure_testkit::wall_clock::WallClock;
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::links::Links;
use crate::stores::topology::{Applies, Store, beyond, proxies, within};

/// The topology `postgres`.
pub(super) struct Postgres {
    // Before the clock's files go, the server does.
    server: Server,
    clock: WallClock,
    proxies: Vec<Vec<FaultProxy>>,
    /// The processes that are stopped.
    stopped: Vec<u32>,
}

/// How far the wall clock is set ahead, in seconds.
const AHEAD: i64 = 600;

/// From `docs/reference/guarantees.md`.
pub(super) const ENDED: &str = "guarantees: no one deletes the lock under its holder. On Postgres \
                                this includes ending the holder's session";

/// The sessions that hold a lock.
const HOLDERS: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
                       AND NOT (objsubid = 2 AND classid = 1952804469)";

impl Postgres {
    pub(super) fn start(links: Option<&Links>) -> Result<Option<Self>> {
        let Some(clock) = block_in_place(WallClock::new) else {
            return Ok(None);
        };
        let environment = clock.environment().to_vec();
        let Some(server) = block_in_place(|| postgres::start_under(environment, &[])) else {
            return Ok(None);
        };
        Ok(Some(Self {
            proxies: proxies(&[server.address()], links)?,
            server,
            clock,
            stopped: Vec::new(),
        }))
    }

    /// How far the server's wall clock is ahead, in seconds.
    async fn ahead(&self) -> Result<f64> {
        let ask = "SELECT extract(epoch FROM clock_timestamp())::float8";
        let row = self.server.admin().await.query_one(ask, &[]).await?;
        let theirs: f64 = row.get(0);
        let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(theirs - ours.as_secs_f64())
    }
}

/// A server's processes, the first of all first.
fn processes(server: &Server) -> Result<Vec<u32>> {
    let file = server.dir.path().join("data/postmaster.pid");
    let text = fs::read_to_string(file)?;
    let first: u32 = text.lines().next().context("no process")?.trim().parse()?;
    let mut all = vec![first];
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.parse::<u32>().ok());
        let parent = process::stat(&path).map(|(_, parent)| parent);
        if let (Some(pid), true) = (pid, parent == Some(first)) {
            all.push(pid);
        }
    }
    Ok(all)
}

pub(super) async fn end_the_holders_session(server: &Server) -> Result<String> {
    let ask = format!("SELECT count(pg_terminate_backend(pid)) FROM ({HOLDERS}) AS holders");
    let row = server.admin().await.query_one(&ask, &[]).await?;
    let ended: i64 = row.get(0);
    ensure!(ended > 0, "nobody held the lock");
    Ok(format!("{ended} session ended by pg_terminate_backend"))
}

/// Stops a server's processes one after the other, the one that starts others first; which.
pub(super) fn freeze(server: &Server) -> Result<Vec<u32>> {
    let mut stopped = Vec::new();
    loop {
        let all = processes(server)?;
        let more: Vec<u32> = all
            .into_iter()
            .filter(|pid| !stopped.contains(pid))
            .collect();
        if more.is_empty() {
            return Ok(stopped);
        }
        for pid in more {
            // A session may end meanwhile.
            if process::is_alive(pid) {
                process::freeze(pid);
            }
            stopped.push(pid);
        }
    }
}

/// Lets these processes go on.
pub(super) fn thaw(stopped: Vec<u32>) {
    for pid in stopped {
        if process::is_alive(pid) {
            process::signal("CONT", pid);
        }
    }
}

#[async_trait]
impl Store for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn url(&self, candidate: usize) -> String {
        let address = self.proxies[candidate][0].address();
        format!("postgres://app:{PASSWORD}@{address}/postgres?sslmode=disable")
    }

    fn proxies(&self, candidate: usize) -> &[FaultProxy] {
        &self.proxies[candidate]
    }

    fn faults(&self) -> Vec<Applies> {
        const SET: &str = "postgres: a clock set forward may end a silent session before its lease \
                           is over";
        vec![
            // Locks are in quarantine after a start that a process has not seen.
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze).and_leases(1),
            beyond(Fault::KeyDeleted, ENDED),
            beyond(Fault::StoreClock, SET),
        ]
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        match fault {
            // A `kill -9` of the first process alone would leave its sessions to end by themselves,
            // and a new server cannot start before. This ends all of them at once.
            Fault::StoreKill => {
                block_in_place(|| self.server.stop("QUIT"));
                Ok(String::new())
            }
            Fault::StoreFreeze => {
                self.stopped = block_in_place(|| freeze(&self.server))?;
                Ok(format!("{} processes stood still", self.stopped.len()))
            }
            Fault::KeyDeleted => end_the_holders_session(&self.server).await,
            Fault::StoreClock => {
                self.clock.set_ahead(AHEAD);
                let ahead = self.ahead().await?;
                ensure!(ahead > 500.0, "the server's clock is {ahead} s ahead");
                Ok(format!("the server's clock was {ahead:.0} s ahead"))
            }
            _ => bail!("{fault} does not apply"),
        }
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        match fault {
            Fault::StoreKill => {
                let refused = std::net::TcpStream::connect(self.server.address()).is_err();
                ensure!(refused, "a server that was ended takes connections");
                block_in_place(|| self.server.restart());
                Ok("no connection, then a new server".to_owned())
            }
            Fault::StoreFreeze => {
                thaw(std::mem::take(&mut self.stopped));
                Ok(String::new())
            }
            Fault::StoreClock => {
                self.clock.set_ahead(0);
                Ok(String::new())
            }
            _ => Ok(String::new()),
        }
    }
}
