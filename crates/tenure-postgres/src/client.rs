//! The client of one session, whose server may send so much for an answer.

use std::ops::Deref;

use tenure_kit::allowance::{Allowance, Lifted};
use tokio_postgres::{Client, Error};

/// An answer to a question of this library is far shorter.
pub(crate) const LONGEST_ANSWER: u64 = 8 * 1024 * 1024;

/// A client, and what its server may send before an answer is at its end.
pub(crate) struct SessionClient {
    client: Client,
    allowance: Allowance,
}

impl SessionClient {
    pub(crate) fn new(client: Client, allowance: Allowance) -> Self {
        Self { client, allowance }
    }

    /// Waits for an answer; from its end on the server may send as much again.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let answer = call.await;
        self.allowance.renew();
        answer
    }

    /// No limit for as long as that lives: what comes is what the application has asked for.
    pub(crate) fn without_limit(&self) -> Lifted {
        self.allowance.lift()
    }
}

impl Deref for SessionClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
