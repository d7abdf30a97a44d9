//! The session that holds the locks of all elections with one lease (and identity, as long as
//! there are few).
//!
//! The server ends it when it has been silent for the lease (`idle_session_timeout`), and then
//! frees its locks: that is the server-side lease. Each query starts the timer anew when the
//! server has processed it, so after it was sent; the lease at the server is never shorter than
//! the one counted from `proven_at` here.
//!
//! One verified heartbeat query proves all terms. But it also keeps alive all locks of the
//! session, so those that nobody renews any more have a deadline of their own here, at which they
//! are unlocked (point 6 of the contract). Unlocking is also what becomes of a lock whose acquirer
//! has gone away in the meantime.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tenure_core::{
    CampaignId, Candidate, ErrorKind, FencingToken, Holder, Identity, Kept, LockName,
    PublishedValue, SharedClock, Time,
};
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage, Statement};

use crate::config::PostgresConfig;
use crate::errors::Trouble;
use crate::hub::{Announcement, Hub, ask_message, free_message};
use crate::key::{ALIVE, AdvisoryKey, application_name};
use crate::link::{CHANNEL, Link};
use crate::tasks::Tasks;

/// The least a query may take before the session counts as dead, however short the lease.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Session {
    link: Link,
    config: Arc<PostgresConfig>,
    clock: SharedClock,
    lease: Duration,
    /// Nothing is granted before.
    quiet_until: Time,
    hub: Arc<Hub>,
    tasks: Tasks,
    /// Dropping one closes it at the server.
    statements: Kept<Statements>,
    slots: Mutex<HashMap<AdvisoryKey, Arc<Slot>>>,
    /// One heartbeat at a time; who waits finds it done.
    heart: tokio::sync::Mutex<()>,
    /// Queries share it; a guarded transaction has it alone, or they would become part of it.
    gate: Arc<RwLock<()>>,
    acquired: Arc<Notify>,
    claims: AtomicU64,
    /// Attempts that are under way: see [`MOST_ATTEMPTS`].
    attempts: Semaphore,
}

/// So many attempts to lock are sent at a time. The server answers a session's queries one after
/// the other, and each grant waits for its disk: behind thousands of them the first heartbeat of
/// those that have won would come too late.
const MOST_ATTEMPTS: usize = 64;

struct Statements {
    acquire: Statement,
    release: Statement,
    unlock: Statement,
    heartbeat: Statement,
    holder: Statement,
    notify: Statement,
}

/// One lock. Its statements are sent one after the other: advisory locks are re-entrant, and one
/// that was taken twice would stay after it was given back.
#[derive(Default)]
struct Slot {
    turn: tokio::sync::Mutex<()>,
    /// Announcements are sent one after the other, each as of the moment at which it is sent. Or
    /// one that was written before a value changed could arrive last, and stay with observers.
    telling: tokio::sync::Mutex<()>,
    held: Mutex<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    lock: LockName,
    identity: Identity,
    campaign: CampaignId,
    token: FencingToken,
    value: Option<PublishedValue>,
    claim: u64,
    /// When the request was sent that proved it last.
    proven: Time,
    /// When the answer to the request that locked it was here.
    since: Time,
    /// When it is unlocked unless it is renewed.
    until: Time,
}

/// What became of an attempt.
pub(crate) enum Attempt {
    Held(Claim),
    Taken(Option<Holder>),
    /// Not to be granted yet, see [`Hub::quiet_until`].
    NotYet(Duration),
}

/// What `renew` found.
pub(crate) enum Standing {
    Proven(Time),
    Lost,
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
                kept.tell_if_possible(key).await;
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
                let _given_back = session.release_if(key, |held| held.claim == number).await;
            });
        }
    }
}

