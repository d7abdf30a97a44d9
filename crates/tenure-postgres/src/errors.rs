//! What the server or the network can answer, as this library's kinds of error.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, LockName, Operation};
use tokio_postgres::error::SqlState;

use crate::key::AdvisoryKey;

/// What went wrong, before it is known which operation it hit. Cheap to clone: the end of one
/// session answers all calls that relied on it.
#[derive(Clone, Debug)]
pub(crate) struct StoreError {
    pub(crate) kind: ErrorKind,
    pub(crate) recovery: Recovery,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What this library can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing: another host would answer the same.
    None,
    /// Try the next host of the list.
    NextHost,
    /// Try the next host: this one is a standby, or accepts reads only.
    Primary,
    /// Go on without the answer: the server lives, but has no such function, or the user may not
    /// call it.
    Omit,
}

/// An error as the source of one of this library's; a thin shell, since the original is shared.
#[derive(Debug)]
struct Source(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Source {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl StoreError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            recovery: Recovery::None,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn silent(what: &str, limit: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            format!("{what} did not answer within {limit:?}"),
        )
    }

    /// The session has ended, and the server gave no reason.
    pub(crate) fn closed() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "the session with the server has ended",
        )
    }

    pub(crate) fn unreadable(what: &str) -> Self {
        Self::new(
            ErrorKind::Internal,
            format!("the server's answer to {what} cannot be read; is it PostgreSQL?"),
        )
    }

    /// A server that accepts reads only.
    pub(crate) fn standby() -> Self {
        let (kind, advice) = meaning(&SqlState::READ_ONLY_SQL_TRANSACTION);
        Self::new(kind, advice).with_recovery(Recovery::Primary)
    }

    /// Two locks have the same key.
    pub(crate) fn collision(key: AdvisoryKey, lock: &LockName, other: &str) -> Self {
        let other: String = other.chars().take(253).collect();
        Self::new(
            ErrorKind::Misconfigured,
            format!(
                "the locks {lock} and {other:?} have the same advisory key {key}; give one of \
                 them another name, or a key of its own"
            ),
        )
    }

    /// The same error in other words.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_error(self, operation: Operation) -> Error {
        let error = Error::new(self.kind, operation, self.message);
        match self.source {
            Some(source) => error.with_source(Source(source)),
            None => error,
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            if error.is_closed() {
                return Self::closed().caused_by(error);
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
            } else {
                ErrorKind::Unavailable
            };
            let failed = Self::new(kind, shown(&text)).caused_by(error);
            return failed.with_recovery(Recovery::NextHost);
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
        let answered = Self::new(kind, message).caused_by(error);
        answered.with_recovery(recovery(&code))
    }
}

fn recovery(code: &SqlState) -> Recovery {
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return Recovery::Primary;
    }
    match class(code) {
        "57" | "53" | "08" => Recovery::NextHost,
        "42" | "0A" => Recovery::Omit,
        _ => Recovery::None,
    }
}

/// Control characters of a foreign text do not reach terminals and logs.
fn shown(text: &str) -> String {
    text.chars()
        .take(300)
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_debug());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
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
            "the lease has expired: no heartbeat reached the server in time",
        ),
        "25P03" => (
            Unavailable,
            "a guarded transaction stood idle for longer than the lease",
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
