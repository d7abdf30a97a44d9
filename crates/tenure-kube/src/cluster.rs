//! [`Cluster`]: an API server that is connected to when the first request needs it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tenure_core::{Error, Kept, Operation, Process, Time};
use tenure_kit::Tasks;

use crate::api::Api;
use crate::config::KubeConfig;
use crate::connector::Connector;

/// The longest that [`Cluster::connect`] takes once there is a client. To make one has limits of
/// its own, so that an error can name what was slow.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A cluster's API server, and the namespace in it.
///
/// Clones share one connection.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Kept<Inner>>,
}

struct Inner {
    process: Process,
    config: KubeConfig,
    connector: Arc<Connector>,
    /// Since there was a connection.
    api: OnceLock<Arc<Api>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace())
            .field("field_manager", &self.inner.config.field_manager)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects, and asks the server for its version, so that a wrong address, certificate or
    /// token is an error now.
    ///
    /// Fails as the functions `connect` of the two backends do. Dropping the future gives up.
    pub async fn connect(config: KubeConfig) -> Result<Self, Error> {
        let cluster = Self::lazy(config)?;
        let api = cluster.api(Operation::Connect).await?;
        match tokio::time::timeout(CONNECT_LIMIT, api.probe()).await {
            Ok(connected) => connected?,
            Err(_) => return Err(Error::timeout(Operation::Connect, CONNECT_LIMIT)),
        }
        Ok(cluster)
    }

    /// Without any I/O: the first request reads the kubeconfig or service account and connects.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when a setting is wrong, and
    /// with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) outside a tokio runtime.
    pub fn lazy(config: KubeConfig) -> Result<Self, Error> {
        config.check()?;
        let tasks = Tasks::here()?;
        let process = tasks.process().clone();
        let connector = Connector::lazy(config.clone(), tasks);
        Ok(Self::of(&process, config, connector))
    }

    /// The cluster of an application's own client; of `config` only what is not about the
    /// connection counts. No I/O.
    ///
    /// Switch the client's own retries off: the engine has deadlines and retries of its own.
    pub fn with_client(client: kube::Client, config: KubeConfig) -> Self {
        let connector = Connector::given(client, &config);
        Self::of(&Process::current(), config, connector)
    }

    fn of(process: &Process, config: KubeConfig, connector: Connector) -> Self {
        let inner = Inner {
            process: process.clone(),
            config,
            connector: Arc::new(connector),
            api: OnceLock::new(),
        };
        Self {
            inner: Arc::new(process.keep(inner)),
        }
    }

    pub(crate) fn config(&self) -> &KubeConfig {
        &self.inner.config
    }

    /// The namespace of the locks. `None` as long as only the kubeconfig or service account names
    /// it and none of them has been read.
    pub fn namespace(&self) -> Option<String> {
        let connection = self.inner.connector.current();
        let read = connection.map(|connection| connection.namespace.clone());
        read.or_else(|| self.inner.config.namespace.clone())
    }

    /// See [`RecordStore::may_go_on`](tenure_core::record::RecordStore::may_go_on).
    pub(crate) fn may_go_on(&self, began_at: Time) -> bool {
        self.inner.connector.give_up_before(began_at)
    }

    /// The API server, for `operation`, which makes the first client if there is none.
    pub(crate) async fn api(&self, operation: Operation) -> Result<Arc<Api>, Error> {
        let inner = &self.inner;
        inner.process.check(operation)?;
        if let Some(api) = inner.api.get() {
            return Ok(api.clone());
        }
        let connection = inner.connector.get().await;
        let connection = connection.map_err(|error| error.into_error(operation))?;
        let api = inner.api.get_or_init(|| {
            let namespace = connection.namespace.clone();
            let connector = inner.connector.clone();
            Arc::new(Api::new(
                connector,
                namespace,
                &inner.config,
                inner.process.clone(),
            ))
        });
        Ok(api.clone())
    }
}

#[cfg(test)]
mod tests;
