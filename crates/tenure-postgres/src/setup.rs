//! Prepares a connection for a session that holds locks, or waits for the end of one that does.

use std::time::Duration;

use futures_util::future::{join, join3, join4};
use tenure_core::{ErrorKind, random_u64};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryRow};

use crate::client::SessionClient;
use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::errors::{self, StoreError};
use crate::key::ALIVE;
use crate::question::{ask, run};
use crate::settings::{ApplicationLimits, set_own};

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
/// - what this library's own statements need: see [`settings`](crate::settings).
pub(crate) async fn set_up(
    connection: &Connection,
    config: &PostgresConfig,
    lease: Duration,
    name: &str,
) -> Result<ApplicationLimits, StoreError> {
    let lease_ms = lease.as_millis().to_string();
    let probe = probe_seconds(lease);
    let unheard = (lease + UNHEARD).as_millis();
    let with_lease = if config.without_lease {
        // Perhaps a server so old that it knows neither.
        String::new()
    } else {
        format!("SET idle_session_timeout = {lease_ms}; SET tcp_user_timeout = {unheard}; ")
    };
    let own = set_own(connection.version);
    let sql = format!(
        "{own}{with_lease}SET idle_in_transaction_session_timeout = {lease_ms}; \
         SET tcp_keepalives_idle = {probe}; SET tcp_keepalives_interval = {probe}; \
         SET tcp_keepalives_count = {PROBES}"
    );
    let client = connection.client();
    let naming = "SELECT pg_catalog.set_config('application_name', $1, false)";
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let check = "SET client_connection_check_interval = 1000";
    let mut meant = vec![
        ("application_name", name),
        ("idle_in_transaction_session_timeout", &*lease_ms),
    ];
    if !config.without_lease {
        meant.push(("idle_session_timeout", &*lease_ms));
    }
    // In one round trip, and in this order: each is sent when it is polled first.
    let (set, named, checked, verified) = join4(
        run(client, &sql),
        bound(client, naming, &parameters),
        run(client, check),
        verify(connection, &meant),
    )
    .await;
    set?;
    named?;
    if let Err(error) = checked {
        // Older servers and some systems have none; keepalives and the lease remain.
        let reason = error.message();
        tracing::debug!(reason, "no client_connection_check_interval");
    }
    verified
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

/// Whether the settings have reached this very session: a pooler may have kept them.
async fn verify(
    connection: &Connection,
    meant: &[(&str, &str)],
) -> Result<ApplicationLimits, StoreError> {
    let shown = "SELECT name, setting, reset_val FROM pg_settings WHERE name IN \
                 ('application_name', 'idle_in_transaction_session_timeout', \
                 'idle_session_timeout', 'statement_timeout', 'transaction_timeout')";
    let rows = ask(connection.client(), shown).await?;
    for (name, value) in meant {
        let row = rows.iter().find(|row| row.get(0) == Some(name));
        let set = row.and_then(|row| row.get(1));
        if set != Some(value) {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                format!(
                    "the server was told to set {name} to {value:?} in this session, but shows \
                     {set:?}; is there a pooler in between?"
                ),
            ));
        }
    }
    Ok(ApplicationLimits::read(|name| {
        let row = rows.iter().find(|row| row.get(0) == Some(name))?;
        row.get(2)?.parse().ok()
    }))
}

/// Under which name a session keeps a value of its own. Each heartbeat and each try for a lock reads
/// it back: with another client's value, or none, the session is not this client's alone.
pub(crate) const OWN_VALUE: &str = "tenure.session";

/// When a session of `pg_stat_activity` was started: with its process id that names one session.
/// Not shown by the time zone or the style that another session may have.
pub(crate) const STARTED: &str = "extract(epoch FROM backend_start)::text";

/// A value that no other session has.
pub(crate) fn own_value() -> Result<String, StoreError> {
    // Not from the memory of this process: forked workers would draw the same.
    let draw = || random_u64().map_err(|error| StoreError::new(error.kind(), error.message()));
    Ok(format!("{:016x}{:016x}", draw()?, draw()?))
}

/// Gives the session its own value.
pub(crate) async fn give_own_value(connection: &Connection, value: &str) -> Result<(), StoreError> {
    run(connection.client(), &format!("SET {OWN_VALUE} = '{value}'")).await
}