/// Prepares a session for holding or awaiting locks, and verifies it (hazards 27 and 28).
///
/// - `idle_session_timeout`: ends it when its process is frozen or cut off. It does not count
///   while a query runs or waits.
/// - `idle_in_transaction_session_timeout`: the same in a guarded transaction.
/// - `tcp_keepalives_*`, `client_connection_check_interval`: end it when its host or its process
///   is gone, the latter also while a query waits. Never before the lease: a holder that is cut
///   off believes in it to its end.
/// - `tcp_user_timeout`: ends it also when the server waits to send, where no other does: when
///   notifications have filled the buffers of a frozen process.
/// - `statement_timeout`, `lock_timeout`: a role's own would end waits.
pub(crate) async fn set_up(
    link: &Link,
    config: &PostgresConfig,
    lease: Duration,
    name: &str,
) -> Result<(), Trouble> {
    let lease_ms = lease.as_millis().to_string();
    let probe = probe_seconds(lease);
    let unheard = (lease + UNHEARD).as_millis();
    let with_lease = if config.without_lease {
        // Perhaps a server so old that it knows neither.
        String::new()
    } else {
        format!("SET idle_session_timeout = {lease_ms}; SET tcp_user_timeout = {unheard}; ")
    };
    // Identities are visible ASCII, so doubling quotes is all that a literal needs.
    let quoted = name.replace('\'', "''");
    let sql = format!(
        "{with_lease}SET idle_in_transaction_session_timeout = {lease_ms}; \
         SET tcp_keepalives_idle = {probe}; SET tcp_keepalives_interval = {probe}; \
         SET tcp_keepalives_count = {PROBES}; SET statement_timeout = 0; SET lock_timeout = 0; \
         SET standard_conforming_strings = on; SET application_name = '{quoted}'"
    );
    link.client().batch_execute(&sql).await?;
    let check = "SET client_connection_check_interval = 1000";
    if let Err(error) = link.client().batch_execute(check).await {
        // Older servers and some systems have none; keepalives and the lease remain.
        tracing::debug!(%error, "no client_connection_check_interval");
    }
    let mut meant = vec![
        ("application_name", name),
        ("idle_in_transaction_session_timeout", &*lease_ms),
    ];
    if !config.without_lease {
        meant.push(("idle_session_timeout", &*lease_ms));
    }
    verify(link, &meant).await
}

/// So many probes without an answer, and the server takes the connection for dead.
const PROBES: u64 = 2;

/// When the first probe is sent, and between two of them, in seconds. Where the server's system
/// knows no `tcp_user_timeout`, which comes before, a dead connection is closed after three times
/// that, half a lease after the lease at the earliest.
fn probe_seconds(lease: Duration) -> u128 {
    lease.as_millis().div_ceil(2000).max(1)
}

/// For so long after the lease the server may still try to send. By then nobody leads by it.
const UNHEARD: Duration = Duration::from_secs(1);

/// Whether the settings have reached the very session: a pooler may have kept them to itself.
async fn verify(link: &Link, meant: &[(&str, &str)]) -> Result<(), Trouble> {
    let shown = "SELECT name, setting FROM pg_settings WHERE name IN ('application_name', \
                 'idle_in_transaction_session_timeout', 'idle_session_timeout')";
    let answer = link.client().simple_query(shown).await?;
    for (name, value) in meant {
        let set = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.get(0) == Some(name) => row.get(1),
            _ => None,
        });
        if set != Some(value) {
            return Err(Trouble::new(
                ErrorKind::Unsupported,
                format!(
                    "the server was told to set {name} to {value:?} in this session, but shows \
                     {set:?}; is there a pooler in between?"
                ),
            ));
        }
    }
    Ok(())
}

/// Fails unless the tokens of `sequence` rise, in whatever session they are drawn, and over a crash.
pub(crate) async fn check_sequence(link: &Link, sequence: &str) -> Result<(), Trouble> {
    const SETTINGS: &str = "SELECT s.seqcache, s.seqincrement, s.seqcycle, \
        c.relpersistence::text, has_sequence_privilege(c.oid, 'usage') \
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid \
        WHERE c.oid = to_regclass($1)";
    let refused = |reason: String| Err(Trouble::new(ErrorKind::Misconfigured, reason));
    let Some(row) = link.client().query_opt(SETTINGS, &[&sequence]).await? else {
        return refused(format!(
            "there is no sequence {sequence}; CREATE SEQUENCE {sequence}"
        ));
    };
    let unreadable = |_| Trouble::unreadable("a sequence");
    let cache: i64 = row.try_get(0).map_err(unreadable)?;
    let step: i64 = row.try_get(1).map_err(unreadable)?;
    let cycles: bool = row.try_get(2).map_err(unreadable)?;
    let kept: String = row.try_get(3).map_err(unreadable)?;
    let allowed: bool = row.try_get(4).map_err(unreadable)?;
    if !allowed {
        return refused(format!(
            "the user may not use the sequence {sequence}; GRANT USAGE ON SEQUENCE {sequence} TO it"
        ));
    }
    // Each session would draw from a block of its own.
    let wrong = if cache != 1 {
        Some(("CACHE 1", "its numbers are cached by session"))
    } else if step < 1 {
        Some(("INCREMENT 1", "it counts down"))
    } else if cycles {
        Some(("NO CYCLE", "it begins anew at its end"))
    } else {
        None
    };
    if let Some((mend, reason)) = wrong {
        return refused(format!(
            "tokens from the sequence {sequence} would fall, as {reason}; ALTER SEQUENCE \
             {sequence} {mend}"
        ));
    }
    if kept != "p" {
        return refused(format!(
            "tokens from the sequence {sequence} would fall after a crash, as it is not logged; \
             create it without UNLOGGED or TEMPORARY"
        ));
    }
    Ok(())
}

