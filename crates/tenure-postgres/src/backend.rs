//! The lock backend: which session answers what.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Check, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, Identity, LockBackend, LockName, Loss, Occupancy,
    Operation, Order, Renewal, Rises, SharedClock, Time, Wakeup,
};
use tokio::sync::oneshot;

use crate::checks;
use crate::config::{Address, PostgresConfig};
use crate::errors::Trouble;
use crate::guard::GuardedTransaction;
use crate::hub::Hub;
use crate::key::AdvisoryKey;
use crate::link::{self, Link};
use crate::session::{Attempt, Session, Standing};
use crate::tasks::Tasks;

/// The lease of the session that only looks who holds a lock.
const OBSERVING: Duration = Duration::from_secs(60);

/// So many identities of a backend have sessions of their own; further ones share one.
const OWN_SESSIONS: usize = 4;

/// The `application_name` of the session that they share.
const SHARED: &str = "tenure: several";

/// How long the holder may take to announce itself to an observer that asks.
const ANSWER: Duration = Duration::from_millis(300);

/// Elections on the advisory locks of a `PostgreSQL` database.
///
/// Holds one session for each identity and lease among its elections (so usually one; after the
/// fourth they share one per lease), and up to
/// [`watch_sessions`](PostgresConfig::watch_sessions) more while it waits for others' locks.
/// Clones share them. When the last clone and grant are dropped the sessions are closed, and the
/// server frees what they held.
///
/// Belongs to the process that connects. In a child that is forked later every call fails with
/// [`Forked`](ErrorKind::Forked), and dropping its copy does nothing to the parent's sessions. The
/// child must not run the parent's runtime, and it keeps the parent's sockets open: if the parent
/// is killed while such a child lives, the server frees the locks at the end of the lease.
#[derive(Clone)]
pub struct PostgresBackend {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<PostgresConfig>,
    clock: SharedClock,
    hub: Arc<Hub>,
    tasks: Tasks,
    places: Mutex<HashMap<Whose, Arc<Place>>>,
    /// The connection that `connect` has made and checked, until the first session needs one.
    spare: Mutex<Option<Link>>,
}

/// The lease, and the identity if it has a session of its own.
type Whose = (Duration, Option<Identity>);

/// Where a session is, and its successor when it has ended.
#[derive(Default)]
struct Place {
    session: tokio::sync::Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    current: Option<Arc<Session>>,
    /// The last attempt to connect, and when it had failed: it answers all who waited for it.
    failed: Option<(Time, Trouble)>,
}

/// What a grant needs to know to be renewed or released.
struct Term {
    session: Arc<Session>,
    key: AdvisoryKey,
}

impl PostgresBackend {
    /// Connects, and refuses a server on which locks could not be relied on.
    ///
    /// The runtime this is called on does all of the backend's I/O from then on. Ends within the
    /// connect timeout for each host. Dropping the future gives up.
    ///
    /// Fails with
    /// - [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout) when no host
    ///   can be reached,
    /// - [`Forbidden`](ErrorKind::Forbidden) when the server refuses user, password or database,
    /// - [`Misconfigured`](ErrorKind::Misconfigured) when the database does not exist, all hosts
    ///   are standbys, `synchronous_commit` is off, or two hosts belong to different clusters
    ///   (by their system identifier). A host that does not answer is compared as soon as it does;
    ///   if it belongs to another cluster, all terms end and every later call fails in this way,
    /// - [`Unsupported`](ErrorKind::Unsupported) behind a pooler, and on servers older than 14,
    ///   unless the configuration accepts them.
    pub async fn connect(config: PostgresConfig) -> Result<Self, Error> {
        Self::connect_with_clock(config, BootClock::shared()).await
    }

