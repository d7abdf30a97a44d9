//! One connection to one endpoint.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use tenure_core::{ErrorKind, Process};
use tenure_kit::{Address, deadline, proxy};
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::config::EtcdConfig;
use crate::errors::{self, StoreError};

/// Pings find a server that is gone while nothing else is sent. Not more often: servers close
/// connections that ping more than every 5 s.
const PING: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Fine,
    /// An answer is overdue. Slow or dead: an answer tells, and until then others are used.
    Silent,
    /// Never to be used again.
    Failed,
}

/// A client of one endpoint.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    health: watch::Sender<Health>,
    /// Something was answered on it.
    answered: AtomicBool,
    /// What it logged in with.
    password: Option<String>,
}

impl Connection {
    fn new(client: Client, endpoint: String, password: Option<String>) -> Self {
        Self {
            client,
            endpoint,
            health: watch::Sender::new(Health::Fine),
            answered: AtomicBool::new(false),
            password,
        }
    }

    /// On an application's own client.
    pub(crate) fn given(client: Client) -> Self {
        Self::new(client, "the application's client".to_owned(), None)
    }

    /// Connects to `endpoint`. Reads password and certificates again, so that they can be renewed
    /// under a running service.
    ///
    /// A forked child would run its copy of the tasks behind it on the parent's socket: they are
    /// confined to `process`.
    pub(crate) async fn open(
        config: &EtcdConfig,
        endpoint: &Address,
        process: &Process,
    ) -> Result<Self, StoreError> {
        let connecting = async {
            let mut options = ConnectOptions::new()
                // A member that is cut off from the others says so, instead of falling silent.
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            let password = config.credentials.read_password().await?;
            if let (Some(user), Some(password)) = (&config.credentials.user, &password) {
                options = options.with_user(user, password);
            }
            let channel = channel(config, endpoint, process).await?;
            let client = Client::from_channel(Channel::Tonic(channel), Some(options))
                .await
                .map_err(|error| at_first_contact(errors::of_client(error), config))?;
            Ok(Self::new(client, endpoint.to_string(), password))
        };
        let what = format!("etcd at {endpoint}");
        deadline::within(&what, config.connect_timeout, "connect_timeout", connecting).await
    }

    pub(crate) fn fail(&self) {
        self.health.send_replace(Health::Failed);
    }

    /// An answer is overdue: the next requests go elsewhere, unless it comes after all.
    pub(crate) fn is_overdue(&self) {
        self.changes(Health::Fine, Health::Silent);
    }

    pub(crate) fn has_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
        self.changes(Health::Silent, Health::Fine);
    }

    fn changes(&self, from: Health, to: Health) {
        self.health.send_if_modified(|health| {
            let changes = *health == from;
            if changes {
                *health = to;
            }
            changes
        });
    }

    pub(crate) fn is_usable(&self) -> bool {
        *self.health.borrow() == Health::Fine
    }

    /// Returns when a caller has found that the connection does not answer in time.
    pub(crate) async fn failure(&self) {
        // Fails only when the sender is gone, which `self` holds.
        let mut health = self.health.subscribe();
        let _failed = health.wait_for(|health| *health != Health::Fine).await;
    }

    /// The error with what is most likely wrong, if nothing was answered on the connection so far.
    pub(crate) fn explained(&self, error: StoreError, config: &EtcdConfig) -> StoreError {
        if self.answered.load(Ordering::Relaxed) {
            return error;
        }
        at_first_contact(error, config)
    }

    /// Whether another password than the one it logged in with is in force by now.
    pub(crate) async fn has_old_password(&self, config: &EtcdConfig) -> bool {
        let now = config.credentials.read_password::<()>().await;
        now.is_ok_and(|now| now != self.password)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

fn at_first_contact(error: StoreError, config: &EtcdConfig) -> StoreError {
    errors::at_first_contact(error, config.tls.is_some())
}

/// A connection that is made with the first request on it.
async fn channel(
    config: &EtcdConfig,
    endpoint: &Address,
    process: &Process,
) -> Result<tonic::transport::Channel, StoreError> {
    let channel = Endpoint::from_shared(config.address(endpoint))
        .map_err(|error| StoreError::new(ErrorKind::Misconfigured, format!("{endpoint}: {error}")))?
        .connect_timeout(config.connect_timeout)
        .http2_keep_alive_interval(PING)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(PING_ANSWER)
        .tcp_keepalive(Some(PING))
        .executor(Confined(process.clone()));
    let channel = encrypted(channel, config).await?;
    // As in Go, whose gRPC asks for the proxy of `https` also where there is no TLS.
    let proxy = proxy::from_environment("https", endpoint.host(), endpoint.port());
    Ok(match proxy.map_err(tenure_kit::StoreError::widen)? {
        Some(proxy) => channel.connect_with_connector_lazy(proxy),
        None => channel.connect_lazy(),
    })
}

#[cfg(feature = "_tls")]
async fn encrypted(channel: Endpoint, config: &EtcdConfig) -> Result<Endpoint, StoreError> {
    use etcd_client::{Certificate, Identity, TlsOptions};

    let Some(tls) = &config.tls else {
        return Ok(channel);
    };
    let material = tls.read().await?;
    let mut options = TlsOptions::new();
    options = match material.ca {
        Some(ca) => options.ca_certificate(Certificate::from_pem(ca)),
        None => options.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (material.client_cert, material.client_key) {
        options = options.identity(Identity::from_pem(cert, key));
    }
    if let Some(name) = tls.name() {
        options = options.domain_name(name);
    }
    let encrypted = channel.tls_config(options);
    encrypted.map_err(|error| errors::of_client(error.into()))
}

#[cfg(not(feature = "_tls"))]
#[expect(clippy::unused_async, reason = "as with TLS")]
async fn encrypted(channel: Endpoint, _config: &EtcdConfig) -> Result<Endpoint, StoreError> {
    Ok(channel)
}

/// Where a connection's own tasks run.
struct Confined(Process);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Confined {
    fn execute(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(self.0.confine(work));
    }
}
