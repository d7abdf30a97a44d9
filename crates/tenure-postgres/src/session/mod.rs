//! The session that holds the locks of all elections with one lease (and identity, as long as
//! there are few).
//!
//! The server ends it when it has been silent for the lease (`idle_session_timeout`), and then
//! frees its locks: that is the server-side lease. Each query starts the timer again when the
//! server has processed it, so after it was sent; the lease at the server is never shorter than
//! the one counted from `proven_at` here.
//!
//! Nothing that others send reaches it: it does not listen.
//!
//! One verified heartbeat query proves all terms. It also keeps every lock of the session, even
//! those that no term renews. So each lock has an end here, at which the session unlocks it (point 6
//! of the contract). The session also unlocks a lock whose acquirer has gone away in the meantime.

mod answers;
mod current;
mod heart;
mod heartbeat;
pub(crate) mod held_lock;
pub(crate) mod holder;
mod moving;
mod renewal;
mod standby;
mod statements;
pub(crate) mod sweep;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, ErrorKind, FencingToken, Holder, LockName, SharedClock, Time};
use tenure_kit::deadline::{LEAST, within};
use tenure_kit::{SingleFlight, Tasks};
use tokio::sync::{Notify, RwLock, Semaphore, watch};

use self::answers::Answers;
use self::current::Current;
use self::held_lock::{HeldLock, HeldLocks, Holding, Standing};
use self::statements::{Statements, Won};
use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::errors::{self, Answer, StoreError};
use crate::incarnation::{Quarantine, Wait};
use crate::key::{AdvisoryKey, application_name};
use crate::notifications::Notifications;
use crate::notifications::message::free_message;
use crate::settings::{ApplicationLimits, set_own};
use crate::setup::check_sequence;

/// So many attempts to lock are sent at a time. The server answers a session's queries one after
/// the other, and each grant waits for its disk: behind thousands of them the first heartbeat of
/// those that have won would come too late.
const MOST_ATTEMPTS: usize = 64;

pub(crate) struct Session {
    config: Arc<PostgresConfig>,
    clock: SharedClock,
    pub(crate) lease: Duration,
    /// What the server shows as the name of the session.
    name: String,
    connector: Arc<Connector>,
    /// The application's own limits for its transactions.
    limits: ApplicationLimits,
    /// By its number at the server.
    token_sequence: Option<u32>,
    /// Nothing is granted before, but for locks that [`was_led`](Self::was_led) names.
    quarantine: Wait,
    /// Locks that another candidate held in this quarantine.
    led: Mutex<HashSet<AdvisoryKey>>,
    notifications: Arc<Notifications>,
    pub(crate) tasks: Tasks,
    current: Current,
    /// Whether the heartbeat under way has no answer in its time.
    overdue: watch::Sender<bool>,
    /// The mutant: a move that does not look whether the old session holds its locks.
    #[cfg(test)]
    trusts_the_old: std::sync::atomic::AtomicBool,
    locks: HeldLocks,
    /// One heartbeat is under way at a time, in a task of the session's own: a caller that is not
    /// polled holds up no other one.
    heart: SingleFlight<(), Answer>,
    /// Queries share it; a guarded transaction has it alone, or they would become part of it.
    pub(crate) gate: Arc<RwLock<()>>,
    acquired: Arc<Notify>,
    answers: Arc<Answers>,
    claims: AtomicU64,
    /// Attempts that are under way: see [`MOST_ATTEMPTS`].
    attempts: Semaphore,
    /// Whose turn it is to end a wait for a [`standby`].
    ending: tokio::sync::Mutex<()>,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It holds locks, and tries for them.
    Elect,
    /// It looks who holds them, and takes none.
    Look,
}

/// What all sessions of a backend use.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) config: Arc<PostgresConfig>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) clock: SharedClock,
    pub(crate) notifications: Arc<Notifications>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) tasks: Tasks,
}

