//! A worked example: a lock backend of one's own, on the named locks of a `MariaDB` server
//! (`GET_LOCK`), which belong to sessions. [Writing a backend](../../../docs/how-to/write-a-backend.md)
//! walks through it.
//!
//! Each term has a session of its own, whose `wait_timeout` is the lease. So the server frees the
//! lock when it has heard nothing for a lease. It frees the lock at once when the connection breaks,
//! which the backend notices by itself ([`LockBackend::loss`]).
//!
//! Use one server. Replicas and the nodes of a Galera cluster do not share named locks: while both
//! sides of a failover run, each can have a leader. There is no TLS either, to keep this short.

mod config;
mod session;
mod statements;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, BootClock, Candidate, Capabilities, Changes, Check, Error, Expiry, FencingGuarantee,
    FencingToken, Grant, Holder, Kept, LockBackend, LockName, Loss, Occupancy, Operation, Process,
    PublishedValue, Renewal, Rises, SharedClock, Time,
};
use tenure_kit::{StoreError, Tasks, Url, blocking};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use config::{Config, failed, patient};
use session::Session;
use statements as sql;

/// Elections among all who use one database of one `MariaDB` server.
pub struct MariaDbBackend {
    config: Config,
    tasks: Tasks,
    process: Process,
    clock: SharedClock,
    runs: Arc<Runs>,
    /// For all but terms.
    looks: AsyncMutex<Option<Arc<Kept<Session>>>>,
    /// One place for each lock, so that a call waits for the end of one that was dropped.
    places: Mutex<HashMap<LockName, Arc<AsyncMutex<Place>>>>,
}

/// The run of the server that was seen last, and when it was seen first.
struct Runs {
    clock: SharedClock,
    last: Mutex<(String, Time)>,
}

/// The latest term of a lock that this backend has begun.
type Place = Option<Arc<Term>>;

/// A term, and the session that has its lock.
struct Term {
    session: Kept<Session>,
    lock: LockName,
    candidate: Candidate,
    token: FencingToken,
    /// In seconds, as the session knows it.
    lease: AtomicU64,
    /// Which run of the server it is in.
    run: String,
}

/// Connects by a URL: `mariadb://user:password@host:3306/database`. With `create=off` no tables are
/// made. Wrong settings fail before any I/O. Dropping the future may leave empty tables.
pub async fn connect(url: Url) -> Result<MariaDbBackend, Error> {
    let config = Config::from_parsed(url)?;
    let clock = BootClock::shared();
    let backend = MariaDbBackend {
        tasks: Tasks::here()?,
        process: Process::current(),
        looks: AsyncMutex::default(),
        places: Mutex::default(),
        runs: Arc::new(Runs::new(&clock)),
        config,
        clock,
    };
    let create = backend.config.create;
    let looked = backend.look(move |connection| {
        if create {
            sql::create_tables(connection)?;
        }
        sql::run_of_server(connection)
    });
    let run = looked.await.map_err(on(Operation::Connect))?;
    backend.runs.since(&run);
    Ok(backend)
}

