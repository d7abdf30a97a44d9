//! The lock backend: which session answers what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Check, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, LockBackend, LockName, Loss, Occupancy, Operation, Page,
    Renewal, Rises, SharedClock, Time, Wakeup,
};
use tenure_kit::Tasks;
use tokio::sync::oneshot;

use crate::checks;
use crate::config::PostgresConfig;
use crate::errors::{StoreError, is_standby};
use crate::guard::GuardedTransaction;
use crate::key::AdvisoryKey;
use crate::session::held_lock::Standing;
use crate::session::{Attempt, Session};
use crate::sessions::{Registry, Sessions};

/// How long the holder may take to announce itself to an observer that asks.
const ANSWER: Duration = Duration::from_millis(300);

/// Elections on the advisory locks of a `PostgreSQL` database.
///
/// Holds one session for each identity and lease among its elections, and one that hears
/// notifications. From the fifth identity on they share one session per lease. While it waits for
/// others' locks, it holds up to [`watch_sessions`](PostgresConfig::watch_sessions) more.
/// Clones share them. When the last clone and grant are dropped the sessions are closed, and the
/// server frees what they held.
///
/// Belongs to the process that connects. In a child that is forked later every call fails with
/// [`Forked`](ErrorKind::Forked), and dropping its copy does nothing to the parent's sessions. The
/// child must not run the parent's runtime. It keeps the parent's sockets open: if the parent
/// is killed while such a child lives, the server frees the locks at the end of the lease.
#[derive(Clone)]
pub struct PostgresBackend {
    pub(crate) inner: Arc<Sessions>,
}

/// What a grant needs to know to be renewed or released.
struct GrantState {
    session: Arc<Session>,
    key: AdvisoryKey,
    /// As long as the grant lives, its term is announced to those who ask.
    _registry: Arc<Registry>,
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
        let this = Self::lazy(config)?;
        let process = &this.inner.common.tasks.process();
        let connected = process.confine(this.inner.connect()).await;
        let connection = connected.map_err(|mut error| {
            if is_standby(&error) {
                // Later it is a failover, and worth waiting for.
                error.kind = ErrorKind::Misconfigured;
            }
            error.into_error(Operation::Connect)
        })?;
        // A standby neither lets a session listen, nor has anything to tell.
        let may_listen = !connection.is_standby;
        this.inner.keep(connection);
        if may_listen {
            process.confine(this.inner.listen()).await;
        }
        Ok(this)
    }

    /// Does not connect before the first call, and reads no file: for a service that starts before
    /// its server does. What [`connect`](Self::connect) refuses turns out with the first call,
    /// with the same errors; hosts that are all standbys are then `Unavailable`.
    ///
    /// Fails with [`InvalidInput`](ErrorKind::InvalidInput) or
    /// [`Misconfigured`](ErrorKind::Misconfigured) on a configuration that cannot work, or outside
    /// a tokio runtime.
    pub fn lazy(config: PostgresConfig) -> Result<Self, Error> {
        config.check()?;
        let sessions = Sessions::new(config, BootClock::shared(), Tasks::here()?);
        Ok(Self {
            inner: Arc::new(sessions),
        })
    }

    /// Begins a transaction in the session that holds the lock of the term with `token`.
    ///
    /// What it writes is committed only if the lock is still held at that moment. A leader that
    /// was paused for longer than its lease finds its session, and with it the transaction, ended
    /// by the server. See [`GuardedTransaction`].
    ///
    /// Waits for another transaction that is open in the same session. Fails with
    /// [`Conflict`](ErrorKind::Conflict) when this backend does not hold that term (any more), or
    /// when the other one stays open. Fails with [`Timeout`](ErrorKind::Timeout) when the server
    /// does not answer, and with [`Forked`](ErrorKind::Forked) in a child that was forked since the
    /// backend connected. Dropping the future rolls back.
    pub async fn begin(
        &self,
        lock: &LockName,
        token: FencingToken,
    ) -> Result<GuardedTransaction, Error> {
        self.check_process(Operation::Campaign)?;
        let key = self.key_of(lock);
        let sessions = self.inner.registry.sessions();
        let session = sessions
            .into_iter()
            .find(|session| session.leads(key, token));
        GuardedTransaction::begin(session, key, lock, token).await
    }

    /// Fails in a child that was forked since: its copies of the sessions are the parent's.
    fn check_process(&self, operation: Operation) -> Result<(), Error> {
        self.inner.common.tasks.process().check(operation)
    }

    /// The advisory key of a lock.
    pub fn key_of(&self, lock: &LockName) -> AdvisoryKey {
        self.inner.common.config.key_of(lock)
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("config", &self.inner.common.config)
            .finish_non_exhaustive()
    }
}

/// Runs `work` to its end on the backend's runtime, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    tasks: &Tasks,
    operation: Operation,
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, Error> {
    match tasks.spawn(work).await {
        Ok(outcome) => outcome.map_err(|error| error.into_error(operation)),
        Err(_) => Err(runtime_is_gone(operation)),
    }
}

fn runtime_is_gone(operation: Operation) -> Error {
    StoreError::runtime_is_gone().into_error(operation)
}

fn foreign(operation: Operation) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        operation,
        "the grant is not one of the Postgres backend",
    )
}

fn state_of(grant: &Grant, operation: Operation) -> Result<&GrantState, Error> {
    grant.state().ok_or_else(|| foreign(operation))
}

