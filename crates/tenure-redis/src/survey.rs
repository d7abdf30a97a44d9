//! Asks all servers that the URL leads to whether they belong to one deployment: see
//! [`deployment`](crate::deployment).

use std::net::IpAddr;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use tenure_core::Check;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::{Address, Servers};
use crate::connection::{Live, Place};
use crate::deployment::{self, SURVEY_AGAIN, SURVEY_EVERY, View, strangers};
use crate::errors::Trouble;
use crate::sentinels;
use crate::topology::{Topology, Way, slots_of};

/// How far the first survey is, which calls wait for.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: AtomicBool,
    done: watch::Sender<bool>,
}

impl Progress {
    /// Where there can be one server only, there is nothing to wait for.
    pub(crate) fn of(servers: &Servers) -> Self {
        Self {
            begun: AtomicBool::new(false),
            done: watch::Sender::new(!is_surveyed(servers)),
        }
    }
}

/// Whether there can be more than one deployment. The number of a host leads to one server, unless
/// something stands in between that nobody can see from here.
fn is_surveyed(servers: &Servers) -> bool {
    match servers {
        Servers::Single(address) => address.host.parse::<IpAddr>().is_err(),
        Servers::Sentinel { .. } | Servers::Cluster(_) => true,
    }
}

/// A server's answer, and the connection that it came on.
type Answer = Result<(Live, View), Trouble>;

impl Topology {
    /// Fails if the URL leads to two deployments, as far as their servers have answered. The first
    /// call waits until they have, or a connect timeout has passed; dropping the future stops
    /// nothing.
    pub(crate) async fn agreed(&self) -> Result<(), Trouble> {
        let deployment = &self.dialer.deployment;
        deployment.check()?;
        if !*self.progress.done.borrow() {
            Box::pin(self.first_survey()).await;
            deployment.check()?;
        }
        Ok(())
    }

    async fn first_survey(&self) {
        let mut done = self.progress.done.subscribe();
        if !self.progress.begun.swap(true, Ordering::AcqRel) {
            drop(self.dialer.spawn(keep_surveying(self.me.clone())));
        }
        // Names, servers, and the servers again. Whoever is silent for longer keeps nobody waiting.
        let limit = self.dialer.config.connect_timeout * 3;
        let _surveyed = timeout(limit, done.wait_for(|done| *done)).await;
    }

    /// Says whether all servers have answered.
    async fn survey(&self) -> bool {
        let deployment = &self.dialer.deployment;
        let answers = self.answers().await;
        let complete = answers.iter().all(Result::is_ok);
        let (lives, mut views): (Vec<Live>, Vec<View>) = answers.into_iter().flatten().unzip();
        if let Some(found) = strangers(&views) {
            // On the same connections. A server that was restarted meanwhile is no second one.
            let again = lives
                .iter()
                .map(|live| self.dialer.bounded(live.address(), self.view_by(live)));
            views = join_all(again).await.into_iter().flatten().collect();
            if let Some(still) = strangers(&views).filter(|still| still.are_those(&found)) {
                deployment.refuse(&still);
                return complete;
            }
        }
        // A single server has another id after each restart, so nothing is to be remembered.
        if !matches!(self.dialer.config.servers, Servers::Single(_)) {
            for view in views {
                if deployment.admit(view).is_err() {
                    break;
                }
            }
        }
        complete
    }

    /// What `doctor` says; `None` where there can be one server only.
    pub(crate) async fn check_deployment(&self) -> Option<Check> {
        if !is_surveyed(&self.dialer.config.servers) {
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
        let addresses = match (&self.way, &self.dialer.config.servers) {
            (Way::Cluster(cluster), _) => cluster.known(),
            (_, Servers::Single(address)) => vec![address.clone()],
            (
                _,
                Servers::Sentinel {
                    sentinels: nodes, ..
                }
                | Servers::Cluster(nodes),
            ) => nodes.clone(),
        };
        let asking = addresses.iter().map(|address| self.answers_at(address));
        let mut answers: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
        if let (Way::Master(link, _), Servers::Single(address)) =
            (&self.way, &self.dialer.config.servers)
            && let Some(live) = link.open()
            && let Ok(view) = self.dialer.bounded(address, self.view_by(&live)).await
        {
            answers.push(Ok((live, view)));
        }
        answers
    }

    /// Of all servers that a host's name leads to.
    async fn answers_at(&self, address: &Address) -> Vec<Answer> {
        match self
            .dialer
            .bounded(address, self.dialer.places(address))
            .await
        {
            Ok(places) => {
                let asking = places.iter().map(|place| {
                    self.dialer.bounded(address, async {
                        let live = self.connect(place).await?;
                        let view = self.view_by(&live).await?;
                        Ok((live, view))
                    })
                });
                join_all(asking).await
            }
            Err(trouble) => vec![Err(trouble)],
        }
    }

    async fn connect(&self, place: &Place) -> Result<Live, Trouble> {
        match &self.dialer.config.servers {
            Servers::Sentinel { .. } => self.dialer.open_sentinel(place).await,
            Servers::Single(_) | Servers::Cluster(_) => self.dialer.open_node(place).await,
        }
    }

    async fn view_by(&self, live: &Live) -> Result<View, Trouble> {
        match &self.dialer.config.servers {
            Servers::Single(_) => live.view().await,
            Servers::Sentinel { master, .. } => sentinels::view(live, master).await,
            Servers::Cluster(_) => Ok(slots_of(live).await?.view),
        }
    }
}

async fn keep_surveying(topology: Weak<Topology>) {
    let mut first = true;
    while let Some(surveyed) = topology.upgrade() {
        let complete = surveyed.survey().await;
        // The connections of calls are made only after the first one.
        let pause = if complete && !first {
            SURVEY_EVERY
        } else {
            SURVEY_AGAIN
        };
        first = false;
        surveyed.progress.done.send_replace(true);
        if surveyed.dialer.deployment.check().is_err() {
            return;
        }
        drop(surveyed);
        // At random, so that a fleet does not ask as one.
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
    }
}
