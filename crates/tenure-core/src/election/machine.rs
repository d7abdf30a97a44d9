//! The election machine: every decision of a campaign and its term, without clock or I/O.
//!
//! Events go in with the time at which they are handled; commands come out. The tokio engine
//! drives it, and so does the simulator: the same code. The machine never trusts the driver's
//! timers: whatever event comes in, it first looks at the time, so that an answer which arrives
//! after the validity has ended (a stopped process, a starved runtime) cannot bring a term back.
//!
//! ```text
//!  Campaign          Held                       WorkEnded            Released
//! ----------> Candidate --------> Leader ------------------> Releasing ------> Finished
//!           |  |  ^  |              |  validity over, lost       ^
//!   unwell  | Taken  | WorkEnded    +-----------> Ended ---------+
//!     +-----+        +------------> Withdrawing --------------------------> Finished
//!     v        well, a heartbeat later
//! SittingOut ------> Candidate
//! ```

#[cfg(feature = "test-util")]
use std::hash::{Hash, Hasher};
use std::time::Duration;
use std::{cmp, mem};

use crate::contract::backend::Hint;
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::policy::Policy;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Start to campaign.
    Campaign,
    /// The time given out by [`Machine::next_wake`] has come (or not: the machine looks).
    Timer,
    /// The store hinted at a change.
    Hint(Hint),
    /// The store will send no more hints.
    HintsEnded,
    /// `acquire` was answered: the lock is ours.
    Held {
        /// When the request that proves it was sent.
        proven_at: Time,
        /// The lease the store granted.
        lease: Duration,
    },
    /// `acquire` was answered: somebody else has the lock.
    Taken {
        /// When it can expire, where it is known.
        free_in: Option<Duration>,
    },
    /// `renew` was answered: the term goes on.
    Renewed {
        /// When the request that proves it was sent.
        proven_at: Time,
        /// The lease the store granted.
        lease: Duration,
    },
    /// `renew` was answered: the term is over at the store.
    Lost,
    /// The call under way has failed, or got no answer in time.
    Failed(Failure),
    /// `release` or `withdraw` was answered.
    Done,
    /// The work shall stop; it is not over yet.
    Stop(Cause),
    /// The work is over, or the campaign's owner has gone: give everything back.
    WorkEnded,
    /// Somebody wants fresh proof of the term.
    Confirm,
    /// What the application's health probe says: the answer to [`Command::Probe`].
    Health(bool),
}

/// How a call failed, as far as the machine cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Trying again cannot help unless somebody mends something: permissions, configuration.
    pub permanent: bool,
    /// How long the store asked to wait.
    pub retry_after: Option<Duration>,
}

/// Why a term ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its owner gave it back.
    Resigned,
    /// The service shuts down.
    Shutdown,
    /// No heartbeat got through in time; the validity is about to end.
    HeartbeatsMissed,
    /// The validity had ended before anything could be done: the process was stopped, say.
    Expired,
    /// The store says that the term is over: the lock was deleted or somebody else has it.
    Lost,
    /// This process is a fork of the one that leads.
    Forked,
}

impl Cause {
    /// The cause as a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resigned => "resigned",
            Self::Shutdown => "shutdown",
            Self::HeartbeatsMissed => "heartbeats_missed",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Forked => "forked",
        }
    }

    /// The cause in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Resigned => "the term was given back",
            Self::Shutdown => "the service shuts down",
            Self::HeartbeatsMissed => "no heartbeat got through to the store",
            Self::Expired => "the term ran out before anything could be done",
            Self::Lost => "the lock was deleted or somebody else holds it",
            Self::Forked => "this process is a fork of the one that leads",
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Call `acquire`; its future replaces any call under way, as with the three below.
    Acquire,
    /// Call `renew` for a proof not older than the time given.
    Renew {
        /// The oldest proof that will do.
        not_before: Time,
    },
    /// Call `release`.
    Release,
    /// Call `withdraw`.
    Withdraw,
    /// Ask the health probe, and give the answer as [`Input::Health`] at once.
    Probe,
    /// The campaign was withdrawn and begins again, under a new number: a withdrawal that arrives
    /// late must not take what the next attempts win.
    Reenter,
    /// The candidate leads: start the work.
    Elect(Span),
    /// The term has a new end: later than the one before, or earlier where the store has granted
    /// less.
    Extend(Span),
    /// Tell the work to stop; it is still exclusive until the validity ends.
    Cancel(Cause),
    /// The validity is over: nothing may be done in the term's name any more.
    End(Cause),
    /// The work still runs although the validity is over.
    Overrun,
    /// The campaign cannot succeed: report the failure of the last call to its owner.
    GiveUp,
    /// Nothing more will be done.
    Finish,
}

/// Until when a term is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// From then on the work must be stopping (I4).
    pub cancel_at: Time,
    /// From then on the term must not be acted on (I1).
    pub valid_until: Time,
}