    /// The same on another clock: for tests.
    pub async fn connect_with_clock(
        config: PostgresConfig,
        clock: SharedClock,
    ) -> Result<Self, Error> {
        config.check()?;
        let config = Arc::new(config);
        let tasks = Tasks::here();
        let hub = Hub::new(config.clone(), tasks.clone());
        let connecting = connect(&config, &hub);
        let link = tasks
            .process
            .confine(connecting)
            .await
            .map_err(|mut trouble| {
                if trouble.is_standby() {
                    // Later it is a failover, and worth waiting for.
                    trouble.kind = ErrorKind::Misconfigured;
                }
                trouble.into_error(Operation::Connect)
            })?;
        hub.connected(&link);
        hub.ask_the_missing();
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                clock,
                hub,
                tasks,
                places: Mutex::default(),
                spare: Mutex::new(Some(link)),
            }),
        })
    }

    /// Begins a transaction in the session that holds the lock of the term with `token`.
    ///
    /// What it writes is committed only if the lock is still held at that moment: a leader that
    /// was paused for longer than its lease finds its session, and with it the transaction, ended
    /// by the server. See [`GuardedTransaction`].
    ///
    /// Waits for another transaction that is open in the same session. Fails with
    /// [`Conflict`](ErrorKind::Conflict) when this backend does not hold that term (any more), or
    /// when the other one stays open, with [`Timeout`](ErrorKind::Timeout) when the server does not
    /// answer, and with [`Forked`](ErrorKind::Forked) in a child that was forked since the backend
    /// connected. Dropping the future rolls back.
    pub async fn begin(
        &self,
        lock: &LockName,
        token: FencingToken,
    ) -> Result<GuardedTransaction, Error> {
        self.check_process(Operation::Campaign)?;
        let key = self.inner.config.key_of(lock);
        let sessions = self.inner.hub.sessions();
        let session = sessions
            .into_iter()
            .find(|session| session.leads(key, token));
        GuardedTransaction::begin(session, key, lock, token).await
    }

    /// Fails in a child that was forked since: its copies of the sessions are the parent's.
    fn check_process(&self, operation: Operation) -> Result<(), Error> {
        self.inner.tasks.process.check(operation)
    }

    /// The advisory key of a lock.
    pub fn key_of(&self, lock: &LockName) -> AdvisoryKey {
        self.inner.config.key_of(lock)
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The place of this lease and identity, and the name of the session there.
    fn place<'a>(&self, lease: Duration, identity: &'a Identity) -> (Arc<Place>, &'a str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let own = (lease, Some(identity.clone()));
        let (key, name) = if places.contains_key(&own) || places.len() < OWN_SESSIONS {
            (own, identity.as_str())
        } else {
            ((lease, None), SHARED)
        };
        (places.entry(key).or_default().clone(), name)
    }

    fn spare(&self) -> Option<Link> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.take().filter(|link| link.ended().is_none())
    }

    /// The session for this lease and identity; a new one if the last has ended. Never called
    /// from a future that may be dropped, so that one slow connection serves all who wait.
    async fn session(&self, lease: Duration, identity: &Identity) -> Result<Arc<Session>, Trouble> {
        let asked = self.clock.now();
        let (place, name) = self.place(lease, identity);
        let mut sessions = place.session.lock().await;
        if let Some(session) = &sessions.current
            && session.ended().is_none()
        {
            return Ok(session.clone());
        }
        if let Some((failed, trouble)) = &sessions.failed
            && *failed >= asked
        {
            return Err(trouble.clone());
        }
        let opened = self.open(lease, name).await;
        match opened {
            Ok(session) => {
                sessions.current = Some(session.clone());
                sessions.failed = None;
                Ok(session)
            }
            Err(trouble) => {
                sessions.failed = Some((self.clock.now(), trouble.clone()));
                Err(trouble)
            }
        }
    }

    async fn open(&self, lease: Duration, name: &str) -> Result<Arc<Session>, Trouble> {
        let open = |link| {
            Session::open(
                link,
                self.config.clone(),
                self.clock.clone(),
                lease,
                name,
                self.hub.clone(),
            )
        };
        if let Some(spare) = self.spare()
            && let Ok(session) = open(spare).await
        {
            return Ok(session);
        }
        let link = link::connect(&self.config, &self.hub.cluster, self.hub.listener()).await?;
        open(link).await
    }

    /// A session to ask who holds a lock: any that is there.
    async fn observer(&self) -> Result<Arc<Session>, Trouble> {
        let alive = |session: &Arc<Session>| session.ended().is_none();
        if let Some(session) = self.hub.sessions().into_iter().find(alive) {
            return Ok(session);
        }
        let identity = Identity::of_this_process()
            .map_err(|error| Trouble::new(error.kind(), error.message()))?;
        self.session(OBSERVING, &identity).await
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, Trouble> {
        let key = self.config.key_of(lock);
        let session = self.session(lease, &candidate.identity).await?;
        if gone() {
            return Ok(Attempt::Taken(None));
        }
        match session.acquire(key, lock, candidate, &gone).await? {
            Attempt::Taken(None) if !gone() => {
                let holder = session.holder(key, lock, Duration::ZERO).await?;
                if holder.is_none() {
                    // Released in between: nobody will tell of it again.
                    self.hub.look_again(key);
                }
                Ok(Attempt::Taken(holder))
            }
            attempt => Ok(attempt),
        }
    }
}

