//! What a session asks of the server, and how the answers are read.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::join4;
use tenure_core::{ErrorKind, Kept, Process};
use tenure_kit::deadline::{LEAST, within};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::heartbeat::Heartbeat;
use crate::client::SessionClient;
use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::errors::{self, StoreError};
use crate::key::{ALIVE, AdvisoryKey};
use crate::question::ask;
use crate::settings::ApplicationLimits;
use crate::setup::{OWN_VALUE, STARTED, give_own_value, own_value, set_up, take_own_lock};

/// The statements of a session, on its connection.
pub(super) struct Statements {
    pub(super) connection: Arc<Connection>,
    /// When the server started it; `None` if it has no lock of its own, or that is not shown.
    pub(super) started: Option<String>,
    /// Dropping one closes it at the server.
    prepared: Kept<Prepared>,
    /// How long an answer may take before the session counts as dead.
    patience: Duration,
    /// The session's own value: see [`OWN_VALUE`].
    own_value: String,
}

struct Prepared {
    acquire: Statement,
    release: Statement,
    unlock: Statement,
    heartbeat: Statement,
    holder: Statement,
    notify: Statement,
}

/// Who holds a lock, as the server knows it.
pub(super) struct Owner {
    pub(super) pid: i32,
    pub(super) name: String,
    /// Whether its session holds the lock that this library's sessions hold while they live.
    pub(super) is_tenure: bool,
}

/// What a try has won.
pub(super) struct Won {
    /// The counter of the token.
    pub(super) counter: i64,
    /// Whether the lock is held shared, so that the session can be moved.
    pub(super) shared: bool,
}

impl Statements {
    /// Sets up a connection that `elects` or only looks, and prepares its statements.
    pub(super) async fn open(
        connection: Connection,
        config: &PostgresConfig,
        process: &Process,
        elects: bool,
        (lease, name): (Duration, &str),
    ) -> Result<(Self, ApplicationLimits), StoreError> {
        let own_value = own_value()?;
        let taking = async {
            if elects {
                return take_own_lock(&connection, &own_value).await;
            }
            Ok(None)
        };
        // In one round trip, and in this order: each is sent when it is polled first.
        let (limits, given, started, prepared) = join4(
            set_up(&connection, config, lease, name),
            give_own_value(&connection, &own_value),
            taking,
            Prepared::new(connection.client(), config),
        )
        .await;
        let limits = limits?;
        given?;
        let (started, prepared) = (started?, prepared?);
        let this = Self {
            connection: Arc::new(connection),
            started,
            prepared: process.keep(prepared),
            patience: lease.max(LEAST),
            own_value,
        };
        Ok((this, limits))
    }