impl MariaDbBackend {
    /// Runs queries in the session for looks. Dropping the future lets them run to their end.
    async fn look<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut mysql::Conn) -> mysql::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let session = self.session_for_looks().await?;
        blocking(move || session.run(queries))
            .await?
            .map_err(failed)
    }

    async fn session_for_looks(&self) -> Result<Arc<Kept<Session>>, StoreError> {
        let mut current = self.looks.lock().await;
        if let Some(session) = &*current
            && session.is_usable()
        {
            return Ok(session.clone());
        }
        let options = self.config.options().await?;
        let tasks = self.tasks.clone();
        let opened = blocking(move || Session::open(options.into(), &tasks)).await?;
        let session = Arc::new(self.process.keep(opened.map_err(failed)?));
        *current = Some(session.clone());
        Ok(session)
    }

    /// The place of a lock, once no other call is in it.
    async fn place(&self, lock: &LockName) -> OwnedMutexGuard<Place> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.entry(lock.clone()).or_default().clone()
        };
        place.lock_owned().await
    }

    /// Who holds the lock: the session, and its row if that is written already.
    async fn seen(&self, lock: &LockName) -> Result<Option<Option<Holder>>, StoreError> {
        let name = lock.clone();
        let answer = self.look(move |connection| {
            let session = sql::holder(connection, &name)?;
            let run = sql::run_of_server(connection)?;
            Ok((session, run, sql::read(connection, &name)?))
        });
        let (session, run, row) = answer.await?;
        self.runs.since(&run);
        let Some(session) = session else {
            return Ok(None);
        };
        let is_of_holder = |row: &sql::Row| row.session == Some(session) && row.run == run;
        Ok(Some(row.filter(is_of_holder).map(|row| {
            let mut holder = Holder::new(row.identity);
            holder.token = FencingToken::from_counter(row.token).ok();
            holder.value = row.value;
            holder
        })))
    }

    /// Tries to begin a term in a session of its own, which is in `place` before the answer is out:
    /// the next call of a campaign that was dropped finds it there.
    async fn begin(
        &self,
        mut place: OwnedMutexGuard<Place>,
        lock: &LockName,
        candidate: &Candidate,
        lease: u64,
    ) -> Result<Acquired, StoreError> {
        let options = self.config.options().await?;
        let options = patient(options, Duration::from_secs(lease));
        let (tasks, process, runs) = (self.tasks.clone(), self.process.clone(), self.runs.clone());
        let (lock, candidate) = (lock.clone(), candidate.clone());
        blocking(move || {
            let session = Session::open(options, &tasks).map_err(failed)?;
            let proven_at = runs.clock.now();
            let got = session.run(|connection| {
                sql::set_lease(connection, lease)?;
                if !sql::get_lock(connection, &lock)? {
                    return Ok(None);
                }
                let run = sql::run_of_server(connection)?;
                Ok(Some((run, sql::read(connection, &lock)?)))
            });
            let Some((run, before)) = got.map_err(failed)? else {
                return Ok(Acquired::taken(None, None));
            };
            if let Some(left) = before.as_ref().and_then(|row| runs.left_of(row, &run)) {
                return Ok(Acquired::taken(None, Some(left)));
            }
            let counter = before.map_or(0, |row| row.token) + 1;
            let token = FencingToken::from_counter(counter)?;
            token.in_generation(candidate.generation)?;
            session
                .run(|on| sql::begin(on, &lock, &candidate, counter, &run, lease))
                .map_err(failed)?;
            let term = Arc::new(Term {
                session: process.keep(session),
                lock,
                candidate,
                token,
                lease: AtomicU64::new(lease),
                run,
            });
            *place = Some(term.clone());
            Ok(Acquired::Held(term.grant(lease, proven_at)))
        })
        .await?
    }

    /// Ends a term whose own session does not answer.
    async fn end_from_outside(&self, term: Arc<Term>) -> Result<(), StoreError> {
        self.look(move |connection| {
            let is_its_run = sql::run_of_server(connection)? == term.run;
            if is_its_run && sql::holder(connection, &term.lock)? == Some(term.session.id) {
                sql::kill(connection, term.session.id)?;
            }
            Ok(())
        })
        .await
    }

    async fn end(&self, term: Arc<Term>) -> Result<(), StoreError> {
        let ending = term.clone();
        let ended = blocking(move || {
            ending.session.run(|connection| {
                sql::end(connection, &ending.lock, ending.token.as_u64())?;
                sql::release_lock(connection, &ending.lock)
            })
        });
        match ended.await? {
            Ok(()) => Ok(()),
            Err(_) => self.end_from_outside(term).await,
        }
    }
}

impl Runs {
    fn new(clock: &SharedClock) -> Self {
        Self {
            clock: clock.clone(),
            last: Mutex::new((String::new(), clock.now())),
        }
    }

    /// When this run was seen first.
    fn since(&self, run: &str) -> Time {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != run {
            *last = (run.to_owned(), self.clock.now());
        }
        last.1
    }

    /// What may be left of a lease that the server has forgotten in a restart: its holder may not
    /// know yet. It began before this run did.
    fn left_of(&self, row: &sql::Row, run: &str) -> Option<Duration> {
        if row.session.is_none() || row.run == run {
            return None;
        }
        let end = self.since(run) + Duration::from_secs(row.lease_s);
        let left = end.since(self.clock.now());
        (!left.is_zero()).then_some(left)
    }
}

impl Term {
    fn is_of(&self, lock: &LockName, candidate: &Candidate) -> bool {
        self.lock == *lock
            && self.candidate.identity == candidate.identity
            && self.candidate.campaign == candidate.campaign
    }

    fn grant(self: &Arc<Self>, lease: u64, proven_at: Time) -> Grant {
        Grant::new(
            self.lock.clone(),
            self.candidate.clone(),
            self.token,
            Duration::from_secs(lease),
            proven_at,
        )
        .with_state(self.clone())
    }

    /// Proves the term to the server, which counts its lease from here. `None`: it is over.
    async fn go_on(
        self: &Arc<Self>,
        candidate: &Candidate,
        lease: u64,
        clock: &SharedClock,
    ) -> Result<Option<Grant>, StoreError> {
        let (term, clock) = (self.clone(), clock.clone());
        let value = candidate.value.clone();
        let proven = blocking(move || {
            term.session.run(|connection| {
                if term.lease.load(Ordering::SeqCst) != lease {
                    sql::set_lease(connection, lease)?;
                    term.lease.store(lease, Ordering::SeqCst);
                }
                let value = value.as_ref().map(PublishedValue::as_str);
                let proven_at = clock.now();
                let goes_on =
                    sql::go_on(connection, &term.lock, term.token.as_u64(), value, lease)?;
                Ok(goes_on.then_some(proven_at))
            })
        });
        let proven_at = proven.await?.map_err(failed)?;
        Ok(proven_at.map(|proven_at| {
            let mut grant = self.grant(lease, proven_at);
            grant.candidate = candidate.clone();
            grant
        }))
    }
}

