//! The engine: drives one election machine with a backend and a clock, as one task.
//!
//! This file is the loop. `wait` waits for what happens next. `handle` makes an input of it and
//! gives that to the machine; for answers of the store `answers` makes the input. `commands`
//! carries out what the machine answers. `calls` makes and keeps the calls to the store, and
//! `running` runs them while `wait` waits. All decisions are the machine's.

mod answers;
mod calls;
mod commands;
mod handle;
mod questions;
mod running;
mod wait;

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, oneshot};
use tracing::Instrument as _;

use crate::contract::backend::{Candidate, Changes, Grant, Loss};
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::contract::error::Error;
use crate::election::context::Context;
use crate::election::engine::calls::Calls;
use crate::election::engine::questions::Questions;
use crate::election::event::ElectionState;
use crate::election::instruction::{Instructions, Reply};
use crate::election::machine::cause::Cause;
use crate::election::machine::input::Input;
use crate::election::machine::{Machine, Settings};
use crate::election::telemetry;
use crate::election::term::TermState;

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
                // No event tells of this end.
                self.context.gauges.term(None);
            }
        }
        self.context.left();
        self.instructions.close();
        self.context.due.set(None);
        self.context.set_state(ElectionState::Idle);
    }
}
