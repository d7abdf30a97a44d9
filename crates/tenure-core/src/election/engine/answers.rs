//! What the engine makes of the store's answers.

use std::sync::Arc;

use crate::contract::backend::{Acquired, Grant, Holder, Renewal};
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind};
use crate::contract::token::FencingToken;
use crate::contract::wish::Wish;
use crate::election::engine::Engine;
use crate::election::engine::running::{Heartbeat, Overdue};
use crate::election::event::Event;
use crate::election::machine::cause::Cause;
use crate::election::machine::input::{Failure, Input};
use crate::election::telemetry;

impl Engine {
    pub(super) fn acquired(&mut self, answer: Result<Acquired, Error>) {
        if answer.is_ok() {
            self.context.note_answer();
        }
        match answer {
            Ok(Acquired::Held(grant)) => {
                let (proven_at, lease) = (grant.proven_at, grant.lease);
                self.acquire_error = None;
                self.loss = self.context.setup.backend.loss(&grant);
                self.grant = Some(grant);
                self.feed(Input::Held { proven_at, lease });
            }
            Ok(Acquired::Taken { holder, free_in }) => {
                if let Some(holder) = holder {
                    self.context.leader_seen(holder);
                }
                self.feed(Input::Taken { free_in });
            }
            Err(error) => {
                let error = Arc::new(error);
                self.acquire_error = Some(error.clone());
                self.failed(error);
            }
        }
    }

    pub(super) fn renewed(&mut self, answer: Result<Renewal, Error>) {
        match answer {
            Ok(Renewal::Renewed(grant)) => {
                let (began_at, written) = (self.calls.began_at(), self.questions.written_by_call());
                self.heartbeat(grant, began_at, written);
            }
            Ok(Renewal::Lost { holder }) => self.lost(holder),
            Err(error) => self.failed(Arc::new(error)),
        }
    }

    /// The heartbeat under way has no answer in its time. What is left of it goes on where the
    /// backend allows that.
    pub(super) fn overdue(&mut self, error: Error, rest: Option<Heartbeat>) {
        let goes_on = rest.is_some();
        if let Some(rest) = rest {
            self.calls
                .keep_overdue(rest, self.questions.written_by_call());
        }
        let error = Arc::new(error);
        telemetry::failure(&self.context.setup.lock, &error);
        // Who asks is told after a request timeout, as when the first attempt is overdue.
        let timeout = self.context.setup.policy.request_timeout();
        let asked = self.context.clock.now().minus(timeout);
        self.questions.unanswered(asked, &error);
        self.report_miss(Some(error));
        self.feed(Input::Overdue { goes_on });
        self.renew_for_questions();
    }

    /// An answer that comes late counts from when its request was sent, like every other.
    pub(super) fn renewed_late(&mut self, call: &Overdue, answer: Result<Renewal, Error>) {
        match answer {
            Ok(Renewal::Renewed(grant)) => self.heartbeat(grant, call.began_at, call.written),
            Ok(Renewal::Lost { holder }) => self.lost(holder),
            // It was reported when it was overdue.
            Err(_) => {}
        }
    }

    /// One answer will do: other calls on the same record would only be in its way.
    fn heartbeat(&mut self, grant: Grant, began_at: Time, written: u64) {
        self.failed_attempts = 0;
        let rewrites = self.calls.drop_renewals(written);
        let latency = self.context.clock.now().since(began_at);
        telemetry::heartbeat(&self.context.setup.lock, latency);
        let (proven_at, lease) = (grant.proven_at, grant.lease);
        let wish = grant.wish.map(|wish| (wish, grant.token));
        let known = self.grant.as_ref().map(|known| known.proven_at);
        if known.is_none_or(|known| known <= proven_at) {
            self.grant = Some(grant);
        }
        // Before the next heartbeat, which may begin at once and bring more.
        self.feed(Input::Renewed { proven_at, lease });
        self.questions.proved(proven_at, written);
        if let Some((wish, token)) = wish {
            self.heed(wish, token);
        }
        if rewrites {
            // What was dropped may have written its older value over this one.
            self.feed(Input::RenewNow);
        }
        self.renew_for_questions();
    }

    /// A wish is a reason to resign like any other: the term is kept up while the work stops.
    fn heed(&mut self, wish: Wish, token: FencingToken) {
        if wish.counts_for(token, self.context.clock.now()) {
            self.feed(Input::Stop(Cause::Asked));
        }
    }

    fn renew_for_questions(&mut self) {
        if !self.questions.is_empty() {
            self.feed(Input::RenewNow);
        }
    }

    fn lost(&mut self, holder: Option<Holder>) {
        if let Some(holder) = holder {
            self.context.leader_seen(holder);
        }
        self.feed(Input::Lost);
    }

    fn failed(&mut self, error: Arc<Error>) {
        let failure = failure_of(&error);
        telemetry::failure(&self.context.setup.lock, &error);
        self.questions.failed(self.calls.began_at(), &error);
        self.missed(Some(error), failure);
    }

    pub(super) fn missed(&mut self, error: Option<Arc<Error>>, failure: Failure) {
        self.report_miss(error);
        self.feed(Input::Failed(failure));
    }

    fn report_miss(&mut self, error: Option<Arc<Error>>) {
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        if let Some(term) = &self.term {
            let slack = term.cancel_at().since(self.context.clock.now());
            let attempts = self.failed_attempts;
            self.context.report(Event::HeartbeatMissed {
                attempts,
                slack,
                error,
            });
        } else if let Some(error) = error {
            self.context.report(Event::StoreFailed(error));
        }
    }

    pub(super) fn gave_back(&mut self, answer: Result<(), Error>) {
        match answer {
            Ok(()) => {
                self.give_back_error = None;
                if self.term.is_some() {
                    self.context.report(Event::Released);
                }
                self.feed(Input::Done);
            }
            Err(error) => {
                telemetry::failure(&self.context.setup.lock, &error);
                let failure = failure_of(&error);
                self.give_back_error = Some(Arc::new(error));
                self.feed(Input::Failed(failure));
            }
        }
    }
}

fn failure_of(error: &Error) -> Failure {
    Failure {
        permanent: is_permanent(error),
        retry_after: error.retry_after(),
        unanswered: error.kind() == ErrorKind::Timeout,
    }
}

/// Whether an operator has to change something before another attempt can help.
fn is_permanent(error: &Error) -> bool {
    !error.is_retryable() && error.kind() != ErrorKind::Corrupted
}
