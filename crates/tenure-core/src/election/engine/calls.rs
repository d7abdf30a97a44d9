//! The engine's calls to the store, each under the request timeout.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::contract::backend::{Acquired, Candidate, Grant, Renewal};
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::election::context::Context;

pub(super) type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

pub(super) enum Answer {
    Acquire(Result<Acquired, Error>),
    Renew(Result<Renewal, Error>),
    GiveBack(Result<(), Error>),
}

pub(super) fn acquire(context: Arc<Context>, candidate: Candidate) -> Call {
    Box::pin(async move {
        let setup = &context.setup;
        let lease = setup.policy.lease();
        let call = setup.backend.acquire(&setup.lock, &candidate, lease);
        Answer::Acquire(within(&context, Operation::Acquire, call).await)
    })
}

pub(super) fn renew(context: Arc<Context>, grant: Option<Grant>, not_before: Time) -> Call {
    Box::pin(async move {
        let Some(grant) = grant else {
            return Answer::Renew(Err(no_grant(Operation::Renew)));
        };
        let call = context.setup.backend.renew(&grant, not_before);
        Answer::Renew(within(&context, Operation::Renew, call).await)
    })
}

pub(super) fn release(context: Arc<Context>, grant: Option<Grant>) -> Call {
    Box::pin(async move {
        let Some(grant) = grant else {
            return Answer::GiveBack(Err(no_grant(Operation::Release)));
        };
        let call = context.setup.backend.release(&grant);
        Answer::GiveBack(within(&context, Operation::Release, call).await)
    })
}

pub(super) fn withdraw(context: Arc<Context>, candidate: Candidate) -> Call {
    Box::pin(async move {
        let setup = &context.setup;
        let call = setup.backend.withdraw(&setup.lock, &candidate);
        Answer::GiveBack(within(&context, Operation::Withdraw, call).await)
    })
}

/// Puts the request timeout on a call. An answer that comes late because the process was stopped
/// is passed on: the machine judges it by its proof.
async fn within<T>(
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
