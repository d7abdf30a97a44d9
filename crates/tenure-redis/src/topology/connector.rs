//! Keeps a connection to one server, and makes it again when it is lost.
//!
//! The client library's own reconnecting connection is not used: its first call after a lost
//! connection fails, and connecting to a closed port takes it 9 s.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tenure_core::{ErrorKind, Time};
use tenure_kit::deadline::within;
use tenure_kit::{Backoff, SingleFlight};
use tokio::time::sleep;

use super::lock_server::{LockServer, LockSlot, Request};
use crate::errors::{self, StoreError};
use crate::net::connection::Connection;
use crate::net::hold;
use crate::net::incarnation::Incarnations;
use crate::net::network::{Network, Subscriber};

const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The longest wait between two attempts to connect.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// How a connector finds its server.
#[async_trait]
pub(crate) trait Route: fmt::Debug + Send + Sync {
    /// Makes one connection, bounded.
    async fn connect(&self) -> Result<Established, StoreError>;

    /// Opens one connection for subscriptions, bounded.
    async fn subscribe(&self) -> Result<Subscriber, StoreError>;
}

/// Says whether a connection still leads to the master.
#[async_trait]
pub(crate) trait Authority: Send + Sync {
    /// Whether a call may be sent now without asking first.
    fn counts(&self, now: Time) -> bool;

    /// The number of the latest failover that is known.
    fn failovers(&self) -> Option<u64>;

    /// Asks, until a call may be sent, and gives the time at which it may. Bounded.
    async fn confirm(&self) -> Result<Time, StoreError>;

    /// Asks once. The connection is given up when the error says so.
    async fn look(&self) -> Result<(), StoreError>;

    /// How often to look.
    fn look_every(&self) -> Duration;
}

/// A connection, and who says that it leads to the master, where that can change.
#[derive(Clone)]
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) authority: Option<Arc<dyn Authority>>,
}

/// Keeps a connection to one server. Clones keep the same one.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    route: Arc<dyn Route>,
    network: Arc<Network>,
    current: Mutex<Option<Established>>,
    connecting: SingleFlight<Established, errors::NextStep>,
    retries: Mutex<Retries>,
    incarnations: Mutex<Incarnations>,
}

/// When to try again.
struct Retries {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Connector {
    pub(crate) fn new(route: Arc<dyn Route>, network: Arc<Network>) -> Self {
        let retries = Retries {
            backoff: Backoff::new(SHORTEST_WAIT, LONGEST_WAIT),
            not_before: None,
        };
        Self {
            shared: Arc::new(Shared {
                route,
                connecting: SingleFlight::new(network.tasks.clone()),
                network,
                current: Mutex::default(),
                retries: Mutex::new(retries),
                incarnations: Mutex::default(),
            }),
        }
    }

    /// The connection, if there is one.
    pub(crate) fn current(&self) -> Option<Connection> {
        let current = hold(&self.shared.current);
        current.as_ref().map(|found| found.connection.clone())
    }

    /// The incarnation of the server that it was connected to last, if that told one.
    pub(crate) fn last_incarnation(&self) -> Option<String> {
        let incarnations = hold(&self.shared.incarnations);
        incarnations.last().map(str::to_owned)
    }

    /// Opens a connection for subscriptions, bounded.
    pub(crate) async fn subscribe(&self) -> Result<Subscriber, StoreError> {
        self.shared.route.subscribe().await
    }

    /// Sends a request, which may find the connection lost, or a server that is no longer a
    /// master. Then this function sends it once more, on a new connection; that does no harm. The
    /// caller bounds the whole, and the answer has `limit`. `slot` is that of the lock, in a cluster.
    ///
    /// Dropping the future leaves a request that was sent to the server.
    pub(super) async fn send<R: Request>(
        &self,
        request: &R,
        slot: Option<&LockSlot>,
        limit: Duration,
    ) -> Result<R::Answer, StoreError> {
        match self.send_once(request, slot, limit).await {
            Err(error) if errors::is_lost(&error) && error.kind != ErrorKind::Timeout => {
                self.send_once(request, slot, limit).await
            }
            outcome => outcome,
        }
    }

