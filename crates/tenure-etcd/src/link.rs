//! One endpoint at a time, and the next when it fails.
//!
//! The client library spreads calls over its endpoints and does not notice when one of them is
//! dead, has no deadlines of its own, and leaves streams of a frozen server pending for ever. So
//! each link here is a client with a single endpoint; whoever finds that it does not answer marks
//! it as failed, and all that hang on it (keepalive, watch) move to the next one at once.
//!
//! Every new link is asked first which cluster its endpoint belongs to, and each answer is compared
//! as well: a proxy in between may have changed its mind.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use futures_util::future::join_all;
use tenure_core::{ErrorKind, Operation, Process};
use tokio::sync::watch;

use crate::cluster::{Answer, Cluster};
use crate::config::{Endpoint, EtcdConfig};
use crate::errors::{Cause, Trouble};

/// Pings find a server that is gone while nothing else is sent. Not more often: servers close
/// connections that ping more than every 5 s.
const PING: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// Between attempts to ask an endpoint for its cluster that has not answered so far.
const ASK_AGAIN: Duration = Duration::from_secs(10);

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
    pub(crate) cluster: Cluster,
    /// The endpoints whose cluster has been compared.
    surveyed: Mutex<HashSet<usize>>,
    first_survey: tokio::sync::OnceCell<()>,
    pub(crate) process: Process,
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
            cluster: Cluster::new(),
            surveyed: Mutex::default(),
            first_survey: tokio::sync::OnceCell::new(),
            process: Process::current(),
        }
    }

    /// Nothing is sent by a forked child, nor after two clusters have answered.
    fn check(&self) -> Result<(), Trouble> {
        let process = self.process.check(Operation::Connect);
        process.map_err(|error| Trouble::new(error.kind(), error.message()))?;
        self.cluster.check()
    }

    fn current(&self) -> Option<Arc<Link>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|link| !link.has_failed())
    }

    /// How often a call is tried: each endpoint once, and a single one twice.
    fn attempts(&self) -> usize {
        self.config.endpoints.len().max(2)
    }

    /// The link in use, or a new one to the next endpoint, which has to answer within `limit` once
    /// it is connected.
    pub(crate) async fn get(&self, limit: Duration) -> Result<Arc<Link>, Trouble> {
        self.check()?;
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
        if self.given.is_none() {
            Box::pin(self.identify(&link, number, limit)).await?;
        }
        tracing::debug!(endpoint = link.endpoint, "etcd endpoint in use");
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(link.clone());
        Ok(link)
    }

    /// Asks which cluster the endpoint belongs to, before anything else is asked of it: another
    /// one would refuse a lease that it does not know, as if it had ended.
    async fn identify(&self, link: &Link, number: usize, limit: Duration) -> Result<(), Trouble> {
        let mut client = link.client.clone();
        let asking = async move { client.status().await };
        if let Err(trouble) = self.one(link, limit, asking).await
            // Some servers tell it to some users only; then the first answer tells.
            && trouble.kind != ErrorKind::Forbidden
        {
            return Err(trouble);
        }
        let mut surveyed = self.surveyed.lock().unwrap_or_else(PoisonError::into_inner);
        surveyed.insert(number);
        Ok(())
    }

    fn unsurveyed(&self) -> Vec<usize> {
        let surveyed = self.surveyed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = 0..self.config.endpoints.len();
        // One is compared with nothing; and an application's client has its own.
        let several = self.given.is_none() && self.config.endpoints.len() > 1;
        all.filter(|number| several && !surveyed.contains(number))
            .collect()
    }

    /// Asks all endpoints which cluster they belong to, the first time it is called. Fails when it
    /// is not one; those that do not answer in time are asked again later.
    pub(crate) async fn survey(self: &Arc<Self>) -> Result<(), Trouble> {
        let first = self.first_survey.get_or_try_init(|| async {
            self.check()?;
            self.ask_for_clusters().await;
            if !self.unsurveyed().is_empty() {
                let asking = Self::ask_the_rest(Arc::downgrade(self));
                tokio::spawn(self.process.confine(asking));
            }
            Ok::<_, Trouble>(())
        });
        first.await?;
        self.check()
    }

    /// What they answer is compared, and remembered.
    async fn ask_for_clusters(&self) {
        let limit = self.config.request_timeout;
        let asking = self.unsurveyed().into_iter().map(|number| async move {
            let link = self.dial(&self.config.endpoints[number]).await?;
            self.identify(&link, number, limit).await
        });
        // On the heap, or each call would be as large.
        let _silent = tokio::time::timeout(limit, Box::pin(join_all(asking))).await;
    }

    /// Until all have answered, or nobody uses the links any more.
    async fn ask_the_rest(links: Weak<Self>) {
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let Some(links) = links.upgrade() else { return };
            if links.check().is_err() || links.unsurveyed().is_empty() {
                return;
            }
            links.ask_for_clusters().await;
        }
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
                // A member that is cut off from the others says so, instead of falling silent.
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            if let Some(user) = &self.config.user {
                let current = self.password()?;
                options = options.with_user(user, &current);
                password = Some(current);
            }
            let channel = Channel::Tonic(self.channel(endpoint)?);
            let connecting = Client::from_channel(channel, Some(options)).await;
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

    /// A connection that only this process uses, made with the first request on it. A forked child
    /// would run its copy of the tasks behind it on the parent's socket: they are confined.
    fn channel(&self, endpoint: &Endpoint) -> Result<tonic::transport::Channel, Trouble> {
        let misconfigured =
            |text: String| Trouble::new(ErrorKind::Misconfigured, format!("{endpoint}: {text}"));
        let address = self.config.address(endpoint);
        let channel = tonic::transport::Endpoint::from_shared(address)
            .map_err(|error| misconfigured(error.to_string()))?
            .connect_timeout(self.config.connect_timeout)
            .http2_keep_alive_interval(PING)
            .keep_alive_while_idle(true)
            .keep_alive_timeout(PING_ANSWER)
            .tcp_keepalive(Some(PING))
            .executor(Confined(self.process.clone()));
        Ok(self.encrypted(channel)?.connect_lazy())
    }

    #[cfg(feature = "_tls")]
    fn encrypted(
        &self,
        channel: tonic::transport::Endpoint,
    ) -> Result<tonic::transport::Endpoint, Trouble> {
        use etcd_client::{Certificate, Identity, TlsOptions};

        let Some(tls) = &self.config.tls else {
            return Ok(channel);
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
        let encrypted = channel.tls_config(client);
        encrypted.map_err(|error| Trouble::from(etcd_client::Error::from(error)))
    }

    #[cfg(not(feature = "_tls"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with TLS")]
    fn encrypted(
        &self,
        channel: tonic::transport::Endpoint,
    ) -> Result<tonic::transport::Endpoint, Trouble> {
        Ok(channel)
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
        T: Answer,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut last = None;
        for _ in 0..self.attempts() {
            let outcome = match self.get(limit).await {
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
    pub(crate) async fn one<T: Answer>(
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
                self.cluster.compare(value.cluster(), &link.endpoint)?;
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

/// Where a connection's own tasks run.
struct Confined(Process);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Confined {
    fn execute(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(self.0.confine(work));
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
