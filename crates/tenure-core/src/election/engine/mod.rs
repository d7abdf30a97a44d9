//! The engine: drives one election machine with a backend and a clock, as one task.
//!
//! It holds one call to the store at a time, under the request timeout, and turns what happens
//! into the machine's inputs. All decisions are the machine's.

mod calls;
mod questions;

use std::future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::contract::backend::{Acquired, Candidate, Changes, Grant, Hint, Loss, Renewal};
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::process::Process;
use crate::election::context::Context;
use crate::election::engine::calls::{Answer, Call};
use crate::election::engine::questions::Questions;
use crate::election::event::{ElectionState, Event};
use crate::election::instruction::{Instruction, Instructions, Reply};
use crate::election::machine::cause::Cause;
use crate::election::machine::command::{Command, Span};
use crate::election::machine::input::{Failure, Input};
use crate::election::machine::{Machine, Settings};
use crate::election::telemetry;
use crate::election::term::TermState;

enum Happening {
    /// The caller is a fork of the process that the engine belongs to.
    Forked,
    Instructions,
    Answer(Answer),
    Hint(Option<Hint>),
    Loss,
    Timer,
}

/// Who waits for the outcome of a campaign.
pub(crate) type Elected = oneshot::Sender<Result<Arc<TermState>, Error>>;

pub(crate) struct Engine {
    context: Arc<Context>,
    candidate: Candidate,
    instructions: Arc<Instructions>,
    machine: Machine,
    call: Option<Call>,
    called_at: Time,
    changes: Option<Changes>,
    /// Ends when the store tells by itself that the term is over.
    loss: Option<Loss>,
    grant: Option<Grant>,
    term: Option<Arc<TermState>>,
    elected: Option<Elected>,
    questions: Questions,
    /// What a candidate's health probe said last.
    well: bool,
    resigned: Vec<Reply>,
    failed_attempts: u32,
    /// Why the last `acquire` failed, if it did.
    acquire_error: Option<Arc<Error>>,
    /// Why the last `release` or `withdraw` failed, if it did.
    give_back_error: Option<Arc<Error>>,
    finished: bool,
    /// The next campaign of the same election waits until this one has given everything back.
    _turn: OwnedMutexGuard<()>,
}

impl Engine {
    pub(crate) fn new(
        context: Arc<Context>,
        candidate: Candidate,
        instructions: Arc<Instructions>,
        seed: u64,
        elected: Elected,
        turn: OwnedMutexGuard<()>,
    ) -> Self {
        let settings = Settings {
            wakeup: context.setup.backend.capabilities().wakeup,
            drain_limit: context.setup.drain_limit,
            answered: context.store_answered(),
            probed: context.is_probed(),
            seed,
        };
        Self {
            machine: Machine::new(context.setup.policy.clone(), settings),
            called_at: Time::ZERO,
            candidate,
            instructions,
            call: None,
            changes: None,
            loss: None,
            grant: None,
            term: None,
            elected: Some(elected),
            questions: Questions::default(),
            well: true,
            resigned: Vec::new(),
            failed_attempts: 0,
            acquire_error: None,
            give_back_error: None,
            finished: false,
            context,
            _turn: turn,
        }
    }

