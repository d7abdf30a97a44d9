//! Ends the wait of a try for a synchronous standby where it holds up the terms of its session.
//!
//! The server answers the queries of a session one after the other. A try that has won commits, and
//! that waits until each synchronous standby has the token. While no standby answers, no heartbeat
//! in the same session does. The server can be told to end the wait. The try then fails and gives
//! the lock back, as no term begins with a token that a failover could lose.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Session;
use super::statements::Statements;
use crate::errors::StoreError;

/// How often we look whether a try waits.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

impl Session {
    /// Waits for the answer to a try. A session without terms waits as long as it takes.
    pub(super) async fn tried<T>(
        &self,
        statements: &Statements,
        trying: impl Future<Output = T>,
    ) -> T {
        let mut trying = pin!(trying);
        tokio::select! {
            biased;
            tried = &mut trying => tried,
            never = self.end_waits(statements) => match never {},
        }
    }

    async fn end_waits(&self, statements: &Statements) -> Infallible {
        loop {
            // By the default policy a heartbeat that waits behind the try is not overdue then.
            sleep(self.lease / 8).await;
            if !self.locks.holds_any() {
                continue;
            }
            // Of several tries in one session one waits for the standby, and the rest for that one.
            let _turn = self.ending.lock().await;
            let Err(error) = self.end_wait(statements).await;
            let reason = error.message();
            tracing::debug!(reason, "cannot end the wait for a standby");
        }
    }

    /// Goes on until it fails, or is dropped with the answer to the try.
    async fn end_wait(&self, waiting: &Statements) -> Result<Infallible, StoreError> {
        let address = waiting.connection.address();
        let other = Box::pin(self.connector.connect_again(address, Arc::default()));
        let other = other.await?;
        loop {
            waiting.end_wait_for_a_standby(other.client()).await?;
            sleep(BETWEEN_LOOKS).await;
        }
    }
}
