//! A state of the whole system, and what can happen in it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tenure_core::machine::{Cause, Failure, Input, Machine, Settings, Span};
use tenure_core::{Hint, Policy, Time, Wakeup};

use crate::mutant::Mutant;
use crate::store::{Answer, Key, Number, Owner, Request, Store, Witness};
use crate::time::{EXACT, FAST, Rebased, SLOW, START};
use crate::{Fault, Invariant, Options, Violation};

/// How many candidates there are.
pub(crate) const CANDIDATES: usize = 3;

/// The clocks of the candidates.
const RATES: [Duration; CANDIDATES] = [SLOW, FAST, EXACT];

/// How many requests can be late at once; an older one is lost then.
const LATE: usize = 2;

/// How many ticks a process stands still at most: longer than a lease.
const LONGEST_FREEZE: u8 = 8;

/// How many ticks a validity lasts at most, on the slowest clock.
const LONGEST_VALIDITY: u8 = 6;

/// A pause that a store asks for, far longer than any lease.
const LONG_PAUSE: Duration = Duration::from_secs(600);

/// What a store grants that was asked for a whole lease.
const SHORT_LEASE: Duration = Duration::from_secs(3);

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A second passes.
    Tick,
    /// The machine's timer has come.
    Timer(u8),
    /// A call fails without an answer, at its deadline or before that: a fault.
    Fail(u8),
    /// A request reaches the store.
    Arrive(u8),
    /// A request reaches the store whose caller does not wait for it any more.
    ArriveLate(u8),
    /// The store refuses a request: a fault.
    Refuse(u8),
    /// The store refuses a request and asks for a long pause: a fault.
    RefuseForLong(u8),
    /// The store grants a shorter lease than was asked for: a fault.
    Shorten(u8),
    /// An answer is read.
    Answer(u8),
    /// The store hints that the lock may be free.
    Hint(u8),
    /// The store tells that the session has ended.
    Loss(u8),
    /// The owner gives the term back.
    Resign(u8),
    /// The service shuts down: the work is told to stop.
    Stop(u8),
    /// The work returns that was told to stop.
    WorkEnds(u8),
    /// The work ignores being told to stop: a fault.
    Ignore(u8),
    /// The process stands still: a fault.
    Freeze(u8),
    /// It goes on.
    Thaw(u8),
    /// The process dies: a fault.
    Crash(u8),
    /// It is started again.
    Restart(u8),
    /// The application's health probe says no from now on: a fault.
    Unwell(u8),
    /// It says yes again.
    Well(u8),
    /// Somebody deletes the lock under its holder: a fault.
    Delete,
}

/// How a process fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Up,
    Frozen { ticks_left: u8 },
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Acquire,
    Renew,
    Release,
    Withdraw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    Request(Request),
    Answer(Answer),
}

/// The call that the engine waits for: one message is on its way at a time.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) deadline: Time,
    /// When the request on its way was sent: what its answer proves (I1).
    pub(crate) sent: Time,
    pub(crate) wire: Wire,
    pub(crate) conflicts: u8,
    /// The deadline has passed.
    pub(crate) overdue: bool,
}

/// What the client knows of its term at the store.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Grant {
    pub(crate) token: Number,
    pub(crate) version: Number,
}

/// The last version of the record that this candidate has received.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Seen {
    pub(crate) version: Number,
    pub(crate) at: Time,
}

/// The term as its work sees it, and the proof behind it as the checker knows it.
#[derive(Clone, Copy, Debug, Hash)]
struct Term {
    token: Number,
    span: Span,
    cancelled: bool,
    lapsed: bool,
    proof: Proof,
}

/// When a request was sent that the store has confirmed, and the lease it has granted.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Proof {
    pub(crate) at: Time,
    /// What the machine was told instead, which a mutant may move.
    pub(crate) told: Time,
    pub(crate) lease: Duration,
}

impl Proof {
    /// Until when it lets its holder believe: `L (1-r)/(1+r)`, r being a tenth.
    fn good_until(&self) -> Time {
        self.at + bound(self.lease)
    }
}

fn bound(lease: Duration) -> Duration {
    lease * 9 / 11
}

