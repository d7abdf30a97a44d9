//! What every networked backend of `tenure` needs, written once: for this workspace's own backends,
//! and for yours.
//!
//! | module | what it does |
//! |---|---|
//! | [`url`] | splits a URL in one place, reads its parameters, repeats no secret |
//! | [`address`] | `host:port`, `[v6]:port`, the directory of a Unix socket |
//! | [`secret`] | passwords from a value, a file or the environment; [`redact`] for texts |
//! | [`tls`] | the settings `ca`, `client_cert`, `client_key`, `server_name`, and their files |
//! | [`backoff`] | how long to wait before the next attempt |
//! | [`single_flight`] | one attempt for all who want its outcome |
//! | [`tasks`] | on which runtime and in which process a backend works |
//! | [`store_error`] | an error of a store, and what to do next; [`blocking`] for drivers that are not async |
//! | [`allowance`] | how much a server may send before it has ended an answer |
//! | [`deadline`] | one deadline for a call, and what is left of it for each step |
//! | [`limits`] | bounds for sizes and durations, texts of others made harmless |
//!
//! # The conventions of a backend
//!
//! They make all stores look alike to a user. Keep to them in your own.
//!
//! - The configuration has `from_url(&str)`, and `from_parsed(Url)`, which `tenure::connect` uses:
//!   it has taken the parameter `generation` out. Builders have the parameters' names: `user`,
//!   `password`, `password_file`, `password_env`, `tls`, `connect_timeout`, `request_timeout`.
//! - `connect(config)` is `async` and does I/O: it fails when the store cannot be used.
//!   `lazy(config)` does none at all: no connection, no name resolution, no file.
//! - A wrong setting is found before any I/O. Its error names the setting and says what to write.
//! - Secrets and certificates are read at each new connection.
//! - A renewal has one deadline, which follows from its lease. Each step takes what is left of it.
//!
//! # A backend's connections, complete
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use tenure_core::{Error, Operation};
//! use tenure_kit::{
//!     Address, Backoff, Credentials, Deadline, SingleFlight, StoreError, Tasks, Tls, Url, limits,
//! };
//!
//! /// Where the locks are.
//! #[derive(Clone, Debug)]
//! struct Config {
//!     servers: Vec<Address>,
//!     credentials: Credentials,
//!     tls: Option<Tls>,
//!     connect_timeout: Duration,
//! }
//!
//! impl Config {
//!     /// Reads `example://[user:password@]host[:7000],...[?parameters]`. No I/O.
//!     fn from_url(url: &str) -> Result<Self, Error> {
//!         Self::from_parsed(Url::parse(url)?)
//!     }
//!
//!     fn from_parsed(mut url: Url) -> Result<Self, Error> {
//!         let encrypted = match url.scheme() {
//!             "example" => false,
//!             "examples" => true,
//!             _ => return Err(Error::invalid_input("the URL's scheme is unknown; use example://")),
//!         };
//!         url.refuse_at_in_parameters()?;
//!         let tls = Tls::take_from(&mut url, Default::default())?;
//!         if let Some(setting) = tls.first_setting().filter(|_| !encrypted) {
//!             return Err(Error::invalid_input(format!("{setting} needs TLS; use examples://")));
//!         }
//!         let timeout = url.take_duration(&["connect_timeout"])?;
//!         let config = Self {
//!             servers: url.addresses(7000)?,
//!             credentials: url.take_credentials()?,
//!             tls: encrypted.then_some(tls),
//!             connect_timeout: timeout.unwrap_or(Duration::from_secs(1)),
//!         };
//!         limits::check_timeout("connect_timeout", config.connect_timeout)?;
//!         url.finish()?; // refuses what was not asked for
//!         Ok(config)
//!     }
//! }
//!
//! /// One connection.
//! struct Connection;
//!
//! /// Keeps a connection, and makes it again when it is lost.
//! struct Connector {
//!     shared: Arc<Shared>,
//!     connecting: SingleFlight<Arc<Connection>>,
//! }
//!
//! struct Shared {
//!     config: Config,
//!     current: Mutex<Option<Arc<Connection>>>,
//!     backoff: Mutex<Backoff>,
//! }
//!
//! impl Connector {
//!     /// `lazy`: no I/O.
//!     fn new(config: Config) -> Result<Self, Error> {
//!         let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
//!         Ok(Self {
//!             shared: Arc::new(Shared {
//!                 config,
//!                 current: Mutex::default(),
//!                 backoff: Mutex::new(backoff),
//!             }),
//!             connecting: SingleFlight::new(Tasks::here()?),
//!         })
//!     }
//!
//!     async fn connection(&self) -> Result<Arc<Connection>, StoreError> {
//!         if let Some(current) = self.shared.current.lock().unwrap().clone() {
//!             return Ok(current);
//!         }
//!         let connect = || {
//!             let shared = self.shared.clone();
//!             async move { shared.connect().await }
//!         };
//!         self.connecting.run(|_| true, connect).await
//!     }
//!
//!     /// What `LockBackend::renew` does.
//!     async fn renew(&self, lease: Duration) -> Result<(), Error> {
//!         let deadline = Deadline::for_lease(lease);
//!         let renewing = async {
//!             let _connection = self.connection().await?;
//!             Ok(()) // send the renewal, with `deadline.step`
//!         };
//!         deadline
//!             .rest("the server", renewing)
//!             .await
//!             .map_err(|error: StoreError| error.into_error(Operation::Renew))
//!     }
//! }
//!
//! impl Shared {
//!     async fn connect(&self) -> Result<Arc<Connection>, StoreError> {
//!         let connecting = async {
//!             // Read for each connection, off the thread that drives the others.
//!             let _password = self.config.credentials.read_password().await?;
//!             if let Some(tls) = &self.config.tls {
//!                 let _material = tls.read().await?;
//!             }
//!             Ok(Arc::new(Connection)) // connect here
//!         };
//!         let limit = self.config.connect_timeout;
//!         let outcome =
//!             tenure_kit::deadline::within("the server", limit, "connect_timeout", connecting).await;
//!         match &outcome {
//!             Ok(connection) => *self.current.lock().unwrap() = Some(connection.clone()),
//!             Err(_) => {
//!                 let wait = self.backoff.lock().unwrap().next(None);
//!                 tokio::time::sleep(wait).await;
//!             }
//!         }
//!         outcome
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let config = Config::from_url("example://app:s3cret@a:7000,b?connect_timeout=500ms")?;
//! assert!(!format!("{config:?}").contains("s3cret"));
//! let connector = Connector::new(config)?;
//! connector.renew(Duration::from_secs(20)).await?;
//!
//! let error = Config::from_url("example://app:s3cret@a?colour=red").unwrap_err();
//! assert!(error.message().contains("\"colour\"; known are"));
//! # Ok(())
//! # }
//! ```
//!
//! # TLS
//!
//! The kit reads and checks the settings, and gives their files as PEM: hand them to your store's
//! client. The features `rustls`, `ring`, `aws-lc-rs` and `proxy` are for tenure's own backends: what
//! they add is hidden, and no part of what the version promises. Without them there is neither
//! rustls nor hyper in the tree. Keep rustls out of your own public signatures.

pub mod address;
pub mod allowance;
pub mod backoff;
pub mod deadline;
pub mod limits;
pub mod lock_keys;
#[cfg(feature = "proxy")]
#[doc(hidden)]
pub mod proxy;
pub mod secret;
pub mod single_flight;
pub mod store_error;
pub mod tasks;
pub mod tls;
pub mod url;

pub use address::Address;
pub use allowance::Allowance;
pub use backoff::Backoff;
pub use deadline::Deadline;
pub use lock_keys::LockKeys;
pub use secret::{Credentials, Secret, redact};
pub use single_flight::SingleFlight;
pub use store_error::{Recovery, StoreError, blocking};
pub use tasks::Tasks;
pub use tls::{Tls, TlsMaterial, TlsNames};
pub use url::Url;
