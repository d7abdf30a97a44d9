//! A Postgres server with a synchronous standby, which takes over when the first one dies.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::postgres::{self, PASSWORD, Server};
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::links::Links;
use crate::stores::postgres::{ENDED, end_the_holders_session, freeze, thaw};
use crate::stores::topology::{Applies, Store, beyond, proxies, within};

/// The topology `postgres-standby`.
pub(super) struct Pair {
    servers: Vec<Server>,
    /// The server that writes.
    primary: usize,
    proxies: Vec<Vec<FaultProxy>>,
    /// The processes that are stopped.
    stopped: Vec<u32>,
}

impl Pair {
    pub(super) async fn start(links: Option<&Links>) -> Result<Option<Self>> {
        let Some(primary) = block_in_place(|| postgres::start(&[])) else {
            return Ok(None);
        };
        let standby = block_in_place(|| primary.standby());
        let own = Self {
            proxies: proxies(&[primary.address(), standby.address()], links)?,
            servers: vec![primary, standby],
            primary: 0,
            stopped: Vec::new(),
        };
        own.wait_for_the_standby(true).await?;
        Ok(Some(own))
    }

    fn primary(&self) -> &Server {
        &self.servers[self.primary]
    }

    /// A commit waits for the standby, or for none: there is none after a failover, until the other
    /// server is made again. This setting itself waits for nothing.
    async fn wait_for_the_standby(&self, waits: bool) -> Result<()> {
        let admin = self.primary().admin().await;
        let names = if waits { "*" } else { "" };
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        admin.batch_execute(&set).await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        let are = if waits { "> 0" } else { "= 0" };
        let synchronous = format!(
            "SELECT count(*) {are} FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
        );
        postgres::until(&admin, &synchronous).await;
        Ok(())
    }

    async fn fail_over(&mut self) -> Result<String> {
        let former = self.primary;
        block_in_place(|| self.servers[former].stop("QUIT"));
        self.primary = 1 - former;
        block_in_place(|| self.primary().promote());
        self.wait_for_the_standby(false).await?;
        Ok(format!("server {} followed {former}", self.primary))
    }
}

#[async_trait]
impl Store for Pair {
    fn name(&self) -> &'static str {
        "postgres-standby"
    }

    fn url(&self, candidate: usize) -> String {
        let proxies = self.proxies[candidate].iter();
        let hosts: Vec<String> = proxies.map(|proxy| proxy.address().to_string()).collect();
        let hosts = hosts.join(",");
        format!("postgres://app:{PASSWORD}@{hosts}/postgres?sslmode=disable")
    }

    fn proxies(&self, candidate: usize) -> &[FaultProxy] {
        &self.proxies[candidate]
    }

    fn faults(&self) -> Vec<Applies> {
        vec![
            // Locks are in quarantine after a promotion or a start that a process has not seen.
            within(Fault::StoreFailover).and_leases(1),
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze).and_leases(1),
            beyond(Fault::KeyDeleted, ENDED),
        ]
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        match fault {
            Fault::StoreFailover => self.fail_over().await,
            Fault::StoreKill => {
                let primary = self.primary;
                block_in_place(|| self.servers[primary].stop("QUIT"));
                Ok(String::new())
            }
            Fault::StoreFreeze => {
                self.stopped = block_in_place(|| freeze(self.primary()))?;
                Ok(format!("{} processes stood still", self.stopped.len()))
            }
            Fault::KeyDeleted => end_the_holders_session(self.primary()).await,
            _ => bail!("{fault} does not apply"),
        }
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        match fault {
            Fault::StoreFailover => {
                let former = 1 - self.primary;
                let port = self.servers[former].port;
                self.servers[former] = block_in_place(|| self.primary().standby_on(port));
                self.wait_for_the_standby(true).await?;
                Ok(String::new())
            }
            Fault::StoreKill => {
                let server = self.servers.get_mut(self.primary).context("no server")?;
                let refused = std::net::TcpStream::connect(server.address()).is_err();
                ensure!(refused, "a server that was ended takes connections");
                block_in_place(|| server.restart());
                self.wait_for_the_standby(true).await?;
                Ok("no connection, then a new server".to_owned())
            }
            Fault::StoreFreeze => {
                thaw(std::mem::take(&mut self.stopped));
                Ok(String::new())
            }
            _ => Ok(String::new()),
        }
    }
}