/// What the machine needs to know besides the policy.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How waiting candidates are woken.
    pub wakeup: Wakeup,
    /// How long the term is kept up for work that was told to stop and has not.
    pub drain_limit: Duration,
    /// The store has answered in an earlier campaign: what fails now is not a wrong set-up.
    pub answered: bool,
    /// There is a health probe to ask.
    pub probed: bool,
    /// Seeds the jitter.
    pub seed: u64,
}

/// One campaign, from its start to the release of the term it won.
#[derive(Debug)]
#[cfg_attr(feature = "test-util", derive(Clone))]
pub struct Machine {
    policy: Policy,
    wakeup: Wakeup,
    drain_limit: Duration,
    answered: bool,
    probed: bool,
    rng: fastrand::Rng,
    state: State,
}

#[derive(Clone, Debug, Hash)]
enum State {
    Idle,
    Candidate(Candidacy),
    SittingOut(SittingOut),
    Leader(Leading),
    /// The validity is over, but the work still runs.
    Ended {
        cause: Cause,
        overrun_at: Option<Time>,
    },
    /// `Release` or `Withdraw` is being repeated until it succeeds or makes no difference.
    GivingBack {
        command: Command,
        retry_at: Option<Time>,
        until: Time,
    },
    Finished,
}

#[derive(Clone, Debug, Hash)]
struct Candidacy {
    /// When to call `acquire`; `None` while a call is under way.
    acquire_at: Option<Time>,
    /// From then on a hint may bring that forward: at once while waiting for the holder, after a
    /// retry interval while backing off from a failure.
    heeds_hints_from: Time,
    /// The last call has failed. What it wrote may be what a hint now says is held, so no hint puts
    /// the next attempt off.
    failed: bool,
    /// A hint came while a call was under way, whose answer may be older than the hint.
    hinted: bool,
    /// When the holder's lease can end, where that is known.
    free_at: Option<Time>,
    /// When to ask the health probe, if there is one.
    probe_at: Option<Time>,
    /// What waits for the probe to say yes.
    pending: Pending,
    /// The store may hold something for this campaign: a place in a queue, or the lock.
    entered: bool,
}

/// What a candidate does when its health probe says yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    /// It goes on waiting.
    Nothing,
    /// It calls `acquire`.
    Acquire,
    /// It leads: the store has granted this.
    Lead { proven_at: Time, lease: Duration },
}

/// The health probe has said no to a candidate: others must not wait behind it.
#[derive(Clone, Debug, Hash)]
struct SittingOut {
    /// `Withdraw` or `Release`, while the store may still hold something.
    giving_back: Option<Command>,
    retry_at: Option<Time>,
    /// By then what the store may hold has ended with its lease.
    until: Time,
    probe_at: Time,
    /// Not earlier, so that a probe that flips makes it leave at most once per heartbeat.
    back_from: Time,
}

#[derive(Clone, Debug, Hash)]
struct Leading {
    span: Span,
    /// The proof behind the span.
    proven_at: Time,
    /// When to call `renew`; `None` while a call is under way.
    renew_at: Option<Time>,
    /// Somebody asked then for a proof no older than that.
    fresh_from: Option<Time>,
    /// Why the work was told to stop.
    cancelled: Option<Cause>,
    /// Until then the term is kept up for work that is stopping.
    drain_until: Option<Time>,
}

/// What a machine will do depends on nothing else: the policy is the election's, and the jitter is
/// chance. For a search that knows states again.
#[cfg(feature = "test-util")]
impl Hash for Machine {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // Named one by one, so that a new field cannot be forgotten here.
        let Self {
            policy: _,
            wakeup,
            drain_limit,
            answered,
            probed,
            rng: _,
            state,
        } = self;
        std::mem::discriminant(wakeup).hash(hasher);
        drain_limit.hash(hasher);
        answered.hash(hasher);
        probed.hash(hasher);
        state.hash(hasher);
    }
}

impl Machine {
    /// A machine that has not started yet.
    pub fn new(policy: Policy, settings: Settings) -> Self {
        Self {
            policy,
            wakeup: settings.wakeup,
            drain_limit: settings.drain_limit,
            answered: settings.answered,
            probed: settings.probed,
            rng: fastrand::Rng::with_seed(settings.seed),
            state: State::Idle,
        }
    }

    /// When [`Input::Timer`] is to be given, if ever.
    pub fn next_wake(&self) -> Option<Time> {
        match &self.state {
            State::Idle | State::Finished => None,
            State::Candidate(candidacy) => earlier(candidacy.acquire_at, candidacy.probe_at),
            State::SittingOut(out) => earlier(Some(out.probe_at), out.retry_at),
            State::Leader(leading) => {
                let mut wake = leading.span.valid_until;
                if leading.cancelled.is_none() {
                    wake = wake.min(leading.span.cancel_at);
                }
                if let Some(renew_at) = leading.renew_at
                    && leading.drain_until.is_none_or(|until| renew_at < until)
                {
                    wake = wake.min(renew_at);
                }
                Some(wake)
            }
            State::Ended { overrun_at, .. } => *overrun_at,
            State::GivingBack {
                retry_at, until, ..
            } => earlier(*retry_at, Some(*until)),
        }
    }

