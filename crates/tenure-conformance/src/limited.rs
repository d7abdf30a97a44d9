//! A target whose hooks have a time limit.

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

    async fn done(&self, hook: impl Future<Output = Hook>) -> Hook {
        let limit = self.limit();
        timeout(limit, hook)
            .await
            .unwrap_or_else(|_| Hook::Failed(format!("it was not done within {limit:?}")))
    }

    async fn opened<T>(
        &self,
        hook: &str,
        opening: impl Future<Output = Option<Result<T, Error>>>,
    ) -> Option<Result<T, Error>> {
        let limit = self.limit();
        timeout(limit, opening).await.unwrap_or_else(|_| {
            let text = format!("the hook `{hook}` was not done within {limit:?}");
            Some(Err(Error::new(
                ErrorKind::Timeout,
                Operation::Connect,
                text,
            )))
        })
    }
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

    fn secrets(&self) -> Vec<String> {
        self.0.secrets()
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.done(self.0.delete_lock(lock)).await
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.done(self.0.corrupt_lock(lock)).await
    }

    async fn write_beside(&self, lock: &LockName) -> Hook {
        self.done(self.0.write_beside(lock)).await
    }

    async fn restart_store(&self) -> Hook {
        self.done(self.0.restart_store()).await
    }

    async fn answers(&self, answers: Answers) -> Hook {
        self.done(self.0.answers(answers)).await
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        self.opened("connect_by_proxy", self.0.connect_by_proxy())
            .await
    }

    async fn end_session(&self, lock: &LockName) -> Hook {
        self.done(self.0.end_session(lock)).await
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        self.opened("connect_to_nothing", self.0.connect_to_nothing())
            .await
    }

    fn contestant(&self) -> Option<Command> {
        self.0.contestant()
    }
}