impl Statements {
    async fn prepare(link: &Link, config: &PostgresConfig) -> Result<Self, Trouble> {
        let client = link.client();
        let lock = "CASE WHEN $1::int8 IS NULL THEN pg_try_advisory_lock($2::int4, $3::int4) \
                    ELSE pg_try_advisory_lock($1::int8) END";
        // Whatever the session's setting has become, the token is on disk when it is given. A
        // setting that asks for more, or that was chosen so (local), stays.
        let durable = "CASE current_setting('synchronous_commit') WHEN 'off' \
                       THEN set_config('synchronous_commit', 'on', true) IS NOT NULL ELSE true END";
        let lock = format!("CASE WHEN ({lock}) THEN {durable} ELSE false END");
        // The token is minted after the grant (I6), which nested CASE guarantees; AND would not.
        // The message in the log makes the server flush it, so that no crash brings the
        // transaction's number back: alone it leaves no trace there.
        let acquire = match &config.token_sequence {
            Some(_) => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN nextval(($4::text)::regclass) END END"
            ),
            None => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN (pg_current_xact_id()::text)::int8 END END WHERE $4::text IS NULL"
            ),
        };
        let unlock = "CASE WHEN $1::int8 IS NULL THEN pg_advisory_unlock($2::int4, $3::int4) \
                      ELSE pg_advisory_unlock($1::int8) END";
        // A notification is sent when its transaction is committed, which writes to the log. No
        // crash can make it untrue, as locks end with it: nobody has to wait for the disk.
        let volatile = "set_config('synchronous_commit', 'off', true) IS NOT NULL";
        let release = format!(
            "SELECT CASE WHEN ({unlock}) THEN CASE WHEN {volatile} \
             THEN pg_notify('tenure', $4::text) IS NOT NULL END ELSE false END"
        );
        let notify =
            format!("SELECT CASE WHEN {volatile} THEN pg_notify('tenure', $1::text) IS NULL END");
        let unlock = format!("SELECT {unlock}");
        // Its own locks are all in its own database.
        let heartbeat = "SELECT pg_backend_pid(), pg_is_in_recovery(), \
             coalesce(array_agg((classid::int8 << 32) | objid::int8), '{}'), \
             coalesce(array_agg(objsubid), '{}'), \
             current_setting('idle_session_timeout', true), \
             current_setting('idle_in_transaction_session_timeout') \
             FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' \
             AND pid = pg_backend_pid()";
        let holder = format!(
            "WITH locks AS MATERIALIZED (SELECT pid, mode, objsubid, \
             (classid::int8 << 32) | objid::int8 AS key FROM pg_locks \
             WHERE locktype = 'advisory' AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
             SELECT l.pid, coalesce(a.application_name, ''), EXISTS (SELECT FROM locks w \
             WHERE w.pid = l.pid AND w.objsubid = 2 AND w.mode = 'ExclusiveLock' \
             AND w.key = ({ALIVE}::int8 << 32) | l.pid) \
             FROM locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.key = $1::int8 AND l.objsubid = $2::int2 \
             ORDER BY l.mode, l.pid LIMIT 1"
        );
        let (acquire, release, unlock, heartbeat, holder, notify) = tokio::try_join!(
            client.prepare(&acquire),
            client.prepare(&release),
            client.prepare(&unlock),
            client.prepare(heartbeat),
            client.prepare(&holder),
            client.prepare(&notify),
        )?;
        Ok(Self {
            acquire,
            release,
            unlock,
            heartbeat,
            holder,
            notify,
        })
    }
}

