//! [`Cluster`]: an API server that is connected to when the first request needs it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tenure_core::{Error, Kept, Operation, Process};
use tenure_kit::deadline::within;
use tenure_kit::{SingleFlight, StoreError, Tasks};

use crate::api::Api;
use crate::client;
use crate::config::KubeConfig;
use crate::destination::Destination;
use crate::retries::Retries;

/// The longest that [`Cluster::connect`] takes, and that a client takes to be made, credential
/// helpers included.
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
    Given(Arc<Api>),
    /// The client of the configuration, made by the first request, and again when the API server
    /// has refused its certificate or token: there may be newer ones.
    Configured {
        current: Mutex<Option<Arc<Api>>>,
        making: SingleFlight<Arc<Api>>,
        /// That of the first client.
        destination: Box<OnceLock<Destination>>,
        retries: Mutex<Retries>,
    },
}

impl Source {
    fn current(&self) -> Option<Arc<Api>> {
        match self {
            Self::Given(api) => Some(api.clone()),
            Self::Configured { current, .. } => hold(current).clone(),
        }
    }
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
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when a setting is wrong, and
    /// with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) outside a tokio runtime.
    pub fn lazy(config: KubeConfig) -> Result<Self, Error> {
        config.check()?;
        let tasks = Tasks::here()?;
        let process = tasks.process().clone();
        let source = Source::Configured {
            current: Mutex::default(),
            making: SingleFlight::new(tasks),
            destination: Box::default(),
            retries: Mutex::new(Retries::new()),
        };
        Ok(Self::of(&process, config, source))
    }

    /// The cluster of an application's own client; of `config` only what is not about the
    /// connection counts. No I/O.
    ///
    /// Switch the client's own retries off: the engine has deadlines and retries of its own.
    pub fn with_client(client: kube::Client, config: KubeConfig) -> Self {
        let process = Process::current();
        let api = Api::new(client, &config, process.clone());
        Self::of(&process, config, Source::Given(Arc::new(api)))
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
    pub fn namespace(&self) -> Option<String> {
        let read = self.inner.source.current().map(|api| api.namespace.clone());
        read.or_else(|| self.inner.config.namespace.clone())
    }

    /// The API server, for `operation`, which makes the client if there is none.
    pub(crate) async fn api(&self, operation: Operation) -> Result<Arc<Api>, Error> {
        self.inner.process.check(operation)?;
        let making = match &self.inner.source {
            Source::Given(api) => return Ok(api.clone()),
            Source::Configured { making, .. } => making,
        };
        if let Some(api) = self.inner.source.current().filter(|api| !api.is_refused()) {
            return Ok(api);
        }
        let work = || {
            let inner = self.inner.clone();
            async move { inner.make().await }
        };
        let api = making.run(|api| !api.is_refused(), work).await;
        api.map_err(|error| error.into_error(operation))
    }
}

impl Inner {
    /// One attempt, bounded, after the wait that the last one has left.
    async fn make(&self) -> Result<Arc<Api>, StoreError> {
        let (current, destination, retries) = match &self.source {
            Source::Given(api) => return Ok(api.clone()),
            Source::Configured {
                current,
                destination,
                retries,
                ..
            } => (current, destination, retries),
        };
        let wait = hold(retries).wait(Instant::now());
        tokio::time::sleep(wait).await;
        let setting = "user.exec in the kubeconfig names the helper";
        let client = self.client(destination);
        let client = within(
            "the kubeconfig's credentials",
            CONNECT_LIMIT,
            setting,
            client,
        )
        .await;
        hold(retries).ended(Instant::now());
        let api = Arc::new(Api::new(client?, &self.config, self.process.clone()));
        *hold(current) = Some(api.clone());
        Ok(api)
    }

    /// A client for the destination of the first one.
    async fn client(
        &self,
        destination: &OnceLock<Destination>,
    ) -> Result<kube::Client, StoreError> {
        let access = client::read(&self.config).await?;
        let now = Destination::of(&access.kube, &self.config);
        // Before the helper of another cluster is run.
        if let Some(first) = destination.get() {
            first.check(&now)?;
        }
        let client = client::build(&self.config, access).await?;
        destination.get_or_init(|| now);
        Ok(client)
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
