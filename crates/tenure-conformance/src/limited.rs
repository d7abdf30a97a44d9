//! A target whose hooks have a time limit.

use std::fmt::Display;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Capabilities, Error, ErrorKind, LockBackend, LockName, Operation};
use tokio::time::timeout;

use crate::network::Proxied;
use crate::target::{Answers, Hook, Target};

/// A hook that hangs fails its case by name.
pub(crate) struct Limited<'a>(pub(crate) &'a dyn Target);

impl Limited<'_> {
    /// A restart or a failover may take several times what a call may.
    fn limit(&self) -> Duration {
        self.0.patience() * 5
    }

    async fn done(&self, name: &str, hook: impl Future<Output = Hook>) -> Hook {
        let limit = self.limit();
        timeout(limit, told(format!("the hook `{name}`"), hook))
            .await
            .unwrap_or_else(|_| Hook::Failed(format!("it was not done within {limit:?}")))
    }

    async fn opened<T>(
        &self,
        hook: &str,
        opening: impl Future<Output = Option<Result<T, Error>>>,
    ) -> Option<Result<T, Error>> {
        let limit = self.limit();
        timeout(limit, told(format!("the hook `{hook}`"), opening))
            .await
            .unwrap_or_else(|_| {
                let text = format!("the hook `{hook}` was not done within {limit:?}");
                Some(Err(Error::new(
                    ErrorKind::Timeout,
                    Operation::Connect,
                    text,
                )))
            })
    }
}

/// How long a call or a hook may take before the suite says that it waits.
const QUIET: Duration = Duration::from_secs(15);

/// Says on standard error that `what` is slow: a silent store must not look like a hung suite.
pub(crate) async fn told<T>(what: impl Display, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = timeout(QUIET, &mut work).await {
        return done;
    }
    eprintln!("conformance: {what} has not answered for {QUIET:?}; waiting");
    work.await
}

#[async_trait]
impl Target for Limited<'_> {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        self.0.connect().await
    }

    fn lease(&self, capabilities: &Capabilities) -> Duration {
        self.0.lease(capabilities)
    }

    fn patience(&self) -> Duration {
        self.0.patience()
    }

    fn conditions_met(&self) -> bool {
        self.0.conditions_met()
    }

    fn impossible_hooks(&self) -> Option<&[&str]> {
        self.0.impossible_hooks()
    }

    fn secrets(&self) -> Vec<String> {
        self.0.secrets()
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.done("delete_lock", self.0.delete_lock(lock)).await
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.done("corrupt_lock", self.0.corrupt_lock(lock)).await
    }

    async fn write_beside(&self, lock: &LockName) -> Hook {
        self.done("write_beside", self.0.write_beside(lock)).await
    }

    async fn restart_store(&self) -> Hook {
        self.done("restart_store", self.0.restart_store()).await
    }

    async fn answers(&self, answers: Answers) -> Hook {
        self.done("answers", self.0.answers(answers)).await
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        self.opened("connect_by_proxy", self.0.connect_by_proxy())
            .await
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        self.done("end_session", self.0.end_session(lock)).await
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        self.opened("connect_to_nothing", self.0.connect_to_nothing())
            .await
    }

    fn contestant(&self) -> Option<Command> {
        self.0.contestant()
    }
}
