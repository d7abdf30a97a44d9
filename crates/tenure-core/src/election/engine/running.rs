//! The calls to the store while they run, each under its deadline.

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use crate::contract::backend::{Acquired, Candidate, Grant, Renewal};
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::election::context::Context;
use crate::election::spans::CallSpan;

/// What the store has answered, or why there is no answer.
pub(super) enum Answer {
    Acquire(Result<Acquired, Error>),
    Renew(Result<Renewal, Error>),
    /// The heartbeat under way has no answer in its time. The rest of it, where it may go on.
    Overdue(Error, Option<Heartbeat>),
    /// A heartbeat is answered that was overdue.
    Late(Overdue, Result<Renewal, Error>),
    GiveBack(Result<(), Error>),
}

/// A call of `renew`.
pub(super) type Heartbeat = Pin<Box<dyn Future<Output = Result<Renewal, Error>> + Send>>;

/// A heartbeat that had no answer in its time.
pub(super) struct Overdue {
    pub(super) heartbeat: Heartbeat,
    pub(super) began_at: Time,
    /// The number of the published value that it writes.
    pub(super) written: u64,
}

/// The call under way, if there is one, and the heartbeats that are overdue.
#[derive(Default)]
pub(super) struct Running {
    pub(super) under_way: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    pub(super) overdue: Vec<Overdue>,
}

impl Running {
    /// Runs the call under way, and the overdue heartbeats, to the next answer; without one it
    /// never returns. Cancel safe: the calls go on when this is awaited again.
    pub(super) async fn answer(&mut self) -> Answer {
        future::poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&mut self, cx: &mut task::Context<'_>) -> Poll<Answer> {
        if let Some(call) = &mut self.under_way
            && let Poll::Ready(answer) = call.as_mut().poll(cx)
        {
            self.under_way = None;
            return Poll::Ready(answer);
        }
        let mut answer = None;
        let answered = self.overdue.iter_mut().position(|overdue| {
            match overdue.heartbeat.as_mut().poll(cx) {
                Poll::Ready(late) => answer = Some(late),
                Poll::Pending => {}
            }
            answer.is_some()
        });
        match (answered, answer) {
            (Some(index), Some(answer)) => {
                Poll::Ready(Answer::Late(self.overdue.remove(index), answer))
            }
            _ => Poll::Pending,
        }
    }
}

pub(super) async fn acquire(
    context: Arc<Context>,
    span: CallSpan,
    candidate: Candidate,
    limit: Duration,
) -> Answer {
    let setup = &context.setup;
    let lease = setup.policy.lease();
    let call = setup.backend.acquire(&setup.lock, &candidate, lease);
    let answer = until_timeout(&context, Operation::Acquire, limit, call).await;
    span.end(&answer, |acquired| match acquired {
        Acquired::Held(_) => "held",
        Acquired::Taken { .. } => "taken",
    });
    Answer::Acquire(answer)
}

pub(super) async fn renew(
    context: Arc<Context>,
    span: CallSpan,
    grant: Option<Grant>,
    not_before: Time,
    overdue_at: Time,
) -> Answer {
    let Some(grant) = grant else {
        return Answer::Renew(Err(no_grant(Operation::Renew)));
    };
    let began_at = context.clock.now();
    let timer = async { context.clock.sleep_until(overdue_at).await };
    let backend = context.setup.backend.clone();
    let mut heartbeat: Heartbeat = Box::pin(async move {
        let answer = backend.renew(&grant, not_before).await;
        span.end(&answer, |renewal| match renewal {
            Renewal::Renewed(_) => "renewed",
            Renewal::Lost { .. } => "lost",
        });
        answer
    });
    tokio::select! {
        biased;
        answer = &mut heartbeat => Answer::Renew(answer),
        () = timer => {
            let error = Error::timeout(Operation::Renew, overdue_at.since(began_at));
            let goes_on = context.setup.backend.may_go_on(began_at);
            Answer::Overdue(error, goes_on.then_some(heartbeat))
        }
    }
}

pub(super) async fn release(
    context: Arc<Context>,
    span: CallSpan,
    grant: Option<Grant>,
    limit: Duration,
) -> Answer {
    let Some(grant) = grant else {
        return Answer::GiveBack(Err(no_grant(Operation::Release)));
    };
    let call = context.setup.backend.release(&grant);
    let answer = until_timeout(&context, Operation::Release, limit, call).await;
    span.end(&answer, |()| "done");
    Answer::GiveBack(answer)
}

pub(super) async fn withdraw(
    context: Arc<Context>,
    span: CallSpan,
    candidate: Candidate,
    limit: Duration,
) -> Answer {
    let setup = &context.setup;
    let call = setup.backend.withdraw(&setup.lock, &candidate);
    let answer = until_timeout(&context, Operation::Withdraw, limit, call).await;
    span.end(&answer, |()| "done");
    Answer::GiveBack(answer)
}

/// Puts a time limit on a call. An answer that comes late because the process was stopped
/// is passed on: the machine judges it by its proof.
async fn until_timeout<T>(
    context: &Context,
    operation: Operation,
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
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
