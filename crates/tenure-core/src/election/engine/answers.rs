//! What the engine makes of the store's answers.

use std::sync::Arc;

use crate::contract::backend::{Acquired, Renewal};
use crate::contract::error::{Error, ErrorKind};
use crate::election::engine::Engine;
use crate::election::event::Event;
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
                self.failed_attempts = 0;
                let (proven_at, lease) = (grant.proven_at, grant.lease);
                self.grant = Some(grant);
                let latency = self.context.clock.now().since(self.calls.began_at());
                telemetry::heartbeat(&self.context.setup.lock, latency);
                // Before the next heartbeat, which may begin at once and bring more.
                let written = self.questions.written_by_call();
                self.feed(Input::Renewed { proven_at, lease });
                self.questions.proved(proven_at, written);
                if !self.questions.is_empty() {
                    self.feed(Input::RenewNow);
                }
            }
            Ok(Renewal::Lost { holder }) => {
                if let Some(holder) = holder {
                    self.context.leader_seen(holder);
                }
                self.feed(Input::Lost);
            }
            Err(error) => self.failed(Arc::new(error)),
        }
    }

    fn failed(&mut self, error: Arc<Error>) {
        telemetry::failure(&self.context.setup.lock, &error);
        let failure = Failure {
            permanent: is_permanent(&error),
            retry_after: error.retry_after(),
        };
        self.questions.failed(self.calls.began_at(), &error);
        self.missed(Some(error), failure);
    }

    pub(super) fn missed(&mut self, error: Option<Arc<Error>>, failure: Failure) {
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
        self.feed(Input::Failed(failure));
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
                let failure = Failure {
                    permanent: is_permanent(&error),
                    retry_after: error.retry_after(),
                };
                self.give_back_error = Some(Arc::new(error));
                self.feed(Input::Failed(failure));
            }
        }
    }
}

/// Whether an operator has to change something before another attempt can help.
fn is_permanent(error: &Error) -> bool {
    !error.is_retryable() && error.kind() != ErrorKind::Corrupted
}
