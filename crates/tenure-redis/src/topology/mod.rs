//! Which server holds a lock: the one there is, the master that sentinels name, or the node of a
//! cluster that has the lock's slot.
//!
//! # Time limits
//!
//! A call has one limit, its deadline: the lease that it takes or extends, or
//! [`call_limit`](crate::config::RedisConfig::call_limit) where there is none. The engine's request
//! timeout is shorter and drops the call before. Steps inside have limits of their own, each for a
//! reason:
//!
//! | step | limit | why |
//! |---|---|---|
//! | one attempt to connect, to a server or a sentinel | `connect_timeout` | a server that is silent must not keep back those that are not, and the next attempt |
//! | the first comparison of the URL's servers | 3 x `connect_timeout` | a server that is down must not keep back the first call |
//! | the sentinels confirm the master | 2 x `connect_timeout` and a wait | the error names the sentinels |
//! | one answer | `request_timeout`; by default the lease, where there is one, or 2 s | the policy's request timeout is shorter than a lease, and a limit of ours must not be shorter than that |

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::RedisError;
use tenure_core::Check;
use tenure_kit::{Address, Deadline};

use crate::config::Servers;
use crate::errors::{self, StoreError};
use crate::keys::KeyNames;
use crate::net::network::{Network, Subscriber};

mod cluster;
mod confirmation;
mod connector;
mod deployment;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod lock_server;
mod sentinels;
mod slots;
mod survey;

use cluster::Cluster;
use confirmation::MasterRoute;
use connector::{Connector, Established, Route};
use deployment::Deployment;
use lock_server::Request;
use sentinels::Sentinels;
use slots::slot_of;
use survey::Survey;

/// What an error calls the other side of a call.
const STORE: &str = "Redis";

/// All servers of a backend.
#[derive(Debug)]
pub(crate) struct Topology {
    servers: Known,
    network: Arc<Network>,
    deployment: Arc<Deployment>,
    survey: Arc<Survey>,
}

#[derive(Debug)]
enum Known {
    /// One master at a time: a single server, or the one that sentinels name.
    Master(Connector),
    Cluster(Arc<Cluster>),
}

/// To the one server there is.
#[derive(Debug)]
struct SingleRoute {
    address: Address,
    network: Arc<Network>,
}

#[async_trait]
impl Route for SingleRoute {
    async fn connect(&self) -> Result<Established, StoreError> {
        let opening = self.network.open_master(&self.address);
        let connection = self.network.bounded(&self.address, opening).await?;
        Ok(Established {
            connection,
            authority: None,
        })
    }

    async fn subscribe(&self) -> Result<Subscriber, StoreError> {
        self.network.subscriber(&self.address).await
    }
}

impl Topology {
    pub(crate) fn new(network: Arc<Network>) -> Self {
        let deployment = Arc::new(Deployment::default());
        let servers = match &network.config.servers {
            Servers::Single(address) => {
                let route = SingleRoute {
                    address: address.clone(),
                    network: network.clone(),
                };
                Known::Master(Connector::new(Arc::new(route), network.clone()))
            }
            Servers::Sentinel { sentinels, master } => {
                let (of, to) = (deployment.clone(), network.clone());
                let route = MasterRoute {
                    sentinels: Arc::new(Sentinels::new(sentinels, master, to, of)),
                    network: network.clone(),
                };
                Known::Master(Connector::new(Arc::new(route), network.clone()))
            }
            Servers::Cluster(nodes) => {
                let cluster = Cluster::new(nodes.clone(), network.clone(), deployment.clone());
                Known::Cluster(Arc::new(cluster))
            }
        };
        let survey = match &servers {
            Known::Master(connector) => {
                Survey::of_master(connector.clone(), network.clone(), deployment.clone())
            }
            Known::Cluster(cluster) => {
                Survey::of_cluster(cluster.clone(), network.clone(), deployment.clone())
            }
        };
        Self {
            servers,
            network,
            deployment,
            survey: Arc::new(survey),
        }
    }