/// What became of an attempt.
pub(crate) enum Attempt {
    Held(Claim),
    Taken(Option<Holder>),
    /// Not to be granted yet, see [`Quarantine`].
    NotYet(Duration),
}

/// A lock that was won and has not reached its owner yet. Dropped before, it is given back.
pub(crate) struct Claim {
    session: Option<Arc<Session>>,
    key: AdvisoryKey,
    number: u64,
    /// Not one that was adopted: to be announced, and watched for its deadline.
    is_new: bool,
    pub(crate) token: FencingToken,
    pub(crate) proven: Time,
}

impl Claim {
    /// The owner has it. What is left to do is begun only now, and in one task, so as not to wake
    /// another thread before the owner goes on.
    pub(crate) fn keep(mut self) -> Option<Arc<Session>> {
        let session = self.session.take()?;
        if self.is_new {
            let (kept, key) = (session.clone(), self.key);
            session.tasks.spawn(async move {
                kept.acquired.notify_one();
                kept.announce_if_possible(key).await;
            });
        }
        Some(session)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|session| session.is_ours()) {
            let (key, number) = (self.key, self.number);
            let tasks = session.tasks.clone();
            tasks.spawn(async move {
                // If that fails, the session is closed, which frees the lock too.
                let _given_back = session
                    .release_if(key, |held: &Holding| held.claim == number)
                    .await;
            });
        }
    }
}

impl Session {
    /// Makes a session of a connection, within the connect timeout.
    pub(crate) async fn start(
        connection: Connection,
        common: &Common,
        purpose: Purpose,
        lease: Duration,
        name: &str,
    ) -> Result<Arc<Self>, StoreError> {
        let Common { config, tasks, .. } = common;
        let elects = purpose == Purpose::Elect;
        let unfit = connection.unfit.clone();
        if let Some(unfit) = unfit.filter(|_| elects || connection.is_standby) {
            return Err(unfit);
        }
        let name = application_name(name);
        let preparing = Box::pin(async {
            let setup = (lease, &*name);
            let opened = Statements::open(connection, config, tasks.process(), elects, setup);
            let (statements, limits) = opened.await?;
            let token_sequence = match &config.token_sequence {
                Some(sequence) if elects => {
                    Some(check_sequence(&statements.connection, sequence).await?)
                }
                _ => None,
            };
            Ok((statements, limits, token_sequence))
        });
        let limit = config.connect_timeout;
        let (statements, limits, token_sequence) =
            within("the server", limit, "connect_timeout", preparing).await?;
        let incarnation = &statements.connection.incarnation;
        let now = common.clock.now();
        let quarantine = if elects {
            common.quarantine.wait(incarnation, now, lease)
        } else {
            Wait::NONE
        };
        Ok(Arc::new(Self {
            config: config.clone(),
            clock: common.clock.clone(),
            lease,
            name,
            connector: common.connector.clone(),
            limits,
            token_sequence,
            quarantine,
            led: Mutex::default(),
            notifications: common.notifications.clone(),
            tasks: tasks.clone(),
            current: Current::new(statements),
            overdue: watch::Sender::new(false),
            #[cfg(test)]
            trusts_the_old: false.into(),
            locks: HeldLocks::default(),
            heart: SingleFlight::new(tasks.clone()),
            gate: Arc::default(),
            acquired: Arc::default(),
            answers: Arc::default(),
            claims: AtomicU64::new(0),
            attempts: Semaphore::new(MOST_ATTEMPTS),
            ending: tokio::sync::Mutex::default(),
        }))
    }

    fn statements(&self) -> Arc<Statements> {
        self.current.get()
    }

    pub(crate) fn connection(&self) -> Arc<Connection> {
        self.statements().connection.clone()
    }