impl Session {
    /// Makes a session of `link`, within the connect timeout.
    pub(crate) async fn open(
        link: Link,
        config: Arc<PostgresConfig>,
        clock: SharedClock,
        lease: Duration,
        name: &str,
        hub: Arc<Hub>,
    ) -> Result<Arc<Self>, Trouble> {
        let limit = config.connect_timeout;
        let preparing = async {
            set_up(&link, &config, lease, &application_name(name)).await?;
            if let Some(sequence) = &config.token_sequence {
                check_sequence(&link, sequence).await?;
            }
            let statements = Statements::prepare(&link, &config).await?;
            // Sessions that only wait do not listen: each notification would wake them.
            let listen = format!("LISTEN {CHANNEL}");
            link.client().batch_execute(&listen).await?;
            let alive = format!("SELECT pg_try_advisory_lock({ALIVE}, pg_backend_pid())");
            // Without it, others learn of this session's death with their next look only.
            link.client().simple_query(&alive).await?;
            Ok::<_, Trouble>(statements)
        };
        let statements = tokio::time::timeout(limit, preparing)
            .await
            .map_err(|_| Trouble::silent("the server", limit))??;
        let tasks = Tasks::here();
        let quiet_until = hub.quiet_until(&link, clock.now(), lease);
        let session = Arc::new(Self {
            link,
            config,
            clock,
            lease,
            quiet_until,
            hub,
            statements: tasks.process.keep(statements),
            tasks,
            slots: Mutex::default(),
            heart: tokio::sync::Mutex::default(),
            gate: Arc::default(),
            acquired: Arc::default(),
            claims: AtomicU64::new(0),
            attempts: Semaphore::new(MOST_ATTEMPTS),
        });
        session.hub.add(&session);
        let (end, watched) = (session.link.end(), Arc::downgrade(&session));
        let clock = session.clock.clone();
        session.tasks.spawn(sweep(watched, end, clock));
        Ok(session)
    }

    pub(crate) fn ended(&self) -> Option<Trouble> {
        self.link.ended()
    }

