//! Keeps a connection to one endpoint at a time, and goes on to the next when it fails.
//!
//! The client library spreads calls over its endpoints and does not notice when one of them is
//! dead, has no deadlines of its own, and leaves streams of a frozen server pending without end. So
//! each connection here is a client with a single endpoint. A caller that finds that it does not
//! answer in time says so, and all that use it (keepalive, watch) go on to the next one at once.
//!
//! Every new connection is asked first which cluster its endpoint belongs to, and each answer is
//! compared as well: a proxy in between may lead to another cluster by then.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::Client;
use futures_util::future::join_all;
use tenure_core::{ErrorKind, Operation};
use tenure_kit::{SingleFlight, Tasks};

use crate::cluster::{Answer, Cluster};
use crate::config::EtcdConfig;
use crate::connection::Connection;
use crate::errors::{self, EtcdRecovery, StoreError};

/// Between attempts to ask an endpoint for its cluster that has not answered so far.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The connection in use.
pub(crate) struct Connector {
    pub(crate) config: EtcdConfig,
    /// An application's own client, which finds the members by itself.
    given: Option<Client>,
    next: AtomicUsize,
    current: Mutex<Option<Arc<Connection>>>,
    connecting: SingleFlight<Arc<Connection>, EtcdRecovery>,
    pub(crate) cluster: Cluster,
    /// The endpoints whose cluster has been compared.
    compared: Mutex<HashSet<usize>>,
    first_comparison: tokio::sync::OnceCell<()>,
    /// The endpoints that turned out to be proxies.
    proxies: Mutex<HashSet<String>>,
    pub(crate) tasks: Tasks,
}

impl Connector {
    /// No I/O.
    pub(crate) fn new(config: EtcdConfig, given: Option<Client>, tasks: Tasks) -> Self {
        Self {
            given,
            // A fleet does not all begin with the first.
            next: AtomicUsize::new(fastrand::usize(..config.endpoints.len().max(1))),
            config,
            current: Mutex::default(),
            connecting: SingleFlight::new(tasks.clone()),
            cluster: Cluster::new(),
            compared: Mutex::default(),
            first_comparison: tokio::sync::OnceCell::new(),
            proxies: Mutex::default(),
            tasks,
        }
    }

    /// Nothing is sent by a forked child, nor after two clusters have answered.
    fn check(&self) -> Result<(), StoreError> {
        self.tasks.process().check(Operation::Connect)?;
        self.cluster.check()
    }

