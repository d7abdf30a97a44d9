//! Prepares a connection for a session that holds locks, or waits for the end of one that does.

use std::time::Duration;

use tenure_core::ErrorKind;

use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::errors::{self, StoreError};
use crate::question::{ask, run};

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
    connection: &Connection,
    config: &PostgresConfig,
    lease: Duration,
    name: &str,
) -> Result<(), StoreError> {
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
    let client = connection.client();
    run(client, &sql).await?;
    let check = "SET client_connection_check_interval = 1000";
    if let Err(error) = run(client, check).await {
        // Older servers and some systems have none; keepalives and the lease remain.
        let reason = error.message();
        tracing::debug!(reason, "no client_connection_check_interval");
    }
    let mut meant = vec![
        ("application_name", name),
        ("idle_in_transaction_session_timeout", &*lease_ms),
    ];
    if !config.without_lease {
        meant.push(("idle_session_timeout", &*lease_ms));
    }
    verify(connection, &meant).await
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
async fn verify(connection: &Connection, meant: &[(&str, &str)]) -> Result<(), StoreError> {
    let shown = "SELECT name, setting FROM pg_settings WHERE name IN ('application_name', \
                 'idle_in_transaction_session_timeout', 'idle_session_timeout')";
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
    Ok(())
}

/// Fails unless the tokens of `sequence` rise, in whatever session they are drawn, and over a crash.
pub(crate) async fn check_sequence(
    connection: &Connection,
    sequence: &str,
) -> Result<(), StoreError> {
    const SETTINGS: &str = "SELECT s.seqcache, s.seqincrement, s.seqcycle, \
        c.relpersistence::text, has_sequence_privilege(c.oid, 'usage') \
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid \
        WHERE c.oid = to_regclass($1)";
    let refused = |reason: String| Err(StoreError::new(ErrorKind::Misconfigured, reason));
    let found = connection.client().query_opt(SETTINGS, &[&sequence]).await;
    let Some(row) = found.map_err(errors::of_client)? else {
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
    Ok(())
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