    /// Returns when the session has ended.
    pub(crate) fn end(&self) -> impl Future<Output = Trouble> + Send + use<> {
        self.link.end()
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// Its process at the server.
    pub(crate) fn pid(&self) -> i32 {
        self.link.pid
    }

    /// How long a query may take before the session counts as dead.
    pub(crate) fn patience(&self) -> Duration {
        self.lease.max(PATIENCE)
    }

    /// The same for a look at who holds a lock. A session that holds none, and tries for none, has
    /// nothing to lose, and is left sooner: its host may have vanished, and another one been
    /// promoted.
    fn patience_with_a_look(&self) -> Duration {
        let tries = self.attempts.available_permits() < MOST_ATTEMPTS;
        let holds_any = || self.slots().values().any(|slot| slot.held().is_some());
        if tries || holds_any() {
            return self.patience();
        }
        self.patience()
            .min(self.config.connect_timeout.max(PATIENCE))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<AdvisoryKey, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, key: AdvisoryKey) -> Option<Arc<Slot>> {
        self.slots().get(&key).cloned()
    }

    /// One query. No answer within the lease, or a fatal one, is the end of the session.
    async fn ask(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Trouble> {
        let limit = self.patience();
        let query = self.link.client().query_one(statement, parameters);
        match tokio::time::timeout(limit, query).await {
            Ok(Ok(row)) => Ok(row),
            Ok(Err(error)) => {
                let severity = error.as_db_error().and_then(DbError::parsed_severity);
                let fatal = matches!(severity, Some(Severity::Fatal | Severity::Panic));
                let closed = error.is_closed();
                let trouble = Trouble::from(error);
                if fatal || trouble.code.is_none() {
                    self.link.close(&trouble);
                }
                // Why the session has ended says more than that it has.
                Err(self.ended().filter(|_| closed).unwrap_or(trouble))
            }
            Err(_) => {
                let trouble = Trouble::silent("the server", limit);
                self.link.close(&trouble);
                Err(trouble)
            }
        }
    }

    /// Tries once to lock. `gone` tells when nobody waits for the outcome any more.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        key: AdvisoryKey,
        lock: &LockName,
        candidate: &Candidate,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, Trouble> {
        let slot = self.slots().entry(key).or_default().clone();
        let _turn = slot.turn.lock().await;
        let held = slot.held().clone();
        if let Some(held) = held {
            if held.lock != *lock {
                return Err(collision(key, lock, held.lock.as_str()));
            }
            if !held.is_of(candidate) {
                return Ok(Attempt::Taken(Some(held.holder())));
            }
            // An earlier attempt's answer was lost: adopt it with a fresh proof.
            let now = self.clock.now();
            if let Standing::Proven(proven) = self.prove(key, &slot, now).await? {
                return Ok(self.claim(key, &slot, proven));
            }
        }
        let early = self.quiet_until.since(self.clock.now());
        if !early.is_zero() {
            return Ok(Attempt::NotYet(early));
        }
        // Fails only when it is closed, which nobody does.
        let _room = self.attempts.acquire().await.ok();
        let _shared = self.gate.read().await;
        if gone() {
            return Ok(Attempt::Taken(None));
        }
        let sent = self.clock.now();
        let (big, class, object) = key.parameters();
        let sequence = &self.config.token_sequence;
        let tried = self
            .ask(&self.statements.acquire, &[&big, &class, &object, sequence])
            .await;
        let counter = match tried {
            Ok(row) => row
                .try_get::<_, Option<i64>>(0)
                .map_err(|_| Trouble::unreadable("a lock")),
            Err(trouble) => Err(trouble),
        };
        let counter = match counter {
            Ok(Some(counter)) => counter,
            Ok(None) => return Ok(Attempt::Taken(None)),
            Err(trouble) => {
                self.undo(key).await;
                return Err(trouble);
            }
        };
        let token = u64::try_from(counter).ok();
        let token = token.and_then(|counter| FencingToken::from_counter(counter).ok());
        let Some(token) = token else {
            self.undo(key).await;
            return Err(Trouble::new(
                ErrorKind::Corrupted,
                format!("the server's counter stands at {counter}, which is no fencing token"),
            ));
        };
        *slot.held() = Some(Held {
            lock: lock.clone(),
            identity: candidate.identity.clone(),
            campaign: candidate.campaign,
            token,
            value: candidate.value.clone(),
            claim: 0,
            proven: sent,
            since: self.clock.now(),
            until: sent + self.lease,
        });
        let mut attempt = self.claim(key, &slot, sent);
        if let Attempt::Held(claim) = &mut attempt {
            claim.is_new = true;
        }
        Ok(attempt)
    }

    fn claim(self: &Arc<Self>, key: AdvisoryKey, slot: &Slot, proven: Time) -> Attempt {
        let number = self.claims.fetch_add(1, Ordering::Relaxed) + 1;
        let mut held = slot.held();
        let Some(held) = held.as_mut() else {
            return Attempt::Taken(None);
        };
        held.claim = number;
        held.until = held.until.max(proven + self.lease);
        Attempt::Held(Claim {
            session: Some(self.clone()),
            key,
            number,
            is_new: false,
            token: held.token,
            proven,
        })
    }

    /// After a statement that failed it is not known whether it had locked: session locks survive
    /// a failed transaction.
    async fn undo(&self, key: AdvisoryKey) {
        if self.ended().is_none() {
            // A failure closes the session, which frees it too. Others may have seen it taken.
            let _unlocked = self.unlock_and_tell(key).await;
        }
    }

    /// Unlocks and tells the others; whether it had been locked.
    async fn unlock_and_tell(&self, key: AdvisoryKey) -> Result<bool, Trouble> {
        let (big, class, object) = key.parameters();
        let message = free_message(key);
        let parameters: [&(dyn ToSql + Sync); 4] = [&big, &class, &object, &message];
        match self.ask(&self.statements.release, &parameters).await {
            Ok(row) => Ok(row.try_get(0).unwrap_or(false)),
            Err(trouble) if self.ended().is_some() => Err(trouble),
            // Telling needs room in the lock table and in the queue of notifications. Unlocking
            // does not, and may have been done.
            Err(trouble) => {
                tracing::warn!(reason = trouble.message(), "cannot tell of a release");
                self.unlock(key).await?;
                Ok(true)
            }
        }
    }

    /// Unlocks what may be locked (a warning at the server if it is not).
    async fn unlock(&self, key: AdvisoryKey) -> Result<(), Trouble> {
        let (big, class, object) = key.parameters();
        let unlocked = self
            .ask(&self.statements.unlock, &[&big, &class, &object])
            .await;
        unlocked.map(drop).inspect_err(|trouble| {
            // What cannot be given back must not be kept alive by other terms' heartbeats.
            self.link.close(trouble);
        })
    }

    /// Unlocks if what is held is what is meant. `Ok` when it is not held (any more).
    async fn release_if(
        &self,
        key: AdvisoryKey,
        meant: impl Fn(&Held) -> bool,
    ) -> Result<(), Trouble> {
        let Some(slot) = self.slot(key) else {
            return Ok(());
        };
        let _turn = slot.turn.lock().await;
        let _shared = self.gate.read().await;
        let taken = slot.held().take_if(|held| meant(held));
        let Some(held) = taken else {
            return Ok(());
        };
        if self.ended().is_some() {
            return Ok(());
        }
        if !self.unlock_and_tell(key).await? {
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
    ) -> Result<(), Trouble> {
        let meant =
            |held: &Held| held.is_of(candidate) && token.is_none_or(|token| token == held.token);
        match self.release_if(key, meant).await {
            // The server frees what the session held.
            Err(_) if self.ended().is_some() => Ok(()),
            outcome => outcome,
        }
    }

    /// Proves a term, at or after `not_before`, and moves its deadline.
    pub(crate) async fn renew(
        &self,
        key: AdvisoryKey,
        candidate: &Candidate,
        token: FencingToken,
        not_before: Time,
    ) -> Result<Standing, Trouble> {
        let ours = |held: &Held| held.is_of(candidate) && held.token == token;
        let Some(slot) = self.slot(key) else {
            return Ok(Standing::Lost);
        };
        let now = self.clock.now();
        if !slot
            .held()
            .as_ref()
            .is_some_and(|held| ours(held) && now < held.until)
        {
            return Ok(Standing::Lost);
        }
        let Standing::Proven(proven) = self.prove(key, &slot, not_before).await? else {
            return Ok(Standing::Lost);
        };
        let publish = {
            let mut held = slot.held();
            let Some(held) = held.as_mut().filter(|held| ours(held)) else {
                return Ok(Standing::Lost);
            };
            held.until = held.until.max(proven + self.lease);
            let changed = held.value != candidate.value;
            held.value.clone_from(&candidate.value);
            changed
        };
        if publish {
            self.tell(key).await?;
        }
        Ok(Standing::Proven(proven))
    }

    /// A proof of what the slot holds; one query for all terms of the session.
    async fn prove(
        &self,
        key: AdvisoryKey,
        slot: &Slot,
        not_before: Time,
    ) -> Result<Standing, Trouble> {
        let proven = |slot: &Slot| match &*slot.held() {
            Some(held) if held.proven >= not_before => Some(Standing::Proven(held.proven)),
            Some(_) => None,
            None => Some(Standing::Lost),
        };
        if self.ended().is_some() {
            return Ok(Standing::Lost);
        }
        if let Some(standing) = proven(slot) {
            return Ok(standing);
        }
        let _turn = self.heart.lock().await;
        if let Some(standing) = proven(slot) {
            return Ok(standing);
        }
        match self.heartbeat().await {
            Err(_) if self.ended().is_some() => return Ok(Standing::Lost),
            outcome => outcome?,
        }
        match proven(slot) {
            Some(standing) => Ok(standing),
            None => Err(Trouble::new(
                ErrorKind::Internal,
                format!("the lock {key} is neither proven nor lost after a heartbeat"),
            )),
        }
    }

    async fn heartbeat(&self) -> Result<(), Trouble> {
        let _shared = self.gate.read().await;
        let sent = self.clock.now();
        let row = self.ask(&self.statements.heartbeat, &[]).await?;
        let unreadable = |_| Trouble::unreadable("a heartbeat");
        let pid: i32 = row.try_get(0).map_err(unreadable)?;
        let standby: bool = row.try_get(1).map_err(unreadable)?;
        let keys: Vec<i64> = row.try_get(2).map_err(unreadable)?;
        let subs: Vec<i16> = row.try_get(3).map_err(unreadable)?;
        if pid != self.link.pid || standby {
            let trouble = if standby {
                Trouble::standby()
            } else {
                Trouble::new(
                    ErrorKind::Unsupported,
                    "a heartbeat was answered by another session of the server: there is a pooler \
                     in between that is not in session mode",
                )
            };
            self.link.close(&trouble);
            return Err(trouble);
        }
        let idle: Option<&str> = row.try_get(4).map_err(unreadable)?;
        let in_transaction: Option<&str> = row.try_get(5).map_err(unreadable)?;
        let mut timeouts = vec![("idle_in_transaction_session_timeout", in_transaction)];
        if !self.config.without_lease {
            timeouts.push(("idle_session_timeout", idle));
        }
        for (name, shown) in timeouts {
            if shown.and_then(milliseconds) != Some(self.lease.as_millis()) {
                let trouble = not_the_lease(name, shown);
                tracing::warn!(reason = trouble.message(), "the session is closed");
                self.link.close(&trouble);
                return Err(trouble);
            }
        }
        let present: HashSet<(i64, i16)> = keys.into_iter().zip(subs).collect();
        for (key, slot) in &*self.slots() {
            let mut held = slot.held();
            let Some(now_held) = held.as_mut() else {
                continue;
            };
            if present.contains(&key.in_pg_locks()) {
                now_held.proven = now_held.proven.max(sent);
            } else if now_held.since < sent {
                // Unlocked by somebody in this very session. Not judged when it was locked while
                // the heartbeat was under way.
                tracing::warn!(lock = %now_held.lock, "the session no longer holds the lock");
                *held = None;
            }
        }
        Ok(())
    }

    /// Tells of the term in the background, if there is one.
    pub(crate) fn announce(self: &Arc<Self>, key: AdvisoryKey) {
        if self.announcement(key).is_some() {
            let session = self.clone();
            self.tasks
                .spawn(async move { session.tell_if_possible(key).await });
        }
    }

    async fn tell_if_possible(&self, key: AdvisoryKey) {
        if let Err(trouble) = self.tell(key).await {
            tracing::debug!(reason = trouble.message(), "cannot announce a term");
        }
    }

    async fn tell(&self, key: AdvisoryKey) -> Result<(), Trouble> {
        let Some(slot) = self.slot(key) else {
            return Ok(());
        };
        let _turn = slot.telling.lock().await;
        let _shared = self.gate.read().await;
        match self.announcement(key) {
            Some(announcement) => self.notify(announcement.message(key)).await,
            None => Ok(()),
        }
    }

    async fn notify(&self, message: String) -> Result<(), Trouble> {
        self.ask(&self.statements.notify, &[&message]).await?;
        Ok(())
    }

    fn announcement(&self, key: AdvisoryKey) -> Option<Announcement> {
        let slot = self.slot(key)?;
        let held = slot.held();
        let held = held.as_ref()?;
        Some(Announcement {
            pid: self.link.pid,
            lock: held.lock.as_str().to_owned(),
            lease: self.lease,
            token: held.token,
            identity: held.identity.as_str().to_owned(),
            value: held.value.as_ref().map(|value| value.as_str().to_owned()),
        })
    }

    /// Who holds the lock, as the server knows it, and as the holder has told. With `patience`
    /// the holder is asked when it has not.
    pub(crate) async fn holder(
        &self,
        key: AdvisoryKey,
        lock: &LockName,
        patience: Duration,
    ) -> Result<Option<Holder>, Trouble> {
        let (bits, kind) = key.in_pg_locks();
        let row = {
            let _shared = self.gate.read().await;
            let statement = &self.statements.holder;
            let parameters: [&(dyn ToSql + Sync); 2] = [&bits, &kind];
            let query = self.link.client().query_opt(statement, &parameters);
            let limit = self.patience_with_a_look();
            let Ok(row) = tokio::time::timeout(limit, query).await else {
                let trouble = Trouble::silent("the server", limit);
                // The next look is on a new connection, perhaps to another host.
                self.link.close(&trouble);
                return Err(trouble);
            };
            row?
        };
        let Some(row) = row else {
            return Ok(None);
        };
        let unreadable = |_| Trouble::unreadable("who holds a lock");
        let pid: i32 = row.try_get(0).map_err(unreadable)?;
        let name: String = row.try_get(1).map_err(unreadable)?;
        let is_tenure: bool = row.try_get(2).map_err(unreadable)?;
        if is_tenure && pid != self.link.pid {
            self.hub.watch(key, pid);
        }
        if pid == self.link.pid
            && let Some(held) = self.slot(key).and_then(|slot| slot.held().clone())
            && held.lock == *lock
        {
            return Ok(Some(held.holder()));
        }
        let mut announcement = self.hub.announcement(key, pid);
        if announcement.is_none() && is_tenure && !patience.is_zero() {
            let asking = async {
                let _shared = self.gate.read().await;
                self.notify(ask_message(key)).await
            };
            let answer = self.hub.await_announcement(key, pid, asking);
            announcement = tokio::time::timeout(patience, answer).await.ok().flatten();
        }
        match announcement {
            Some(announcement) if announcement.lock != lock.as_str() => {
                Err(collision(key, lock, &announcement.lock))
            }
            Some(announcement) => Ok(Some(announcement.holder())),
            None => Ok(Some(Holder::new(name))),
        }
    }

    /// Whether the term with this token of `key` is held here.
    pub(crate) fn leads(&self, key: AdvisoryKey, token: FencingToken) -> bool {
        let Some(slot) = self.slot(key) else {
            return false;
        };
        let counter = token.counter();
        let held = slot.held();
        held.as_ref()
            .is_some_and(|held| held.token.counter() == counter)
    }

    pub(crate) fn gate(&self) -> Arc<RwLock<()>> {
        self.gate.clone()
    }

    pub(crate) fn client(&self) -> &tokio_postgres::Client {
        self.link.client()
    }

    pub(crate) fn close(&self, trouble: &Trouble) {
        self.link.close(trouble);
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Whether the caller runs in the process that has opened it, and not in a fork of it.
    pub(crate) fn is_ours(&self) -> bool {
        self.statements.is_ours()
    }

    /// Releases what nobody has renewed in time; when to look again.
    async fn sweep(&self) -> Option<Time> {
        let now = self.clock.now();
        let mut overdue = Vec::new();
        let mut next: Option<Time> = None;
        self.slots().retain(|key, slot| {
            let until = slot.held().as_ref().map(|held| held.until);
            match until {
                Some(until) if until <= now => overdue.push(*key),
                Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                // Nobody uses it, and nobody can begin to while the map is locked.
                None => return Arc::strong_count(slot) > 1,
            }
            true
        });
        for key in overdue {
            // What fails here has closed the session.
            let _released = self.release_if(key, |held| held.until <= now).await;
            // One that was extended meanwhile has another deadline.
            next = Some(now);
        }
        next
    }
}

impl Held {
    /// Numbers of campaigns repeat where memory is copied, so the identity counts too.
    fn is_of(&self, candidate: &Candidate) -> bool {
        self.campaign == candidate.campaign && self.identity == candidate.identity
    }

    fn holder(&self) -> Holder {
        let mut holder = Holder::new(self.identity.as_str());
        holder.token = Some(self.token);
        holder.value = self.value.as_ref().map(|value| value.as_str().to_owned());
        holder
    }
}

impl Slot {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlocks abandoned locks for as long as the session lives.
async fn sweep(session: Weak<Session>, end: impl Future<Output = Trouble>, clock: SharedClock) {
    let mut end = std::pin::pin!(end);
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let next = alive.sweep().await;
        let (hub, acquired) = (alive.hub.clone(), alive.acquired.clone());
        // Not kept alive by this wait.
        drop(alive);
        let look = async {
            match next {
                Some(at) => clock.sleep_until(at).await,
                None => acquired.notified().await,
            }
        };
        tokio::select! {
            biased;
            _trouble = &mut end => {
                hub.missed_something();
                return;
            }
            () = look => {}
        }
    }
}

fn not_the_lease(name: &str, shown: Option<&str>) -> Trouble {
    Trouble::new(
        ErrorKind::Misconfigured,
        format!(
            "{name} of the session that holds the locks is no longer the lease but {shown:?}, so \
             the server would not end the session in time; has a guarded transaction changed it? \
             In one use SET LOCAL, and no RESET ALL"
        ),
    )
}

/// A duration as the server shows its settings: in the largest unit of which it is a multiple.
fn milliseconds(setting: &str) -> Option<u128> {
    let digits = setting.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = setting.split_at(digits.unwrap_or(setting.len()));
    let unit = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    Some(number.parse::<u128>().ok()? * unit)
}

pub(crate) fn collision(key: AdvisoryKey, lock: &LockName, other: &str) -> Trouble {
    Trouble::new(
        ErrorKind::Misconfigured,
        format!(
            "the locks {lock} and {:?} have the same advisory key {key}; give one of them \
             another name, or a key of its own",
            other.chars().take(253).collect::<String>()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_probe_ends_a_session_before_its_lease() {
        for millis in [100, 999, 1000, 2000, 3001, 7000, 11_000, 20_000, 3_600_000] {
            let lease = Duration::from_millis(millis);
            let dead_after = u128::from(1 + PROBES) * probe_seconds(lease) * 1000;
            assert!(dead_after > lease.as_millis(), "{lease:?}: {dead_after} ms");
        }
    }

    #[test]
    fn durations_are_read_as_the_server_shows_them() {
        for (shown, expected) in [
            ("0", Some(0)),
            ("100ms", Some(100)),
            ("61s", Some(61_000)),
            ("10min", Some(600_000)),
            ("3h", Some(10_800_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("10 min", None),
            ("-1", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(milliseconds(shown), expected, "{shown:?}");
        }
    }
}
