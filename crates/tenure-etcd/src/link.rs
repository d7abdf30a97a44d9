//! One endpoint at a time, and the next when it fails.
//!
//! The client library spreads calls over its endpoints and does not notice when one of them is
//! dead, has no deadlines of its own, and leaves streams of a frozen server pending for ever. So
//! each link here is a client with a single endpoint; whoever finds that it does not answer marks
//! it as failed, and all that hang on it (keepalive, watch) move to the next one at once.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tenure_core::ErrorKind;
use tokio::sync::watch;

use crate::config::{Endpoint, EtcdConfig};
use crate::errors::{Cause, Trouble};

/// Pings find a server that is gone while nothing else is sent. Not more often: servers close
/// connections that ping more than every 5 s.
const PING: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// A client of one endpoint.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    failed: watch::Sender<bool>,
    /// Something was answered on it.
    answered: AtomicBool,
    /// What it logged in with.
    password: Option<String>,
}

impl Link {
    fn new(client: Client, endpoint: String, password: Option<String>) -> Self {
        Self {
            client,
            endpoint,
            failed: watch::Sender::new(false),
            answered: AtomicBool::new(false),
            password,
        }
    }

    pub(crate) fn fail(&self) {
        self.failed.send_replace(true);
    }

    fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Returns when somebody has found that the link does not work any more.
    pub(crate) async fn failure(&self) {
        // Fails only when the sender is gone, which `self` holds.
        let mut failed = self.failed.subscribe();
        let _failed = failed.wait_for(|failed| *failed).await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// The way to the cluster.
pub(crate) struct Links {
    pub(crate) config: EtcdConfig,
    /// An application's own client, which finds the members by itself.
    given: Option<Client>,
    next: AtomicUsize,
    current: Mutex<Option<Arc<Link>>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Links {
    pub(crate) fn new(config: EtcdConfig, given: Option<Client>) -> Self {
        Self {
            given,
            // A fleet does not all begin with the first.
            next: AtomicUsize::new(fastrand::usize(..config.endpoints.len().max(1))),
            config,
            current: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    fn current(&self) -> Option<Arc<Link>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|link| !link.has_failed())
    }

    /// How often a call is tried: each endpoint once, and a single one twice.
    fn attempts(&self) -> usize {
        self.config.endpoints.len().max(2)
    }

    /// The link in use, or a new one to the next endpoint.
    pub(crate) async fn get(&self) -> Result<Arc<Link>, Trouble> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let _turn = self.dialling.lock().await;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let endpoints = &self.config.endpoints;
        let number = self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len();
        let link = Arc::new(self.dial(&endpoints[number]).await?);
        tracing::debug!(endpoint = link.endpoint, "etcd endpoint in use");
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(link.clone());
        Ok(link)
    }

    /// A new link to this endpoint, not the one in use.
    pub(crate) async fn dial(&self, endpoint: &Endpoint) -> Result<Link, Trouble> {
        if let Some(client) = &self.given {
            return Ok(Link::new(
                client.clone(),
                "the application's client".to_owned(),
                None,
            ));
        }
        let limit = self.config.connect_timeout;
        let mut password = None;
        let dialling = async {
            let mut options = ConnectOptions::new()
                .with_connect_timeout(limit)
                .with_keep_alive(PING, PING_ANSWER)
                .with_tcp_keepalive(PING)
                // A member that is cut off from the others says so, instead of falling silent.
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            if let Some(user) = &self.config.user {
                let current = self.password()?;
                options = options.with_user(user, &current);
                password = Some(current);
            }
            let options = self.encrypted(options)?;
            let address = self.config.address(endpoint);
            let connecting = Client::connect([address], Some(options)).await;
            connecting.map_err(|error| self.at_first_contact(error.into()))
        };
        let client = tokio::time::timeout(limit, dialling)
            .await
            .map_err(|_| Trouble::silent(&endpoint.to_string(), limit))??;
        Ok(Link::new(client, endpoint.to_string(), password))
    }

    fn at_first_contact(&self, trouble: Trouble) -> Trouble {
        trouble.at_first_contact(self.config.tls.is_some())
    }

    /// Small local files, read for each link, so that secrets and certificates can be renewed
    /// under a running service.
    fn password(&self) -> Result<String, Trouble> {
        if let Some(file) = &self.config.password_file {
            let text = String::from_utf8(read(file)?).map_err(|_| {
                Trouble::new(
                    ErrorKind::Misconfigured,
                    format!("{} holds no UTF-8", file.display()),
                )
            })?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(self.config.password.clone().unwrap_or_default())
    }

    #[cfg(feature = "_tls")]
    fn encrypted(&self, options: ConnectOptions) -> Result<ConnectOptions, Trouble> {
        use etcd_client::{Certificate, Identity, TlsOptions};

        let Some(tls) = &self.config.tls else {
            return Ok(options);
        };
        let mut client = TlsOptions::new();
        client = match &tls.ca {
            Some(file) => client.ca_certificate(Certificate::from_pem(read(file)?)),
            None => client.with_native_roots(),
        };
        if let Some((certificate, key)) = &tls.certificate {
            client = client.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &tls.server_name {
            client = client.domain_name(name);
        }
        Ok(options.with_tls(client))
    }

    #[cfg(not(feature = "_tls"))]
    fn encrypted(&self, options: ConnectOptions) -> Result<ConnectOptions, Trouble> {
        Ok(options)
    }

    /// One request, tried on the next endpoint when one does not answer within `limit`.
    ///
    /// A request whose answer was lost may be applied twice, so it has to be one that can be.
    pub(crate) async fn call<T, F>(
        &self,
        limit: Duration,
        mut request: impl FnMut(Client) -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut last = None;
        for _ in 0..self.attempts() {
            let outcome = match self.get().await {
                Ok(link) => self.one(&link, limit, request(link.client.clone())).await,
                Err(trouble) => Err(trouble),
            };
            match outcome {
                Err(trouble) if trouble.cause == Cause::Link => {
                    tracing::debug!(reason = trouble.message(), "etcd endpoint given up");
                    last = Some(trouble);
                }
                outcome => return outcome,
            }
        }
        Err(last.unwrap_or_else(|| Trouble::unreadable("nothing")))
    }

    /// One request on this very link, which has failed when it does not answer.
    pub(crate) async fn one<T>(
        &self,
        link: &Link,
        limit: Duration,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Trouble> {
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, request) => match outcome {
                Ok(outcome) => outcome.map_err(Trouble::from),
                Err(_) => Err(Trouble::silent(&link.endpoint, limit)),
            },
            // Somebody else has found out already.
            () = link.failure() => Err(Trouble::silent(&link.endpoint, limit)),
        };
        let mut trouble = match outcome {
            Ok(value) => {
                link.answered.store(true, Ordering::Relaxed);
                return Ok(value);
            }
            Err(trouble) => trouble,
        };
        if !link.answered.load(Ordering::Relaxed) {
            trouble = self.at_first_contact(trouble);
        }
        // A link with the password that is in force by now will do.
        let renewed = |used: &String| self.password().is_ok_and(|now| now != *used);
        if trouble.cause == Cause::Password && link.password.as_ref().is_some_and(renewed) {
            trouble = trouble.of_the_link();
        }
        if trouble.cause == Cause::Link {
            link.fail();
        }
        Err(trouble)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Trouble> {
    std::fs::read(file).map_err(|error| {
        Trouble::new(
            ErrorKind::Misconfigured,
            format!("{} cannot be read: {error}", file.display()),
        )
        .caused_by(error)
    })
}