    fn current(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|connection| connection.is_usable())
    }

    /// The connection in use, or a new one. Fails when no endpoint serves.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<Connection>, StoreError> {
        self.check()?;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let connect = || self.clone().connect_to_any();
        let usable = |connection: &Arc<Connection>| connection.is_usable();
        Box::pin(self.connecting.run(usable, connect)).await
    }

    /// A connection to the next endpoint, which is in use from now on.
    pub(crate) async fn connect_to_next(&self) -> Result<Arc<Connection>, StoreError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.config.endpoints.len();
        let connection = Arc::new(self.connect_to(number).await?);
        let limit = self.config.connect_timeout;
        if self.given.is_none() {
            Box::pin(self.identify(&connection, number, limit)).await?;
        } else {
            self.refuse_proxy(&connection, limit).await?;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was silent may have answered meanwhile.
        if let Some(usable) = current.as_ref().filter(|current| current.is_usable()) {
            return Ok(usable.clone());
        }
        tracing::debug!(endpoint = connection.endpoint, "etcd endpoint in use");
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// A new connection to this endpoint, not the one in use.
    pub(crate) async fn connect_to(&self, number: usize) -> Result<Connection, StoreError> {
        if let Some(client) = &self.given {
            return Ok(Connection::given(client.clone()));
        }
        let endpoint = &self.config.endpoints[number];
        Connection::open(&self.config, endpoint, self.tasks.process()).await
    }

    /// Asks which cluster the endpoint belongs to, before anything else is asked of it: another
    /// one would refuse a lease that it does not know, as if it had ended. Fails when the endpoint
    /// serves no locks.
    async fn identify(
        &self,
        connection: &Connection,
        number: usize,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let mut client = connection.client.clone();
        let asking = async move { client.status().await };
        // Side by side: a slow server makes each round trip count.
        let (status, is_no_proxy) = tokio::join!(
            self.one(connection, limit, asking),
            self.refuse_proxy(connection, limit)
        );
        let is_learner = match status {
            Ok(status) => status.is_learner(),
            // Some servers tell it to some users only; then the first answer tells.
            Err(error) if error.kind == ErrorKind::Forbidden => false,
            Err(error) => return Err(error),
        };
        self.compared().insert(number);
        if is_learner {
            connection.fail();
            return Err(errors::learner(&connection.endpoint));
        }
        is_no_proxy
    }

    /// Fails when the endpoint is an `etcd grpc-proxy`: it answers keepalives at its own pace, also
    /// from one that it sent earlier, so no answer of it proves a lease.
    pub(crate) async fn refuse_proxy(
        &self,
        connection: &Connection,
        limit: Duration,
    ) -> Result<(), StoreError> {
        if self.proxies().contains(&connection.endpoint) {
            return Err(self.is_proxy(connection));
        }
        let mut client = connection.client.clone();
        let asking = async move { client.member_list().await };
        match self.one(connection, limit, asking).await {
            Ok(list) if errors::is_of_proxy(&list) => Err(self.is_proxy(connection)),
            Err(error) if error.needs_reconnect() => Err(error),
            // A proxy that does not list itself is found out by its watches.
            _ => Ok(()),
        }
    }

    fn proxies(&self) -> MutexGuard<'_, HashSet<String>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint is a proxy: it is not used from now on.
    pub(crate) fn is_proxy(&self, connection: &Connection) -> StoreError {
        self.proxies().insert(connection.endpoint.clone());
        connection.fail();
        errors::proxy(&connection.endpoint)
    }

    fn compared(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_compared(&self) -> Vec<usize> {
        let compared = self.compared();
        let all = 0..self.config.endpoints.len();
        // One is compared with nothing; and an application's client has its own.
        let several = self.given.is_none() && self.config.endpoints.len() > 1;
        all.filter(|number| several && !compared.contains(number))
            .collect()
    }

    /// Asks all endpoints which cluster they belong to, the first time it is called. Fails when it
    /// is not one; those that do not answer in time are asked again later.
    pub(crate) async fn compare_clusters(self: &Arc<Self>) -> Result<(), StoreError> {
        let first = self.first_comparison.get_or_try_init(|| async {
            self.check()?;
            self.ask_for_clusters().await;
            if !self.not_compared().is_empty() {
                self.tasks.spawn(Self::ask_the_rest(Arc::downgrade(self)));
            }
            Ok::<_, StoreError>(())
        });
        first.await?;
        self.check()
    }

    /// What they answer is compared, and remembered.
    async fn ask_for_clusters(&self) {
        let limit = self.config.request_timeout;
        let asking = self.not_compared().into_iter().map(|number| async move {
            let connection = self.connect_to(number).await?;
            Box::pin(self.identify(&connection, number, limit)).await
        });
        // On the heap, or each call would be as large.
        let asking = Box::pin(join_all(asking));
        let _silent = tokio::time::timeout(limit, asking).await;
    }

    /// Until all have answered, or the backend is gone.
    async fn ask_the_rest(connector: Weak<Self>) {
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let Some(connector) = connector.upgrade() else {
                return;
            };
            if connector.check().is_err() || connector.not_compared().is_empty() {
                return;
            }
            connector.ask_for_clusters().await;
        }
    }

    /// One request on this very connection, which is a silent one when it does not answer within
    /// `limit`.
    pub(crate) async fn one<T: Answer>(
        &self,
        connection: &Connection,
        limit: Duration,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        let Ok(outcome) = tokio::time::timeout(limit, request).await else {
            connection.is_overdue();
            return Err(errors::no_answer(&connection.endpoint, limit));
        };
        let outcome = outcome.map_err(errors::of_client);
        self.judge(connection, outcome).await
    }

    /// What an answer tells of its connection and of the cluster.
    pub(crate) async fn judge<T: Answer>(
        &self,
        connection: &Connection,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let error = match outcome {
            Ok(value) => {
                connection.has_answered();
                self.cluster
                    .compare(value.cluster(), &connection.endpoint)?;
                return Ok(value);
            }
            Err(error) => error,
        };
        let mut error = connection.explained(error, &self.config);
        // A connection with the password that is in force by now will do.
        if errors::asks_for(&error, EtcdRecovery::Password)
            && connection.has_old_password(&self.config).await
        {
            error = error.reconnect();
        }
        if error.needs_reconnect() {
            connection.fail();
        }
        Err(error)
    }
}