    /// Sends a request to the server that holds the lock with these keys, and gives its answer, until
    /// `deadline`. Dropping the future leaves a request that was sent.
    pub(crate) async fn ask_holder<R: Request>(
        &self,
        keys: &KeyNames,
        deadline: Deadline,
        request: &R,
    ) -> Result<R::Answer, StoreError> {
        let limit = self.network.config.answer_limit();
        self.ask(keys, deadline, limit, request).await
    }

    /// The same of a request that takes, extends or ends a lease.
    pub(crate) async fn ask_for_lease<R: Request>(
        &self,
        keys: &KeyNames,
        lease: Duration,
        request: &R,
    ) -> Result<R::Answer, StoreError> {
        let deadline = Deadline::for_lease(lease);
        let limit = self.network.config.request_timeout;
        self.ask(keys, deadline, limit.unwrap_or(deadline.left()), request)
            .await
    }

    async fn ask<R: Request>(
        &self,
        keys: &KeyNames,
        deadline: Deadline,
        limit: Duration,
        request: &R,
    ) -> Result<R::Answer, StoreError> {
        let asking = async {
            self.survey.agreed().await?;
            match &self.servers {
                Known::Master(connector) => connector.send(request, None, limit).await,
                // Boxed, so that a call to a single master needs less than a kilobyte. The
                // allocator is slower for larger futures.
                Known::Cluster(cluster) => {
                    let slot = slot_of(keys.lock());
                    Box::pin(cluster.follow(slot, request, limit)).await
                }
            }
        };
        deadline.rest(STORE, asking).await
    }

    /// Sends a request to any one master, to see whether anything answers.
    pub(crate) async fn ask_any<R: Request>(&self, request: &R) -> Result<R::Answer, StoreError> {
        let limit = self.network.config.answer_limit();
        let asking = async {
            self.survey.agreed().await?;
            match &self.servers {
                Known::Master(connector) => connector.send(request, None, limit).await,
                Known::Cluster(cluster) => {
                    let address = cluster.holder_of(0).await?;
                    let connector = cluster.connector(&address);
                    connector.send(request, None, limit).await
                }
            }
        };
        self.deadline().rest(STORE, asking).await
    }

    /// Of a call without a lease.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.network.config.call_limit())
    }

    /// An error on a connection for subscriptions.
    pub(crate) fn subscription_error(&self, error: RedisError) -> StoreError {
        let config = &self.network.config;
        match config.servers.addresses().first() {
            Some(address) => errors::answered(address, &config.patterns(), error),
            None => errors::unreadable("a subscription"),
        }
    }

    /// Opens a connection for subscriptions to the releases of these locks. In a cluster it is to the
    /// node that has one of them: messages reach all nodes.
    pub(crate) async fn subscriber(&self, locks: &[KeyNames]) -> Result<Subscriber, StoreError> {
        match &self.servers {
            Known::Master(connector) => connector.subscribe().await,
            Known::Cluster(cluster) => {
                let slot = locks.first().map(|keys| slot_of(keys.lock()));
                cluster.subscriber(slot).await
            }
        }
    }

    /// Whether releases of these locks still are told at `address`, as far as calls have found out: not
    /// at a master or node that was replaced, which may run on.
    pub(crate) fn tells_releases(&self, address: &Address, locks: &[KeyNames]) -> bool {
        match &self.servers {
            Known::Master(connector) => connector
                .current()
                .is_none_or(|current| current.address() == address),
            Known::Cluster(cluster) => {
                locks.is_empty()
                    || locks
                        .iter()
                        .any(|keys| cluster.is_at(slot_of(keys.lock()), address))
            }
        }
    }

    /// What `doctor` says of the deployment; `None` where there can be one server only.
    pub(crate) async fn check_deployment(&self) -> Option<Check> {
        self.survey.check().await
    }

    /// Completes when two deployments were seen: all terms are over then.
    pub(crate) fn until_mixed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.deployment.until_mixed()
    }
}