/// The work of a term, until it returns.
#[derive(Clone, Copy, Debug, Hash)]
struct Work {
    told: Option<Time>,
    /// It was told to stop and goes on for as long as it likes.
    ignores: bool,
    /// From then on it must have been reported that it still runs.
    report_by: Option<Time>,
    reported: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    life: Life,
    /// What the health probe says.
    well: bool,
    pub(crate) now: Time,
    machine: Machine,
    pub(crate) campaign: Number,
    pub(crate) call: Option<Call>,
    pub(crate) grant: Option<Grant>,
    /// As the client knows it.
    pub(crate) seen: Option<Seen>,
    /// As the checker knows it.
    pub(crate) received: Option<Seen>,
    term: Option<Term>,
    work: Option<Work>,
    /// A hint is on its way.
    hint: bool,
    /// News of the end of a session is on its way: of the term with this token.
    loss: Option<Number>,
    /// What the answer has proved that is read just now, for the checker.
    pub(crate) proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Late {
    owner: Owner,
    request: Request,
}

/// All there is.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) candidates: [Candidate; CANDIDATES],
    pub(crate) store: Store,
    late: [Option<Late>; LATE],
    faults: u8,
    resigns: u8,
    /// The largest token of an elected leader.
    last_elected: Number,
    /// For so many ticks two leaders are excused, because somebody has deleted the lock.
    excused: u8,
    /// For so many ticks nobody has led, without a fault in between.
    vacant: u8,
}

/// What a step needs to know besides the world.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) options: Options,
    pub(crate) policies: [Policy; CANDIDATES],
}

impl Rules {
    fn may(&self, fault: Fault) -> bool {
        self.options.may.contains(&fault)
    }

    pub(crate) fn mutant(&self, mutant: Mutant) -> bool {
        self.options.mutant == Some(mutant)
    }
}

impl World {
    pub(crate) fn new(rules: &Rules) -> Self {
        let candidate = |index: usize| Candidate {
            life: Life::Up,
            well: true,
            now: START,
            machine: machine(rules, index),
            campaign: 1,
            call: None,
            grant: None,
            seen: None,
            received: None,
            term: None,
            work: None,
            hint: false,
            loss: None,
            proof: None,
        };
        let mut world = Self {
            candidates: std::array::from_fn(candidate),
            store: Store::new(),
            late: [None; LATE],
            faults: rules.options.faults,
            resigns: rules.options.resigns,
            last_elected: 0,
            excused: 0,
            vacant: 0,
        };
        let mut nothing = Vec::new();
        for index in 0..CANDIDATES {
            world.feed(rules, index, Input::Campaign, &mut nothing);
        }
        world
    }

