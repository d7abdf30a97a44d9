//! The sessions of a backend: which one serves whom, and what reaches them by notification.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tenure_core::{Candidate, Identity, LockName, SharedClock};
use tenure_kit::{SingleFlight, Tasks};
use tokio::sync::OnceCell;

use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::driver::Listener;
use crate::errors::{Answer, StoreError};
use crate::incarnation::Quarantine;
use crate::notifications::Notifications;
use crate::notifications::message::{self, Message};
use crate::session::{self, Attempt, Common, Purpose, Session};

/// The lease of the session that only looks who holds a lock.
const OBSERVING: Duration = Duration::from_secs(60);

/// So many identities of a backend have sessions of their own; further ones share one.
const OWN_SESSIONS: usize = 4;

/// The `application_name` of the session that they share.
const SHARED: &str = "tenure: several";

/// Which session serves whom.
pub(crate) struct Sessions {
    pub(crate) connector: Arc<Connector>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) common: Common,
    openings: Mutex<HashMap<Whose, Arc<Opening>>>,
    /// The session that only looks.
    looking: Arc<Opening>,
    /// The connection that `connect` has made and checked, until the first session needs one.
    spare: Mutex<Option<Connection>>,
    /// Set when the hosts behind the one that serves have been asked for their cluster.
    compared: OnceCell<()>,
}

/// The lease, and the identity if it has a session of its own.
type Whose = (Duration, Option<Identity>);

/// The session of one lease and identity, and its successor when it has ended.
struct Opening {
    current: Mutex<Option<Arc<Session>>>,
    starting: SingleFlight<Arc<Session>, Answer>,
}

