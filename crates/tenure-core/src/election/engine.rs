//! The engine: drives one election machine with a backend and a clock, as one task.
//!
//! It holds one call to the store at a time, under the request timeout, and turns what happens
//! into the machine's inputs. All decisions are the machine's.

use std::future::{self, Future};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::contract::backend::{Acquired, Candidate, Changes, Grant, Hint, Loss, Renewal};
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::PublishedValue;
use crate::contract::process::Process;
use crate::election::event::{ElectionState, Event};
use crate::election::machine::{Cause, Command, Failure, Input, Machine, Settings, Span};
use crate::election::term::TermState;
use crate::election::{Inner, telemetry};
use crate::sync::{Mutex, Notify};

/// The answer to an order: the error is shared because everybody who waits for one call gets it.
pub(crate) type Reply = oneshot::Sender<Result<(), Arc<Error>>>;

/// What the owner of a campaign or term, and its work, may ask of the engine.
pub(crate) enum Order {
    Stop(Cause),
    WorkEnded(Option<Reply>),
    Publish(Option<PublishedValue>, Reply),
    Confirm(Reply),
}

/// The way orders reach the engine. A list and a notification, because a channel's buffer for
/// each of 10,000 elections would cost more than everything else together.
#[derive(Default)]
pub(crate) struct Control {
    orders: Mutex<Orders>,
    changed: Notify,
}

#[derive(Default)]
struct Orders {
    waiting: Vec<Order>,
    closed: bool,
}

impl Control {
    pub(crate) fn send(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped when the engine has gone; so is the reply in it, which tells the asker.
        if !orders.closed {
            orders.waiting.push(order);
            self.changed.notify_one();
        }
    }

    /// Sends an order and awaits the answer; `None` when the engine has ended without one.
    pub(crate) async fn ask(
        &self,
        order: impl FnOnce(Reply) -> Order,
    ) -> Option<Result<(), Arc<Error>>> {
        let (reply, answer) = oneshot::channel();
        self.send(order(reply));
        answer.await.ok()
    }

    fn take(&self) -> Vec<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut orders.waiting)
    }

    fn close(&self) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.closed = true;
        orders.waiting.clear();
    }
}

type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

enum Answer {
    Acquire(Result<Acquired, Error>),
    Renew(Result<Renewal, Error>),
    GiveBack(Result<(), Error>),
}

enum Happening {
    /// The caller is a fork of the process that the engine belongs to.
    Forked,
    Orders,
    Answer(Answer),
    Hint(Option<Hint>),
    Loss,
    Timer,
}

/// Who waits for the outcome of a campaign.
pub(crate) type Elected = oneshot::Sender<Result<Arc<TermState>, Error>>;

