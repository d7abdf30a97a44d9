//! Asks all servers that the URL leads to whether they belong to one deployment: see
//! [`deployment`](super::deployment).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use redis::cmd;
use tenure_core::Check;
use tenure_kit::Address;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, slots_of};
use super::connector::Connector;
use super::deployment::{self, Deployment, SURVEY_AGAIN, SURVEY_EVERY, Share, View, strangers};
use super::sentinels;
use crate::config::Servers;
use crate::errors::StoreError;
use crate::net::connection::{Connection, field};
use crate::net::network::{Endpoint, Network};

/// The comparison of the servers, and how far the first one is, which calls wait for.
#[derive(Debug)]
pub(super) struct Survey {
    network: Arc<Network>,
    deployment: Arc<Deployment>,
    /// Where calls go.
    master: Option<Connector>,
    cluster: Option<Arc<Cluster>>,
    begun: AtomicBool,
    done: watch::Sender<bool>,
}

/// Whether there can be more than one deployment. The number of a host leads to one server, unless
/// something stands in between that cannot be seen from here.
fn is_surveyed(servers: &Servers) -> bool {
    match servers {
        Servers::Single(address) => !address.is_number() && !address.is_socket(),
        Servers::Sentinel { .. } | Servers::Cluster(_) => true,
    }
}

/// A server's answer, and the connection that it came on.
type Answer = Result<(Connection, View), StoreError>;

impl Survey {
    pub(super) fn of_master(
        master: Connector,
        network: Arc<Network>,
        deployment: Arc<Deployment>,
    ) -> Self {
        Self {
            master: Some(master),
            ..Self::new(network, deployment)
        }
    }

    pub(super) fn of_cluster(
        cluster: Arc<Cluster>,
        network: Arc<Network>,
        deployment: Arc<Deployment>,
    ) -> Self {
        Self {
            cluster: Some(cluster),
            ..Self::new(network, deployment)
        }
    }

    fn new(network: Arc<Network>, deployment: Arc<Deployment>) -> Self {
        // Where there can be one server only, there is nothing to wait for.
        let done = !is_surveyed(&network.config.servers);
        Self {
            network,
            deployment,
            master: None,
            cluster: None,
            begun: AtomicBool::new(false),
            done: watch::Sender::new(done),
        }
    }

    /// Fails if the URL leads to two deployments, as far as their servers have answered. The first
    /// call waits until they have, or three connect timeouts have passed; dropping the future stops
    /// nothing.
    pub(super) async fn agreed(self: &Arc<Self>) -> Result<(), StoreError> {
        self.deployment.check()?;
        if !*self.done.borrow() {
            Box::pin(self.first()).await;
            self.deployment.check()?;
        }
        Ok(())
    }

    async fn first(self: &Arc<Self>) {
        let mut done = self.done.subscribe();
        if !self.begun.swap(true, Ordering::AcqRel) {
            drop(
                self.network
                    .tasks
                    .spawn(keep_surveying(Arc::downgrade(self))),
            );
        }
        // Names, servers, and the servers again. One that is silent for longer keeps no call back.
        let limit = self.network.config.connect_timeout * 3;
        let _surveyed = timeout(limit, done.wait_for(|done| *done)).await;
    }

    /// Says whether all servers have answered.
    async fn look(&self) -> bool {
        let answers = self.answers().await;
        let complete = answers.iter().all(Result::is_ok);
        let (connections, mut views): (Vec<Connection>, Vec<View>) =
            answers.into_iter().flatten().unzip();
        if let Some(found) = strangers(&views) {
            // On the same connections. A server that was restarted meanwhile is no second one.
            let again = connections.iter().map(|connection| {
                let address = connection.address();
                self.network.bounded(address, self.view_by(connection))
            });
            views = join_all(again).await.into_iter().flatten().collect();
            if let Some(still) = strangers(&views).filter(|still| still.are_those(&found)) {
                self.deployment.refuse(&still);
                return complete;
            }
        }
        // A single server has another id after each restart, so nothing is to be remembered.
        if !matches!(self.network.config.servers, Servers::Single(_)) {
            for view in views {
                if self.deployment.admit(view).is_err() {
                    break;
                }
            }
        }
        complete
    }

    /// What `doctor` says; `None` where there can be one server only.
    pub(super) async fn check(&self) -> Option<Check> {
        if !is_surveyed(&self.network.config.servers) {
            return None;
        }
        let answers = self.answers().await;
        let views: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.map(|(_, view)| view))
            .collect();
        Some(deployment::check(&views))
    }

    /// What each server says that the URL leads to, on a connection of its own: one that is open
    /// leads to where it has led before. Bounded.
    async fn answers(&self) -> Vec<Answer> {
        let servers = &self.network.config.servers;
        let addresses = match &self.cluster {
            Some(cluster) => cluster.known(),
            None => servers.addresses().to_vec(),
        };
        let asking = addresses.iter().map(|address| self.answers_at(address));
        let mut answers: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
        if let Servers::Single(address) = servers
            && let Some(connection) = self.master.as_ref().and_then(Connector::current)
            && let Ok(view) = self
                .network
                .bounded(address, self.view_by(&connection))
                .await
        {
            answers.push(Ok((connection, view)));
        }
        answers
    }

    /// Of all servers that a host's name leads to.
    async fn answers_at(&self, address: &Address) -> Vec<Answer> {
        let finding = self.network.endpoints(address);
        match self.network.bounded(address, finding).await {
            Ok(endpoints) => {
                let asking = endpoints.iter().map(|endpoint| {
                    self.network.bounded(address, async {
                        let connection = self.connect(endpoint).await?;
                        let view = self.view_by(&connection).await?;
                        Ok((connection, view))
                    })
                });
                join_all(asking).await
            }
            Err(error) => vec![Err(error)],
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, StoreError> {
        match &self.network.config.servers {
            Servers::Sentinel { .. } => self.network.open_sentinel(endpoint).await,
            Servers::Single(_) | Servers::Cluster(_) => self.network.open_node(endpoint).await,
        }
    }

    async fn view_by(&self, connection: &Connection) -> Result<View, StoreError> {
        match &self.network.config.servers {
            Servers::Single(_) => view(connection).await,
            Servers::Sentinel { master, .. } => sentinels::view(connection, master).await,
            Servers::Cluster(_) => Ok(slots_of(connection).await?.view),
        }
    }
}

/// Which data a server has, as far as its replication ids tell. A replica has its master's, and
/// keeps no locks. Not bounded.
async fn view(connection: &Connection) -> Result<View, StoreError> {
    let info = connection.query(cmd("INFO").arg("replication")).await?;
    let id = field(&info, "master_replid");
    // That of the master it was a replica of; zeros if of none.
    let former = field(&info, "master_replid2").filter(|id| id.contains(|c| c != '0'));
    let is_master = field(&info, "role") == Some("master");
    let keeper = id.map(|id| Share::all(format!("the server with replication id {id}")));
    Ok(View {
        by: connection.address().to_string(),
        members: id.into_iter().chain(former).map(str::to_owned).collect(),
        shares: keeper.filter(|_| is_master).into_iter().collect(),
    })
}

async fn keep_surveying(survey: Weak<Survey>) {
    let mut first = true;
    while let Some(survey) = survey.upgrade() {
        let complete = survey.look().await;
        // The connections of calls are made only after the first one.
        let wait = if complete && !first {
            SURVEY_EVERY
        } else {
            SURVEY_AGAIN
        };
        first = false;
        survey.done.send_replace(true);
        if survey.deployment.check().is_err() {
            return;
        }
        drop(survey);
        // At random, so that a fleet does not ask as one.
        sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
    }
}