#[async_trait]
impl LockBackend for PostgresBackend {
    fn capabilities(&self) -> Capabilities {
        const REPLICATED: Rises = Rises::If(
            "every standby that may take over is synchronous, and synchronous_commit is on or \
             remote_apply",
        );
        let over_restore = match self.inner.common.config.token_sequence {
            Some(_) => Rises::If("the sequence is raised by hand above all tokens that were given"),
            None => Rises::Never,
        };
        Capabilities::new(
            "postgres",
            Expiry::Session,
            FencingGuarantee::none()
                .over_crash(Rises::If(
                    "fsync and synchronous_commit are on, as they are by default",
                ))
                .over_failover(REPLICATED)
                // There is nothing to delete.
                .over_deletion(Rises::NotApplicable)
                .over_restore(over_restore),
        )
        .with_min_lease(Duration::from_millis(100))
        .with_lease_granularity(Duration::from_millis(1))
        // The sweep of the server's timers and of the session itself.
        .with_expiry_lag(Duration::from_millis(500))
        .with_wakeup(Wakeup::Push)
    }

    fn clock(&self) -> SharedClock {
        self.inner.common.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.check_process(Operation::Acquire)?;
        self.inner.common.config.check_lock(lock)?;
        let (answer, attempt) = oneshot::channel();
        let (inner, task_lock, task_candidate) =
            (self.inner.clone(), lock.clone(), candidate.clone());
        self.inner.common.tasks.spawn(async move {
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
        match outcome.map_err(|error| error.into_error(Operation::Acquire))? {
            Attempt::Taken(holder) => Ok(Acquired::taken(holder, None)),
            Attempt::NotYet(early) => Ok(Acquired::taken(None, Some(early))),
            Attempt::Held(claim) => {
                let (token, proven) = (claim.token, claim.proven);
                let grant = Grant::new(lock.clone(), candidate.clone(), token, lease, proven);
                // No await from here on: the caller has it, or it is given back.
                let Some(session) = claim.keep() else {
                    return Err(foreign(Operation::Acquire));
                };
                let state = GrantState {
                    session,
                    key: self.key_of(lock),
                    _registry: self.inner.registry.clone(),
                };
                Ok(Acquired::Held(grant.with_state(state)))
            }
        }
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.check_process(Operation::Renew)?;
        let GrantState { session, key, .. } = state_of(grant, Operation::Renew)?;
        let standing = session
            .renew(*key, &grant.candidate, grant.token, not_before)
            .await;
        match standing.map_err(|error| error.into_error(Operation::Renew))? {
            Standing::Proven(proven) => {
                let mut grant = grant.clone();
                grant.proven_at = proven;
                grant.lease = session.lease;
                Ok(Renewal::Renewed(grant))
            }
            Standing::Lost => Ok(Renewal::lost(None)),
        }
    }

    /// Moves the sessions that wait for an answer, where this is safe. Their later heartbeats wait
    /// for the same move, which makes connections of its own.
    fn may_go_on(&self, _began_at: Time) -> bool {
        if !self.inner.common.tasks.process().is_current() {
            return false;
        }
        let sessions = self.inner.registry.sessions();
        let moving = sessions.iter().filter(|session| session.is_overdue());
        moving.count() > 0
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.check_process(Operation::Release)?;
        let state = state_of(grant, Operation::Release)?;
        let (session, key) = (state.session.clone(), state.key);
        let (candidate, token) = (grant.candidate.clone(), grant.token);
        let work = async move { session.release(key, &candidate, Some(token)).await };
        detached(&self.inner.common.tasks, Operation::Release, work).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.check_process(Operation::Withdraw)?;
        let key = self.key_of(lock);
        let (sessions, candidate) = (self.inner.registry.sessions(), candidate.clone());
        let work = async move {
            for session in sessions {
                session.release(key, &candidate, None).await?;
            }
            Ok(())
        };
        detached(&self.inner.common.tasks, Operation::Withdraw, work).await
    }

    /// Always fails: the server knows locks by numbers only.
    async fn elections(&self, _page: Page<'_>) -> Result<Vec<LockName>, Error> {
        Err(Error::new(
            ErrorKind::Unsupported,
            Operation::List,
            "Postgres cannot list elections: the server knows locks by numbers only; ask for \
             one lock by its name: tenure status",
        ))
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.check_process(Operation::Holder)?;
        self.inner.common.config.check_lock(lock)?;
        let (inner, lock) = (self.inner.clone(), lock.clone());
        let work = async move {
            let key = inner.common.config.key_of(&lock);
            let session = inner.observer().await?;
            Ok(match session.holder(key, &lock, ANSWER).await? {
                Some(holder) => Occupancy::Led(holder),
                None => Occupancy::Free,
            })
        };
        detached(&self.inner.common.tasks, Operation::Holder, work).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        if !self.inner.common.tasks.process().is_current() {
            return Box::pin(stream::empty());
        }
        let key = self.key_of(lock);
        self.inner.common.notifications.changes(key)
    }

    /// The end of the session, as soon as its connection is closed: the server has freed its locks
    /// by then.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        if !self.inner.common.tasks.process().is_current() {
            return None;
        }
        let end = grant.state::<GrantState>()?.session.end();
        Some(Box::pin(async move {
            let _why = end.await;
        }))
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        // There is no operation for it: it looks, as `holder` does.
        if let Err(error) = self.check_process(Operation::Holder) {
            return vec![checks::forked(&error)];
        }
        if let Err(error) = self.inner.common.config.check_lock(lock) {
            let remedy = "give the lock the name that the URL's lock_key has for this key";
            return vec![Check::unusable("lock", error.message(), remedy)];
        }
        let process = &self.inner.common.tasks.process();
        process
            .confine(checks::all(&self.inner.connector, lease))
            .await
    }
}
