//! What all connections of a backend share, and how one is opened.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, cmd};
use tenure_core::{BootClock, Error, ErrorKind, Operation, Process, SharedClock, Time};
use tenure_kit::deadline::within;
use tenure_kit::limits::shown;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Address, Allowance, Credentials, Secret, Tasks};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpStream, lookup_host};

use super::connection::Connection;
use super::rights::Rights;
use super::stream::{OwnStream, Transport};
use crate::config::RedisConfig;
use crate::errors::{self, StoreError};

/// What a server may send until an answer is whole. The longest that one has reason for is the map
/// of a large cluster, with some MiB.
pub(super) const LONGEST_ANSWER: u64 = 8 * 1024 * 1024;

/// Calls that can wait to be written; more of them wait without harm.
const CALLS_AHEAD: usize = 1024;

/// The settings, the runtime and the process of a backend.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) config: RedisConfig,
    credentials: RwLock<Credentials>,
    /// Connections live on the runtime that the backend was made on, and in its process.
    pub(crate) tasks: Tasks,
    pub(crate) clock: SharedClock,
    /// Until when a term of this process lasts, as far as it is known, in nanoseconds of the clock.
    led_until: AtomicU64,
}

/// A server in the URL, and which of those that its host's name leads to.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    address: Address,
    at: Option<SocketAddr>,
}

/// A connection for subscriptions.
pub(crate) struct Subscriber {
    pub(crate) address: Address,
    pub(crate) connection: PubSub,
    /// To be renewed with each message.
    pub(crate) allowance: Allowance,
}

impl From<Address> for Endpoint {
    /// Whichever answers.
    fn from(address: Address) -> Self {
        Self { address, at: None }
    }
}

impl Endpoint {
    fn shown(&self) -> Address {
        self.at.map_or_else(
            || self.address.clone(),
            |at| Address::new(at.ip().to_string(), at.port()),
        )
    }
}

impl Network {
    /// Fails outside a tokio runtime. No I/O.
    pub(crate) fn new(config: RedisConfig) -> Result<Self, Error> {
        Ok(Self {
            credentials: RwLock::new(config.credentials.clone()),
            config,
            tasks: Tasks::here()?,
            clock: BootClock::shared(),
            led_until: AtomicU64::new(0),
        })
    }

    /// A term of this process lasts until then.
    pub(crate) fn leads_until(&self, end: Time) {
        self.led_until.fetch_max(end.as_nanos(), Ordering::Relaxed);
    }

    /// Whether this process may hold a term.
    pub(crate) fn may_lead(&self) -> bool {
        self.clock.now().as_nanos() < self.led_until.load(Ordering::Relaxed)
    }

    pub(crate) fn process(&self) -> &Process {
        self.tasks.process()
    }

    /// All that a host's name leads to, but not too many: it may lead to each of a hundred pods.
    pub(crate) async fn endpoints(&self, address: &Address) -> Result<Vec<Endpoint>, StoreError> {
        const MOST: usize = 16;
        let found = lookup_host((address.host(), address.port()))
            .await
            .map_err(|error| errors::connecting(address, error))?;
        let at: BTreeSet<SocketAddr> = found.collect();
        let endpoint = |at| Endpoint {
            address: address.clone(),
            at: Some(at),
        };
        Ok(at.into_iter().take(MOST).map(endpoint).collect())
    }

    pub(crate) fn set_password(&self, password: String) {
        let mut credentials = self
            .credentials
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        credentials.password = Some(Secret::value(password));
    }