    /// Returns when the session has ended; not when it goes on in another connection.
    pub(crate) fn end(&self) -> impl Future<Output = StoreError> + Send + use<> {
        self.current.end()
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<StoreError> {
        self.connection().ended()
    }

    /// How long a query may take before the session counts as dead.
    pub(crate) fn patience(&self) -> Duration {
        self.lease.max(LEAST)
    }

    /// What gives the application its own settings in a transaction that has just begun.
    pub(crate) fn application_settings(&self) -> String {
        self.limits.give_back(self.connection().version, self.lease)
    }

    /// What gives this library its own settings again after it.
    pub(crate) fn own_settings(&self) -> String {
        set_own(self.connection().version)
    }

    /// Whether the caller runs in the process that has opened it, and not in a fork of it.
    pub(crate) fn is_ours(&self) -> bool {
        self.tasks.process().is_current()
    }

    /// Whether the term with this token of `key` is held here.
    pub(crate) fn leads(&self, key: AdvisoryKey, token: FencingToken) -> bool {
        let held = self.locks.holding(key);
        held.is_some_and(|held| held.token.equals_but_for_generation(token))
    }

    /// Tries once to lock. `gone` says when nobody waits for the outcome any more.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        key: AdvisoryKey,
        lock: &LockName,
        candidate: &Candidate,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, StoreError> {
        let held_lock = self.locks.get_or_add(key);
        let _turn = held_lock.turn.lock().await;
        let held = held_lock.holding().clone();
        if let Some(held) = held {
            if held.lock != *lock {
                return Err(errors::collision(key, lock, held.lock.as_str()));
            }
            if !held.is_of(candidate) {
                return Ok(Attempt::Taken(Some(held.holder())));
            }
            // An earlier attempt's answer was lost: adopt it with a fresh proof.
            let proof = self.prove(&held_lock, self.clock.now());
            if let Standing::Proven(proven) = proof.await? {
                return Ok(self.claim(key, &held_lock, proven, false));
            }
        }
        let early = self.quarantined();
        if !early.is_zero() && !self.was_led(key) {
            return Ok(Attempt::NotYet(early));
        }
        // Fails only when it is closed, which nothing does.
        let _room = self.attempts.acquire().await.ok();
        let _shared = self.gate.read().await;
        if gone() {
            return Ok(Attempt::Taken(None));
        }
        let statements = self.statements();
        let sent = self.clock.now();
        let (token, shared) = match self.try_lock(&statements, key, lock).await {
            Ok(Some(won)) => won,
            Ok(None) => return Ok(Attempt::Taken(None)),
            Err(error) => {
                self.undo(key).await;
                if self.token_sequence.is_some() && !self.locks.holds_any() {
                    // It may have been dropped; the next session looks for it again.
                    self.connection().close(&error);
                }
                return Err(error);
            }
        };
        let holding = Holding {
            lock: lock.clone(),
            identity: candidate.identity.clone(),
            campaign: candidate.campaign,
            token,
            value: candidate.value.clone(),
            shared,
            claim: 0,
            proven: sent,
            since: self.clock.now(),
            until: sent + self.lease,
        };
        // The server frees what was won in a session that was left meanwhile.
        let note = || *held_lock.holding() = Some(holding);
        let noted = self.current.while_it_is(&statements, note);
        noted.ok_or_else(errors::closed)?;
        Ok(self.claim(key, &held_lock, sent, true))
    }

    /// For how long nothing is granted yet.
    fn quarantined(&self) -> Duration {
        self.quarantine.until.since(self.clock.now())
    }

    fn led(&self) -> MutexGuard<'_, HashSet<AdvisoryKey>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_led(&self, key: AdvisoryKey) -> bool {
        self.quarantine.ends_with_a_term && self.led().contains(&key)
    }

    /// A session of this library holds the lock.
    fn is_led(&self, key: AdvisoryKey) {
        if !self.quarantined().is_zero() {
            self.led().insert(key);
        }
    }

