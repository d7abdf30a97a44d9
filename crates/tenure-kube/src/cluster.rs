//! [`Cluster`]: an API server that is connected to when the first request needs it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, Kept, Operation, Process};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::api::Api;
use crate::client;
use crate::config::KubeConfig;

/// The longest that [`Cluster::connect`] takes, credential helpers included.
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
    source: Source,
}

enum Source {
    /// An application's own client.
    Given(Api),
    /// The client of the configuration, made by the first request, on this runtime.
    Configured(Handle, OnceCell<Api>),
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
        let connecting = async { cluster.api(Operation::Connect).await?.probe().await };
        match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(Error::timeout(Operation::Connect, CONNECT_LIMIT)),
        }
        Ok(cluster)
    }

    /// Without any I/O: the first request reads the kubeconfig or service account and connects.
    ///
    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured) outside a tokio runtime.
    pub fn lazy(config: KubeConfig) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::misconfigured("there is no tokio runtime here; connect within one")
                .with_source(error)
        })?;
        let source = Source::Configured(runtime, OnceCell::new());
        Ok(Self::of(&Process::current(), config, source))
    }

    /// The cluster of an application's own client; of `config` only what is not about the
    /// connection counts. No I/O.
    ///
    /// Switch the client's own retries off: the engine has deadlines and retries of its own.
    pub fn with_client(client: kube::Client, config: KubeConfig) -> Self {
        let process = Process::current();
        let api = Api::new(client, &config, process.clone());
        Self::of(&process, config, Source::Given(api))
    }

    fn of(process: &Process, config: KubeConfig, source: Source) -> Self {
        let inner = Inner {
            process: process.clone(),
            config,
            source,
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
    pub fn namespace(&self) -> Option<&str> {
        let api = match &self.inner.source {
            Source::Given(api) => Some(api),
            Source::Configured(_, api) => api.get(),
        };
        let read = api.map(|api| api.namespace.as_str());
        read.or(self.inner.config.namespace.as_deref())
    }

    /// The API server, for `operation`, which is the first to make a client if there is none.
    pub(crate) async fn api(&self, operation: Operation) -> Result<&Api, Error> {
        let inner = &self.inner;
        inner.process.check(operation)?;
        let (runtime, api) = match &inner.source {
            Source::Given(api) => return Ok(api),
            Source::Configured(runtime, api) => (runtime, api),
        };
        let making = || async {
            let (config, process) = (inner.config.clone(), inner.process.clone());
            // The client's tasks live on the runtime where it is made.
            let made = runtime.spawn(inner.process.confine(async move {
                let client = client::make(&config).await?;
                Ok(Api::new(client, &config, process))
            }));
            made.await.unwrap_or_else(|error| {
                Err(Error::new(
                    ErrorKind::Internal,
                    operation,
                    "the backend's runtime is shutting down; connect on the one that lives longest",
                )
                .with_source(error))
            })
        };
        api.get_or_try_init(making).await
    }
}