    fn credentials(&self) -> Credentials {
        self.credentials
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bounds `connecting` as a whole: names, TCP, TLS, authentication and the first answer.
    pub(crate) async fn bounded<T>(
        &self,
        address: &Address,
        connecting: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (what, limit) = (address.to_string(), self.config.connect_timeout);
        within(&what, limit, "connect_timeout", connecting).await
    }

    async fn transport(&self, endpoint: &Endpoint) -> Result<Box<dyn Transport>, StoreError> {
        // So that a call that was under way at a fork does not go on in the child.
        self.process().check(Operation::Connect)?;
        let address = &endpoint.address;
        let failed = |error| errors::connecting(&endpoint.shown(), error);
        #[cfg(unix)]
        if address.is_socket() {
            let stream = UnixStream::connect(address.host()).await.map_err(failed)?;
            return Ok(Box::new(OwnStream::new(stream, self.process().clone())));
        }
        let connected = match endpoint.at {
            Some(at) => TcpStream::connect(at).await,
            None => TcpStream::connect((address.host(), address.port())).await,
        };
        let stream = connected.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream = OwnStream::new(stream, self.process().clone());
        match &self.config.tls {
            None => Ok(Box::new(stream)),
            #[cfg(feature = "_tls")]
            Some(tls) => {
                // Less than the whole has, so that the error says what the server did not do.
                let limit = self.config.connect_timeout.mul_f64(0.75);
                let shaking = super::tls::connect(tls, address, stream);
                let shaken = tokio::time::timeout(limit, shaking).await;
                let silent = |_| Err(super::tls::silent(address, limit));
                Ok(Box::new(shaken.unwrap_or_else(silent)?))
            }
            // The configuration was checked.
            #[cfg(not(feature = "_tls"))]
            Some(_) => Err(StoreError::new(
                ErrorKind::Internal,
                "TLS is not compiled in",
            )),
        }
    }

    /// A connection for calls, authenticated and in the right database, not yet bounded.
    async fn open(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        whose: &str,
        database: u32,
    ) -> Result<Connection, StoreError> {
        let password = match &credentials.password {
            Some(password) => Some(password.read(whose).await?),
            None => None,
        };
        let address = endpoint.shown();
        let allowance = Allowance::new(LONGEST_ANSWER);
        let stream = allowance.limit(self.transport(endpoint).await?);
        let settings = AsyncConnectionConfig::new()
            // Each call has a limit of ours.
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(CALLS_AHEAD);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (client, driver) = MultiplexedConnection::new_with_config(&info, stream, settings)
            .await
            .map_err(|error| errors::answered(&address, &self.config.patterns(), error))?;
        let driver = AbortOnDrop::new(self.tasks.spawn(driver).abort_handle());
        let rights = Rights::new(address, self.config.patterns());
        let connection = Connection::new(rights, &self.tasks, client, allowance, driver);
        // Not left to the client, whose error would not say what the server has answered.
        if let Some(password) = password {
            let mut auth = cmd("AUTH");
            if let Some(user) = &credentials.user {
                auth.arg(user);
            }
            let answer = connection.query(auth.arg(&password)).await;
            answer.map_err(|error| about_credentials(without(error, &password)))?;
        }
        if database != 0 {
            connection.query(cmd("SELECT").arg(database)).await?;
        }
        Ok(connection)
    }

    /// A connection to a master, not yet bounded.
    pub(crate) async fn open_master(&self, address: &Address) -> Result<Connection, StoreError> {
        let connection = self
            .open(
                &address.clone().into(),
                &self.credentials(),
                "password",
                self.config.database,
            )
            .await?;
        // A replica would answer, and be wrong. This also is the first sign of life through
        // everything that may stand in between.
        match connection.refuse_replica().await {
            Ok(()) => {}
            // May be forbidden; then a write will tell.
            Err(error) if error.kind == ErrorKind::Forbidden && connection.has_answered() => {
                connection.query(&cmd("PING")).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(connection)
    }

    /// A connection to any node of a cluster, master or replica, not yet bounded.
    pub(crate) async fn open_node(&self, endpoint: &Endpoint) -> Result<Connection, StoreError> {
        let credentials = self.credentials();
        self.open(endpoint, &credentials, "password", 0).await
    }

    /// A connection to a sentinel, not yet bounded.
    pub(crate) async fn open_sentinel(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Connection, StoreError> {
        let credentials = &self.config.sentinel_credentials;
        self.open(endpoint, credentials, "sentinel_password", 0)
            .await
    }

    /// A connection for subscriptions, bounded.
    pub(crate) async fn subscriber(&self, address: &Address) -> Result<Subscriber, StoreError> {
        self.bounded(address, async {
            let credentials = self.credentials();
            let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
            let password = credentials.read_password().await?;
            if let Some(password) = &password {
                info = info.set_password(password.clone());
                if let Some(user) = credentials.user {
                    info = info.set_username(user);
                }
            }
            let allowance = Allowance::new(LONGEST_ANSWER);
            let stream = allowance.limit(self.transport(&address.clone().into()).await?);
            let connection = PubSub::new(&info, stream).await.map_err(|error| {
                let error = errors::answered(address, &self.config.patterns(), error);
                without(error, password.as_deref().unwrap_or_default())
            })?;
            allowance.renew();
            Ok(Subscriber {
                address: address.clone(),
                connection,
                allowance,
            })
        })
        .await
    }
}

/// The same error without the server's answer, if that repeats the password.
fn without(error: StoreError, password: &str) -> StoreError {
    let answer = errors::quoted(&error).unwrap_or_default();
    let is_repeated = |password: &str| !password.is_empty() && answer.contains(password);
    if !is_repeated(password) && !is_repeated(&shown(password)) {
        return error;
    }
    let message = "user or password are wrong; the server's answer repeats the password, and is not \
                   shown";
    StoreError::new(error.kind, message).recover_by(error.recovery)
}

/// Whatever `AUTH` fails with is about the credentials: a server without a password says `ERR`.
fn about_credentials(error: StoreError) -> StoreError {
    if errors::is_lost(&error) {
        return error;
    }
    error.with_kind(ErrorKind::Forbidden)
}