    /// Tries to lock; `None` if the lock is held. One that `may_move` is held shared then.
    pub(super) async fn acquire(
        &self,
        key: AdvisoryKey,
        sequence: Option<u32>,
        may_move: bool,
    ) -> Result<Option<Won>, StoreError> {
        let (big, class, object) = key.parameters();
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&big, &class, &object, &sequence, &self.own_value, &may_move];
        let cancelled = self.connection.cancelled_waits();
        let row = self.ask(&self.prepared.acquire, &parameters).await?;
        let is_own = row.try_get(1).unwrap_or(false);
        if !is_own {
            return Err(self.close(errors::shared_session()));
        }
        let unreadable = |_| errors::unreadable("a lock");
        let counter: Option<i64> = row.try_get(0).map_err(unreadable)?;
        let shared = row.try_get(2).map_err(unreadable)?;
        // Perhaps that of another attempt under way, which is then told the same.
        if counter.is_some() && self.connection.cancelled_waits() != cancelled {
            return Err(errors::not_replicated("the fencing token"));
        }
        Ok(counter.map(|counter| Won { counter, shared }))
    }

    /// Unlocks and notifies the others; whether it had been locked. `shared` is how, if that is
    /// known: to unlock what is not locked is a warning in the server's log.
    pub(super) async fn release(
        &self,
        key: AdvisoryKey,
        message: &str,
        shared: Option<bool>,
    ) -> Result<bool, StoreError> {
        let (big, class, object) = key.parameters();
        let parameters: [&(dyn ToSql + Sync); 5] = [&big, &class, &object, &message, &shared];
        let row = self.ask(&self.prepared.release, &parameters).await?;
        Ok(row.try_get(0).unwrap_or(false))
    }

    /// Unlocks what may be locked (a warning at the server if it is not). A failure closes the
    /// session: other terms' heartbeats must not keep the lock.
    pub(super) async fn unlock(&self, key: AdvisoryKey) -> Result<(), StoreError> {
        let (big, class, object) = key.parameters();
        let unlocked = self
            .ask(&self.prepared.unlock, &[&big, &class, &object])
            .await;
        let close = |error: &StoreError| self.connection.close(error);
        unlocked.map(drop).inspect_err(close)
    }

    /// A failure, other than that of the answer itself, has closed the session.
    pub(super) async fn heartbeat(&self) -> Result<Heartbeat, StoreError> {
        let row = self
            .ask(&self.prepared.heartbeat, &[&self.own_value])
            .await?;
        let is_own = row.try_get(6).unwrap_or(false);
        if !is_own {
            return Err(self.close(errors::shared_session()));
        }
        Heartbeat::read(&row).map_err(|_| errors::unreadable("a heartbeat"))
    }

    pub(super) async fn notify(&self, message: &str) -> Result<(), StoreError> {
        self.ask(&self.prepared.notify, &[&message]).await?;
        Ok(())
    }

    /// Takes a share of each of these locks, if the session of `old` lives; whether of all. One for
    /// which another program waits is not shared.
    pub(super) async fn share(&self, keys: &[AdvisoryKey], old: &Self) -> Result<bool, StoreError> {
        let (locks, lives) = (in_pg_locks(keys), old.is_shown("1"));
        let share = format!(
            "SELECT coalesce(bool_and(CASE WHEN kind = 1 THEN pg_try_advisory_lock_shared(bits) \
             ELSE pg_try_advisory_lock_shared((bits >> 32)::int4, ((bits << 32) >> 32)::int4) END), \
             false) FROM (VALUES {locks}) AS own (bits, kind) WHERE EXISTS ({lives})"
        );
        self.is_yes(&share).await
    }

    /// Whether the server shows that the session of `old` holds all these locks, and this one too:
    /// so it is asked after [`share`](Self::share). A query of its own: that one would show the
    /// sessions that were there at its start.
    pub(super) async fn sees_held(
        &self,
        keys: &[AdvisoryKey],
        old: &Self,
    ) -> Result<bool, StoreError> {
        let (locks, count) = (in_pg_locks(keys), keys.len());
        let (lives, pid) = (old.is_shown("1"), old.connection.pid);
        let look = format!(
            "SELECT count(*) FILTER (WHERE l.pid = {pid}) = {count} \
             AND count(*) FILTER (WHERE l.pid = pg_backend_pid()) = {count} \
             AND EXISTS ({lives}) FROM pg_locks l \
             JOIN (VALUES {locks}) AS own (bits, kind) ON l.objsubid = own.kind \
             AND ((l.classid::int8 << 32) | l.objid::int8) = own.bits \
             WHERE l.locktype = 'advisory' AND l.granted \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        self.is_yes(&look).await
    }

    /// Ends the session of `old`, and no other one with its process id.
    pub(super) async fn end_session_of(&self, old: &Self) -> Result<(), StoreError> {
        let end = old.is_shown("pg_terminate_backend(pid)");
        let ending = ask(self.connection.client(), &end);
        let ended = within("the server", self.patience, "the lease", ending).await;
        ended.map(drop)
    }

    /// Asked elsewhere: ends this session's wait for a synchronous standby, if it is in one.
    pub(super) async fn end_wait_for_a_standby(
        &self,
        client: &SessionClient,
    ) -> Result<(), StoreError> {
        let end = self.is_shown("pg_cancel_backend(pid)");
        let end = format!("{end} AND wait_event = 'SyncRep'");
        ask(client, &end).await.map(drop)
    }

    /// A query that selects `what` in one row while this very session lives, and else in none.
    fn is_shown(&self, what: &str) -> String {
        let (pid, started) = (self.connection.pid, self.started.as_deref());
        // The server's own text, of which no more than a number is said again.
        let is_of_a_number = |c: &char| c.is_ascii_digit() || *c == '.';
        let started: String = started
            .unwrap_or_default()
            .chars()
            .filter(is_of_a_number)
            .collect();
        format!("SELECT {what} FROM pg_stat_activity WHERE pid = {pid} AND {STARTED} = '{started}'")
    }

    async fn is_yes(&self, question: &str) -> Result<bool, StoreError> {
        let rows = ask(self.connection.client(), question).await?;
        Ok(rows.first().and_then(|row| row.get(0)) == Some("t"))
    }

    /// Who holds the lock. No answer within `limit` ends the session: the next look is on a new
    /// connection, perhaps to another host.
    pub(super) async fn owner(
        &self,
        key: AdvisoryKey,
        limit: Duration,
    ) -> Result<Option<Owner>, StoreError> {
        let (bits, kind) = key.in_pg_locks();
        let parameters: [&(dyn ToSql + Sync); 2] = [&bits, &kind];
        let client = self.connection.client();
        let query = client.answer(client.query_opt(&self.prepared.holder, &parameters));
        let query = query.map_err(errors::of_client);
        let row = within("the server", limit, "request_timeout", query).await;
        let Some(row) = row.inspect_err(|error| self.close_if_silent(error))? else {
            return Ok(None);
        };
        let unreadable = |_| errors::unreadable("who holds a lock");
        Ok(Some(Owner {
            pid: row.try_get(0).map_err(unreadable)?,
            name: row.try_get(1).map_err(unreadable)?,
            is_tenure: row.try_get(2).map_err(unreadable)?,
        }))
    }

    /// One query. No answer in time, or a fatal one, is the end of the session.
    ///
    /// The time counts from when it is sent: how long its caller has waited before says nothing of
    /// the server, and others' locks are in the session too.
    async fn ask(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let client = self.connection.client();
        let query = client.answer(client.query_one(statement, parameters));
        let query = query.map_err(|error| self.failed(error));
        let outcome = within("the server", self.patience, "the lease", query).await;
        outcome.inspect_err(|error| self.close_if_silent(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> StoreError {
        let answer = error.as_db_error();
        let severity = answer.and_then(DbError::parsed_severity);
        let is_fatal = matches!(severity, Some(Severity::Fatal | Severity::Panic));
        let (ends, is_closed) = (is_fatal || answer.is_none(), error.is_closed());
        let error = errors::of_client(error);
        if ends {
            self.connection.close(&error);
        }
        // Why the session has ended says more than that it has.
        let ended = self.connection.ended().filter(|_| is_closed);
        ended.unwrap_or(error)
    }

    fn close(&self, error: StoreError) -> StoreError {
        tracing::warn!(reason = error.message(), "the session is closed");
        self.connection.close(&error);
        error
    }

    fn close_if_silent(&self, error: &StoreError) {
        if error.kind == ErrorKind::Timeout {
            self.connection.close(error);
        }
    }
}

/// The locks as rows of a query.
fn in_pg_locks(keys: &[AdvisoryKey]) -> String {
    let row = |key: &AdvisoryKey| {
        let (bits, kind) = key.in_pg_locks();
        format!("('{bits}'::int8, {kind}::int2)")
    };
    keys.iter().map(row).collect::<Vec<_>>().join(", ")
}

/// A call of this function of an advisory lock, with the key of the first three parameters.
fn on_key(function: &str) -> String {
    format!(
        "CASE WHEN $1::int8 IS NULL THEN {function}($2::int4, $3::int4) ELSE {function}($1::int8) END"
    )
}

impl Prepared {
    async fn new(client: &SessionClient, config: &PostgresConfig) -> Result<Self, StoreError> {
        let lock = on_key("pg_try_advisory_lock");
        // Whatever the session's setting has become, the token is on disk when it is given. A
        // setting that asks for more, or that was chosen so (local), stays.
        let durable = "CASE current_setting('synchronous_commit') WHEN 'off' \
                       THEN set_config('synchronous_commit', 'on', true) IS NOT NULL ELSE true END";
        let is_own = format!("coalesce(current_setting('{OWN_VALUE}', true), '') = $5::text");
        let lock = format!("CASE WHEN {is_own} THEN {lock} ELSE false END");
        // From exclusive to shared, so that another session of this process can share it (see
        // `moving`). Nobody gets it in between. A program that already waits for it is in the way.
        let share = format!(
            "CASE WHEN $6::bool THEN CASE WHEN {} THEN {} ELSE false END ELSE false END",
            on_key("pg_try_advisory_lock_shared"),
            on_key("pg_advisory_unlock")
        );
        let won =
            format!("CASE WHEN ({lock}) THEN CASE WHEN ({share}) THEN 2 ELSE 1 END ELSE 0 END");
        // Once: a part of the query with such an offset is not merged into the rest.
        let won = format!("(SELECT {won} AS won OFFSET 0) AS try");
        let lock = format!("CASE WHEN try.won > 0 THEN {durable} ELSE false END");
        // The token is minted after the grant (I6), which nested CASE guarantees; AND would not.
        // The message in the log makes the server flush it, so that no crash brings the
        // transaction's number back: alone it leaves no trace there.
        let acquire = match &config.token_sequence {
            Some(_) => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN nextval(($4::oid)::regclass) END END, {is_own}, try.won = 2 FROM {won}"
            ),
            None => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN (pg_current_xact_id()::text)::int8 END END, {is_own}, try.won = 2 \
                 FROM {won} WHERE $4::oid IS NULL"
            ),
        };
        let (exclusive, shared) = (
            on_key("pg_advisory_unlock"),
            on_key("pg_advisory_unlock_shared"),
        );
        let both = format!("({exclusive})::int4 + ({shared})::int4");
        let unlock = format!(
            "CASE WHEN $5::bool THEN {shared} WHEN NOT $5::bool THEN {exclusive} \
             ELSE {both} > 0 END"
        );
        // A notification is sent when its transaction is committed, which writes to the log. No
        // crash can make it untrue, as locks end with it: no need to wait for the disk.
        let volatile = "set_config('synchronous_commit', 'off', true) IS NOT NULL";
        let release = format!(
            "SELECT CASE WHEN ({unlock}) THEN CASE WHEN {volatile} \
             THEN pg_notify('tenure', $4::text) IS NOT NULL END ELSE false END"
        );
        let notify =
            format!("SELECT CASE WHEN {volatile} THEN pg_notify('tenure', $1::text) IS NULL END");
        let unlock = format!("SELECT {both}");
        // Its own locks are all in its own database.
        let heartbeat = format!(
            "SELECT pg_backend_pid(), pg_is_in_recovery(), \
             coalesce(array_agg((classid::int8 << 32) | objid::int8), '{{}}'), \
             coalesce(array_agg(objsubid), '{{}}'), \
             current_setting('idle_session_timeout', true), \
             current_setting('idle_in_transaction_session_timeout'), \
             coalesce(current_setting('{OWN_VALUE}', true), '') = $1::text \
             FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND mode IN ('ExclusiveLock', 'ShareLock') AND pid = pg_backend_pid()"
        );
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
            client.prepare(&heartbeat),
            client.prepare(&holder),
            client.prepare(&notify),
        )
        .map_err(errors::of_client)?;
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