    /// Two worlds with the same fingerprint have the same future.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for candidate in &self.candidates {
            candidate.hash_into(&mut hasher);
        }
        self.store.hash(&mut Rebased {
            inner: &mut hasher,
            now: self.store.now,
            past_is_past: true,
        });
        self.late.hash(&mut hasher);
        (self.faults, self.resigns, self.last_elected).hash(&mut hasher);
        (self.excused, self.vacant).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether somebody reports leadership.
    pub(crate) fn is_led(&self) -> bool {
        self.candidates.iter().any(Candidate::leads)
    }

    /// Everything that can happen next.
    pub(crate) fn actions(&self, rules: &Rules, actions: &mut Vec<Action>) {
        actions.clear();
        if self.may_tick(rules) {
            actions.push(Action::Tick);
        }
        for (index, candidate) in (0_u8..).zip(&self.candidates) {
            self.actions_of(index, candidate, rules, actions);
        }
        for (index, late) in (0_u8..).zip(&self.late) {
            if late.is_some() {
                actions.push(Action::ArriveLate(index));
            }
        }
        if self.faults > 0 && self.store.is_held() && rules.may(Fault::Delete) {
            actions.push(Action::Delete);
        }
    }

    fn actions_of(
        &self,
        index: u8,
        candidate: &Candidate,
        rules: &Rules,
        actions: &mut Vec<Action>,
    ) {
        let may = |fault| rules.may(fault);
        let fault = self.faults > 0;
        let up = candidate.life == Life::Up;
        let mut add = |when: bool, action: fn(u8) -> Action| {
            if when {
                actions.push(action(index));
            }
        };
        if let Some(call) = &candidate.call {
            match call.wire {
                Wire::Request(request) => {
                    add(true, Action::Arrive);
                    add(fault && may(Fault::Refuse), Action::Refuse);
                    add(fault && may(Fault::RefuseForLong), Action::RefuseForLong);
                    let asks = matches!(request, Request::Acquire { .. } | Request::Renew { .. });
                    add(fault && may(Fault::Shorten) && asks, Action::Shorten);
                }
                Wire::Answer(_) => add(up, Action::Answer),
            }
            let silent = fault && may(Fault::Silence);
            add(up && (silent || call.overdue), Action::Fail);
        }
        add(up && candidate.timer_is_due(), Action::Timer);
        add(up && candidate.hint, Action::Hint);
        add(up && candidate.loss.is_some(), Action::Loss);
        if let Some(work) = &candidate.work {
            let told = work.told.is_some();
            add(up && told, Action::WorkEnds);
            add(up && !told && self.resigns > 0, Action::Resign);
            add(up && !told && self.resigns > 0, Action::Stop);
            add(
                up && told && fault && !work.ignores && may(Fault::Ignore),
                Action::Ignore,
            );
        }
        add(up && fault && may(Fault::Freeze), Action::Freeze);
        add(matches!(candidate.life, Life::Frozen { .. }), Action::Thaw);
        add(
            fault && candidate.life != Life::Down && may(Fault::Crash),
            Action::Crash,
        );
        add(candidate.life == Life::Down, Action::Restart);
        add(
            up && fault && candidate.well && may(Fault::Unwell),
            Action::Unwell,
        );
        add(up && !candidate.well, Action::Well);
    }

    /// Whether nothing has to happen before time goes on. Calls that go beyond their deadlines then
    /// are faults.
    fn may_tick(&self, rules: &Rules) -> bool {
        let ready = self
            .candidates
            .iter()
            .all(|candidate| match candidate.life {
                Life::Down => true,
                Life::Frozen { ticks_left } => ticks_left > 0,
                Life::Up => {
                    let overdue = candidate.call.is_some_and(|call| call.overdue);
                    !overdue && !candidate.timer_is_due() && !candidate.work_is_late()
                }
            });
        let overdue = self.candidates.iter().zip(RATES);
        let overdue = overdue.filter(|(candidate, rate)| candidate.gets_overdue(*rate));
        let bearable = if rules.may(Fault::Silence) {
            usize::from(self.faults)
        } else {
            0
        };
        ready && overdue.count() <= bearable
    }

    /// Takes one step.
    pub(crate) fn step(&mut self, rules: &Rules, action: Action, broken: &mut Vec<Violation>) {
        match action {
            Action::Tick => self.tick(rules, broken),
            Action::Timer(of) => {
                let of = usize::from(of);
                let deaf = rules.mutant(Mutant::NeverWakes) && self.candidates[of].term.is_none();
                let silent =
                    rules.mutant(Mutant::NoHeartbeat) && self.candidates[of].term.is_some();
                if !deaf {
                    self.feed(rules, of, Input::Timer, broken);
                }
                if silent && let Some(call) = &mut self.candidates[of].call {
                    // As if it had been answered: nothing reaches the store.
                    call.wire = Wire::Answer(Answer::Refused { retry_after: None });
                }
                if deaf {
                    self.candidates[of].machine = machine(rules, of);
                }
            }
            Action::Fail(of) => {
                // What is overdue was a fault when its deadline passed.
                if self.candidates[usize::from(of)]
                    .call
                    .is_some_and(|call| !call.overdue)
                {
                    self.fault();
                }
                self.drop_call(usize::from(of));
                let failure = Input::Failed(Failure::default());
                self.feed(rules, usize::from(of), failure, broken);
            }
            Action::Arrive(of) => self.arrive(rules, of, broken),
            Action::ArriveLate(index) => {
                if let Some(late) = self.late[usize::from(index)].take() {
                    self.late.sort_by_key(Option::is_none);
                    self.vacant = 0;
                    self.apply(rules, late.owner, late.request, broken);
                }
            }
            Action::Answer(of) => self.read_answer(rules, usize::from(of), broken),
            Action::Hint(of) => {
                self.candidates[usize::from(of)].hint = false;
                let hint = Input::Hint(Hint::MayBeFree);
                self.feed(rules, usize::from(of), hint, broken);
            }
            Action::Loss(of) => {
                let candidate = &mut self.candidates[usize::from(of)];
                let lost = candidate.loss.take();
                if lost.is_some() && lost == candidate.grant.map(|grant| grant.token) {
                    self.feed(rules, usize::from(of), Input::Lost, broken);
                }
            }
            Action::Resign(of) => {
                self.resigns -= 1;
                self.end_work(rules, usize::from(of), broken);
            }
            Action::Stop(of) => {
                self.resigns -= 1;
                let stop = Input::Stop(Cause::Shutdown);
                self.feed(rules, usize::from(of), stop, broken);
            }
            Action::WorkEnds(of) => self.end_work(rules, usize::from(of), broken),
            Action::Restart(of) => {
                self.candidates[usize::from(of)].life = Life::Up;
                self.campaign(rules, usize::from(of), broken);
            }
            trouble => self.trouble(rules, trouble, broken),
        }
        self.check(broken);
        self.forget_what_cannot_matter(rules);
        self.renumber();
    }

    /// The steps in which something goes wrong, or is well again.
    fn trouble(&mut self, rules: &Rules, action: Action, broken: &mut Vec<Violation>) {
        match action {
            Action::Refuse(of) => self.refuse(of, None),
            Action::RefuseForLong(of) => self.refuse(of, Some(LONG_PAUSE)),
            Action::Shorten(of) => {
                self.fault();
                if let Some(call) = &mut self.candidates[usize::from(of)].call
                    && let Wire::Request(Request::Acquire { lease } | Request::Renew { lease, .. }) =
                        &mut call.wire
                {
                    *lease = SHORT_LEASE;
                }
                self.arrive(rules, of, broken);
            }
            Action::Ignore(of) => {
                self.fault();
                if let Some(work) = &mut self.candidates[usize::from(of)].work {
                    work.ignores = true;
                    work.told = Some(START);
                }
            }
            Action::Freeze(of) => {
                self.fault();
                self.candidates[usize::from(of)].life = Life::Frozen {
                    ticks_left: LONGEST_FREEZE,
                };
            }
            Action::Thaw(of) => {
                self.vacant = 0;
                self.candidates[usize::from(of)].life = Life::Up;
            }
            Action::Unwell(of) => {
                self.fault();
                self.candidates[usize::from(of)].well = false;
            }
            Action::Well(of) => {
                self.vacant = 0;
                self.candidates[usize::from(of)].well = true;
            }
            Action::Crash(of) => self.crash(rules, usize::from(of)),
            Action::Delete => {
                self.fault();
                self.excused = LONGEST_VALIDITY;
                let mut witness = Witness::default();
                self.store.delete(&mut witness);
                self.tell(witness, None, broken);
            }
            _ => {}
        }
    }

    fn fault(&mut self) {
        self.faults -= 1;
        self.vacant = 0;
    }

    fn tick(&mut self, rules: &Rules, broken: &mut Vec<Violation>) {
        for (candidate, policy) in self.candidates.iter().zip(&rules.policies) {
            candidate.check_the_work(policy.stop_grace(), broken);
        }
        for (candidate, rate) in self.candidates.iter_mut().zip(RATES) {
            if candidate.gets_overdue(rate)
                && let Some(call) = &mut candidate.call
            {
                call.overdue = true;
                self.faults -= 1;
                self.vacant = 0;
            }
            candidate.now = candidate.now + rate;
            candidate.forget_what_is_long_ago();
            if let Life::Frozen { ticks_left } = &mut candidate.life {
                *ticks_left -= 1;
            }
        }
        self.store.now = self.store.now + FAST;
        let mut witness = Witness::default();
        self.store.expire(&mut witness);
        self.tell(witness, None, broken);
        self.excused = self.excused.saturating_sub(1);
        let nobody_can = self
            .candidates
            .iter()
            .all(|one| one.life != Life::Up || !one.well);
        if self.is_led() || nobody_can {
            self.vacant = 0;
        } else {
            self.vacant += 1;
        }
        if self.vacant > rules.options.vacancy {
            broken.push(Violation {
                invariant: Invariant::Reelection,
                text: format!("for {} s nobody has led, without a fault", self.vacant),
            });
            self.vacant = 0;
        }
    }

    /// A request reaches the store while its caller waits.
    fn arrive(&mut self, rules: &Rules, of: u8, broken: &mut Vec<Violation>) {
        let candidate = &self.candidates[usize::from(of)];
        let owner = Owner {
            candidate: of,
            campaign: candidate.campaign,
        };
        if let Some(call) = candidate.call
            && let Wire::Request(request) = call.wire
        {
            let answer = self.apply(rules, owner, request, broken);
            if let Some(call) = &mut self.candidates[usize::from(of)].call {
                call.wire = Wire::Answer(answer);
            }
        }
    }

    fn apply(
        &mut self,
        rules: &Rules,
        owner: Owner,
        request: Request,
        broken: &mut Vec<Violation>,
    ) -> Answer {
        let mut witness = Witness::default();
        let answer = self.store.apply(
            rules.options.store,
            owner,
            request,
            rules.options.mutant,
            &mut witness,
        );
        self.tell(witness, Some(owner.candidate), broken);
        answer
    }

    /// Sets out what the store tells the candidates.
    fn tell(&mut self, witness: Witness, except: Option<u8>, broken: &mut Vec<Violation>) {
        broken.extend(witness.violations);
        for (index, candidate) in (0_u8..).zip(&mut self.candidates) {
            if witness.freed && except != Some(index) && candidate.machine.wants_hints() {
                candidate.hint = true;
            }
        }
        if let Some(Key { owner, token, .. }) = witness.lost {
            let candidate = &mut self.candidates[usize::from(owner.candidate)];
            if owner.campaign == candidate.campaign && candidate.grant.is_some() {
                candidate.loss = Some(token);
            }
        }
    }

    fn refuse(&mut self, of: u8, retry_after: Option<Duration>) {
        self.fault();
        if let Some(call) = &mut self.candidates[usize::from(of)].call {
            call.wire = Wire::Answer(Answer::Refused { retry_after });
        }
    }

    /// The caller does not wait any more; a request on its way arrives late or never.
    fn drop_call(&mut self, of: usize) {
        let candidate = &mut self.candidates[of];
        let campaign = candidate.campaign;
        if let Some(call) = candidate.call.take()
            && let Wire::Request(request) = call.wire
            && request != Request::Get
        {
            let candidate = u8::try_from(of).unwrap_or(u8::MAX);
            let owner = Owner {
                candidate,
                campaign,
            };
            self.late.rotate_right(1);
            self.late[0] = Some(Late { owner, request });
        }
    }

    fn end_work(&mut self, rules: &Rules, of: usize, broken: &mut Vec<Violation>) {
        self.candidates[of].work = None;
        // The owner ends its term before it tells the engine.
        self.candidates[of].term = None;
        self.feed(rules, of, Input::WorkEnded, broken);
    }

    fn crash(&mut self, rules: &Rules, of: usize) {
        self.fault();
        self.drop_call(of);
        let candidate = &mut self.candidates[of];
        *candidate = Candidate {
            life: Life::Down,
            well: true,
            now: candidate.now,
            machine: machine(rules, of),
            campaign: candidate.campaign,
            call: None,
            grant: None,
            seen: None,
            received: None,
            term: None,
            work: None,
            hint: false,
            loss: None,
            proof: None,
        };
    }

    /// Begins a new campaign.
    fn campaign(&mut self, rules: &Rules, of: usize, broken: &mut Vec<Violation>) {
        self.renumber_campaign(of);
        self.candidates[of].machine = machine(rules, of);
        self.feed(rules, of, Input::Campaign, broken);
    }

    fn renumber_campaign(&mut self, of: usize) {
        self.drop_call(of);
        let candidate = &mut self.candidates[of];
        candidate.campaign += 1;
        candidate.grant = None;
        candidate.loss = None;
        candidate.proof = None;
    }

    fn read_answer(&mut self, rules: &Rules, of: usize, broken: &mut Vec<Violation>) {
        let Some(input) = self.candidates[of].read_answer(rules, of) else {
            return;
        };
        let proof = self.candidates[of].proof;
        if let (Input::Renewed { .. }, Some(proof), Some(term)) =
            (input, proof, &mut self.candidates[of].term)
            && proof.at >= term.proof.at
        {
            term.proof = proof;
        }
        self.feed(rules, of, input, broken);
        self.candidates[of].proof = None;
    }

    /// Gives the machine an input, and carries out its commands as the engine does.
    fn feed(&mut self, rules: &Rules, of: usize, input: Input, broken: &mut Vec<Violation>) {
        let candidate = &mut self.candidates[of];
        let mut now = candidate.now;
        if rules.mutant(Mutant::LateAnswerRevives) && matches!(input, Input::Renewed { .. }) {
            let last = candidate.term.map(|term| term.span.cancel_at);
            now = last.map_or(now, |last| now.min(last.minus(Duration::from_nanos(1))));
        }
        let mut commands = Vec::new();
        candidate.machine.handle(now, input, &mut commands);
        if !candidate.machine.wants_hints() {
            candidate.hint = false;
        }
        for command in commands {
            self.carry_out(rules, of, command, broken);
        }
    }

    fn carry_out(
        &mut self,
        rules: &Rules,
        of: usize,
        command: tenure_core::machine::Command,
        broken: &mut Vec<Violation>,
    ) {
        use tenure_core::machine::Command;
        match command {
            Command::Acquire => self.call(rules, of, Operation::Acquire),
            Command::Renew { .. } if self.candidates[of].well => {
                self.call(rules, of, Operation::Renew);
            }
            Command::Renew { .. } => {
                let failure = Input::Failed(Failure::default());
                self.feed(rules, of, failure, broken);
            }
            Command::Probe => {
                let well = self.candidates[of].well;
                self.feed(rules, of, Input::Health(well), broken);
            }
            Command::Reenter => self.renumber_campaign(of),
            Command::Release | Command::Withdraw => {
                if self.candidates[of].work.is_some() {
                    broken.push(Violation {
                        invariant: Invariant::I4,
                        text: format!("candidate {of} gives the lock back while its work runs"),
                    });
                }
                let operation = if command == Command::Release {
                    Operation::Release
                } else {
                    Operation::Withdraw
                };
                self.call(rules, of, operation);
            }
            Command::Elect(span) => self.elect(of, span, broken),
            Command::Extend(span) => {
                if let Some(term) = &mut self.candidates[of].term {
                    term.span = span;
                }
                self.candidates[of].check_the_span(of, broken);
            }
            Command::Cancel(cause) => {
                self.check_the_cause(rules, of, cause, broken);
                let heard = !(rules.mutant(Mutant::NotTold) && cause == Cause::HeartbeatsMissed);
                let candidate = &mut self.candidates[of];
                if let (true, Some(term), Some(work)) =
                    (heard, &mut candidate.term, &mut candidate.work)
                {
                    term.cancelled = true;
                    work.told = work.told.or(Some(candidate.now));
                }
                if rules.mutant(Mutant::ReleaseOnCancel) {
                    candidate.term = None;
                    self.feed(rules, of, Input::WorkEnded, broken);
                }
            }
            Command::End(cause) => {
                self.check_the_cause(rules, of, cause, broken);
                self.candidates[of].end_term(&rules.policies[of]);
            }
            Command::Overrun => {
                if let Some(work) = &mut self.candidates[of].work {
                    work.reported = true;
                }
            }
            Command::Finish => self.campaign(rules, of, broken),
            // Its owner is told; nothing happens here.
            Command::GiveUp => {}
            unknown => broken.push(Violation {
                invariant: Invariant::Reelection,
                text: format!("the model does not know the command {unknown:?}"),
            }),
        }
    }

    fn call(&mut self, rules: &Rules, of: usize, operation: Operation) {
        self.drop_call(of);
        let candidate = &mut self.candidates[of];
        let now = candidate.now;
        let request = candidate.first_request(rules, of, operation);
        candidate.call = Some(Call {
            operation,
            deadline: now + rules.policies[of].request_timeout(),
            sent: now,
            wire: Wire::Request(request),
            conflicts: 0,
            overdue: false,
        });
    }

    fn elect(&mut self, of: usize, span: Span, broken: &mut Vec<Violation>) {
        let candidate = &mut self.candidates[of];
        let (Some(grant), Some(proof)) = (candidate.grant, candidate.proof) else {
            return;
        };
        candidate.term = Some(Term {
            token: grant.token,
            span,
            cancelled: false,
            lapsed: false,
            proof,
        });
        candidate.work = Some(Work {
            told: None,
            ignores: false,
            report_by: None,
            reported: false,
        });
        candidate.check_the_span(of, broken);
        if grant.token <= self.last_elected && self.excused == 0 {
            broken.push(Violation {
                invariant: Invariant::I6,
                text: format!("candidate {of} leads with a token of an earlier term"),
            });
        }
        self.last_elected = self.last_elected.max(grant.token);
    }

    /// I3: what ends a term is a fault, or its owner.
    fn check_the_cause(&self, rules: &Rules, of: usize, cause: Cause, broken: &mut Vec<Violation>) {
        let by_a_fault = matches!(
            cause,
            Cause::HeartbeatsMissed | Cause::Expired | Cause::Lost
        );
        if by_a_fault && self.faults == rules.options.faults {
            broken.push(Violation {
                invariant: Invariant::I3,
                text: format!("candidate {of} loses its term without any fault: {cause:?}"),
            });
        }
    }

    fn check(&mut self, broken: &mut Vec<Violation>) {
        for (index, candidate) in self.candidates.iter_mut().enumerate() {
            let Some(term) = &mut candidate.term else {
                continue;
            };
            let valid = candidate.now < term.span.valid_until;
            if valid && term.lapsed {
                broken.push(Violation {
                    invariant: Invariant::I1,
                    text: format!("the term of candidate {index} is valid again"),
                });
            }
            term.lapsed |= !valid;
            if candidate.now >= term.proof.good_until() && valid {
                broken.push(Violation {
                    invariant: Invariant::I1,
                    text: format!("candidate {index} leads beyond t0 + V"),
                });
            }
        }
        let leaders = self.candidates.iter().filter(|one| one.leads()).count();
        if leaders > 1 && self.excused == 0 {
            broken.push(Violation {
                invariant: Invariant::Exclusive,
                text: format!("{leaders} candidates lead at once"),
            });
        }
    }

    /// Gives all numbers their ranks, and all campaigns: worlds that differ in how many terms
    /// there were before are one.
    fn renumber(&mut self) {
        let mut used = 0_u128;
        self.numbers(&mut |number| used |= 1 << *number);
        self.numbers(&mut |number| {
            let below = used & ((1_u128 << *number) - 1);
            *number = u8::try_from(below.count_ones()).unwrap_or(u8::MAX) + 1;
        });
        let mut used = [0_u128; CANDIDATES];
        self.owners(&mut |owner| used[usize::from(owner.candidate)] |= 1 << owner.campaign);
        self.owners(&mut |owner| {
            let used = used[usize::from(owner.candidate)];
            let below = used & ((1_u128 << owner.campaign) - 1);
            owner.campaign = u8::try_from(below.count_ones()).unwrap_or(u8::MAX) + 1;
        });
    }

    /// Drops late requests that the store would answer with a no whenever they arrive: they are
    /// conditional on what does not come back.
    fn forget_what_cannot_matter(&mut self, rules: &Rules) {
        let unconditional = [
            Mutant::RenewIsUpsert,
            Mutant::ReleaseByName,
            Mutant::WithdrawByName,
            Mutant::Unconditional,
            Mutant::SessionProvesAnyTerm,
        ];
        if rules
            .options
            .mutant
            .is_some_and(|mutant| unconditional.contains(&mutant))
        {
            return;
        }
        let late = self.late;
        let store = &self.store;
        for slot in &mut self.late {
            let matters = slot.is_some_and(|one| {
                // Another late one could still make what this one acts on.
                let may_make = |other: &Late| {
                    other.owner == one.owner && matches!(other.request, Request::Acquire { .. })
                };
                store.may_still_apply(one.owner, &one.request)
                    || late.iter().flatten().any(may_make)
            });
            if !matters {
                *slot = None;
            }
        }
        self.late.sort_by_key(Option::is_none);
    }

    fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        self.store.numbers(visit);
        visit(&mut self.last_elected);
        for late in self.late.iter_mut().flatten() {
            late.request.numbers(visit);
        }
        for candidate in &mut self.candidates {
            candidate.numbers(visit);
        }
    }

    fn owners(&mut self, visit: &mut impl FnMut(&mut Owner)) {
        self.store.owners(visit);
        for late in self.late.iter_mut().flatten() {
            visit(&mut late.owner);
        }
        for (index, candidate) in (0_u8..).zip(&mut self.candidates) {
            let mut own = Owner {
                candidate: index,
                campaign: candidate.campaign,
            };
            visit(&mut own);
            candidate.campaign = own.campaign;
            if let Some(call) = &mut candidate.call
                && let Wire::Answer(answer) = &mut call.wire
                && let Some(owner) = answer.owner()
            {
                visit(owner);
            }
        }
    }
}

