//! The one error type of backends and engine.

use std::fmt;
use std::time::Duration;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store cannot be reached or does not serve just now.
    Unavailable,
    /// No answer in time: the request may have been applied or not.
    Timeout,
    /// Others changed the lock at the same moment; the next attempt reads it again.
    Conflict,
    /// The store asks for fewer requests.
    Throttled {
        /// How long the store asks to wait, when it says so.
        retry_after: Option<Duration>,
    },
    /// The store refuses: the message names the missing permission and how to grant it.
    Forbidden,
    /// A setting is wrong, here or at the store: the message says which and what to do.
    Misconfigured,
    /// The store, the operating system or the server's version cannot do what is asked.
    Unsupported,
    /// A name, identity, value or duration is out of its range.
    InvalidInput,
    /// What the store holds for this lock cannot be read.
    Corrupted,
    /// The value belongs to another process, of which this one is a fork: see
    /// [`Process`](crate::Process).
    Forked,
    /// An invariant of this library does not hold: a bug worth reporting.
    Internal,
}

impl ErrorKind {
    /// The kind's name as it is used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Throttled { .. } => "throttled",
            Self::Forbidden => "forbidden",
            Self::Misconfigured => "misconfigured",
            Self::Unsupported => "unsupported",
            Self::InvalidInput => "invalid input",
            Self::Corrupted => "corrupted",
            Self::Forked => "forked",
            Self::Internal => "internal",
        }
    }
}

/// What was being done when an [`Error`] arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Checking names, policy or configuration; no I/O yet.
    Configure,
    /// Opening the connection to the store.
    Connect,
    /// Taking the lock.
    Acquire,
    /// Extending a term.
    Renew,
    /// Giving a term back.
    Release,
    /// Taking back an attempt to acquire.
    Withdraw,
    /// Reading who leads.
    Holder,
    /// Asking a leader to resign.
    AskToResign,
    /// Reading which elections there are.
    List,
    /// Running the engine.
    Campaign,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "configuring",
            Self::Connect => "connecting",
            Self::Acquire => "acquiring",
            Self::Renew => "renewing",
            Self::Release => "releasing",
            Self::Withdraw => "withdrawing",
            Self::Holder => "reading the holder",
            Self::AskToResign => "asking the leader to resign",
            Self::List => "listing elections",
            Self::Campaign => "campaigning",
        })
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of a backend or of the engine: its kind, the operation, and a message that says what
/// is wrong and what to do. The store's own error, where there is one, is the source.
///
/// Neither the message nor the source holds a password or a token.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error {
    inner: Box<Inner>,
}

// Boxed, because every answer of a backend is a `Result` and most of them are `Ok`.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    message: String,
    source: Option<Source>,
}

/// What a `main` that returns it shows: no more than is there, and escaped.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown
            .field("kind", &self.inner.kind)
            .field("operation", &self.inner.operation)
            .field("message", &self.inner.message);
        if let Some(source) = &self.inner.source {
            shown.field("source", source);
        }
        shown.finish()
    }
}

impl Error {
    /// An error without a source. `message` says what is wrong and, where one can, what to do.
    pub fn new(kind: ErrorKind, operation: Operation, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                operation,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// Bad input, found before any I/O.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, Operation::Configure, message)
    }

    /// A setting that cannot work, found before any I/O.
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Misconfigured, Operation::Configure, message)
    }

    /// A grant that the backend did not make.
    pub(crate) fn foreign_grant(operation: Operation) -> Self {
        let message = "this grant comes from another backend";
        Self::new(ErrorKind::InvalidInput, operation, message)
    }

    /// The store `store` has no place for a wish: see
    /// [`LockBackend::ask_to_resign`](crate::LockBackend::ask_to_resign).
    pub fn cannot_ask_to_resign(store: &str) -> Self {
        Self::new(
            ErrorKind::Unsupported,
            Operation::AskToResign,
            format!(
                "a leader cannot be asked to resign through the store \"{store}\"; stop its \
                 process instead"
            ),
        )
    }

    /// The store `store` cannot tell which elections there are: see
    /// [`LockBackend::elections`](crate::LockBackend::elections).
    pub fn cannot_list(store: &str) -> Self {
        Self::new(
            ErrorKind::Unsupported,
            Operation::List,
            format!("the store \"{store}\" cannot list elections; ask for one lock by its name"),
        )
    }

    /// No answer to `operation` within `limit`; whether it was applied is unknown.
    pub fn timeout(operation: Operation, limit: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            operation,
            format!("the store did not answer within {limit:?}"),
        )
    }

    /// The same error with the store's own error as its source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What is wrong and what to do, without the operation.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.inner.operation
    }

    /// Whether the same call can succeed later with nothing changed on our side.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Unavailable
                | ErrorKind::Timeout
                | ErrorKind::Conflict
                | ErrorKind::Throttled { .. }
        )
    }

    /// How long the store asked to wait, when it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.inner.kind {
            ErrorKind::Throttled { retry_after } => retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_source_and_the_operation_are_kept() {
        let error = Error::new(ErrorKind::Unavailable, Operation::Renew, "no route")
            .with_source(std::io::Error::other("network down"));
        assert_eq!(error.to_string(), "renewing: no route");
        assert_eq!(error.source().unwrap().to_string(), "network down");
        let shown = format!("{:?}", Error::invalid_input("no\u{1b}"));
        assert!(shown.contains("message: \"no\\u{1b}\" }"), "{shown}");
        assert!(error.is_retryable());
    }
}
