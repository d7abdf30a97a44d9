//! The application's own SQL, in the session that holds the lock.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, FencingToken, LockName, Operation};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, ToStatement};

use crate::errors::{self, StoreError};
use crate::key::AdvisoryKey;
use crate::session::Session;

/// A transaction in the session that holds the lock: it is committed while the lock is held, or
/// not at all.
///
/// No token has to be stored or compared: the server commits only for a session that lives, and
/// one that lives has its lock. A leader that was frozen beyond its lease finds the session ended
/// ([`Unavailable`](ErrorKind::Unavailable)).
///
/// While it is open no heartbeat can be sent, so keep it shorter than the policy's request
/// timeout. It ends one lease after it began at the latest, with the session and all its terms:
/// as long as it is open VACUUM may have to keep dead rows for it. If the process is frozen
/// meanwhile, the server ends it: at the same time from release 17 on, and on older ones when it
/// stands idle for a lease, or one statement takes that long.
///
/// Do not end the transaction by SQL, and do not touch session-level advisory locks in it. Change
/// settings by `SET LOCAL`: what a plain `SET` or `RESET` changes stays changed in the session that
/// holds the locks. The transaction has the settings of its role, database and URL, `search_path`
/// and `lock_timeout` too, and `statement_timeout` where that is shorter than the lease. This
/// library's own statements have others, which are set again after it. The session is closed when
/// it finds that its timeouts are no longer the lease.
///
/// Leave `statement_timeout` and `idle_in_transaction_session_timeout` alone also by `SET LOCAL`:
/// they are what ends the transaction of a process that was frozen, and frees its locks.
///
/// A session has one transaction at a time: the terms of one identity and lease share it, and a
/// second [`begin`](crate::PostgresBackend::begin) waits until the first is over. In one task that
/// never comes, so it fails with a [`Conflict`](ErrorKind::Conflict) when the server has ended the
/// idle one, or after two leases. Resigning waits too: do not resign before the transaction is over.
///
/// A call that has no answer after two leases (two seconds at least) closes the session; the error
/// is a [`Timeout`](ErrorKind::Timeout) that says what is known of the transaction. Heartbeats
/// wait for it, so the term has lapsed by then in any case.
///
/// Dropping it rolls back, in the background. Dropping the future of a statement rolls back too:
/// nothing can be committed after it.
///
/// ```no_run
/// # async fn pay(
/// #     backend: &tenure_postgres::PostgresBackend,
/// #     term: &tenure_core::Term,
/// #     lock: &tenure_core::LockName,
/// # ) -> Result<(), tenure_core::Error> {
/// let mut transaction = backend.begin(lock, term.token()).await?;
/// transaction
///     .execute("UPDATE invoices SET paid = true WHERE id = $1", &[&42_i64])
///     .await?;
/// transaction.commit().await
/// # }
/// ```
pub struct GuardedTransaction {
    session: Option<(Arc<Session>, Turn)>,
    /// One lease after it began.
    ends_at: Instant,
    /// A statement has failed or was given up, so the server would roll back on commit, silently.
    failed: bool,
}

/// Keeps the session's other queries waiting, until it is dropped or the session has ended.
type Turn = oneshot::Sender<Infallible>;

/// What becomes of a transaction whose session is closed before it is committed.
const NOT_COMMITTED: &str = "nothing of the transaction is committed";

/// The same when the answer to the commit is lost.
const NOT_KNOWN: &str = "whether the transaction is committed is not known";

fn busy(how: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        Operation::Campaign,
        format!(
            "another guarded transaction is open in the session that holds the lock, and while \
             this one waited for it {how}; a session has one at a time, so end one before the \
             next is begun in the same task"
        ),
    )
}

/// Why a call is not even made.
fn ended_before(mut why: StoreError) -> StoreError {
    if why.kind == ErrorKind::Timeout {
        // It was another call that had no answer.
        why.kind = ErrorKind::Unavailable;
    }
    let message = format!("{}; {NOT_COMMITTED}", why.message());
    why.with_message(message)
}

fn too_long(lease: Duration) -> StoreError {
    StoreError::new(
        ErrorKind::Timeout,
        format!(
            "a guarded transaction was open for longer than the lease ({lease:?}), so the session \
             that holds the lock is closed"
        ),
    )
}

/// The most that a call may take. Heartbeats wait while the transaction is open, so a term whose
/// call has had no answer in two leases is over.
fn limit(session: &Session) -> Duration {
    2 * session.patience()
}

impl GuardedTransaction {
    pub(crate) async fn begin(
        session: Option<Arc<Session>>,
        key: AdvisoryKey,
        lock: &LockName,
        token: FencingToken,
    ) -> Result<Self, Error> {
        let lost = || {
            Error::new(
                ErrorKind::Conflict,
                Operation::Campaign,
                format!("the term {token} of {lock} is not held by this backend, or no longer"),
            )
        };
        let session = session.ok_or_else(lost)?;
        if session.ended().is_some() {
            return Err(lost());
        }
        // Queries do not keep each other waiting.
        let is_busy = session.gate.try_read().is_err();
        let waiting = limit(&session);
        let gate = tokio::select! {
            // The end of the session lets go of the gate, too.
            biased;
            _error = session.end(), if is_busy => return Err(busy("the session has ended")),
            _error = session.end() => return Err(lost()),
            gate = session.gate.clone().write_owned() => gate,
            () = sleep(waiting) => return Err(busy(&format!("it has not ended in {waiting:?}"))),
        };
        // Releasing needs the gate too: what is held now is held until the end.
        if !session.leads(key, token) {
            return Err(lost());
        }
        let begin = format!("BEGIN; {}", session.application_settings());
        let (turn, over) = oneshot::channel();
        let (end, watched, lease) = (session.end(), session.clone(), session.lease);
        let unlimited = session.connection().client().without_limit();
        let ends_at = Instant::now() + lease;
        session.tasks.spawn(async move {
            // The application may keep a transaction for longer than its session lives.
            tokio::select! {
                _ = over => {}
                _error = end => {}
                () = sleep_until(ends_at) => watched.connection().close(&too_long(lease)),
            }
            drop(unlimited);
            drop(gate);
        });
        let mut transaction = Self {
            session: Some((session, turn)),
            ends_at,
            failed: false,
        };
        transaction.batch_execute(&begin).await?;
        Ok(transaction)
    }

