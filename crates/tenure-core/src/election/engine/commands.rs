//! How the engine carries out the machine's commands.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::backend::Grant;
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::election::engine::Engine;
use crate::election::event::{ElectionState, Event};
use crate::election::instruction::Instruction;
use crate::election::machine::cause::Cause;
use crate::election::machine::command::{Command, Span};
use crate::election::machine::input::{Failure, Input};
use crate::election::telemetry;
use crate::election::term::TermState;

impl Engine {
    pub(super) fn carry_out_all(&mut self, commands: Vec<Command>) {
        if !self.machine.wants_hints() {
            self.changes = None;
        }
        for command in commands {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let limit = self.machine.time_limit();
        match command {
            Command::Acquire => self.calls.acquire(self.candidate.clone(), limit),
            Command::Renew {
                not_before,
                overdue_at,
            } => self.renew_if_healthy(not_before, overdue_at),
            Command::Release => self.calls.release(self.grant.clone(), limit),
            Command::Withdraw => self.calls.withdraw(self.candidate.clone(), limit),
            Command::Probe => self.probe(),
            Command::Reenter => self.reenter(),
            Command::Elect(span) => self.elect(span),
            Command::Extend(span) => self.extend(span),
            Command::Cancel(cause) => self.cancel(cause),
            Command::End(cause) => self.end(cause),
            Command::Overrun => self.overrun(),
            Command::GiveUp => self.give_up(),
            Command::Finish => self.finish(),
        }
    }

    /// An unhealthy application does not keep the lead: its heartbeats fail without being sent.
    fn renew_if_healthy(&mut self, not_before: Time, overdue_at: Time) {
        if self.context.is_healthy() {
            let mut grant = self.grant.clone();
            if let Some(grant) = &mut grant {
                grant.candidate.value.clone_from(&self.candidate.value);
            }
            let wanted = self.questions.not_before(self.context.clock.now());
            let not_before = wanted.map_or(not_before, |wanted| wanted.max(not_before));
            self.calls.renew(grant, not_before, overdue_at);
            self.questions.call_begins();
            return;
        }
        let error = Error::new(
            ErrorKind::Unavailable,
            Operation::Renew,
            "the health probe says no, so no heartbeat is sent",
        );
        self.questions.refused(error);
        self.missed(None, Failure::default());
    }

    /// Asks a candidate's probe. The first no makes it leave, and is reported.
    fn probe(&mut self) {
        let well = self.context.is_healthy();
        if self.well && !well {
            self.context.report(Event::Unhealthy);
        }
        self.well = well;
        self.feed(Input::Health(well));
    }

    /// Begins the campaign again under a new number.
    fn reenter(&mut self) {
        match self.context.draw() {
            Ok((campaign, _)) => self.candidate.campaign = campaign,
            Err(error) => {
                self.give_up_with(error);
                // Before the call that follows is made: without an owner no term may begin.
                self.instructions.send(Instruction::WorkEnded(None));
                return;
            }
        }
        self.grant = None;
        self.loss = None;
        self.subscribe();
    }

    fn elect(&mut self, span: Span) {
        let (Some(grant), Some(elected)) = (&self.grant, self.elected.take()) else {
            return;
        };
        let token = grant.token;
        self.failed_attempts = 0;
        let term = TermState::new(
            self.context.setup.lock.clone(),
            self.candidate.identity.clone(),
            token,
            span,
            self.context.clock.clone(),
            self.instructions.clone(),
        );
        self.term = Some(term.clone());
        let now = self.context.clock.now();
        let took = now.since(mem::replace(&mut self.since, now));
        telemetry::won(&self.context.setup.lock, took);
        let slack = span.cancel_at.since(now);
        self.context.gauges.term(Some((token, slack)));
        self.context
            .enter(ElectionState::Leader { token }, Event::Elected { token });
        // An error says that the campaign was dropped; then the instruction to give the term back
        // is on its way.
        let _unwanted = elected.send(Ok(term));
    }

    fn extend(&mut self, span: Span) {
        let Some(term) = &self.term else {
            return;
        };
        let extended = term.extend(span);
        let slack = span.cancel_at.since(self.context.clock.now());
        self.context.report(Event::Renewed { slack });
        if let Err(cause) = extended {
            // The work's own look at the clock, or the owner, was ahead of this heartbeat's answer.
            // What the work was told is not taken back.
            self.feed(Input::Stop(cause));
        }
    }

    fn cancel(&mut self, cause: Cause) {
        let Some(term) = &self.term else {
            return;
        };
        let cause = term.cancel(cause);
        let state = ElectionState::SteppingDown {
            token: term.token,
            cause,
        };
        self.context.enter(state, Event::SteppingDown(cause));
    }

    fn end(&mut self, cause: Cause) {
        let Some(term) = &self.term else {
            return;
        };
        // What the work saw by itself, or its owner said, may have come before.
        let cause = term.end(cause);
        self.questions.clear();
        // Nothing may prolong at the store what is over.
        let written = self.questions.written_by_call();
        let _rewrites = self.calls.drop_renewals(written);
        let state = ElectionState::SteppingDown {
            token: term.token,
            cause,
        };
        let lasted = self.context.clock.now().since(self.since);
        telemetry::term_lasted(&self.context.setup.lock, lasted);
        self.context.enter(state, Event::SteppedDown(cause));
    }

    fn overrun(&mut self) {
        self.context.report(Event::Overrun);
        if self.context.setup.abort_on_overrun {
            // The user chose this over work that goes on beside a new leader's.
            std::process::abort();
        }
    }

    fn give_up(&mut self) {
        let error = match &self.acquire_error {
            Some(error) => Error::new(error.kind(), error.operation(), error.message()),
            None => too_short(self.context.setup.policy.lease(), self.grant.as_ref()),
        };
        self.give_up_with(error);
    }

    fn give_up_with(&mut self, error: Error) {
        self.context.note_given_up();
        if let Some(elected) = self.elected.take() {
            // An error says that the campaign was dropped.
            let _unheard = elected.send(Err(error));
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        let was_asked = |term: &Arc<TermState>| term.recorded() == Cause::Asked;
        if self.term.as_ref().is_some_and(was_asked) {
            self.context.grant_head_start();
        }
        let outcome = match &self.give_back_error {
            Some(error) => {
                self.context.report(Event::ReleaseFailed(error.clone()));
                Err(error.clone())
            }
            None => Ok(()),
        };
        for reply in self.resigned.drain(..) {
            // An error says that the owner no longer waits.
            let _unheard = reply.send(outcome.clone());
        }
    }
}

fn too_short(asked: Duration, grant: Option<&Grant>) -> Error {
    let granted = grant.map(|grant| grant.lease).unwrap_or_default();
    Error::new(
        ErrorKind::Misconfigured,
        Operation::Acquire,
        format!(
            "the store granted a lease of {granted:?} instead of {asked:?}, too short for this \
             policy's heartbeat, request timeout and stop grace; use a longer lease"
        ),
    )
}