    /// The token, and whether the lock is held shared.
    async fn try_lock(
        &self,
        statements: &Statements,
        key: AdvisoryKey,
        lock: &LockName,
    ) -> Result<Option<(FencingToken, bool)>, StoreError> {
        let may_move = self.may_share(statements) && key.is_derived_from(lock);
        let acquired = statements.acquire(key, self.token_sequence, may_move);
        let Some(Won { counter, shared }) = self.tried(statements, acquired).await? else {
            return Ok(None);
        };
        let token = u64::try_from(counter).ok();
        let token = token.and_then(|counter| FencingToken::from_counter(counter).ok());
        token.map(|token| Some((token, shared))).ok_or_else(|| {
            StoreError::new(
                ErrorKind::Corrupted,
                format!("the server's counter stands at {counter}, which is no fencing token"),
            )
        })
    }

    fn claim(
        self: &Arc<Self>,
        key: AdvisoryKey,
        held_lock: &HeldLock,
        proven: Time,
        is_new: bool,
    ) -> Attempt {
        let number = self.claims.fetch_add(1, Ordering::Relaxed) + 1;
        let mut holding = held_lock.holding();
        let Some(held) = holding.as_mut() else {
            return Attempt::Taken(None);
        };
        held.claim = number;
        held.until = held.until.max(proven + self.lease);
        Attempt::Held(Claim {
            session: Some(self.clone()),
            key,
            number,
            is_new,
            token: held.token,
            proven,
        })
    }

    /// After a statement that failed it is not known whether it had locked: session locks survive
    /// a failed transaction.
    async fn undo(&self, key: AdvisoryKey) {
        if self.ended().is_none() {
            // A failure closes the session, which frees it too. Others may have seen it taken.
            let _unlocked = self.unlock_and_notify(key, None).await;
        }
    }

    /// Unlocks and notifies the others; whether it had been locked.
    async fn unlock_and_notify(
        &self,
        key: AdvisoryKey,
        shared: Option<bool>,
    ) -> Result<bool, StoreError> {
        let message = free_message(key);
        match self.statements().release(key, &message, shared).await {
            Err(error) if self.ended().is_none() => {
                // To notify needs room in the lock table and in the queue of notifications. To
                // unlock does not, and may have been done. After a move it is the fresh session
                // that may hold the lock; the other one ends.
                tracing::warn!(reason = error.message(), "cannot notify of a release");
                self.statements().unlock(key).await?;
                Ok(true)
            }
            outcome => outcome,
        }
    }

    /// Unlocks if what is held is what is meant. `Ok` when it is not held (any more).
    async fn release_if(
        &self,
        key: AdvisoryKey,
        meant: impl Fn(&Holding) -> bool,
    ) -> Result<(), StoreError> {
        let Some(held_lock) = self.locks.get(key) else {
            return Ok(());
        };
        let _turn = held_lock.turn.lock().await;
        let _shared = self.gate.read().await;
        let taken = held_lock.holding().take_if(|held| meant(held));
        let Some(held) = taken else {
            return Ok(());
        };
        if self.ended().is_some() {
            return Ok(());
        }
        if !self.unlock_and_notify(key, Some(held.shared)).await? {
            tracing::warn!(lock = %held.lock, "the lock had been unlocked in its own session");
        }
        Ok(())
    }

    /// Ends a term. Ended sessions have none.
    pub(crate) async fn release(
        &self,
        key: AdvisoryKey,
        candidate: &Candidate,
        token: Option<FencingToken>,
    ) -> Result<(), StoreError> {
        let meant =
            |held: &Holding| held.is_of(candidate) && token.is_none_or(|token| token == held.token);
        match self.release_if(key, meant).await {
            // The server frees what the session held.
            Err(_) if self.ended().is_some() => Ok(()),
            outcome => outcome,
        }
    }

    /// Releases what was not renewed in time; when to look again.
    async fn unlock_overdue(&self) -> Option<Time> {
        let now = self.clock.now();
        let (overdue, mut next) = self.locks.overdue(now);
        for key in overdue {
            // What fails here has closed the session.
            let _released = self.release_if(key, |held| held.until <= now).await;
            // One that was extended meanwhile has another deadline.
            next = Some(now);
        }
        next
    }
}
