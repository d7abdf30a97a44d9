//! What the server or the network can answer, as this library's kinds of error.

use std::error::Error as _;

use tenure_core::{ErrorKind, LockName};
use tenure_kit::Recovery;
use tenure_kit::limits::shown;
use tokio_postgres::error::SqlState;

use crate::key::AdvisoryKey;

/// What went wrong, and what this library can do next. The end of one session answers all calls
/// that relied on it.
pub(crate) type StoreError = tenure_kit::StoreError<Answer>;

/// What only this store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The server is a standby, or accepts reads only: try the next host.
    Standby,
    /// A lock was not free for as long as it was waited for.
    WaitedInVain,
    /// The server goes on, but has no such function, or the user may not call it: do without.
    Omitted,
}

pub(crate) fn is_standby(error: &StoreError) -> bool {
    error.recovery == Recovery::Store(Answer::Standby)
}

/// The session has ended, and the server gave no reason.
pub(crate) fn closed() -> StoreError {
    StoreError::new(
        ErrorKind::Unavailable,
        "the session with the server has ended",
    )
    .reconnect()
}

pub(crate) fn unreadable(what: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Internal,
        format!("the server's answer to {what} cannot be read; is it PostgreSQL?"),
    )
}

/// Another client uses the same session of the server.
pub(crate) fn shared_session() -> StoreError {
    StoreError::new(
        ErrorKind::Unsupported,
        "another client uses the same session of the server, so both would get the same lock: is \
         there a pooler in between that is not in session mode, or a server that has one session \
         for all clients? Connect to a PostgreSQL server itself",
    )
}

/// The server has stopped waiting for a standby.
pub(crate) fn not_replicated(what: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Unavailable,
        format!(
            "the server's wait for a synchronous standby was cancelled, so {what} may be lost in a \
             failover"
        ),
    )
}

/// The same error of a session that is not set up yet. One that was closed without a word may have
/// been ended by a limit of the role: what the server says of it is lost with the connection.
pub(crate) fn while_connecting(error: StoreError) -> StoreError {
    // Only its text tells the client's kinds of error apart.
    let is_cut = |text: &str| text.ends_with("has ended") || text.contains("os error");
    if !error.needs_reconnect() || !is_cut(error.message()) {
        return error;
    }
    let message = format!(
        "{}; if the server is up, check idle_session_timeout and transaction_timeout of the role, \
         the database and the server",
        error.message()
    );
    error.with_message(message)
}

/// A standby, which shows no lock of its primary.
pub(crate) fn standby() -> StoreError {
    let error = StoreError::new(
        ErrorKind::Unavailable,
        "the server is a standby, and the locks are at its primary; name all hosts in the URL, so \
         that the primary is found",
    );
    error.recover_by(Recovery::Store(Answer::Standby))
}

/// A primary whose role or database accepts reads only.
pub(crate) fn read_only() -> StoreError {
    // A former primary may have been made such a one: the next host is tried.
    let error = StoreError::new(
        ErrorKind::Unavailable,
        "the server accepts reads only, as default_transaction_read_only is on; set it off for this \
         role (ALTER ROLE ... SET default_transaction_read_only = off) or in the URL \
         (options=-c%20default_transaction_read_only%3Doff)",
    );
    error.recover_by(Recovery::Store(Answer::Standby))
}

/// A role or database whose commits do not wait for the disk.
pub(crate) fn volatile() -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        "synchronous_commit is off, so a crash of the server could give a fencing token twice; set \
         it on for this role (ALTER ROLE ... SET synchronous_commit = on) or in the URL \
         (options=-c%20synchronous_commit%3Don)",
    )
}

/// Two locks have the same key.
pub(crate) fn collision(key: AdvisoryKey, lock: &LockName, other: &str) -> StoreError {
    let other: String = other.chars().take(253).collect();
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "the locks {lock} and {other:?} have the same advisory key {key}; give one of them \
             another name, or a key of its own"
        ),
    )
}