    /// Whether hints are of use now.
    pub fn wants_hints(&self) -> bool {
        matches!(self.state, State::Candidate(_)) && self.wakeup == Wakeup::Push
    }

    /// Handles one event at `now`, and appends what is to be done to `commands`, in order.
    pub fn handle(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        self.look_at_the_time(now, commands);
        match &self.state {
            State::Idle => {
                if input == Input::Campaign {
                    self.enter(now, commands);
                }
            }
            State::Candidate(_) => self.candidate(now, input, commands),
            State::SittingOut(_) => self.sitting_out(now, input, commands),
            State::Leader(_) => self.leader(now, input, commands),
            State::Ended { cause, .. } => {
                if input == Input::WorkEnded {
                    let cause = *cause;
                    self.after_the_end(now, cause, commands);
                }
            }
            State::GivingBack { .. } => self.giving_back(now, input, commands),
            State::Finished => {}
        }
    }

    /// What is due by time alone comes before any event: an answer that was read late must not
    /// undo it.
    fn look_at_the_time(&mut self, now: Time, commands: &mut Vec<Command>) {
        match &mut self.state {
            State::Leader(leading) => {
                if now >= leading.span.valid_until {
                    let cause = leading.cancelled.unwrap_or(Cause::Expired);
                    commands.push(Command::End(cause));
                    commands.push(Command::Overrun);
                    self.state = State::Ended {
                        cause,
                        overrun_at: None,
                    };
                } else if now >= leading.span.cancel_at {
                    leading.cancel(Cause::HeartbeatsMissed, now + self.drain_limit, commands);
                }
            }
            State::Ended { overrun_at, .. } if overrun_at.is_some_and(|at| now >= at) => {
                *overrun_at = None;
                commands.push(Command::Overrun);
            }
            _ => {}
        }
    }

    /// Begins to campaign.
    fn enter(&mut self, now: Time, commands: &mut Vec<Command>) {
        let mut candidacy = Candidacy {
            acquire_at: None,
            heeds_hints_from: now,
            failed: false,
            hinted: false,
            free_at: None,
            probe_at: self.probed.then_some(now),
            pending: Pending::Nothing,
            entered: false,
        };
        candidacy.call(commands);
        self.state = State::Candidate(candidacy);
    }

    fn candidate(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        let poll = self.poll_interval();
        let retry = self.jittered(self.policy.retry_interval());
        let heartbeat = self.policy.heartbeat();
        let State::Candidate(candidacy) = &mut self.state else {
            return;
        };
        match input {
            Input::Timer if candidacy.acquire_at.is_some_and(|at| now >= at) => {
                candidacy.call(commands);
            }
            Input::Timer if candidacy.probe_at.is_some_and(|at| now >= at) => {
                commands.push(Command::Probe);
            }
            Input::Health(well) => self.health_of_candidate(now, well, commands),
            Input::Hint(Hint::MayBeFree) => {
                if candidacy.acquire_at.is_none() {
                    candidacy.hinted = true;
                } else if now >= candidacy.heeds_hints_from {
                    candidacy.call(commands);
                } else {
                    let soonest = candidacy.heeds_hints_from;
                    candidacy.acquire_at = candidacy.acquire_at.map(|at| at.min(soonest));
                }
            }
            Input::Hint(Hint::HeldFor(left)) => {
                candidacy.free_at = Some(now + left);
                if candidacy.acquire_at.is_some() && !candidacy.failed {
                    candidacy.acquire_at = Some(now + at_least_a_tick(left));
                }
            }
            Input::HintsEnded => {
                self.wakeup = Wakeup::Poll;
                if now >= candidacy.heeds_hints_from {
                    candidacy.acquire_at = candidacy.acquire_at.map(|at| at.min(now + retry));
                }
            }
            Input::Taken { free_in } => {
                self.answered = true;
                candidacy.heeds_hints_from = now;
                candidacy.failed = false;
                candidacy.free_at = free_in.map(|free_in| now + free_in);
                if candidacy.hinted {
                    candidacy.call(commands);
                    return;
                }
                let wait = match (free_in, self.wakeup) {
                    (Some(free_in), Wakeup::Push) => free_in,
                    (Some(free_in), Wakeup::Poll) => free_in.min(poll),
                    (None, _) => poll,
                };
                candidacy.acquire_at = Some(now + at_least_a_tick(wait));
            }
            Input::Held { proven_at, lease } if self.probed => {
                candidacy.pending = Pending::Lead { proven_at, lease };
                commands.push(Command::Probe);
            }
            Input::Held { proven_at, lease } => self.held(now, proven_at, lease, commands),
            Input::Failed(failure) => {
                if failure.permanent && !self.answered {
                    commands.push(Command::GiveUp);
                    self.give_back(now, Command::Withdraw, commands);
                    return;
                }
                // The store may ask for a pause, but the lock may be free before it is over.
                let free_in = candidacy.free_at.map(|at| at.since(now));
                let limit = free_in.map_or(heartbeat, |free_in| free_in.min(heartbeat));
                candidacy.heeds_hints_from = now + retry;
                candidacy.failed = true;
                candidacy.hinted = false;
                candidacy.acquire_at = Some(now + pause(retry, failure, limit));
            }
            Input::WorkEnded => self.give_back(now, Command::Withdraw, commands),
            _ => {}
        }
    }

