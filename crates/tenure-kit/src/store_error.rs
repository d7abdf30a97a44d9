//! An error of a store, and what to do next.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, Operation};
use tokio::task::JoinError;

/// What went wrong, before it is known which operation it hit: [`into_error`](Self::into_error)
/// adds that. Cheap to clone: one failed attempt to connect answers all who wait for it.
///
/// `D` is what a store says beyond [`Recovery`], such as where a lock has moved.
#[derive(Clone, Debug)]
pub struct StoreError<D = Infallible> {
    /// What a caller of the library can do about it.
    pub kind: ErrorKind,
    /// What the backend itself does next.
    pub recovery: Recovery<D>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What a backend does about a [`StoreError`] before it returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery<D = Infallible> {
    /// Nothing: it is the answer of a store that works, or of a setting that is wrong.
    None,
    /// Give the connection up, and try again on a new one, perhaps to another server.
    Reconnect,
    /// What this store alone knows.
    Store(D),
}

impl<D> StoreError<D> {
    /// An error about which nothing can be done here. `message` says what is wrong and, where one
    /// can, what to do; it holds no secret.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            recovery: Recovery::None,
            message: message.into(),
            source: None,
        }
    }

    /// No answer within `limit`: the request may have been applied or not. `setting` names what to
    /// raise, if anything. The connection is given up.
    pub fn timeout(what: &str, limit: Duration, setting: Option<&str>) -> Self {
        let setting = setting.map_or_else(String::new, |setting| format!(" ({setting})"));
        let message = format!("{what} did not answer within {limit:?}{setting}");
        Self::new(ErrorKind::Timeout, message).reconnect()
    }

    /// The tokio runtime on which the backend does its work has ended.
    pub fn runtime_is_gone() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "the tokio runtime that this backend was connected on has ended; connect on one that \
             lives as long as the elections",
        )
    }

    /// Work in the background did not come to its end: it panicked, or its runtime has ended. What
    /// the panic said may hold a secret and is left out.
    pub(crate) fn task_failed(why: &JoinError) -> Self {
        if why.is_panic() {
            return Self::new(
                ErrorKind::Internal,
                "a task of this backend panicked, which is a mistake in it; please report it with \
                 what the process's standard error says about the panic",
            );
        }
        Self::runtime_is_gone()
    }

    /// The same error with another recovery.
    #[must_use]
    pub fn recover_by(mut self, recovery: Recovery<D>) -> Self {
        self.recovery = recovery;
        self
    }

    /// The same error, which ends the connection.
    #[must_use]
    pub fn reconnect(self) -> Self {
        self.recover_by(Recovery::Reconnect)
    }

    /// The same error, about which nothing is done any more.
    #[must_use]
    pub fn give_up(self) -> Self {
        self.recover_by(Recovery::None)
    }

    /// Whether the connection is of no use any more.
    pub fn needs_reconnect(&self) -> bool {
        matches!(self.recovery, Recovery::Reconnect)
    }

    /// The same error of another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error in other words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The same error with the original one as its source, which must hold no secret.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What is wrong and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The library's own error, about this operation.
    pub fn into_error(self, operation: Operation) -> Error {
        let error = Error::new(self.kind, operation, self.message);
        match self.source {
            Some(source) => error.with_source(Source(source)),
            None => error,
        }
    }
}

impl StoreError {
    /// The same error for a store that has something to add.
    pub fn widen<D>(self) -> StoreError<D> {
        StoreError {
            kind: self.kind,
            recovery: match self.recovery {
                Recovery::None => Recovery::None,
                Recovery::Reconnect => Recovery::Reconnect,
                Recovery::Store(never) => match never {},
            },
            message: self.message,
            source: self.source,
        }
    }
}

/// An error that was found before any I/O, or in a forked child.
impl<D> From<Error> for StoreError<D> {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error.message())
    }
}

impl<D> fmt::Display for StoreError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
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

/// The messages of an error and of its sources, each once: clients often say no more than
/// "transport error" themselves. Pass the text through [`shown`](crate::limits::shown).
pub fn with_reasons(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}

/// Runs `work` on a thread for blocking calls, such as those of a driver that is not async.
///
/// Dropping the future does not stop the work: it runs to its end, and what it gives is dropped on
/// its thread. Fails when the work panics, and when the runtime ends. Needs a tokio runtime.
pub async fn blocking<T: Send + 'static, D>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError<D>> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| StoreError::task_failed(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_is_added_last_and_the_source_stays() {
        let error = StoreError::<Infallible>::new(ErrorKind::Unavailable, "no route")
            .with_source(std::io::Error::other("network down"))
            .reconnect();
        assert!(error.needs_reconnect());
        let error = error.clone().give_up().into_error(Operation::Renew);
        assert_eq!(error.to_string(), "renewing: no route");
        assert_eq!(
            StdError::source(&error).unwrap().to_string(),
            "network down"
        );
    }

    #[test]
    fn each_reason_is_told_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("transport error")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let outer = Outer(std::io::Error::other("reset"));
        assert_eq!(with_reasons(&outer), "transport error: reset");
    }
}
