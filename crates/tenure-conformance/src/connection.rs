//! One connection of a case, and the checks that every answer and every error has to pass.

use std::error::Error as _;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Error, ErrorKind, LockBackend, LockName, Occupancy, Operation, Time};
use tokio::time::{Instant, sleep, timeout};

use crate::limited::told;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// The least pause before a call that failed is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Its calls have a deadline, and repeat what failed for the moment.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) backend: Arc<dyn LockBackend>,
    patience: Duration,
    secrets: Arc<[String]>,
}

impl Connection {
    pub(crate) fn new(
        backend: Arc<dyn LockBackend>,
        patience: Duration,
        secrets: Arc<[String]>,
    ) -> Self {
        Self {
            backend,
            patience,
            secrets,
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.backend.clock().now()
    }

    pub(crate) async fn sleep_until(&self, time: Time) {
        self.backend.clock().sleep_until(time).await;
    }

    /// Repeats `call` as long as it fails with what can pass, which the engine would do too.
    pub(crate) async fn ask<T, F>(
        &self,
        operation: Operation,
        call: impl Fn() -> F,
    ) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let start = Instant::now();
        loop {
            match self.once(operation, call()).await? {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retryable() && start.elapsed() < self.patience => {
                    sleep(
                        error
                            .retry_after()
                            .unwrap_or(RETRY_INTERVAL)
                            .max(RETRY_INTERVAL),
                    )
                    .await;
                }
                Err(error) => fail!("{}", describe(&error)),
            }
        }
    }

    /// One call. Its error is judged, and given back.
    pub(crate) async fn once<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, Stop> {
        let call = told(operation, call);
        let Ok(answer) = timeout(self.patience, call).await else {
            fail!("{operation}: no answer within {:?}", self.patience);
        };
        if let Err(error) = &answer {
            self.judge(operation, error)?;
        }
        Ok(answer)
    }

    /// Every error in a case has to say what it is, and to keep secrets.
    pub(crate) fn judge(&self, operation: Operation, error: &Error) -> Verdict {
        let shown = describe(error);
        ensure!(
            error.kind() != ErrorKind::Internal,
            "an error of kind Internal while {operation}: {shown}"
        );
        ensure!(
            !error.message().trim().is_empty(),
            "an error without a message while {operation}"
        );
        // Reading the record is the first half of each step on a store of records.
        let fits = error.operation() == operation
            || matches!(
                error.operation(),
                Operation::Connect | Operation::Configure | Operation::Holder
            );
        ensure!(
            fits,
            "an error while {operation} says it arose while {}",
            error.operation()
        );
        self.keeps_secrets("an error", &shown)?;
        self.keeps_secrets("an error's debug output", &format!("{error:?}"))
    }

    pub(crate) fn keeps_secrets(&self, what: &str, shown: &str) -> Verdict {
        for secret in self.secrets.iter() {
            ensure!(
                !shown.contains(secret.as_str()),
                "{what} shows a secret: {}",
                shown.replace(secret.as_str(), "<secret>")
            );
        }
        Ok(())
    }

    pub(crate) async fn holder(&self, lock: &LockName) -> Result<Occupancy, Stop> {
        self.ask(Operation::Holder, || self.backend.holder(lock))
            .await
    }

    /// The lock has to be free now, as observers on this connection see it.
    pub(crate) async fn sees_free(&self, lock: &LockName, what: &str) -> Verdict {
        let seen = self.holder(lock).await?;
        ensure!(seen == Occupancy::Free, "{what} is said to be {seen:?}");
        Ok(())
    }
}

/// An error with its sources.
fn describe(error: &Error) -> String {
    let mut text = format!("{} error: {error}", error.kind().name());
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
