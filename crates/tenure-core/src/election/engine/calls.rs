//! The engine's calls to the store: made and kept here. Nothing of a call runs before
//! [`Running::answer`] polls it.
//!
//! One call at a time, but for heartbeats: where the backend allows it, one without an answer goes
//! on while further attempts are made.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::backend::{Candidate, Grant};
use crate::contract::clock::Time;
use crate::contract::error::Operation;
use crate::election::context::Context;
use crate::election::engine::running::{self, Answer, Heartbeat, Overdue, Running};
use crate::election::spans::CallSpan;

/// How many overdue heartbeats are kept: the first, which a slow store may answer yet, and the
/// newest ones. With these a retry of the default policy has five seconds.
const MOST_OVERDUE: usize = 5;

pub(super) struct Calls {
    context: Arc<Context>,
    pub(super) running: Running,
    began_at: Time,
}

impl Calls {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            running: Running::default(),
            began_at: Time::ZERO,
        }
    }

    pub(super) fn acquire(&mut self, candidate: Candidate, limit: Duration) {
        let (context, span) = (self.context.clone(), self.span(Operation::Acquire));
        self.keep(running::acquire(context, span, candidate, limit));
    }

    pub(super) fn renew(&mut self, grant: Option<Grant>, not_before: Time, overdue_at: Time) {
        let (context, span) = (self.context.clone(), self.span(Operation::Renew));
        self.keep(running::renew(context, span, grant, not_before, overdue_at));
    }

    pub(super) fn release(&mut self, grant: Option<Grant>, limit: Duration) {
        self.drop_overdue();
        let (context, span) = (self.context.clone(), self.span(Operation::Release));
        self.keep(running::release(context, span, grant, limit));
    }

    pub(super) fn withdraw(&mut self, candidate: Candidate, limit: Duration) {
        let (context, span) = (self.context.clone(), self.span(Operation::Withdraw));
        self.keep(running::withdraw(context, span, candidate, limit));
    }

    /// Around a call that is made now.
    fn span(&self, operation: Operation) -> CallSpan {
        CallSpan::start(
            operation,
            &self.context.setup.lock,
            &self.context.setup.identity,
        )
    }

    fn keep(&mut self, call: impl Future<Output = Answer> + Send + 'static) {
        self.began_at = self.context.clock.now();
        self.running.under_way = Some(Box::pin(call));
    }

    /// When the last call was made.
    pub(super) fn began_at(&self) -> Time {
        self.began_at
    }

    /// Keeps the heartbeat that is overdue: it began with the last call.
    pub(super) fn keep_overdue(&mut self, heartbeat: Heartbeat, written: u64) {
        let overdue = &mut self.running.overdue;
        if overdue.len() == MOST_OVERDUE {
            overdue.remove(1);
        }
        overdue.push(Overdue {
            heartbeat,
            began_at: self.began_at,
            written,
        });
    }

    /// No answer to them is of use any more.
    pub(super) fn drop_overdue(&mut self) {
        self.running.overdue.clear();
    }

    /// The same, and the heartbeat under way. Only while there is a term, or at its end: then each
    /// call is one. Whether one that was overdue may have written another value than the number
    /// `written`.
    pub(super) fn drop_renewals(&mut self, written: u64) -> bool {
        let overdue = &self.running.overdue;
        let other = overdue.iter().any(|call| call.written != written);
        self.drop_overdue();
        self.running.under_way = None;
        other
    }
}
