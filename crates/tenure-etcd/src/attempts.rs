//! A request is tried until it is answered: the next attempt begins on a new connection, and those
//! before it go on.
//!
//! A slow server is no dead one: nothing that was sent is given up because its answer is overdue. So
//! no attempt that hangs keeps the next one waiting, and the first answer counts.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::Answer;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::errors::{self, StoreError};

/// Between two attempts to connect while none of them has an answer. One that was begun in an
/// outage can hang long after it; a new one does not.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(200);

/// So many attempts are under way at a time.
const MOST_AT_ONCE: usize = 10;

impl Connector {
    /// How often a call is tried when attempts fail: each endpoint once, and a single one twice.
    pub(crate) fn attempts(&self) -> usize {
        self.config.endpoints.len().max(2)
    }

    /// One request, tried on another connection too when one does not answer within `limit`.
    ///
    /// A request whose answer was lost may be applied twice, so it has to be one that can be.
    pub(crate) async fn call<T, F>(
        self: &Arc<Self>,
        limit: Duration,
        request: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        T: Answer,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let request = &request;
        let asking = |connection: Arc<Connection>| async move {
            let answer = request(connection.client.clone()).await;
            self.judge(&connection, answer.map_err(errors::of_client))
                .await
        };
        self.until_answered(limit, asking).await
    }

    /// Makes attempts until one is answered, each on the connection in use by then. One that takes
    /// longer than `limit` makes its connection a silent one, and goes on beside the next.
    ///
    /// Fails when each endpoint has failed, or after twice the limit for each.
    pub(crate) async fn until_answered<T, F>(
        self: &Arc<Self>,
        limit: Duration,
        attempt: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let most = self.attempts();
        let whole = limit * 2 * u32::try_from(most).unwrap_or(u32::MAX);
        let (overdue, attempt) = (&Notify::new(), &attempt);
        let begin = || async move {
            let connection = self.get().await?;
            let mut answer = std::pin::pin!(attempt(connection.clone()));
            tokio::select! {
                answer = &mut answer => return answer,
                () = sleep(limit) => connection.is_overdue(),
                // Another caller has found out already.
                () = connection.failure() => {}
            }
            overdue.notify_one();
            answer.await
        };
        first_answer(most, whole, overdue, begin).await
    }

    /// Connects to the endpoints in turn, without waiting long for one before the next is tried, and
    /// uses the first that serves. Fails when each has failed, or after twice the connect timeout.
    pub(crate) async fn connect_to_any(self: Arc<Self>) -> Result<Arc<Connection>, StoreError> {
        let whole = self.config.connect_timeout * 2;
        let overdue = &Notify::new();
        let connector = &self;
        let begin = || async move {
            let mut connecting = std::pin::pin!(connector.connect_to_next());
            tokio::select! {
                connected = &mut connecting => return connected,
                () = sleep(BETWEEN_CONNECTS) => overdue.notify_one(),
            }
            connecting.await
        };
        first_answer(self.config.endpoints.len(), whole, overdue, begin).await
    }
}

/// Begins an attempt, and the next one at each `overdue`, or when one has failed. Fails when all
/// have failed that were begun, `most` or more; or after `whole`.
async fn first_answer<T, F>(
    most: usize,
    whole: Duration,
    overdue: &Notify,
    begin: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + whole;
    let mut attempts = FuturesUnordered::new();
    let (mut count, mut last) = (0, None);
    loop {
        attempts.push(Box::pin(begin()));
        count += 1;
        let mut again_at = None;
        loop {
            tokio::select! {
                Some(outcome) = attempts.next() => match outcome {
                    Err(error) if error.needs_reconnect() => {
                        tracing::debug!(reason = error.message(), "an attempt at etcd has failed");
                        last = Some(errors::more_telling(last, error));
                        if count < most {
                            break;
                        }
                        if attempts.is_empty() {
                            return Err(last.unwrap_or_else(|| errors::no_answer_in(whole)));
                        }
                        // The others may hang long; the store may be back at any time.
                        again_at.get_or_insert(Instant::now() + BETWEEN_CONNECTS);
                    }
                    outcome => return outcome,
                },
                () = overdue.notified(), if attempts.len() < MOST_AT_ONCE => break,
                () = sleep_until(again_at.unwrap_or(until)), if again_at.is_some() => break,
                () = sleep_until(until) => {
                    return Err(last.unwrap_or_else(|| errors::no_answer_in(whole)));
                }
            }
        }
    }
}