/// An error of the client.
pub(crate) fn of_client(error: tokio_postgres::Error) -> StoreError {
    let Some(answer) = error.as_db_error() else {
        if error.is_closed() {
            return closed().with_source(error);
        }
        // The client's own message says only "error connecting to server".
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text = format!("{text}: {source}");
        }
        // Only its text tells the client's kinds of error apart.
        let kind = if text.contains("TLS") {
            text.push_str("; check sslmode, ca and the server's certificate");
            ErrorKind::Misconfigured
        } else if text.contains("channel binding") {
            text.push_str("; it needs TLS, and a SCRAM password in the server's pg_hba.conf");
            ErrorKind::Misconfigured
        } else {
            ErrorKind::Unavailable
        };
        let failed = StoreError::new(kind, shown(&text)).with_source(error);
        return failed.reconnect();
    };
    let code = answer.code().clone();
    let (kind, advice) = meaning(&code);
    let mut message = format!(
        "the server answers \"{}\" ({})",
        shown(answer.message()),
        code.code()
    );
    if !advice.is_empty() {
        message = format!("{message}; {advice}");
    }
    let answered = StoreError::new(kind, message).with_source(error);
    answered.recover_by(recovery(&code))
}

fn recovery(code: &SqlState) -> Recovery<Answer> {
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return Recovery::Store(Answer::Standby);
    }
    match class(code) {
        "55" => Recovery::Store(Answer::WaitedInVain),
        "57" | "53" | "08" => Recovery::Reconnect,
        "42" | "0A" => Recovery::Store(Answer::Omitted),
        _ => Recovery::None,
    }
}

/// The class of a code: its first two characters. Empty where the code is not of that form.
fn class(code: &SqlState) -> &str {
    code.code().get(..2).unwrap_or_default()
}

fn meaning(code: &SqlState) -> (ErrorKind, &'static str) {
    use ErrorKind::{Conflict, Forbidden, Internal, Misconfigured, Unavailable, Unsupported};
    match code.code() {
        "28P01" => (
            Forbidden,
            "check user and password; a role gets one by ALTER ROLE ... PASSWORD",
        ),
        "28000" => (
            Forbidden,
            "check the user, the server's pg_hba.conf and whether TLS is asked for",
        ),
        "42501" => (
            Forbidden,
            "the role needs CONNECT on the database, and USAGE on the token sequence if there is \
             one (GRANT USAGE ON SEQUENCE ... TO ...)",
        ),
        "3D000" => (
            Misconfigured,
            "create the database, or name another one in the URL's path",
        ),
        "42P01" => (
            Misconfigured,
            "create the token sequence: CREATE SEQUENCE ...",
        ),
        "53300" => (
            Unavailable,
            "raise max_connections or the role's limit, or lower watch_sessions",
        ),
        "53200" => (
            Unavailable,
            "the lock table holds max_locks_per_transaction * (max_connections + \
             max_prepared_transactions) locks: raise max_locks_per_transaction, which needs a \
             restart",
        ),
        "57P05" => (
            Unavailable,
            "the lease has expired: no heartbeat reached the server in time; while connecting, \
             idle_session_timeout of the role, the database or the server is too short",
        ),
        "25P04" => (
            Unavailable,
            "a guarded transaction was open for longer than the lease; while connecting, \
             transaction_timeout of the role, the database or the server is too short",
        ),
        "25P03" => (
            Unavailable,
            "a guarded transaction stood idle for longer than the lease",
        ),
        "57014" => (
            Unavailable,
            "an administrator cancelled the statement; while connecting, statement_timeout of the \
             role, the database or the server is too short",
        ),
        "58P01" => (
            Misconfigured,
            "check session_preload_libraries and local_preload_libraries of the role, the database \
             and the server",
        ),
        "57P01" => (
            Unavailable,
            "the server is shutting down, or an administrator ended this session",
        ),
        "25006" => (
            Unavailable,
            "the server accepts reads only: is it a standby, or default_transaction_read_only on?",
        ),
        "08P01" => (
            Misconfigured,
            "is there a pooler in between? Connect to the server itself",
        ),
        "42883" | "0A000" => (Unsupported, "the server is too old, or no PostgreSQL"),
        _ => match class(code) {
            "08" | "53" | "57" | "58" | "XX" => (Unavailable, ""),
            "40" => (Conflict, ""),
            "42" => (Misconfigured, ""),
            _ => (Internal, ""),
        },
    }
}