/// Takes the lock that says that the session lives.
///
/// Fails where another client uses the same session: it holds locks there already, or has given it
/// its own value. Of two that do this at once, one at most gets both. Fails too where `pg_locks`
/// does not show that lock: then it would show none that is won.
///
/// Returns when the server started the session, as [`STARTED`] gives it, if the server shows that.
pub(crate) async fn take_own_lock(
    connection: &Connection,
    value: &str,
) -> Result<Option<String>, StoreError> {
    let client = connection.client();
    let take = format!(
        "SELECT CASE WHEN current_setting('{OWN_VALUE}', true) = '{value}' AND NOT EXISTS \
         (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
         THEN pg_try_advisory_lock({ALIVE}, pg_backend_pid()) ELSE false END"
    );
    let is_yes = |rows: &[SimpleQueryRow]| rows.first().and_then(|row| row.get(0)) == Some("t");
    let shown = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted \
         AND mode = 'ExclusiveLock' AND objsubid = 2 AND pid = pg_backend_pid() \
         AND classid = {ALIVE} AND objid::int8 = pg_backend_pid()), \
         (SELECT {STARTED} FROM pg_stat_activity WHERE pid = pg_backend_pid())"
    );
    // In this order, in one round trip.
    let (taken, shown) = join(ask(client, &take), ask(client, &shown)).await;
    if !is_yes(&taken?) {
        return Err(errors::shared_session());
    }
    let shown = shown?;
    if !is_yes(&shown) {
        return Err(StoreError::new(
            ErrorKind::Unsupported,
            "the server gives advisory locks that pg_locks does not show; is it PostgreSQL?",
        ));
    }
    Ok(shown.first().and_then(|row| row.get(1)).map(str::to_owned))
}

/// The rows of the answer to one statement, whose parameters are bound.
async fn bound(
    client: &SessionClient,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, StoreError> {
    let answer = client.answer(client.query_typed(sql, parameters)).await;
    answer.map_err(errors::of_client)
}

/// Which relation the application means by this name, and whether it has named its schema.
async fn find(client: &SessionClient, name: &str) -> Result<(Option<u32>, bool), StoreError> {
    // By its own search path, in which names of ours are none of the server's.
    const FIND: &str = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, \
        pg_catalog.cardinality(pg_catalog.parse_ident($1)) OPERATOR(pg_catalog.>) 1";
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    // In this order, in one round trip.
    let (begun, found, ended) = join3(
        run(client, "BEGIN; SET LOCAL search_path TO DEFAULT"),
        bound(client, FIND, &parameters),
        run(client, "ROLLBACK"),
    )
    .await;
    begun?;
    ended?;
    let unreadable = || errors::unreadable("a sequence's name");
    let found = found?;
    let row = found.first().ok_or_else(unreadable)?;
    let read = |_| unreadable();
    Ok((row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?))
}

/// The sequence, by its number at the server. Fails unless its tokens rise, in whatever session
/// they are drawn, and over a crash; and unless the URL names its schema, or no other role could
/// have created it there.
///
/// After [`set_up`], so that its own names are the server's.
pub(crate) async fn check_sequence(
    connection: &Connection,
    sequence: &str,
) -> Result<u32, StoreError> {
    const SETTINGS: &str = "SELECT s.seqcache, s.seqincrement, s.seqcycle, \
        c.relpersistence::text, has_sequence_privilege(c.oid, 'usage'), n.nspname::text, \
        EXISTS (SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) given \
            LEFT JOIN pg_roles r ON r.oid = given.grantee \
            WHERE given.privilege_type = 'CREATE' AND given.grantee <> n.nspowner \
            AND NOT coalesce(r.rolsuper OR r.rolname = current_user, false)) \
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid \
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let refused = |reason: String| Err(StoreError::new(ErrorKind::Misconfigured, reason));
    let client = connection.client();
    let (number, names_schema) = find(client, sequence).await?;
    let found = match number {
        Some(number) => bound(client, SETTINGS, &[(&number, Type::OID)]).await?,
        None => Vec::new(),
    };
    let (Some(number), Some(row)) = (number, found.first()) else {
        return refused(format!(
            "there is no sequence {sequence}; CREATE SEQUENCE {sequence}"
        ));
    };
    let unreadable = |_| errors::unreadable("a sequence");
    let cache: i64 = row.try_get(0).map_err(unreadable)?;
    let step: i64 = row.try_get(1).map_err(unreadable)?;
    let cycles: bool = row.try_get(2).map_err(unreadable)?;
    let kept: String = row.try_get(3).map_err(unreadable)?;
    let allowed: bool = row.try_get(4).map_err(unreadable)?;
    let schema: String = row.try_get(5).map_err(unreadable)?;
    let others_create: bool = row.try_get(6).map_err(unreadable)?;
    if others_create && !names_schema {
        return refused(format!(
            "the sequence {sequence} was found in the schema {schema}, in which other roles can \
             create one; REVOKE CREATE ON SCHEMA {schema} from them, or name the schema in the URL \
             (token_sequence={schema}.{sequence})"
        ));
    }
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
        Some(("NO CYCLE", "it starts again at its end"))
    } else {
        None
    };
    if let Some((fix, reason)) = wrong {
        return refused(format!(
            "tokens from the sequence {sequence} would fall, as {reason}; ALTER SEQUENCE \
             {sequence} {fix}"
        ));
    }
    if kept != "p" {
        return refused(format!(
            "tokens from the sequence {sequence} would fall after a crash, as it is not logged; \
             create it without UNLOGGED or TEMPORARY"
        ));
    }
    Ok(number)
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
}
