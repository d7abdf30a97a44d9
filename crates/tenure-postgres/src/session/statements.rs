//! What a session asks of the server, and how the answers are read.

use std::time::Duration;

use futures_util::TryFutureExt as _;
use tenure_core::{ErrorKind, Kept, Process};
use tenure_kit::deadline::within;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::heartbeat::Heartbeat;
use crate::client::SessionClient;
use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::errors::{self, StoreError};
use crate::key::{ALIVE, AdvisoryKey};
use crate::setup::OWN_VALUE;

/// The statements of a session, on its connection.
pub(super) struct Statements {
    pub(super) connection: Connection,
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

impl Statements {
    pub(super) async fn prepare(
        connection: Connection,
        config: &PostgresConfig,
        process: &Process,
        patience: Duration,
        own_value: String,
    ) -> Result<Self, StoreError> {
        let prepared = Prepared::new(connection.client(), config).await?;
        Ok(Self {
            connection,
            prepared: process.keep(prepared),
            patience,
            own_value,
        })
    }

    /// Whether the caller runs in the process that has prepared them, and not in a fork of it.
    pub(super) fn is_ours(&self) -> bool {
        self.prepared.is_ours()
    }

    /// Tries to lock; the counter of the token, or `None` if the lock is held.
    pub(super) async fn acquire(
        &self,
        key: AdvisoryKey,
        sequence: Option<u32>,
    ) -> Result<Option<i64>, StoreError> {
        let (big, class, object) = key.parameters();
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&big, &class, &object, &sequence, &self.own_value];
        let cancelled = self.connection.cancelled_waits();
        let row = self.ask(&self.prepared.acquire, &parameters).await?;
        let is_own = row.try_get(1).unwrap_or(false);
        if !is_own {
            return Err(self.close(errors::shared_session()));
        }
        let token: Option<i64> = row.try_get(0).map_err(|_| errors::unreadable("a lock"))?;
        // Perhaps that of another attempt under way, which is then told the same.
        if token.is_some() && self.connection.cancelled_waits() != cancelled {
            return Err(errors::not_replicated("the fencing token"));
        }
        Ok(token)
    }

    /// Unlocks and notifies the others; whether it had been locked.
    pub(super) async fn release(
        &self,
        key: AdvisoryKey,
        message: &str,
    ) -> Result<bool, StoreError> {
        let (big, class, object) = key.parameters();
        let parameters: [&(dyn ToSql + Sync); 4] = [&big, &class, &object, &message];
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

impl Prepared {
    async fn new(client: &SessionClient, config: &PostgresConfig) -> Result<Self, StoreError> {
        let lock = "CASE WHEN $1::int8 IS NULL THEN pg_try_advisory_lock($2::int4, $3::int4) \
                    ELSE pg_try_advisory_lock($1::int8) END";
        // Whatever the session's setting has become, the token is on disk when it is given. A
        // setting that asks for more, or that was chosen so (local), stays.
        let durable = "CASE current_setting('synchronous_commit') WHEN 'off' \
                       THEN set_config('synchronous_commit', 'on', true) IS NOT NULL ELSE true END";
        let is_own = format!("coalesce(current_setting('{OWN_VALUE}', true), '') = $5::text");
        let lock = format!("CASE WHEN {is_own} THEN {lock} ELSE false END");
        let lock = format!("CASE WHEN ({lock}) THEN {durable} ELSE false END");
        // The token is minted after the grant (I6), which nested CASE guarantees; AND would not.
        // The message in the log makes the server flush it, so that no crash brings the
        // transaction's number back: alone it leaves no trace there.
        let acquire = match &config.token_sequence {
            Some(_) => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN nextval(($4::oid)::regclass) END END, {is_own}"
            ),
            None => format!(
                "SELECT CASE WHEN ({lock}) THEN CASE WHEN \
                 pg_logical_emit_message(true, 'tenure', '') IS NOT NULL \
                 THEN (pg_current_xact_id()::text)::int8 END END, {is_own} WHERE $4::oid IS NULL"
            ),
        };
        let unlock = "CASE WHEN $1::int8 IS NULL THEN pg_advisory_unlock($2::int4, $3::int4) \
                      ELSE pg_advisory_unlock($1::int8) END";
        // A notification is sent when its transaction is committed, which writes to the log. No
        // crash can make it untrue, as locks end with it: no need to wait for the disk.
        let volatile = "set_config('synchronous_commit', 'off', true) IS NOT NULL";
        let release = format!(
            "SELECT CASE WHEN ({unlock}) THEN CASE WHEN {volatile} \
             THEN pg_notify('tenure', $4::text) IS NOT NULL END ELSE false END"
        );
        let notify =
            format!("SELECT CASE WHEN {volatile} THEN pg_notify('tenure', $1::text) IS NULL END");
        let unlock = format!("SELECT {unlock}");
        // Its own locks are all in its own database.
        let heartbeat = format!(
            "SELECT pg_backend_pid(), pg_is_in_recovery(), \
             coalesce(array_agg((classid::int8 << 32) | objid::int8), '{{}}'), \
             coalesce(array_agg(objsubid), '{{}}'), \
             current_setting('idle_session_timeout', true), \
             current_setting('idle_in_transaction_session_timeout'), \
             coalesce(current_setting('{OWN_VALUE}', true), '') = $1::text \
             FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' \
             AND pid = pg_backend_pid()"
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