    /// A candidate that its application calls unwell gives its place to those behind it.
    fn health_of_candidate(&mut self, now: Time, well: bool, commands: &mut Vec<Command>) {
        let retry = self.policy.retry_interval();
        let heartbeat = self.policy.heartbeat();
        let State::Candidate(candidacy) = &mut self.state else {
            return;
        };
        let pending = mem::replace(&mut candidacy.pending, Pending::Nothing);
        candidacy.probe_at = candidacy.probe_at.map(|_| now + retry);
        if well {
            match pending {
                Pending::Nothing => {}
                Pending::Acquire => {
                    candidacy.entered = true;
                    commands.push(Command::Acquire);
                }
                Pending::Lead { proven_at, lease } => self.held(now, proven_at, lease, commands),
            }
            return;
        }
        let giving_back = match pending {
            Pending::Lead { .. } => Some(Command::Release),
            _ => candidacy.entered.then_some(Command::Withdraw),
        };
        commands.extend(giving_back);
        self.state = State::SittingOut(SittingOut {
            giving_back,
            retry_at: None,
            until: now + self.policy.lease(),
            probe_at: now + retry,
            back_from: match giving_back {
                Some(_) => now + heartbeat,
                None => now,
            },
        });
    }

    fn sitting_out(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        let retry = self.jittered(self.policy.retry_interval());
        let heartbeat = self.policy.heartbeat();
        let State::SittingOut(out) = &mut self.state else {
            return;
        };
        match input {
            Input::Done => {
                out.giving_back = None;
                out.retry_at = None;
            }
            Input::Failed(_) if now >= out.until => out.giving_back = None,
            Input::Failed(failure) => {
                out.retry_at = Some(now + pause(retry, failure, heartbeat));
            }
            Input::Timer if out.retry_at.is_some_and(|at| now >= at) => {
                out.retry_at = None;
                commands.extend(out.giving_back);
            }
            Input::Timer if now >= out.probe_at => commands.push(Command::Probe),
            Input::Health(well) => {
                let gone = out.giving_back.is_none() || now >= out.until;
                if well && gone && now >= out.back_from {
                    commands.push(Command::Reenter);
                    self.enter(now, commands);
                } else {
                    out.probe_at = now + retry;
                }
            }
            Input::WorkEnded => {
                if let Some(command) = out.giving_back {
                    return self.give_back(now, command, commands);
                }
                self.state = State::Finished;
                commands.push(Command::Finish);
            }
            _ => {}
        }
    }

    fn held(&mut self, now: Time, proven_at: Time, lease: Duration, commands: &mut Vec<Command>) {
        let Some(span) = self.span_to_begin_with(proven_at, lease) else {
            // The store granted less than the policy can live with.
            commands.push(Command::GiveUp);
            self.give_back(now, Command::Withdraw, commands);
            return;
        };
        if now >= span.cancel_at {
            // The answer was read too late to be worth anything. The lock may still be ours at
            // the store: acquiring again adopts it with a fresh proof.
            commands.push(Command::Acquire);
            return;
        }
        commands.push(Command::Elect(span));
        self.state = State::Leader(Leading {
            span,
            proven_at,
            renew_at: Some(next_heartbeat(proven_at, self.policy.heartbeat())),
            fresh_from: None,
            cancelled: None,
            drain_until: None,
        });
    }

    fn leader(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        let heartbeat = self.policy.heartbeat();
        let request_timeout = self.policy.request_timeout();
        let retry = self.jittered(self.policy.retry_interval());
        let new_span = match input {
            Input::Renewed { proven_at, lease } => Some(self.span(proven_at, lease)),
            _ => None,
        };
        let drain_limit = self.drain_limit;
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        match input {
            Input::Renewed { proven_at, .. } => {
                if let Some(span) = new_span
                    && leading.is_news(proven_at, span)
                {
                    leading.span = span;
                    leading.proven_at = proven_at;
                    commands.push(Command::Extend(span));
                }
                leading.fresh_from = leading.fresh_from.filter(|asked| *asked > proven_at);
                leading.renew_at = Some(match leading.fresh_from {
                    Some(_) => now,
                    None => leading.next_renewal(now, heartbeat, request_timeout, retry),
                });
                // A shorter lease may be over, or its end may be near.
                self.look_at_the_time(now, commands);
                return self.renew_if_due(now, commands);
            }
            Input::Lost => {
                commands.push(Command::End(Cause::Lost));
                // Work that is quick to stop gets the chance before it is called an overrun.
                let grace = now + self.policy.stop_grace();
                let overrun_at = Some(grace.min(leading.span.valid_until));
                self.state = State::Ended {
                    cause: Cause::Lost,
                    overrun_at,
                };
                return;
            }
            Input::Failed(failure) => {
                // The last attempt that still fits, whatever pause the store asks for.
                let limit = leading.ends_at().minus(request_timeout).since(now);
                leading.renew_at = Some(now + pause(retry, failure, limit.min(heartbeat)));
            }
            Input::Confirm => {
                leading.fresh_from = Some(now);
                // A call under way was sent before: the next one follows its answer.
                leading.renew_at = leading.renew_at.map(|_| now);
            }
            Input::Stop(cause) => {
                leading.cancel(cause, now + drain_limit, commands);
            }
            Input::WorkEnded => {
                commands.push(Command::End(Cause::Resigned));
                self.give_back(now, Command::Release, commands);
                return;
            }
            _ => {}
        }
        self.renew_if_due(now, commands);
    }