/// Whole seconds, rounded up: what the server can count.
fn seconds(lease: Duration) -> u64 {
    lease.as_secs() + u64::from(lease.subsec_nanos() > 0)
}

fn on(operation: Operation) -> impl Fn(StoreError) -> Error {
    move |error| error.into_error(operation)
}

#[async_trait]
impl LockBackend for MariaDbBackend {
    fn capabilities(&self) -> Capabilities {
        let fencing = FencingGuarantee::none()
            .over_crash(Rises::If(
                "innodb_flush_log_at_trx_commit is 1, its default",
            ))
            .over_failover(Rises::If("the replica has every transaction"));
        Capabilities::new("mariadb", Expiry::Session, fencing)
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.process.check(Operation::Acquire)?;
        let acquire = async {
            let place = self.place(lock).await;
            let ours = |term: &&Arc<Term>| term.is_of(lock, candidate) && term.session.is_usable();
            if let Some(term) = place.as_ref().filter(ours)
                && let Some(grant) = term.go_on(candidate, seconds(lease), &self.clock).await?
            {
                return Ok(Acquired::Held(grant));
            }
            if let Some(holder) = self.seen(lock).await? {
                return Ok(Acquired::taken(holder, None));
            }
            self.begin(place, lock, candidate, seconds(lease)).await
        };
        acquire.await.map_err(on(Operation::Acquire))
    }

    async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
        self.process.check(Operation::Renew)?;
        // Each renewal is a request of its own, so its proof is later than `not_before`.
        let renew = async {
            let term = grant.state::<Arc<Term>>();
            if let Some(term) = term.filter(|term| term.is_of(&grant.lock, &grant.candidate)) {
                let lease = seconds(grant.lease);
                match term.go_on(&grant.candidate, lease, &self.clock).await {
                    Ok(Some(grant)) => return Ok(Renewal::Renewed(grant)),
                    // Else the term may go on, although this call has failed.
                    Err(error) if !term.session.has_ended() => return Err(error),
                    _ => {}
                }
            }
            Ok(Renewal::lost(self.seen(&grant.lock).await?.flatten()))
        };
        renew.await.map_err(on(Operation::Renew))
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.process.check(Operation::Release)?;
        let term = grant.state::<Arc<Term>>();
        let Some(term) = term.filter(|term| term.is_of(&grant.lock, &grant.candidate)) else {
            return Ok(());
        };
        let mut place = self.place(&grant.lock).await;
        let ended = self.end(term.clone()).await;
        ended.map_err(on(Operation::Release))?;
        place.take_if(|latest| Arc::ptr_eq(latest, term));
        Ok(())
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.process.check(Operation::Withdraw)?;
        let mut place = self.place(lock).await;
        let term = place.clone();
        if let Some(term) = term.filter(|term| term.is_of(lock, candidate)) {
            // It stays in its place until then: a call that is dropped can be repeated.
            let ended = self.end(term).await;
            ended.map_err(on(Operation::Withdraw))?;
            *place = None;
        }
        Ok(())
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.process.check(Operation::Holder)?;
        let seen = self.seen(lock).await.map_err(on(Operation::Holder))?;
        // Without its row a term has not begun.
        Ok(seen.flatten().map_or(Occupancy::Free, Occupancy::Led))
    }

    fn changes(&self, _: &LockName) -> Changes {
        // MariaDB reports no changes: the stream ends at once, and candidates poll.
        Box::pin(stream::empty())
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.process.is_current().then_some(())?;
        let term = grant.state::<Arc<Term>>()?.clone();
        let process = self.process.clone();
        Some(Box::pin(
            process.confine(async move { term.session.ended().await }),
        ))
    }

    async fn checks(&self, _: &LockName, _: Duration) -> Vec<Check> {
        const FLUSH: &str = "innodb_flush_log_at_trx_commit";
        let read = |name: &'static str| self.look(move |on| sql::variable(on, name));
        vec![match read(FLUSH).await {
            Ok(value) if value == "1" => Check::fine(FLUSH, "tokens survive a crash of the server"),
            Ok(value) => Check::warning(
                FLUSH,
                format!(
                    "it is {value}: after a crash of the host two can lead for a lease, and a token \
                     can come twice"
                ),
                format!("SET GLOBAL {FLUSH} = 1"),
            ),
            Err(error) => Check::warning(FLUSH, error.message(), "fix this and run doctor again"),
        }]
    }
}

impl fmt::Debug for MariaDbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MariaDbBackend")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
