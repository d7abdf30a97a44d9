//! [`Connector`]: keeps a client of the API server, and makes it again when its credentials are of
//! no use any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tenure_core::Time;
use tenure_kit::deadline::within;
use tenure_kit::{SingleFlight, StoreError, Tasks};

use crate::access::Route;
use crate::client;
use crate::config::KubeConfig;
use crate::destination::Destination;
use crate::retries::Retries;
use crate::transport::Generation;

/// The longest that the files of a client may take, and its making.
const LIMIT: Duration = Duration::from_secs(10);

/// So long before its credentials end a client is made again, or at half their time.
const AHEAD: Duration = Duration::from_secs(60);

/// Between attempts to do so. It is also the least for credentials that end at once.
const AGAIN: Duration = Duration::from_secs(10);

/// A client, with the credentials that it was made with.
pub(crate) struct Connection {
    pub(crate) client: kube::Client,
    /// Of the TCP connections that it uses. An application's own client does as it likes.
    pub(crate) generation: Generation,
    pub(crate) namespace: String,
    pub(crate) route: Route,
    /// The API server has accepted its certificate and token.
    accepted: AtomicBool,
    /// The API server has refused its certificate or token.
    refused: AtomicBool,
    /// When to make the next one, though this one still works.
    renew_at: Mutex<Option<Instant>>,
}

impl Connection {
    fn new(
        client: kube::Client,
        generation: Generation,
        namespace: String,
        route: Route,
        lasting: Option<Duration>,
    ) -> Self {
        let in_time = |left: Duration| left.saturating_sub(AHEAD).max(left / 2).max(AGAIN);
        // A time too far away is none.
        let renew_at = lasting.and_then(|left| Instant::now().checked_add(in_time(left)));
        Self {
            client,
            generation,
            namespace,
            route,
            accepted: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            renew_at: Mutex::new(renew_at),
        }
    }

    /// Notes that the API server has accepted its certificate and token.
    pub(crate) fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Notes that the API server has refused its certificate or token.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn ends_soon(&self) -> bool {
        hold(&self.renew_at).is_some_and(|at| Instant::now() >= at)
    }
}

/// Keeps the connection in use.
pub(crate) enum Connector {
    /// An application's own client.
    Given(Arc<Connection>),
    /// The client of the configuration, made by the first request.
    Configured(Box<Configured>),
}

pub(crate) struct Configured {
    config: KubeConfig,
    current: Mutex<Option<Arc<Connection>>>,
    making: SingleFlight<Arc<Connection>>,
    /// That of the first client.
    destination: OnceLock<Destination>,
    retries: Mutex<Retries>,
}

impl Connector {
    pub(crate) fn given(client: kube::Client, config: &KubeConfig) -> Self {
        let stated = config.namespace.clone();
        let namespace = stated.unwrap_or_else(|| client.default_namespace().to_owned());
        let connection =
            Connection::new(client, Generation::new(), namespace, Route::default(), None);
        Self::Given(Arc::new(connection))
    }

    /// No I/O.
    pub(crate) fn lazy(config: KubeConfig, tasks: Tasks) -> Self {
        Self::Configured(Box::new(Configured {
            config,
            current: Mutex::default(),
            making: SingleFlight::new(tasks),
            destination: OnceLock::new(),
            retries: Mutex::new(Retries::new()),
        }))
    }

    /// Whether it is an application's own client, which is never made again here.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self, Self::Given(_))
    }

    /// A request of that time has no answer: whether it may go on, and later ones use connections
    /// that were made after it. An application's own client does as it likes.
    pub(crate) fn give_up_before(&self, sent_at: Time) -> bool {
        let connection = self.current().filter(|_| !self.is_given());
        connection.is_some_and(|connection| connection.generation.give_up_before(sent_at))
    }

    /// The connection in use, whether it was refused or not, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        match self {
            Self::Given(connection) => Some(connection.clone()),
            Self::Configured(configured) => hold(&configured.current).clone(),
        }
    }

    /// The connection in use if nothing has to be waited for. Credentials that end soon are renewed
    /// in the background.
    pub(crate) fn ready(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let connection = self.current()?;
        let Self::Configured(configured) = &**self else {
            return Some(connection);
        };
        if connection.is_refused() {
            return None;
        }
        if connection.ends_soon() {
            *hold(&connection.renew_at) = Some(Instant::now() + AGAIN);
            let old = connection.clone();
            configured
                .making
                .start(|| self.clone().make(Some(old.clone())));
        }
        Some(connection)
    }

    /// The connection in use, or a new one when there is none or it was refused. It reads the
    /// kubeconfig or service account and the files in it, and runs the credential helper, once.
    ///
    /// Dropping the future leaves that to go on.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<Connection>, StoreError> {
        if let Some(connection) = self.ready() {
            return Ok(connection);
        }
        let Self::Configured(configured) = &**self else {
            return Err(StoreError::runtime_is_gone());
        };
        let usable = |connection: &Arc<Connection>| !connection.is_refused();
        let making = configured.making.run(usable, || self.clone().make(None));
        making.await
    }

    /// One attempt, after the wait that the last one has left. `old` is the connection in use, when
    /// it is replaced though it works.
    async fn make(
        self: Arc<Self>,
        old: Option<Arc<Connection>>,
    ) -> Result<Arc<Connection>, StoreError> {
        let configured = match &*self {
            Self::Given(connection) => return Ok(connection.clone()),
            Self::Configured(configured) => configured,
        };
        let is_old = |connection: &Arc<Connection>| {
            old.as_ref().is_some_and(|old| Arc::ptr_eq(old, connection))
        };
        let current = hold(&configured.current).clone();
        // Another attempt may have been quicker.
        if let Some(current) = current.filter(|current| !current.is_refused() && !is_old(current)) {
            return Ok(current);
        }
        let wait = hold(&configured.retries).wait(Instant::now());
        tokio::time::sleep(wait).await;
        let made = configured.connect().await;
        hold(&configured.retries).ended(Instant::now());
        if let (Some(_), Err(error)) = (&old, &made) {
            tracing::warn!(%error, "the credentials for the API server end soon and cannot be renewed");
        }
        let made = Arc::new(made?);
        *hold(&configured.current) = Some(made.clone());
        Ok(made)
    }
}

impl Configured {
    /// A client for the destination of the first one.
    async fn connect(&self) -> Result<Connection, StoreError> {
        let what = "the kubeconfig or service account";
        let reading = client::read(&self.config);
        let mut access = within(what, LIMIT, "its files", reading).await?;
        let now = Destination::of(&access.kube, &self.config);
        // Before the helper of another cluster is run.
        if let Some(first) = self.destination.get() {
            first.check(&now)?;
        }
        let lasting = client::authenticate(&self.config, &mut access).await?;
        let generation = Generation::new();
        let route = access.route(now.address());
        let building = client::build(&self.config, access, generation.clone());
        let client = within(what, LIMIT, "its files", building).await?;
        let first = self.destination.get_or_init(|| now);
        Ok(Connection::new(
            client,
            generation,
            first.namespace().to_owned(),
            route,
            lasting,
        ))
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