impl Candidate {
    /// Without the absolute time.
    fn hash_into(&self, hasher: &mut impl Hasher) {
        // Named one by one, so that a new field cannot be forgotten here.
        let Self {
            life,
            well,
            now,
            machine,
            campaign,
            call,
            grant,
            seen,
            received,
            term,
            work,
            hint,
            loss,
            proof,
        } = self;
        // A candidate looks at times only to see whether they have come.
        let past_is_past = machine.wants_hints();
        machine.hash(&mut Rebased {
            inner: hasher,
            now: *now,
            past_is_past,
        });
        let mut hasher = Rebased {
            inner: hasher,
            now: *now,
            past_is_past: false,
        };
        (life, well, campaign, call, grant).hash(&mut hasher);
        (seen, received, term, work).hash(&mut hasher);
        (hint, loss, proof).hash(&mut hasher);
    }

    fn leads(&self) -> bool {
        self.term
            .is_some_and(|term| self.now < term.span.valid_until)
    }

    fn timer_is_due(&self) -> bool {
        self.machine.next_wake().is_some_and(|at| at <= self.now)
    }

    /// Whether the call has no answer by its deadline if so much time passes now.
    fn gets_overdue(&self, rate: Duration) -> bool {
        self.life == Life::Up
            && self
                .call
                .is_some_and(|call| self.now + rate >= call.deadline)
    }