    async fn send_once<R: Request>(
        &self,
        request: &R,
        slot: Option<&LockSlot>,
        limit: Duration,
    ) -> Result<R::Answer, StoreError> {
        let mut found = self.established().await?;
        if found.connection.silence().has_lasted() {
            found = self.replaced(&found.connection).await?;
        }
        let sent_at = match self.time_to_send(&found).await {
            Ok(time) => time,
            Err(error) => return Err(self.shared.judged(&found.connection, error)),
        };
        let authority = found.authority.as_ref();
        let server = LockServer {
            failovers: authority.and_then(|authority| authority.failovers()),
            connection: found.connection,
            sent_at,
            slot: slot.cloned(),
        };
        let what = server.connection.address().to_string();
        let silent = self.shared.network.config.answer_limit();
        let watched = server.connection.silence().watch_call(silent);
        let answer = request.send(&server);
        let outcome = within(&what, limit, "request_timeout", answer).await;
        watched.ended();
        outcome.map_err(|error| self.shared.judged(&server.connection, error))
    }

    /// The current time, once the server counts as the master.
    async fn time_to_send(&self, found: &Established) -> Result<Time, StoreError> {
        let now = self.shared.network.clock.now();
        match &found.authority {
            Some(authority) if !authority.counts(now) => authority.confirm().await,
            _ => Ok(now),
        }
    }

    /// The connection, made if need be. Fails with what an attempt has met that was begun after
    /// the call. The caller bounds it.
    async fn established(&self) -> Result<Established, StoreError> {
        if let Some(current) = hold(&self.shared.current).clone() {
            return Ok(current);
        }
        let is_current = |found: &Established| self.shared.is_current(&found.connection);
        let connect = || self.shared.clone().connect();
        // In a box, since it is seldom: most calls are small.
        Box::pin(self.shared.connecting.run(is_current, connect)).await
    }

    /// A connection in place of one that is silent, and stays the current one until then: the server
    /// may be slow, and no new connection be had.
    async fn replaced(&self, silent: &Connection) -> Result<Established, StoreError> {
        let is_another = |found: &Established| {
            !found.connection.is(silent) && self.shared.is_current(&found.connection)
        };
        let current = hold(&self.shared.current).clone();
        if let Some(found) = current.filter(is_another) {
            return Ok(found);
        }
        let connect = || self.shared.clone().connect();
        Box::pin(self.shared.connecting.run(is_another, connect)).await
    }
}

impl Shared {
    /// One attempt, after the wait that the last one has left.
    async fn connect(self: Arc<Self>) -> Result<Established, StoreError> {
        let not_before = hold(&self.retries).not_before;
        if let Some(not_before) = not_before {
            sleep(not_before.saturating_duration_since(Instant::now())).await;
        }
        match self.route.connect().await {
            Ok(found) => {
                let mut retries = hold(&self.retries);
                retries.backoff.reset();
                retries.not_before = None;
                drop(retries);
                self.connected(&found);
                Ok(found)
            }
            Err(error) => {
                tracing::debug!(%error, "cannot connect to Redis");
                let mut retries = hold(&self.retries);
                let wait = retries.backoff.next(None);
                retries.not_before = Some(Instant::now() + wait);
                Err(error)
            }
        }
    }

    fn connected(self: &Arc<Self>, found: &Established) {
        let connection = &found.connection;
        if let Some(incarnation) = connection.incarnation()
            && let Some(change) = hold(&self.incarnations).connected(incarnation)
        {
            connection.set_change(change);
        }
        *hold(&self.current) = Some(found.clone());
        if let Some(authority) = &found.authority {
            let watching = watch(Arc::downgrade(self), connection.clone(), authority.clone());
            drop(self.network.tasks.spawn(watching));
        }
    }

    fn is_current(&self, connection: &Connection) -> bool {
        let current = hold(&self.current);
        current
            .as_ref()
            .is_some_and(|found| found.connection.is(connection))
    }

    /// Forgets a connection that does not work.
    fn lose(&self, lost: &Connection) {
        let mut current = hold(&self.current);
        if current
            .as_ref()
            .is_some_and(|found| found.connection.is(lost))
        {
            *current = None;
        }
    }

    /// Forgets the connection if the error says that it is of no use.
    fn judged(&self, connection: &Connection, error: StoreError) -> StoreError {
        if errors::is_lost(&error) {
            self.lose(connection);
        }
        error
    }
}

/// Leaves a master as soon as the authority names another one, so that no call has to ask first.
async fn watch(connector: Weak<Shared>, connection: Connection, authority: Arc<dyn Authority>) {
    loop {
        sleep(authority.look_every()).await;
        let Some(shared) = connector.upgrade() else {
            return;
        };
        if !shared.is_current(&connection) {
            return;
        }
        // No answer is the next call's concern, if the last one does not count any more.
        if let Err(error) = authority.look().await
            && errors::is_lost(&error)
        {
            shared.lose(&connection);
            shared.connecting.start(|| shared.clone().connect());
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("route", &self.shared.route)
            .finish_non_exhaustive()
    }
}