    fn renew_if_due(&mut self, now: Time, commands: &mut Vec<Command>) {
        let heartbeat = self.policy.heartbeat();
        if let State::Leader(leading) = &mut self.state {
            leading.renew_if_due(now, heartbeat, commands);
        }
    }

    /// The work has returned after its term had ended.
    fn after_the_end(&mut self, now: Time, cause: Cause, commands: &mut Vec<Command>) {
        if cause == Cause::Lost {
            self.state = State::Finished;
            commands.push(Command::Finish);
            return;
        }
        // The store may still hold the lock for us: giving it back spares the others the wait.
        self.give_back(now, Command::Release, commands);
    }

    fn give_back(&mut self, now: Time, command: Command, commands: &mut Vec<Command>) {
        commands.push(command);
        self.state = State::GivingBack {
            command,
            retry_at: None,
            // By then the lease has ended by itself, unless its request was held up on the way.
            until: now + self.policy.lease(),
        };
    }

    fn giving_back(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        let retry = self.jittered(self.policy.retry_interval());
        let heartbeat = self.policy.heartbeat();
        let request_timeout = self.policy.request_timeout();
        let State::GivingBack {
            command,
            retry_at,
            until,
        } = &mut self.state
        else {
            return;
        };
        let hopeless = matches!(input, Input::Failed(failure) if failure.permanent);
        if input == Input::Done || hopeless || now >= *until {
            self.state = State::Finished;
            commands.push(Command::Finish);
            return;
        }
        match input {
            Input::Failed(failure) => {
                let limit = until.minus(request_timeout).since(now);
                *retry_at = Some(now + pause(retry, failure, limit.min(heartbeat)));
            }
            _ if retry_at.is_some_and(|at| now >= at) => {
                *retry_at = None;
                commands.push(*command);
            }
            _ => {}
        }
    }

    /// How long a grant is good for.
    fn span(&self, proven_at: Time, lease: Duration) -> Span {
        let valid_until = proven_at + self.policy.validity_of(lease);
        Span {
            cancel_at: valid_until.minus(self.policy.stop_grace()),
            valid_until,
        }
    }

    /// The same; `None` if it is too short for one heartbeat (I3), so that no term begins with it.
    fn span_to_begin_with(&self, proven_at: Time, lease: Duration) -> Option<Span> {
        let span = self.span(proven_at, lease);
        let needed = self.policy.heartbeat() + self.policy.request_timeout();
        (span.cancel_at.since(proven_at) >= needed).then_some(span)
    }

    /// How soon to look again when neither a hint nor an expiry is to be expected.
    fn poll_interval(&mut self) -> Duration {
        match self.wakeup {
            Wakeup::Poll => self.jittered(self.policy.retry_interval()),
            Wakeup::Push => self.jittered(self.policy.heartbeat()),
        }
    }

    /// Shortened at random, so that a herd spreads and nobody gets later than the policy says.
    fn jittered(&mut self, duration: Duration) -> Duration {
        let share = f64::from(self.policy.jitter_percent()) / 100.0 * self.rng.f64();
        duration.mul_f64(1.0 - share)
    }
}

impl Candidacy {
    /// Calls `acquire`, once the health probe has said yes where there is one.
    fn call(&mut self, commands: &mut Vec<Command>) {
        self.acquire_at = None;
        self.hinted = false;
        if self.probe_at.is_some() {
            self.pending = Pending::Acquire;
            commands.push(Command::Probe);
        } else {
            self.entered = true;
            commands.push(Command::Acquire);
        }
    }
}

impl Leading {
    /// Whether a renewal tells more than what is known: the newest proof counts, for longer or
    /// for shorter. An older answer that arrives late changes nothing; of two answers with one
    /// proof the shorter counts.
    fn is_news(&self, proven_at: Time, span: Span) -> bool {
        match proven_at.cmp(&self.proven_at) {
            cmp::Ordering::Greater => true,
            cmp::Ordering::Equal => span.valid_until < self.span.valid_until,
            cmp::Ordering::Less => false,
        }
    }