    pub(crate) async fn run(mut self) {
        self.begin();
        while !self.finished {
            let happening = self.next().await;
            self.handle(happening);
            // A store whose hints never end must not keep the runtime's other tasks waiting.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn begin(&mut self) {
        self.context.enter(
            ElectionState::Candidate { leader: None },
            Event::Campaigning,
        );
        self.subscribe();
        self.feed(Input::Campaign);
    }

    /// Before the first look at the lock, so that a release right after it is not missed.
    fn subscribe(&mut self) {
        if self.context.setup.backend.capabilities().wakeup == Wakeup::Push {
            self.changes = Some(self.context.setup.backend.changes(&self.context.setup.lock));
        }
    }

    async fn next(&mut self) -> Happening {
        let clock = self.context.clock.clone();
        let wake = self.machine.next_wake();
        self.context.due.set(wake);
        let timer = async {
            match wake {
                Some(at) => clock.sleep_until(at).await,
                None => future::pending().await,
            }
        };
        let instructions = self.instructions.clone();
        let process = &self.context.process;
        let (call, changes, loss) = (&mut self.call, &mut self.changes, &mut self.loss);
        tokio::select! {
            // Instructions first, so that a term that was given back is not extended; the clock is
            // looked at by the machine whatever comes.
            biased;
            // A child that was forked in mid-term and runs this task too.
            () = forked(process) => Happening::Forked,
            () = instructions.arrived() => Happening::Instructions,
            // Before an answer, which may be older.
            () = end_of(loss.as_mut()) => {
                *loss = None;
                Happening::Loss
            }
            answer = pending_or(call.as_mut()) => {
                *call = None;
                Happening::Answer(answer)
            }
            hint = next_hint(changes.as_mut()) => Happening::Hint(hint),
            () = timer => Happening::Timer,
        }
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Forked => self.finished = true,
            Happening::Instructions => {
                for instruction in self.instructions.take() {
                    self.obey(instruction);
                }
            }
            Happening::Answer(Answer::Acquire(answer)) => self.acquired(answer),
            Happening::Answer(Answer::Renew(answer)) => self.renewed(answer),
            Happening::Answer(Answer::GiveBack(answer)) => self.gave_back(answer),
            Happening::Hint(Some(hint)) => self.feed(Input::Hint(hint)),
            Happening::Hint(None) => {
                self.changes = None;
                self.feed(Input::HintsEnded);
            }
            Happening::Loss => self.feed(Input::Lost),
            Happening::Timer => self.feed(Input::Timer),
        }
    }

