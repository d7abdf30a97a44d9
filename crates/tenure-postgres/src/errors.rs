//! What the server or the way to it can answer, as this library's kinds of error.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, Operation};
use tokio_postgres::error::SqlState;

/// What went wrong, before it is known which operation it hit. Cheap to clone: the end of one
/// session answers everybody who relied on it.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: ErrorKind,
    pub(crate) code: Option<SqlState>,
    /// Another host of the list may be better.
    pub(crate) is_of_the_host: bool,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
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

impl Trouble {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            is_of_the_host: false,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn of_the_host(mut self) -> Self {
        self.is_of_the_host = true;
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

    /// The session has ended for no reason that was told.
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

    /// A server that only reads.
    pub(crate) fn standby() -> Self {
        let code = SqlState::READ_ONLY_SQL_TRANSACTION;
        let (kind, advice) = meaning(&code);
        let mut trouble = Self::new(kind, advice).of_the_host();
        trouble.code = Some(code);
        trouble
    }

    pub(crate) fn is_standby(&self) -> bool {
        self.code == Some(SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether the server lives and goes on, and only this was not to be asked: no permission, or
    /// no such function.
    pub(crate) fn is_of_the_question(&self) -> bool {
        self.code
            .as_ref()
            .is_some_and(|code| matches!(class(code), "42" | "0A"))
    }

    /// The same trouble in other words.
    pub(crate) fn retold(mut self, message: String) -> Self {
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

impl From<tokio_postgres::Error> for Trouble {
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
                text.push_str("; check sslmode, sslrootcert and the server's certificate");
                ErrorKind::Misconfigured
            } else {
                ErrorKind::Unavailable
            };
            return Self::new(kind, shown(&text)).of_the_host().caused_by(error);
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
        let mut trouble = Self::new(kind, message);
        trouble.is_of_the_host = matches!(class(&code), "57" | "53" | "08");
        trouble.code = Some(code);
        trouble.caused_by(error)
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

/// The kind of a code; nothing of one that has no such shape, whoever has sent it.
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
            "the lease has ended: no heartbeat reached the server for so long",
        ),
        "25P03" => (
            Unavailable,
            "a guarded transaction stood idle for longer than the lease",
        ),
        "57P01" => (
            Unavailable,
            "the server is shutting down, or somebody ended this session",
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