    /// Runs a statement; how many rows it has changed.
    pub async fn execute<T>(
        &mut self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement + Sync,
    {
        let session = self.session()?;
        let connection = session.connection();
        let call = connection.client().execute(statement, parameters);
        self.note(answer(&session, NOT_COMMITTED, call).await)
    }

    /// Runs a statement; its rows.
    pub async fn query<T>(
        &mut self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error>
    where
        T: ?Sized + ToStatement + Sync,
    {
        let session = self.session()?;
        let connection = session.connection();
        let call = connection.client().query(statement, parameters);
        self.note(answer(&session, NOT_COMMITTED, call).await)
    }

    /// Runs several statements without parameters.
    pub async fn batch_execute(&mut self, statements: &str) -> Result<(), Error> {
        self.run(statements, NOT_COMMITTED).await
    }

    /// Commits. `Ok` means that it is committed, and that the lock was held then.
    ///
    /// After an error it has been rolled back, unless the error is that the session ended or did
    /// not answer ([`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout)): then
    /// that is not known. `Unavailable` also when the server's wait for a synchronous standby was
    /// cancelled: it is committed then, as the error says, but a failover may lose it.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.failed {
            return Err(Error::new(
                ErrorKind::Conflict,
                Operation::Campaign,
                "a statement of the transaction has failed, so it is rolled back",
            ));
        }
        let session = self.session()?;
        self.failed = false;
        let own = session.own_settings();
        let cancelled = session.connection().cancelled_waits();
        // The application's own setting may hide the warning by which the server tells of it.
        let commit = format!("SET LOCAL client_min_messages TO warning; COMMIT; {own}");
        self.run(&commit, NOT_KNOWN).await?;
        self.session = None;
        if session.connection().cancelled_waits() != cancelled {
            let error = errors::not_replicated("the transaction, which is committed,");
            return Err(error.into_error(Operation::Campaign));
        }
        Ok(())
    }

    async fn run(&mut self, statements: &str, fate: &str) -> Result<(), Error> {
        let session = self.session()?;
        let connection = session.connection();
        let call = connection.client().batch_execute(statements);
        self.note(answer(&session, fate, call).await)
    }

    /// Until `note` it counts as failed: the future may be dropped in between.
    fn session(&mut self) -> Result<Arc<Session>, Error> {
        if let Some((session, _)) = &self.session {
            session.tasks.process().check(Operation::Campaign)?;
        }
        match &self.session {
            Some((session, _)) if !self.failed => {
                self.failed = true;
                if Instant::now() >= self.ends_at {
                    session.connection().close(&too_long(session.lease));
                }
                match session.ended() {
                    Some(why) => Err(ended_before(why).into_error(Operation::Campaign)),
                    None => Ok(session.clone()),
                }
            }
            _ => Err(Error::new(
                ErrorKind::Conflict,
                Operation::Campaign,
                "a statement of the transaction has failed before",
            )),
        }
    }

    fn note<T>(&mut self, outcome: Result<T, StoreError>) -> Result<T, Error> {
        self.failed = outcome.is_err();
        outcome.map_err(|error| error.into_error(Operation::Campaign))
    }
}

/// What `call` answers. Without an answer the session is closed, and `fate` is what that means for
/// the transaction.
async fn answer<T>(
    session: &Session,
    fate: &str,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    let limit = limit(session);
    let error = match timeout(limit, call).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => {
            let silent = StoreError::timeout("the server", limit, None);
            session.connection().close(&silent);
            let message = format!("{}, so its session is closed; {fate}", silent.message());
            return Err(silent.with_message(message));
        }
    };
    // Why the session has ended says more than that it has.
    let ended = session.ended().filter(|_| error.is_closed());
    let ended = ended.map(|why| {
        let message = format!("{}; {fate}", why.message());
        why.with_message(message)
    });
    Err(ended.unwrap_or_else(|| errors::of_client(error)))
}

impl Drop for GuardedTransaction {
    fn drop(&mut self) {
        let Some((session, turn)) = self.session.take() else {
            return;
        };
        if !session.is_ours() {
            // The parent goes on with it: no end of the turn is told, either.
            std::mem::forget(turn);
            return;
        }
        let tasks = session.tasks.clone();
        tasks.spawn(async move {
            let end = format!("ROLLBACK; {}", session.own_settings());
            let connection = session.connection();
            let rollback = connection.client().batch_execute(&end);
            match timeout(session.patience(), rollback).await {
                Ok(Ok(())) => {}
                // Heartbeats in a transaction of unknown state would prove nothing.
                Ok(Err(error)) => session.connection().close(&errors::of_client(error)),
                Err(_) => session.connection().close(&StoreError::timeout(
                    "the server",
                    session.patience(),
                    None,
                )),
            }
            drop(turn);
        });
    }
}

impl fmt::Debug for GuardedTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedTransaction")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