/// The first connection. The hosts behind the one that serves are asked, too: on their way to it
/// other processes may stop at one of another cluster.
async fn connect(config: &PostgresConfig, hub: &Arc<Hub>) -> Result<Link, Trouble> {
    let link = link::connect(config, &hub.cluster, hub.listener()).await?;
    let (mut hosts, serving) = (config.hosts.iter(), &link.address);
    // Those before it have just been tried.
    hosts.by_ref().find(|host| *host == serving);
    let others: Vec<Address> = hosts.cloned().collect();
    hub.cluster.ask(config, &others).await?;
    hub.cluster.all_tell_or_none()?;
    Ok(link)
}

/// Runs `work` to its end on the backend's runtime, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    tasks: &Tasks,
    operation: Operation,
    work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
) -> Result<T, Error> {
    match tasks.spawn(work).await {
        Ok(outcome) => outcome.map_err(|trouble| trouble.into_error(operation)),
        Err(_) => Err(runtime_is_gone(operation)),
    }
}

fn runtime_is_gone(operation: Operation) -> Error {
    Error::new(
        ErrorKind::Internal,
        operation,
        "the backend's runtime is shutting down; connect on the one that lives longest",
    )
}

fn foreign(operation: Operation) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        operation,
        "the grant is not one of the Postgres backend",
    )
}