    fn obey(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::Stop(cause) => self.feed(Input::Stop(cause)),
            Instruction::WorkEnded(reply) => {
                self.resigned.extend(reply);
                self.feed(Input::WorkEnded);
            }
            Instruction::Publish(value, reply) => {
                if let Some(grant) = &mut self.grant {
                    grant.candidate.value.clone_from(&value);
                    self.candidate.value = value;
                    self.publish(reply);
                }
            }
            Instruction::Confirm(reply) => self.confirm(reply),
        }
    }

    /// A heartbeat under way has left without the new value, whatever it proves: only the answer
    /// to one that began later tells that the store has it. Dropping `reply` is as below.
    fn publish(&mut self, reply: Reply) {
        if self.has_term() {
            self.questions.publish(reply);
            self.feed(Input::Confirm);
        }
    }

    fn has_term(&self) -> bool {
        self.term.as_ref().is_some_and(|term| !term.has_ended())
    }

    /// Dropping `reply` instead tells its owner that there is no term to confirm, or none any
    /// more: no call would be made whose outcome could answer it.
    fn confirm(&mut self, reply: Reply) {
        if self.has_term() {
            self.questions.confirm(self.context.clock.now(), reply);
            self.feed(Input::Confirm);
        }
    }

    fn acquired(&mut self, answer: Result<Acquired, Error>) {
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
            Err(error) => self.failed(error),
        }
    }

    fn renewed(&mut self, answer: Result<Renewal, Error>) {
        match answer {
            Ok(Renewal::Renewed(mut grant)) => {
                self.failed_attempts = 0;
                let (proven_at, lease) = (grant.proven_at, grant.lease);
                // A value published while the call was under way goes out with the next one.
                grant.candidate.value.clone_from(&self.candidate.value);
                self.grant = Some(grant);
                let latency = self.context.clock.now().since(self.called_at);
                telemetry::heartbeat(&self.context.setup.lock, latency);
                // Before the next heartbeat, which may begin at once and bring more.
                let written = self.questions.written_by_call();
                self.feed(Input::Renewed { proven_at, lease });
                self.questions.answered(proven_at, written);
                if self.questions.is_publishing() {
                    self.feed(Input::Confirm);
                }
            }
            Ok(Renewal::Lost { holder }) => {
                if let Some(holder) = holder {
                    self.context.leader_seen(holder);
                }
                self.feed(Input::Lost);
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: Error) {
        telemetry::failure(&self.context.setup.lock, &error);
        let failure = Failure {
            permanent: is_permanent(&error),
            retry_after: error.retry_after(),
        };
        let error = Arc::new(error);
        self.acquire_error = Some(error.clone());
        self.questions.failed(self.called_at, &error);
        self.missed(Some(error), failure);
    }

    fn missed(&mut self, error: Option<Arc<Error>>, failure: Failure) {
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

    fn gave_back(&mut self, answer: Result<(), Error>) {
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

    fn feed(&mut self, input: Input) {
        let mut commands = Vec::new();
        self.machine
            .handle(self.context.clock.now(), input, &mut commands);
        if !self.machine.wants_hints() {
            self.changes = None;
        }
        for command in commands {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Acquire => {
                self.start(calls::acquire(self.context.clone(), self.candidate.clone()));
            }
            Command::Renew { not_before } => self.renew_if_healthy(not_before),
            Command::Release => {
                self.start(calls::release(self.context.clone(), self.grant.clone()));
            }
            Command::Withdraw => {
                self.start(calls::withdraw(
                    self.context.clone(),
                    self.candidate.clone(),
                ));
            }
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
    fn renew_if_healthy(&mut self, not_before: Time) {
        if self.context.is_healthy() {
            let call = calls::renew(self.context.clone(), self.grant.clone(), not_before);
            self.start(call);
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

    /// Asks a candidate's probe. The first no makes it leave, and is told.
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
                // Before the call that follows is made: without an owner nobody may be elected.
                self.instructions.send(Instruction::WorkEnded(None));
                return;
            }
        }
        self.grant = None;
        self.loss = None;
        self.subscribe();
    }

    fn start(&mut self, call: Call) {
        self.called_at = self.context.clock.now();
        self.call = Some(call);
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
        self.context
            .enter(ElectionState::Leader { token }, Event::Elected { token });
        // Nobody waits any more when the campaign was dropped; the order to give the term back
        // is on its way then.
        let _unwanted = elected.send(Ok(term));
    }

    fn extend(&mut self, span: Span) {
        let Some(term) = &self.term else {
            return;
        };
        let told_to_stop = term.extend(span);
        let slack = span.cancel_at.since(self.context.clock.now());
        self.context.report(Event::Renewed { slack });
        if told_to_stop {
            // The work's own look at the clock was ahead of this heartbeat's answer: what it was
            // told is not taken back.
            self.feed(Input::Stop(Cause::HeartbeatsMissed));
        }
    }

    fn cancel(&mut self, cause: Cause) {
        let Some(term) = &self.term else {
            return;
        };
        term.cancel(cause);
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
        term.end(cause);
        self.questions.clear();
        let state = ElectionState::SteppingDown {
            token: term.token,
            cause,
        };
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
        if let Some(elected) = self.elected.take() {
            // Nobody to tell when the campaign was dropped meanwhile.
            let _unheard = elected.send(Err(error));
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        let outcome = match &self.give_back_error {
            Some(error) => {
                self.context.report(Event::ReleaseFailed(error.clone()));
                Err(error.clone())
            }
            None => Ok(()),
        };
        for reply in self.resigned.drain(..) {
            // A resigning owner that has gone away does not want to know.
            let _unheard = reply.send(outcome.clone());
        }
    }
}

impl Drop for Engine {
    /// Also when the runtime drops the task. The term ends before the grant is dropped: a store
    /// that ties the lock to something the grant holds open gives it to others from then on.
    fn drop(&mut self) {
        if !self.context.process.is_current() {
            return;
        }
        if let Some(term) = &self.term {
            term.end(Cause::Expired);
        }
        self.instructions.close();
        self.context.due.set(None);
        self.context.set_state(ElectionState::Idle);
    }
}

/// What somebody has to mend before another attempt can help.
fn is_permanent(error: &Error) -> bool {
    !error.is_retryable() && error.kind() != ErrorKind::Corrupted
}

async fn pending_or(call: Option<&mut Call>) -> Answer {
    match call {
        Some(call) => call.await,
        None => future::pending().await,
    }
}

/// Looks whenever the engine is polled.
async fn forked(process: &Process) {
    let forked = || !process.is_current();
    future::poll_fn(|_| {
        if forked() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn end_of(loss: Option<&mut Loss>) {
    match loss {
        Some(loss) => loss.await,
        None => future::pending().await,
    }
}

async fn next_hint(changes: Option<&mut Changes>) -> Option<Hint> {
    match changes {
        Some(changes) => future::poll_fn(|cx| changes.as_mut().poll_next(cx)).await,
        None => future::pending().await,
    }
}

fn too_short(asked: Duration, grant: Option<&Grant>) -> Error {
    let granted = grant.map(|grant| grant.lease).unwrap_or_default();
    Error::misconfigured(format!(
        "the store granted a lease of {granted:?} instead of {asked:?}, too short for this \
         policy's heartbeat, request timeout and stop grace; use a longer lease"
    ))
}