pub(crate) struct Engine {
    election: Arc<Inner>,
    candidate: Candidate,
    control: Arc<Control>,
    machine: Machine,
    call: Option<Call>,
    called_at: Time,
    changes: Option<Changes>,
    /// Ends when the store tells by itself that the term is over.
    loss: Option<Loss>,
    grant: Option<Grant>,
    term: Option<Arc<TermState>>,
    elected: Option<Elected>,
    /// Those who wait for a proof no older than the time.
    confirming: Vec<(Time, Reply)>,
    /// Those who wait for the store to have the value of this number or a later one.
    publishing: Vec<(u64, Reply)>,
    /// How many values were published in this term, the number of the last one.
    published: u64,
    /// The number of the value that the call under way writes.
    published_by_call: u64,
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
        election: Arc<Inner>,
        candidate: Candidate,
        control: Arc<Control>,
        seed: u64,
        elected: Elected,
        turn: OwnedMutexGuard<()>,
    ) -> Self {
        let settings = Settings {
            wakeup: election.backend.capabilities().wakeup,
            drain_limit: election.drain_limit,
            answered: election.store_answered(),
            probed: election.is_probed(),
            seed,
        };
        Self {
            machine: Machine::new(election.policy.clone(), settings),
            called_at: Time::ZERO,
            candidate,
            control,
            call: None,
            changes: None,
            loss: None,
            grant: None,
            term: None,
            elected: Some(elected),
            confirming: Vec::new(),
            publishing: Vec::new(),
            published: 0,
            published_by_call: 0,
            well: true,
            resigned: Vec::new(),
            failed_attempts: 0,
            acquire_error: None,
            give_back_error: None,
            finished: false,
            election,
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
        self.election.tell(
            ElectionState::Candidate { leader: None },
            Event::Campaigning,
        );
        self.subscribe();
        self.feed(Input::Campaign);
    }

    /// Before the first look at the lock, so that a release right after it is not missed.
    fn subscribe(&mut self) {
        if self.election.backend.capabilities().wakeup == Wakeup::Push {
            self.changes = Some(self.election.backend.changes(&self.election.lock));
        }
    }

    async fn next(&mut self) -> Happening {
        let clock = self.election.clock.clone();
        let wake = self.machine.next_wake();
        self.election.due.set(wake);
        let timer = async {
            match wake {
                Some(at) => clock.sleep_until(at).await,
                None => future::pending().await,
            }
        };
        let control = self.control.clone();
        let process = &self.election.process;
        let (call, changes, loss) = (&mut self.call, &mut self.changes, &mut self.loss);
        tokio::select! {
            // Orders first, so that a term that was given back is not extended; the clock is
            // looked at by the machine whatever comes.
            biased;
            // A child that was forked in mid-term and runs this task too.
            () = forked(process) => Happening::Forked,
            () = control.changed.notified() => Happening::Orders,
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
            Happening::Orders => {
                for order in self.control.take() {
                    self.obey(order);
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

    fn obey(&mut self, order: Order) {
        match order {
            Order::Stop(cause) => self.feed(Input::Stop(cause)),
            Order::WorkEnded(reply) => {
                self.resigned.extend(reply);
                self.feed(Input::WorkEnded);
            }
            Order::Publish(value, reply) => {
                if let Some(grant) = &mut self.grant {
                    grant.candidate.value.clone_from(&value);
                    self.candidate.value = value;
                    self.publish(reply);
                }
            }
            Order::Confirm(reply) => self.confirm(reply),
        }
    }

    /// A heartbeat under way has left without the new value, whatever it proves: only the answer
    /// to one that began later tells that the store has it. Dropping `reply` is as below.
    fn publish(&mut self, reply: Reply) {
        if self.has_term() {
            self.published += 1;
            self.publishing.push((self.published, reply));
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
            self.confirming.push((self.election.clock.now(), reply));
            self.feed(Input::Confirm);
        }
    }

    fn acquired(&mut self, answer: Result<Acquired, Error>) {
        if answer.is_ok() {
            self.election.note_answer();
        }
        match answer {
            Ok(Acquired::Held(grant)) => {
                let (proven_at, lease) = (grant.proven_at, grant.lease);
                self.acquire_error = None;
                self.loss = self.election.backend.loss(&grant);
                self.grant = Some(grant);
                self.feed(Input::Held { proven_at, lease });
            }
            Ok(Acquired::Taken { holder, free_in }) => {
                if let Some(holder) = holder {
                    self.election.leader_seen(holder);
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
                telemetry::heartbeat(
                    &self.election,
                    self.election.clock.now().since(self.called_at),
                );
                // Before the next heartbeat, which may begin at once and bring more.
                let written = self.published_by_call;
                self.feed(Input::Renewed { proven_at, lease });
                answer_all(up_to(&mut self.confirming, &proven_at), &Ok(()));
                answer_all(up_to(&mut self.publishing, &written), &Ok(()));
                if !self.publishing.is_empty() {
                    self.feed(Input::Confirm);
                }
            }
            Ok(Renewal::Lost { holder }) => {
                if let Some(holder) = holder {
                    self.election.leader_seen(holder);
                }
                self.feed(Input::Lost);
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: Error) {
        telemetry::failure(&self.election, &error);
        let failure = Failure {
            permanent: is_permanent(&error),
            retry_after: error.retry_after(),
        };
        let error = Arc::new(error);
        self.acquire_error = Some(error.clone());
        let answer = Err(error.clone());
        answer_all(up_to(&mut self.confirming, &self.called_at), &answer);
        answer_all(
            up_to(&mut self.publishing, &self.published_by_call),
            &answer,
        );
        self.missed(Some(error), failure);
    }

    fn missed(&mut self, error: Option<Arc<Error>>, failure: Failure) {
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        if let Some(term) = &self.term {
            let slack = term.cancel_at().since(self.election.clock.now());
            let attempts = self.failed_attempts;
            self.election.event(Event::HeartbeatMissed {
                attempts,
                slack,
                error,
            });
        } else if let Some(error) = error {
            self.election.event(Event::StoreFailed(error));
        }
        self.feed(Input::Failed(failure));
    }

    fn gave_back(&mut self, answer: Result<(), Error>) {
        match answer {
            Ok(()) => {
                self.give_back_error = None;
                if self.term.is_some() {
                    self.election.event(Event::Released);
                }
                self.feed(Input::Done);
            }
            Err(error) => {
                telemetry::failure(&self.election, &error);
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
            .handle(self.election.clock.now(), input, &mut commands);
        if !self.machine.wants_hints() {
            self.changes = None;
        }
        for command in commands {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Acquire => self.start(Engine::acquire),
            Command::Renew { not_before } => self.renew_if_healthy(not_before),
            Command::Release => self.start(Engine::release),
            Command::Withdraw => self.start(Engine::withdraw),
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
        if self.election.is_healthy() {
            self.start(|engine| engine.renew(not_before));
            self.published_by_call = self.published;
            return;
        }
        let error = Error::new(
            ErrorKind::Unavailable,
            Operation::Renew,
            "the health probe says no, so no heartbeat is sent",
        );
        let answer = Err(Arc::new(error));
        answer_all(mem::take(&mut self.confirming), &answer);
        answer_all(mem::take(&mut self.publishing), &answer);
        self.missed(None, Failure::default());
    }

    /// Asks a candidate's probe. The first no makes it leave, and is told.
    fn probe(&mut self) {
        let well = self.election.is_healthy();
        if self.well && !well {
            self.election.event(Event::Unhealthy);
        }
        self.well = well;
        self.feed(Input::Health(well));
    }

    /// Begins the campaign again under a new number.
    fn reenter(&mut self) {
        match self.election.draw() {
            Ok((campaign, _)) => self.candidate.campaign = campaign,
            Err(error) => {
                self.give_up_with(error);
                // Before the call that follows is made: without an owner nobody may be elected.
                self.control.send(Order::WorkEnded(None));
                return;
            }
        }
        self.grant = None;
        self.loss = None;
        self.subscribe();
    }

    fn start(&mut self, call: impl FnOnce(&Self) -> Call) {
        self.called_at = self.election.clock.now();
        self.call = Some(call(self));
    }

    fn acquire(&self) -> Call {
        let (election, candidate) = (self.election.clone(), self.candidate.clone());
        Box::pin(async move {
            let lease = election.policy.lease();
            let call = election.backend.acquire(&election.lock, &candidate, lease);
            Answer::Acquire(within(&election, Operation::Acquire, call).await)
        })
    }

    fn renew(&self, not_before: Time) -> Call {
        let (election, grant) = (self.election.clone(), self.grant.clone());
        Box::pin(async move {
            let Some(grant) = grant else {
                return Answer::Renew(Err(no_grant(Operation::Renew)));
            };
            let call = election.backend.renew(&grant, not_before);
            Answer::Renew(within(&election, Operation::Renew, call).await)
        })
    }

    fn release(&self) -> Call {
        let (election, grant) = (self.election.clone(), self.grant.clone());
        Box::pin(async move {
            let Some(grant) = grant else {
                return Answer::GiveBack(Err(no_grant(Operation::Release)));
            };
            let call = election.backend.release(&grant);
            Answer::GiveBack(within(&election, Operation::Release, call).await)
        })
    }

    fn withdraw(&self) -> Call {
        let (election, candidate) = (self.election.clone(), self.candidate.clone());
        Box::pin(async move {
            let call = election.backend.withdraw(&election.lock, &candidate);
            Answer::GiveBack(within(&election, Operation::Withdraw, call).await)
        })
    }

    fn elect(&mut self, span: Span) {
        let (Some(grant), Some(elected)) = (&self.grant, self.elected.take()) else {
            return;
        };
        let token = grant.token;
        self.failed_attempts = 0;
        let term = TermState::new(
            self.election.lock.clone(),
            self.candidate.identity.clone(),
            token,
            span,
            self.election.clock.clone(),
            self.control.clone(),
        );
        self.term = Some(term.clone());
        self.election
            .tell(ElectionState::Leader { token }, Event::Elected { token });
        // Nobody waits any more when the campaign was dropped; the order to give the term back
        // is on its way then.
        let _unwanted = elected.send(Ok(term));
    }

    fn extend(&mut self, span: Span) {
        let Some(term) = &self.term else {
            return;
        };
        let told_to_stop = term.extend(span);
        let slack = span.cancel_at.since(self.election.clock.now());
        self.election.event(Event::Renewed { slack });
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
        self.election.tell(state, Event::SteppingDown(cause));
    }

    fn end(&mut self, cause: Cause) {
        let Some(term) = &self.term else {
            return;
        };
        term.end(cause);
        self.confirming.clear();
        self.publishing.clear();
        let state = ElectionState::SteppingDown {
            token: term.token,
            cause,
        };
        self.election.tell(state, Event::SteppedDown(cause));
    }

    fn overrun(&mut self) {
        self.election.event(Event::Overrun);
        if self.election.abort_on_overrun {
            // The user chose this over work that goes on beside a new leader's.
            std::process::abort();
        }
    }

    fn give_up(&mut self) {
        let error = match &self.acquire_error {
            Some(error) => Error::new(error.kind(), error.operation(), error.message()),
            None => too_short(self.election.policy.lease(), self.grant.as_ref()),
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
                self.election.event(Event::ReleaseFailed(error.clone()));
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
        if !self.election.process.is_current() {
            return;
        }
        if let Some(term) = &self.term {
            term.end(Cause::Expired);
        }
        self.control.close();
        self.election.due.set(None);
        self.election.set_state(ElectionState::Idle);
    }
}

/// Takes out the questions that are settled.
fn up_to<T: PartialOrd>(asked: &mut Vec<(T, Reply)>, settled: &T) -> Vec<(T, Reply)> {
    let (taken, waiting) = mem::take(asked)
        .into_iter()
        .partition(|(number, _)| number <= settled);
    *asked = waiting;
    taken
}

/// Answers everybody whose question is settled.
fn answer_all<T>(asked: Vec<(T, Reply)>, answer: &Result<(), Arc<Error>>) {
    for (_, reply) in asked {
        // An asker that was dropped does not want to know.
        let _unheard = reply.send(answer.clone());
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

/// Puts the request timeout on a call. An answer that comes late all the same, because the
/// process was stopped, is passed on: the machine judges it by its proof.
async fn within<T>(
    election: &Inner,
    operation: Operation,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit = election.policy.request_timeout();
    let deadline = election.clock.now() + limit;
    // A block of its own, or the timer would be made also for an answer that is there at once.
    let timer = async { election.clock.sleep_until(deadline).await };
    tokio::select! {
        biased;
        answer = call => answer,
        () = timer => Err(Error::timeout(operation, limit)),
    }
}

fn no_grant(operation: Operation) -> Error {
    Error::new(ErrorKind::Internal, operation, "there is no grant")
}

fn too_short(asked: Duration, grant: Option<&Grant>) -> Error {
    let granted = grant.map(|grant| grant.lease).unwrap_or_default();
    Error::misconfigured(format!(
        "the store granted a lease of {granted:?} instead of {asked:?}, too short for this \
         policy's heartbeat, request timeout and stop grace; use a longer lease"
    ))
}
