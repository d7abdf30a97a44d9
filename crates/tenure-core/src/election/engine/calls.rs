//! The engine's call to the store: made, kept and polled here, under the request timeout.

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;

use crate::contract::backend::{Acquired, Candidate, Grant, Renewal};
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::election::context::Context;

/// What the store has answered, or why there is no answer.
pub(super) enum Answer {
    Acquire(Result<Acquired, Error>),
    Renew(Result<Renewal, Error>),
    GiveBack(Result<(), Error>),
}

/// The call under way, if there is one.
pub(super) struct Calls {
    context: Arc<Context>,
    under_way: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    began_at: Time,
}

impl Calls {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            under_way: None,
            began_at: Time::ZERO,
        }
    }

    pub(super) fn acquire(&mut self, candidate: Candidate) {
        let context = self.context.clone();
        self.keep(async move {
            let setup = &context.setup;
            let lease = setup.policy.lease();
            let call = setup.backend.acquire(&setup.lock, &candidate, lease);
            Answer::Acquire(until_timeout(&context, Operation::Acquire, call).await)
        });
    }

    pub(super) fn renew(&mut self, grant: Option<Grant>, not_before: Time) {
        let context = self.context.clone();
        self.keep(async move {
            let Some(grant) = grant else {
                return Answer::Renew(Err(no_grant(Operation::Renew)));
            };
            let call = context.setup.backend.renew(&grant, not_before);
            Answer::Renew(until_timeout(&context, Operation::Renew, call).await)
        });
    }

    pub(super) fn release(&mut self, grant: Option<Grant>) {
        let context = self.context.clone();
        self.keep(async move {
            let Some(grant) = grant else {
                return Answer::GiveBack(Err(no_grant(Operation::Release)));
            };
            let call = context.setup.backend.release(&grant);
            Answer::GiveBack(until_timeout(&context, Operation::Release, call).await)
        });
    }

    pub(super) fn withdraw(&mut self, candidate: Candidate) {
        let context = self.context.clone();
        self.keep(async move {
            let setup = &context.setup;
            let call = setup.backend.withdraw(&setup.lock, &candidate);
            Answer::GiveBack(until_timeout(&context, Operation::Withdraw, call).await)
        });
    }

    /// Nothing of the call runs before [`answer`](Self::answer) polls it.
    fn keep(&mut self, call: impl Future<Output = Answer> + Send + 'static) {
        self.began_at = self.context.clock.now();
        self.under_way = Some(Box::pin(call));
    }

    /// When the last call was made.
    pub(super) fn began_at(&self) -> Time {
        self.began_at
    }

    /// Runs the call under way to its answer; without one it never returns. Cancel safe: the call
    /// goes on when this is awaited again.
    pub(super) async fn answer(&mut self) -> Answer {
        let Some(call) = &mut self.under_way else {
            return future::pending().await;
        };
        let answer = call.await;
        self.under_way = None;
        answer
    }
}

/// Puts the request timeout on a call. An answer that comes late because the process was stopped
/// is passed on: the machine judges it by its proof.
async fn until_timeout<T>(
    context: &Context,
    operation: Operation,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit = context.setup.policy.request_timeout();
    let deadline = context.clock.now() + limit;
    // A block of its own, or the timer would be made also for an answer that is there at once.
    let timer = async { context.clock.sleep_until(deadline).await };
    tokio::select! {
        biased;
        answer = call => answer,
        () = timer => Err(Error::timeout(operation, limit)),
    }
}

fn no_grant(operation: Operation) -> Error {
    Error::new(ErrorKind::Internal, operation, "there is no grant")
}