    /// Work that was told to stop returns within its grace, unless it ignores that.
    fn work_is_late(&self) -> bool {
        self.work.is_some_and(|work| {
            !work.ignores
                && work
                    .told
                    .is_some_and(|told| self.now >= told + Duration::from_secs(1))
        })
    }

    /// Where the store ended it, the work has until the end that it knew of to stop.
    fn end_term(&mut self, policy: &Policy) {
        let ends = self.term.map(|term| term.span.valid_until);
        self.term = None;
        if let Some(work) = &mut self.work {
            work.told = work.told.or(Some(self.now));
            let grace = self.now + policy.stop_grace();
            work.report_by = ends.map(|ends| ends.min(grace).max(self.now));
        }
    }

    /// I1 and I2: the span that the machine gives.
    fn check_the_span(&self, of: usize, broken: &mut Vec<Violation>) {
        let Some(Term { span, proof, .. }) = &self.term else {
            return;
        };
        // How long the machine takes a proof to be good for is I2, from when on is I1.
        let valid_for = span.valid_until.since(proof.told);
        if valid_for > bound(proof.lease) {
            broken.push(Violation {
                invariant: Invariant::I2,
                text: format!(
                    "candidate {of} takes a lease of {:?} to be good for {valid_for:?}",
                    proof.lease
                ),
            });
        }
        if span.valid_until > proof.good_until() {
            broken.push(Violation {
                invariant: Invariant::I1,
                text: format!("the term of candidate {of} is claimed beyond t0 + V"),
            });
        }
    }