    /// When the next heartbeat is due: earlier than usual where the store has granted so little
    /// that the usual one would come after the work is told to stop, but never in a tight loop.
    fn next_renewal(
        &self,
        now: Time,
        heartbeat: Duration,
        request_timeout: Duration,
        retry: Duration,
    ) -> Time {
        let usual = next_heartbeat(self.proven_at, heartbeat);
        let end = match self.cancelled {
            None => self.span.cancel_at,
            Some(_) => self.span.valid_until,
        };
        let latest = end.minus(request_timeout);
        if usual <= latest {
            return usual;
        }
        latest.max(now + retry).min(usual.max(now + retry))
    }

    /// When the work is told to stop, or, if it was told already, when the term's upkeep ends.
    fn ends_at(&self) -> Time {
        match self.drain_until {
            None => self.span.cancel_at,
            Some(until) => until.min(self.span.valid_until),
        }
    }

    /// Tells the work to stop, once. The term is kept up for it until `drain_until`.
    fn cancel(&mut self, cause: Cause, drain_until: Time, commands: &mut Vec<Command>) {
        if self.cancelled.is_none() {
            self.cancelled = Some(cause);
            self.drain_until = Some(drain_until);
            commands.push(Command::Cancel(cause));
        }
    }

    fn renew_if_due(&mut self, now: Time, heartbeat: Duration, commands: &mut Vec<Command>) {
        if self.renew_at.is_none_or(|at| now < at) {
            return;
        }
        self.renew_at = None;
        if self.drain_until.is_some_and(|until| now >= until) {
            // Enough was done for work that does not stop: the validity runs out. The heartbeat
            // that was due must not stay behind, or its timer would be due for ever.
            return;
        }
        // A proof of the last half heartbeat will do, unless somebody asked for a fresh one: so
        // a session answers many elections' heartbeats at once.
        let not_before = self.fresh_from.unwrap_or(now.minus(heartbeat / 2));
        commands.push(Command::Renew { not_before });
    }
}

/// One heartbeat after `proven_at`, moved forward by at most a 64th of it to a moment that all
/// elections of a process share: 10,000 of them wake the process 64 times per heartbeat and not
/// 10,000 times, and a store's client can send their renewals together.
fn next_heartbeat(proven_at: Time, heartbeat: Duration) -> Time {
    let due = (proven_at + heartbeat).as_nanos();
    let grid = Time::ZERO + heartbeat / 64;
    Time::from_nanos(due - due % grid.as_nanos().max(1))
}

/// The pause after a failed call: what the store asks for, or else the retry interval. At most
/// `limit`, unless the retry interval is longer.
fn pause(retry: Duration, failure: Failure, limit: Duration) -> Duration {
    let asked = failure.retry_after.unwrap_or_default();
    retry.max(asked.min(limit))
}

fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A wait of nothing would ask the store in a tight loop when it answers "taken, free now".
fn at_least_a_tick(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Time {
        Time::from_nanos((1_000_000 + seconds) * 1_000_000_000)
    }

    fn machine() -> Machine {
        let settings = Settings {
            wakeup: Wakeup::Push,
            drain_limit: 21 * SECOND,
            answered: false,
            probed: false,
            seed: 1,
        };
        Machine::new(Policy::default(), settings)
    }

    fn handle(machine: &mut Machine, now: Time, input: Input) -> Vec<Command> {
        let mut commands = Vec::new();
        machine.handle(now, input, &mut commands);
        commands
    }

    fn leader() -> Machine {
        let mut machine = machine();
        assert_eq!(
            handle(&mut machine, at(0), Input::Campaign),
            [Command::Acquire]
        );
        let (proven_at, lease) = (at(0), 20 * SECOND);
        let commands = handle(&mut machine, at(0), Input::Held { proven_at, lease });
        assert!(matches!(commands[..], [Command::Elect(_)]), "{commands:?}");
        machine
    }

    /// A process that is stopped over the end of its drain limit wakes with a heartbeat overdue:
    /// its timer must not stay due, or the engine would spin until the validity ends.
    #[test]
    fn a_heartbeat_that_is_not_sent_any_more_does_not_keep_its_timer_due() {
        let mut machine = leader();
        handle(&mut machine, at(1), Input::Stop(Cause::Shutdown));
        handle(&mut machine, at(10), Input::Timer);
        let (proven_at, lease) = (at(10), 20 * SECOND);
        handle(&mut machine, at(10), Input::Renewed { proven_at, lease });
        let stopped_until = at(23);
        assert_eq!(handle(&mut machine, stopped_until, Input::Timer), []);
        assert!(machine.next_wake().is_some_and(|wake| wake > stopped_until));
    }

    #[test]
    fn an_answer_from_before_the_end_does_not_bring_the_term_back() {
        let mut machine = leader();
        let commands = handle(&mut machine, at(10), Input::Timer);
        assert!(
            matches!(commands[..], [Command::Renew { .. }]),
            "{commands:?}"
        );
        let (proven_at, lease) = (at(10), 20 * SECOND);
        let commands = handle(&mut machine, at(25), Input::Renewed { proven_at, lease });
        assert_eq!(commands, [Command::End(Cause::Expired), Command::Overrun]);
        assert_eq!(
            handle(&mut machine, at(26), Input::WorkEnded),
            [Command::Release]
        );
    }

    #[test]
    fn an_election_won_too_late_is_asked_for_again() {
        let mut machine = machine();
        handle(&mut machine, at(0), Input::Campaign);
        let (proven_at, lease) = (at(0), 20 * SECOND);
        let commands = handle(&mut machine, at(16), Input::Held { proven_at, lease });
        assert_eq!(commands, [Command::Acquire]);
    }

    #[test]
    fn a_lease_too_short_for_the_policy_is_given_back() {
        let mut machine = machine();
        handle(&mut machine, at(0), Input::Campaign);
        let (proven_at, lease) = (at(0), 10 * SECOND);
        let commands = handle(&mut machine, at(0), Input::Held { proven_at, lease });
        assert_eq!(commands, [Command::GiveUp, Command::Withdraw]);
    }

    const THROTTLED: Input = Input::Failed(Failure {
        permanent: false,
        retry_after: Some(Duration::from_secs(600)),
    });

    fn candidate() -> Machine {
        let mut machine = machine();
        handle(&mut machine, at(0), Input::Campaign);
        machine
    }

    #[test]
    fn a_candidate_waits_a_heartbeat_at_most_whatever_the_store_asks_for() {
        let mut machine = candidate();
        handle(&mut machine, at(0), THROTTLED);
        assert_eq!(machine.next_wake(), Some(at(10)));
    }

    #[test]
    fn nor_does_it_wait_past_the_end_of_the_holders_lease() {
        let mut machine = candidate();
        let free_in = Some(4 * SECOND);
        handle(&mut machine, at(0), Input::Taken { free_in });
        handle(&mut machine, at(1), Input::Hint(Hint::MayBeFree));
        handle(&mut machine, at(1), THROTTLED);
        assert_eq!(machine.next_wake(), Some(at(4)));
    }

    #[test]
    fn a_hint_ends_a_pause_once_the_retry_interval_has_passed() {
        let mut machine = candidate();
        handle(&mut machine, at(0), THROTTLED);
        assert_eq!(
            handle(&mut machine, at(0), Input::Hint(Hint::MayBeFree)),
            []
        );
        let soon = machine.next_wake().unwrap();
        assert!(soon <= at(1), "{soon:?}");
        let commands = handle(&mut machine, at(2), Input::Hint(Hint::MayBeFree));
        assert_eq!(commands, [Command::Acquire]);
    }

    /// What the hint says is held may be what the failed call has written, without our knowing.
    #[test]
    fn no_hint_puts_off_the_attempt_after_a_failure() {
        let mut machine = candidate();
        handle(&mut machine, at(0), Input::Failed(Failure::default()));
        let retry_at = machine.next_wake();
        // The timer is late, and the hint is read first.
        let held = Input::Hint(Hint::HeldFor(20 * SECOND));
        assert_eq!(handle(&mut machine, at(2), held), []);
        assert_eq!(machine.next_wake(), retry_at);
        assert_eq!(
            handle(&mut machine, at(2), Input::Timer),
            [Command::Acquire]
        );
    }

    #[test]
    fn a_leader_waits_for_the_last_attempt_that_fits_at_most() {
        let mut machine = leader();
        handle(&mut machine, at(10), Input::Timer);
        handle(&mut machine, at(10), THROTTLED);
        let retry_at = machine.next_wake().unwrap();
        // Told to stop at 14.9 s, less a request timeout of 3 s.
        assert!(retry_at > at(11) && retry_at < at(12), "{retry_at:?}");
        let commands = handle(&mut machine, retry_at, Input::Timer);
        assert!(
            matches!(commands[..], [Command::Renew { .. }]),
            "{commands:?}"
        );
    }

    #[test]
    fn giving_back_waits_no_longer_than_its_own_deadline() {
        let mut machine = leader();
        handle(&mut machine, at(1), Input::WorkEnded);
        handle(&mut machine, at(15), THROTTLED);
        let retry_at = machine.next_wake().unwrap();
        assert!(retry_at <= at(18), "{retry_at:?}");
        assert_eq!(
            handle(&mut machine, retry_at, Input::Timer),
            [Command::Release],
            "a release that failed is tried again"
        );
        handle(&mut machine, retry_at, THROTTLED);
        assert!(machine.next_wake().unwrap() <= at(21));
        assert_eq!(
            handle(&mut machine, at(21), Input::Timer),
            [Command::Finish]
        );
    }

    #[test]
    fn the_grant_with_the_newest_proof_counts_also_when_it_is_shorter() {
        let mut machine = leader();
        let renewed = |proven_at, lease| Input::Renewed {
            proven_at: at(proven_at),
            lease: lease * SECOND,
        };
        handle(&mut machine, at(10), Input::Timer);
        let commands = handle(&mut machine, at(10), renewed(10, 18));
        let Some(Command::Extend(span)) = commands.first() else {
            panic!("{commands:?}");
        };
        assert!(span.valid_until < at(28), "{span:?}");
        // An older answer shortens nothing.
        assert_eq!(handle(&mut machine, at(11), renewed(9, 8)), []);
        // Too short for a heartbeat: the work is told to stop in time.
        let commands = handle(&mut machine, at(12), renewed(12, 8));
        let Some(Command::Extend(short)) = commands.first() else {
            panic!("{commands:?}");
        };
        assert!(short.valid_until < at(20), "{short:?}");
        let retry_at = machine.next_wake().unwrap();
        assert!(retry_at < short.cancel_at, "it is renewed before that");
        let commands = handle(&mut machine, short.cancel_at, Input::Timer);
        assert_eq!(commands[0], Command::Cancel(Cause::HeartbeatsMissed));
    }

    #[test]
    fn a_grant_that_is_over_when_it_is_read_ends_the_term() {
        let mut machine = leader();
        handle(&mut machine, at(10), Input::Timer);
        let (proven_at, lease) = (at(10), SECOND);
        let commands = handle(&mut machine, at(12), Input::Renewed { proven_at, lease });
        assert!(
            commands.contains(&Command::End(Cause::Expired)),
            "{commands:?}"
        );
    }

    #[test]
    fn work_that_runs_on_after_a_loss_is_reported() {
        let mut machine = leader();
        assert_eq!(
            handle(&mut machine, at(1), Input::Lost),
            [Command::End(Cause::Lost)]
        );
        assert_eq!(
            handle(&mut machine, at(6), Input::Timer),
            [Command::Overrun]
        );
        assert_eq!(
            handle(&mut machine, at(7), Input::WorkEnded),
            [Command::Finish]
        );
    }

    fn probed() -> Machine {
        let settings = Settings {
            wakeup: Wakeup::Push,
            drain_limit: 21 * SECOND,
            answered: false,
            probed: true,
            seed: 1,
        };
        let mut machine = Machine::new(Policy::default(), settings);
        let commands = handle(&mut machine, at(0), Input::Campaign);
        assert_eq!(commands, [Command::Probe]);
        machine
    }

    fn waiting() -> Machine {
        let mut machine = probed();
        let commands = handle(&mut machine, at(0), Input::Health(true));
        assert_eq!(commands, [Command::Acquire]);
        handle(&mut machine, at(0), Input::Taken { free_in: None });
        machine
    }

    #[test]
    fn a_waiting_candidates_probe_is_asked_every_retry_interval() {
        let mut machine = waiting();
        for second in 1..5 {
            assert_eq!(machine.next_wake(), Some(at(second)));
            let commands = handle(&mut machine, at(second), Input::Timer);
            assert_eq!(commands, [Command::Probe]);
            assert_eq!(handle(&mut machine, at(second), Input::Health(true)), []);
        }
    }

    #[test]
    fn one_that_says_no_withdraws_at_once_and_comes_back_under_a_new_number() {
        let mut machine = waiting();
        handle(&mut machine, at(1), Input::Timer);
        assert_eq!(
            handle(&mut machine, at(1), Input::Health(false)),
            [Command::Withdraw]
        );
        handle(&mut machine, at(1), Input::Done);
        // It flips back, but leaves at most once per heartbeat.
        for second in 2..11 {
            let commands = handle(&mut machine, at(second), Input::Timer);
            assert_eq!(commands, [Command::Probe], "{second}");
            assert_eq!(handle(&mut machine, at(second), Input::Health(true)), []);
        }
        handle(&mut machine, at(11), Input::Timer);
        assert_eq!(
            handle(&mut machine, at(11), Input::Health(true)),
            [Command::Reenter, Command::Probe]
        );
        assert_eq!(
            handle(&mut machine, at(11), Input::Health(true)),
            [Command::Acquire]
        );
    }

    #[test]
    fn one_that_says_no_at_the_grant_does_not_lead() {
        let mut machine = probed();
        handle(&mut machine, at(0), Input::Health(true));
        let (proven_at, lease) = (at(0), 20 * SECOND);
        let commands = handle(&mut machine, at(1), Input::Held { proven_at, lease });
        assert_eq!(commands, [Command::Probe]);
        assert_eq!(
            handle(&mut machine, at(1), Input::Health(false)),
            [Command::Release]
        );
    }

    #[test]
    fn one_that_never_asked_the_store_has_nothing_to_take_back() {
        let mut machine = probed();
        assert_eq!(handle(&mut machine, at(0), Input::Health(false)), []);
        handle(&mut machine, at(1), Input::Timer);
        assert_eq!(
            handle(&mut machine, at(1), Input::Health(true)),
            [Command::Reenter, Command::Probe]
        );
        let mut machine = probed();
        handle(&mut machine, at(0), Input::Health(false));
        assert_eq!(
            handle(&mut machine, at(0), Input::WorkEnded),
            [Command::Finish]
        );
    }
}