#[async_trait]
impl LockBackend for PostgresBackend {
    fn capabilities(&self) -> Capabilities {
        const REPLICATED: Rises = Rises::If(
            "every standby that may take over is synchronous, and synchronous_commit is on or \
             remote_apply",
        );
        let over_restore = match self.inner.config.token_sequence {
            Some(_) => Rises::If("the sequence is raised by hand above all tokens that were given"),
            None => Rises::Never,
        };
        Capabilities {
            store: "postgres",
            min_lease: Duration::from_millis(100),
            lease_granularity: Duration::from_millis(1),
            expiry: Expiry::Session,
            // The sweep of the server's timers and of the session itself.
            expiry_lag: Duration::from_millis(500),
            wakeup: Wakeup::Push,
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: Rises::If(
                    "fsync and synchronous_commit are on, as they are by default",
                ),
                over_failover: REPLICATED,
                // There is nothing to delete.
                over_deletion: Rises::NotApplicable,
                over_restore,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        self.inner.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.check_process(Operation::Acquire)?;
        let (answer, attempt) = oneshot::channel();
        let (inner, task_lock, task_candidate) =
            (self.inner.clone(), lock.clone(), candidate.clone());
        self.inner.tasks.spawn(async move {
            let gone = || answer.is_closed();
            let outcome = inner
                .acquire(&task_lock, &task_candidate, lease, gone)
                .await;
            // Not taken: dropping a claim gives the lock back.
            let _undelivered = answer.send(outcome);
        });
        let outcome = attempt
            .await
            .map_err(|_| runtime_is_gone(Operation::Acquire))?;
        match outcome.map_err(|trouble| trouble.into_error(Operation::Acquire))? {
            Attempt::Taken(holder) => Ok(Acquired::Taken {
                holder,
                free_in: None,
            }),
            Attempt::NotYet(early) => Ok(Acquired::Taken {
                holder: None,
                free_in: Some(early),
            }),
            Attempt::Held(claim) => {
                let (token, proven) = (claim.token, claim.proven);
                let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, proven);
                // No await from here on: the caller has it, or nobody.
                let Some(session) = claim.keep() else {
                    return Err(foreign(Operation::Acquire));
                };
                let key = self.inner.config.key_of(lock);
                Ok(Acquired::Held(grant.with_state(Term { session, key })))
            }
        }
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.check_process(Operation::Renew)?;
        let term = grant
            .state::<Term>()
            .ok_or_else(|| foreign(Operation::Renew))?;
        let (session, key) = (&term.session, term.key);
        let standing = session
            .renew(key, &grant.candidate, grant.token, not_before)
            .await;
        match standing.map_err(|trouble| trouble.into_error(Operation::Renew))? {
            Standing::Proven(proven) => {
                let mut grant = grant.clone();
                grant.proven_at = proven;
                grant.lease = session.lease();
                Ok(Renewal::Renewed(grant))
            }
            Standing::Lost => Ok(Renewal::Lost { holder: None }),
        }
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.check_process(Operation::Release)?;
        let term = grant
            .state::<Term>()
            .ok_or_else(|| foreign(Operation::Release))?;
        let (session, key) = (term.session.clone(), term.key);
        let (candidate, token) = (grant.candidate.clone(), grant.token);
        let work = async move { session.release(key, &candidate, Some(token)).await };
        detached(&self.inner.tasks, Operation::Release, work).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.check_process(Operation::Withdraw)?;
        let key = self.inner.config.key_of(lock);
        let (sessions, candidate) = (self.inner.hub.sessions(), candidate.clone());
        let work = async move {
            for session in sessions {
                session.release(key, &candidate, None).await?;
            }
            Ok(())
        };
        detached(&self.inner.tasks, Operation::Withdraw, work).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.check_process(Operation::Holder)?;
        let (inner, lock) = (self.inner.clone(), lock.clone());
        let work = async move {
            let key = inner.config.key_of(&lock);
            let session = inner.observer().await?;
            Ok(match session.holder(key, &lock, ANSWER).await? {
                Some(holder) => Occupancy::Led(holder),
                None => Occupancy::Free,
            })
        };
        detached(&self.inner.tasks, Operation::Holder, work).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        if !self.inner.tasks.process.is_current() {
            return Box::pin(stream::empty());
        }
        self.inner.hub.changes(self.inner.config.key_of(lock))
    }

    /// The end of the session, as soon as its connection is closed: the server has freed its locks
    /// by then.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        if !self.inner.tasks.process.is_current() {
            return None;
        }
        let end = grant.state::<Term>()?.session.end();
        Some(Box::pin(async move {
            let _trouble = end.await;
        }))
    }

    async fn checks(&self, _lock: &LockName, lease: Duration) -> Vec<Check> {
        // There is no operation for it: it looks, as `holder` does.
        if let Err(error) = self.check_process(Operation::Holder) {
            return vec![checks::forked(&error)];
        }
        let process = &self.inner.tasks.process;
        process
            .confine(checks::all(
                &self.inner.config,
                &self.inner.hub.cluster,
                lease,
            ))
            .await
    }
}