    /// I4, when all that was due by now has been handled.
    fn check_the_work(&self, grace: Duration, broken: &mut Vec<Violation>) {
        if self.life != Life::Up {
            return;
        }
        if let Some(term) = &self.term
            && self.now >= term.proof.good_until().minus(grace)
            && !term.cancelled
        {
            broken.push(Violation {
                invariant: Invariant::I4,
                text: "work was not told to stop by t0 + V - C".to_owned(),
            });
        }
        if let Some(work) = &self.work
            && work.report_by.is_some_and(|by| self.now >= by)
            && !work.reported
        {
            broken.push(Violation {
                invariant: Invariant::I4,
                text: "work goes on beyond its term, and nobody was told".to_owned(),
            });
        }
    }

    /// What lies so far back that its age makes no difference any more.
    fn forget_what_is_long_ago(&mut self) {
        let oldest = self.now.minus(Duration::from_secs(30));
        for seen in self.seen.iter_mut().chain(&mut self.received) {
            seen.at = seen.at.max(oldest);
        }
        if let Some(work) = &mut self.work {
            work.report_by = work.report_by.filter(|_| !work.reported);
            if work.ignores {
                work.told = Some(oldest);
            }
        }
    }

    fn numbers(&mut self, visit: &mut impl FnMut(&mut Number)) {
        if let Some(call) = &mut self.call {
            match &mut call.wire {
                Wire::Request(request) => request.numbers(visit),
                Wire::Answer(answer) => answer.numbers(visit),
            }
        }
        if let Some(grant) = &mut self.grant {
            visit(&mut grant.token);
            visit(&mut grant.version);
        }
        for seen in self.seen.iter_mut().chain(&mut self.received) {
            visit(&mut seen.version);
        }
        if let Some(term) = &mut self.term {
            visit(&mut term.token);
        }
        self.loss.iter_mut().for_each(visit);
    }
}

fn machine(rules: &Rules, of: usize) -> Machine {
    let settings = Settings {
        wakeup: Wakeup::Push,
        drain_limit: Duration::from_secs(3),
        answered: true,
        probed: rules.may(Fault::Unwell),
        seed: 1,
    };
    Machine::new(rules.policies[of].clone(), settings)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.candidates.iter().enumerate() {
            let seconds = one.now.since(START).as_secs_f32();
            write!(f, "| {index} at {seconds:.1} s {:?}", one.life)?;
            if let Some(term) = &one.term {
                let left = term.span.valid_until.since(one.now).as_secs_f32();
                write!(f, ", leads term {} for {left:.1} s", term.token)?;
            }
            if one.work.is_some() {
                write!(f, ", works")?;
            }
            if let Some(call) = &one.call {
                write!(f, ", {:?} {:?}", call.operation, call.wire)?;
            }
            write!(f, " ")?;
        }
        let Store {
            record, key, queue, ..
        } = &self.store;
        let late = self.late.iter().flatten().collect::<Vec<_>>();
        let queue = queue.iter().flatten().collect::<Vec<_>>();
        write!(f, "| store {record:?} {key:?} {queue:?}, late {late:?}")
    }
}
