//! The SQL. All of it blocks.

use mysql::prelude::Queryable as _;
use mysql::{Conn, Result, params};
use tenure_core::{Candidate, LockName, PublishedValue};

/// What an operator can look at. `session` is the holder's, or null after a release.
///
/// The table in memory is empty after a restart of the server. So its one row tells two runs of the
/// server apart, without a clock.
const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS tenure_locks (
        name     VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
        token    BIGINT UNSIGNED NOT NULL,
        session  BIGINT UNSIGNED,
        run      VARCHAR(64) CHARACTER SET ascii NOT NULL,
        identity VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        value    VARCHAR(1024) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
        lease_s  INT UNSIGNED NOT NULL
    ) ENGINE = InnoDB",
    "CREATE TABLE IF NOT EXISTS tenure_run (
        one TINYINT PRIMARY KEY,
        id  CHAR(36) CHARACTER SET ascii NOT NULL
    ) ENGINE = MEMORY",
];

/// The server's name of a lock. Names are shared by all databases and hold 64 characters.
macro_rules! key {
    () => {
        "SHA2(CONCAT('tenure/', DATABASE(), '/', :name), 256)"
    };
}

pub(crate) fn create_tables(on: &mut Conn) -> Result<()> {
    TABLES.iter().try_for_each(|table| on.query_drop(table))
}

/// Which run of which server this is: the table may be that of a replica.
pub(crate) fn run_of_server(on: &mut Conn) -> Result<String> {
    const READ: &str = "SELECT CONCAT(id, '@', @@server_id) FROM tenure_run";
    if let Some(run) = on.query_first(READ)? {
        return Ok(run);
    }
    on.query_drop("INSERT IGNORE INTO tenure_run VALUES (1, UUID())")?;
    Ok(on.query_first(READ)?.unwrap_or_default())
}

/// Ends this session when the server has heard nothing from it for so long, counted from the end
/// of its last request.
pub(crate) fn set_lease(on: &mut Conn, seconds: u64) -> Result<()> {
    on.query_drop(format!(
        "SET SESSION autocommit = 1, wait_timeout = {seconds}, net_read_timeout = {seconds}"
    ))
}

/// Takes the lock for this session. Does not wait.
pub(crate) fn get_lock(on: &mut Conn, lock: &LockName) -> Result<bool> {
    let query = concat!("SELECT GET_LOCK(", key!(), ", 0)");
    let got: Option<Option<i64>> = on.exec_first(query, params! { "name" => lock.as_str() })?;
    Ok(got.flatten() == Some(1))
}

pub(crate) fn release_lock(on: &mut Conn, lock: &LockName) -> Result<()> {
    let query = concat!("DO RELEASE_LOCK(", key!(), ")");
    on.exec_drop(query, params! { "name" => lock.as_str() })
}

/// What stands there of a lock.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) token: u64,
    pub(crate) session: Option<u64>,
    pub(crate) run: String,
    pub(crate) identity: String,
    pub(crate) value: Option<String>,
    pub(crate) lease_s: u64,
}

pub(crate) fn read(on: &mut Conn, lock: &LockName) -> Result<Option<Row>> {
    let query = "SELECT token, session, run, identity, value, lease_s
                 FROM tenure_locks WHERE name = :name";
    let row = on.exec_first(query, params! { "name" => lock.as_str() })?;
    Ok(
        row.map(|(token, session, run, identity, value, lease_s)| Row {
            token,
            session,
            run,
            identity,
            value,
            lease_s,
        }),
    )
}

/// Begins a term. Only for the session that has the lock: nothing else writes the row meanwhile.
pub(crate) fn begin(
    on: &mut Conn,
    lock: &LockName,
    candidate: &Candidate,
    token: u64,
    run: &str,
    lease_s: u64,
) -> Result<()> {
    on.exec_drop(
        "REPLACE INTO tenure_locks (name, token, session, run, identity, value, lease_s)
         VALUES (:name, :token, CONNECTION_ID(), :run, :identity, :value, :lease_s)",
        params! {
            "name" => lock.as_str(),
            "token" => token,
            "run" => run,
            "identity" => candidate.identity.as_str(),
            "value" => candidate.value.as_ref().map(PublishedValue::as_str),
            "lease_s" => lease_s,
        },
    )
}

/// Whether the term with this token goes on in this session; with the value and lease from now on.
/// The server writes nothing where they are the same.
pub(crate) fn go_on(
    on: &mut Conn,
    lock: &LockName,
    token: u64,
    value: Option<&str>,
    lease_s: u64,
) -> Result<bool> {
    let query = concat!(
        "UPDATE tenure_locks SET value = :value, lease_s = :lease_s
         WHERE name = :name AND token = :token AND session = CONNECTION_ID()
         AND IS_USED_LOCK(",
        key!(),
        ") = CONNECTION_ID()"
    );
    let values = params! {
        "name" => lock.as_str(), "token" => token, "value" => value, "lease_s" => lease_s,
    };
    on.exec_drop(query, values)?;
    Ok(on.affected_rows() == 1)
}

/// Ends the term in the row, so that no candidate waits for its lease after a restart of the server.
pub(crate) fn end(on: &mut Conn, lock: &LockName, token: u64) -> Result<()> {
    on.exec_drop(
        "UPDATE tenure_locks SET session = NULL
         WHERE name = :name AND token = :token AND session = CONNECTION_ID()",
        params! { "name" => lock.as_str(), "token" => token },
    )
}

/// The session that has the lock.
pub(crate) fn holder(on: &mut Conn, lock: &LockName) -> Result<Option<u64>> {
    let query = concat!("SELECT IS_USED_LOCK(", key!(), ")");
    let used: Option<Option<u64>> = on.exec_first(query, params! { "name" => lock.as_str() })?;
    Ok(used.flatten())
}

/// Ends another session of the same user.
pub(crate) fn kill(on: &mut Conn, session: u64) -> Result<()> {
    on.query_drop(format!("KILL CONNECTION {session}"))
}

/// A global variable of the server.
pub(crate) fn variable(on: &mut Conn, name: &str) -> Result<String> {
    let value = on.query_first(format!("SELECT CONVERT(@@GLOBAL.{name}, CHAR)"))?;
    Ok(value.unwrap_or_default())
}