impl Opening {
    fn new(tasks: Tasks) -> Self {
        Self {
            current: Mutex::default(),
            starting: SingleFlight::new(tasks),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Option<Arc<Session>> {
        let current = self.current();
        current.clone().filter(|session| session.ended().is_none())
    }
}

/// All sessions that can hold locks.
pub(crate) struct Registry {
    sessions: Mutex<Vec<Weak<Session>>>,
    notifications: Arc<Notifications>,
}

impl Sessions {
    pub(crate) fn new(config: PostgresConfig, clock: SharedClock, tasks: Tasks) -> Self {
        let config = Arc::new(config);
        let connector = Arc::new(Connector::new(config.clone(), tasks.process().clone()));
        let notifications = Notifications::new(connector.clone(), tasks.clone());
        let looking = Arc::new(Opening::new(tasks.clone()));
        Self {
            looking,
            connector: connector.clone(),
            registry: Registry::new(notifications.clone()),
            common: Common {
                quarantine: Arc::new(Quarantine::new(config.quarantine, config.clock_error)),
                connector: connector.clone(),
                config,
                clock,
                notifications,
                tasks,
            },
            openings: Mutex::default(),
            spare: Mutex::default(),
            compared: OnceCell::new(),
        }
    }

    /// A connection of which it is known that the hosts of the list are one cluster.
    pub(crate) async fn connect(&self) -> Result<Connection, StoreError> {
        let connection = self.connector.connect().await?;
        let compare = async || {
            let serving = connection.address();
            self.connector.compare_the_others(serving).await?;
            let connector = Arc::downgrade(&self.connector);
            let missing = Connector::compare_the_missing(connector);
            self.common.tasks.spawn(missing);
            Ok::<_, StoreError>(())
        };
        self.compared.get_or_try_init(compare).await?;
        Ok(connection)
    }

    /// For the first session.
    pub(crate) fn keep(&self, connection: Connection) {
        if !connection.is_standby {
            let now = self.common.clock.now();
            let quarantine = &self.common.quarantine;
            quarantine.connected(&connection.incarnation, now);
        }
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    /// Listens already, so that the first try need not wait for it.
    pub(crate) async fn listen(&self) {
        let notifications = &self.common.notifications;
        notifications.listen(self.registry.listener());
        notifications
            .listens(self.common.config.connect_timeout)
            .await;
    }

    fn spare(&self) -> Option<Connection> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.take().filter(|spare| spare.ended().is_none())
    }

    /// Where the session of this lease and identity is, and its name.
    fn opening<'a>(&self, lease: Duration, identity: &'a Identity) -> (Arc<Opening>, &'a str) {
        let mut openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        let own = (lease, Some(identity.clone()));
        let (key, name) = if openings.contains_key(&own) || openings.len() < OWN_SESSIONS {
            (own, identity.as_str())
        } else {
            ((lease, None), SHARED)
        };
        let new = || Arc::new(Opening::new(self.common.tasks.clone()));
        (openings.entry(key).or_insert_with(new).clone(), name)
    }

    /// The session for this lease and identity; a new one if the last has ended.
    pub(crate) async fn session(
        self: &Arc<Self>,
        lease: Duration,
        identity: &Identity,
    ) -> Result<Arc<Session>, StoreError> {
        let (opening, name) = self.opening(lease, identity);
        self.alive(opening, Purpose::Elect, lease, name).await
    }

    /// The session that is opened here; a new one if the last has ended.
    async fn alive(
        self: &Arc<Self>,
        opening: Arc<Opening>,
        purpose: Purpose,
        lease: Duration,
        name: &str,
    ) -> Result<Arc<Session>, StoreError> {
        if let Some(session) = opening.alive() {
            return Ok(session);
        }
        let start = || {
            let (this, opening, name) = (self.clone(), opening.clone(), name.to_owned());
            async move {
                if let Some(session) = opening.alive() {
                    return Ok(session);
                }
                let starting = Box::pin(this.start(purpose, lease, &name));
                let session = starting.await?;
                *opening.current() = Some(session.clone());
                Ok(session)
            }
        };
        let is_alive = |session: &Arc<Session>| session.ended().is_none();
        opening.starting.run(is_alive, start).await
    }

    async fn start(
        &self,
        purpose: Purpose,
        lease: Duration,
        name: &str,
    ) -> Result<Arc<Session>, StoreError> {
        // It listens before the first try, so that a release after that is heard. Where it takes
        // long it is not waited for: the new session must not be silent for its lease.
        let notifications = &self.common.notifications;
        notifications.listen(self.registry.listener());
        let listening = notifications.listens(lease / 4);
        let (session, ()) = tokio::join!(self.open(purpose, lease, name), listening);
        let session = session?;
        self.registry.add(&session);
        let kept = Arc::downgrade(&session);
        self.common.tasks.spawn(session::sweep::sweep(kept.clone()));
        self.common.tasks.spawn(session::holder::answer(kept));
        Ok(session)
    }

    async fn open(
        &self,
        purpose: Purpose,
        lease: Duration,
        name: &str,
    ) -> Result<Arc<Session>, StoreError> {
        let start = |connection| Session::start(connection, &self.common, purpose, lease, name);
        let started = match self.spare() {
            Some(spare) => start(spare).await.ok(),
            None => None,
        };
        match started {
            Some(session) => Ok(session),
            None => start(self.connect().await?).await,
        }
    }

    /// A session to ask who holds a lock: any that is there.
    pub(crate) async fn observer(self: &Arc<Self>) -> Result<Arc<Session>, StoreError> {
        let alive = |session: &Arc<Session>| session.ended().is_none();
        let found = self.registry.sessions().into_iter().find(alive);
        let session = if let Some(session) = found {
            session
        } else {
            let identity = Identity::of_this_process()?;
            let name = identity.as_str();
            self.alive(self.looking.clone(), Purpose::Look, OBSERVING, name)
                .await?
        };
        // An answer of the holder that comes before is not heard.
        let limit = self.common.config.request_limit();
        self.common.notifications.listens(limit).await;
        Ok(session)
    }

    pub(crate) async fn acquire(
        self: &Arc<Self>,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, StoreError> {
        let key = self.common.config.key_of(lock);
        let session = self.session(lease, &candidate.identity).await?;
        if gone() {
            return Ok(Attempt::Taken(None));
        }
        match session.acquire(key, lock, candidate, &gone).await? {
            Attempt::Taken(None) if !gone() => {
                let holder = session.holder(key, lock, Duration::ZERO).await?;
                if holder.is_none() {
                    // Released in between: no other notification will come.
                    self.common.notifications.look_again(key);
                }
                Ok(Attempt::Taken(holder))
            }
            Attempt::NotYet(early) if !gone() => {
                // One that leads has waited: then the quarantine is over for its lock.
                let holder = session.holder(key, lock, Duration::ZERO).await?;
                Ok(match holder {
                    Some(holder) => Attempt::Taken(Some(holder)),
                    None => Attempt::NotYet(early),
                })
            }
            attempt => Ok(attempt),
        }
    }
}

impl Registry {
    pub(crate) fn new(notifications: Arc<Notifications>) -> Arc<Self> {
        Arc::new(Self {
            sessions: Mutex::default(),
            notifications,
        })
    }

    pub(crate) fn add(&self, session: &Arc<Session>) {
        let mut sessions = self.list();
        sessions.retain(|known| known.strong_count() > 0);
        sessions.push(Arc::downgrade(session));
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.list().iter().filter_map(Weak::upgrade).collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Weak<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done with notifications.
    pub(crate) fn listener(self: &Arc<Self>) -> Listener {
        let registry = Arc::downgrade(self);
        Arc::new(move |notification| {
            if let Some(registry) = registry.upgrade()
                && let Some(message) = message::read(notification)
            {
                registry.hear(notification.process_id(), message);
            }
        })
    }

    fn hear(&self, by: i32, message: Message) {
        let is_ours = |session: &Arc<Session>| session.connection().pid == by;
        let by_us = || self.sessions().iter().any(is_ours);
        match message {
            Message::Free(key) => self.notifications.released(key, by, by_us()),
            Message::Led(key, announcement) => {
                self.notifications.announced(key, announcement, by_us());
            }
            Message::Ask(key) => {
                for session in self.sessions() {
                    session.asked(key);
                }
            }
        }
    }
}
