//! The engine: drives one election machine with a backend and a clock, as one task.
//!
//! This file is the loop: it waits for what happens next, and makes an input of the machine of it.
//! `commands` gives the machine the input and carries out what it answers, `calls` makes one call
//! to the store at a time and runs it, and `answers` makes inputs of its outcome. All decisions are
//! the machine's.

mod answers;
mod calls;
mod commands;
mod questions;

use std::future;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{OwnedMutexGuard, oneshot};
use tracing::Instrument as _;

use crate::contract::backend::{Candidate, Changes, Grant, Hint, Loss};
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::contract::error::Error;
use crate::contract::name::PublishedValue;
use crate::contract::process::Process;
use crate::election::context::Context;
use crate::election::engine::calls::{Answer, Calls};
use crate::election::engine::questions::Questions;
use crate::election::event::ElectionState;
use crate::election::instruction::{Instruction, Instructions, Reply};
use crate::election::machine::cause::Cause;
use crate::election::machine::input::Input;
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

/// The caller of `campaign`, who waits for its outcome.
pub(crate) type Elected = oneshot::Sender<Result<Arc<TermState>, Error>>;

pub(crate) struct Engine {
    context: Arc<Context>,
    /// Its value is what is published now: the one place that holds it.
    candidate: Candidate,
    instructions: Arc<Instructions>,
    machine: Machine,
    calls: Calls,
    changes: Option<Changes>,
    /// Ends when the store reports by itself that the term is over.
    loss: Option<Loss>,
    grant: Option<Grant>,
    term: Option<Arc<TermState>>,
    /// When the campaign began; then when its term did.
    since: Time,
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
            candidate,
            instructions,
            calls: Calls::new(context.clone()),
            changes: None,
            loss: None,
            grant: None,
            term: None,
            since: context.clock.now(),
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

    /// Its span is made here, on the thread that enters it.
    pub(crate) async fn run(mut self) {
        let span = telemetry::campaign(self.context.labels());
        self.drive().instrument(span).await;
    }

    async fn drive(&mut self) {
        self.begin();
        while !self.finished {
            let happening = self.next().await;
            self.handle(happening);
            // A store whose notifications never end must not keep the runtime's other tasks
            // waiting.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn begin(&mut self) {
        self.context.campaign_begins();
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
        let (changes, loss) = (&mut self.changes, &mut self.loss);
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
            answer = self.calls.answer() => Happening::Answer(answer),
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
            Happening::Answer(Answer::Overdue(error, rest)) => self.overdue(error, rest),
            Happening::Answer(Answer::Late(heartbeat, answer)) => {
                self.renewed_late(&heartbeat, answer);
            }
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
            Instruction::Publish(value, reply) => self.publish(value, reply),
            Instruction::Confirm(reply) => self.confirm(reply),
        }
    }

    /// A heartbeat under way has left without the new value, whatever it proves: only the answer
    /// to one that began later shows that the store has it. Dropping `reply` is as below.
    fn publish(&mut self, value: Option<PublishedValue>, reply: Reply) {
        if self.has_term() {
            self.candidate.value = value;
            self.questions.publish(self.context.clock.now(), reply);
            self.feed(Input::RenewNow);
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
            self.feed(Input::RenewNow);
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
            if !self.finished {
                telemetry::not_leading(&self.context.setup.lock);
            }
        }
        self.context.left();
        self.instructions.close();
        self.context.due.set(None);
        self.context.set_state(ElectionState::Idle);
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
