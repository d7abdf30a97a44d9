//! The election machine: every decision of a campaign and its term, without clock or I/O.
//!
//! Events go in with the time at which they are handled; commands come out. The tokio engine
//! drives it, and so does the simulator: the same code. The machine does not rely on the driver's
//! timers. It looks at the time before each event. So an answer that comes after the end of the
//! validity cannot renew the term: after a pause of the process, say.
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

mod candidate;
pub(crate) mod cause;
pub(crate) mod command;
mod giving_back;
pub(crate) mod input;
mod leader;
mod schedule;
mod state;
#[cfg(test)]
mod tests;

#[cfg(feature = "test-util")]
use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::policy::Policy;

pub use cause::Cause;
pub use command::{Command, Span};
pub use input::{Failure, Input};
use schedule::earlier;
use state::State;

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
    /// How many calls in a row had no answer in their time; heartbeats do not count.
    unanswered: u32,
    state: State,
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
            unanswered,
            state,
        } = self;
        std::mem::discriminant(wakeup).hash(hasher);
        drain_limit.hash(hasher);
        answered.hash(hasher);
        probed.hash(hasher);
        unanswered.hash(hasher);
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
            unanswered: 0,
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

    /// Whether notifications are of use now.
    pub fn wants_hints(&self) -> bool {
        matches!(self.state, State::Candidate(_)) && self.wakeup == Wakeup::Push
    }

    /// How long a call that is no heartbeat may wait for its answer: the request timeout, and
    /// twice as long after each that had none. A store that is slow is not dead, and what it was
    /// asked holds the lock.
    pub fn time_limit(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.unanswered);
        let limit = self.policy.request_timeout().saturating_mul(doubled);
        limit.min(self.longest_call())
    }

    /// A term whose heartbeats take longer than this to be answered cannot go on.
    fn longest_call(&self) -> Duration {
        let work_time = self
            .policy
            .validity()
            .saturating_sub(self.policy.stop_grace());
        let longest = work_time.saturating_sub(self.policy.heartbeat());
        longest.max(self.policy.request_timeout())
    }

    /// Handles one event at `now`, and appends what is to be done to `commands`, in order.
    pub fn handle(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        self.look_at_the_time(now, commands);
        let limit = self.time_limit();
        self.count_unanswered(input);
        match &self.state {
            State::Idle => {
                if input == Input::Campaign {
                    self.enter(now, commands);
                }
            }
            State::Candidate(candidacy) => match input {
                // What was asked may hold the lock for nobody, and each repetition for longer.
                Input::Failed(failure)
                    if failure.unanswered && candidacy.entered && limit >= self.longest_call() =>
                {
                    self.leave_for_others(now, commands);
                }
                _ => self.candidate(now, input, commands),
            },
            State::SittingOut(_) => self.sitting_out(now, input, commands),
            State::Leader(_) => self.leader(now, input, commands),
            State::Ended { lost, .. } => {
                if input == Input::WorkEnded {
                    let lost = *lost;
                    self.after_the_end(now, lost, commands);
                }
            }
            State::GivingBack { .. } => self.giving_back(now, input, commands),
            State::Finished => {}
        }
    }

    fn count_unanswered(&mut self, input: Input) {
        match input {
            // A heartbeat's.
            Input::Failed(_) if matches!(self.state, State::Leader(_)) => {}
            Input::Failed(Failure {
                unanswered: true, ..
            }) => self.unanswered = self.unanswered.saturating_add(1),
            Input::Failed(_) | Input::Held { .. } | Input::Taken { .. } | Input::Done => {
                self.unanswered = 0;
            }
            _ => {}
        }
    }

    /// What is due by time alone comes before any event: an answer that was read late must not
    /// undo it.
    fn look_at_the_time(&mut self, now: Time, commands: &mut Vec<Command>) {
        match &mut self.state {
            State::Leader(leading) => {
                let Some(cause) = leading.span.cause_at(now) else {
                    return;
                };
                if now >= leading.span.valid_until {
                    let cause = leading.cancelled.unwrap_or(cause);
                    commands.push(Command::End(cause));
                    commands.push(Command::Overrun);
                    self.state = State::Ended {
                        lost: false,
                        overrun_at: None,
                    };
                } else {
                    leading.cancel(cause, now + self.drain_limit, commands);
                }
            }
            State::Ended { overrun_at, .. } if overrun_at.is_some_and(|at| now >= at) => {
                *overrun_at = None;
                commands.push(Command::Overrun);
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

    /// How soon to look again when neither a notification nor an expiry is to be expected.
    fn poll_interval(&mut self) -> Duration {
        match self.wakeup {
            Wakeup::Poll => self.jittered(self.policy.retry_interval()),
            Wakeup::Push => self.jittered(self.policy.heartbeat()),
        }
    }

    /// Shortened at random, so that candidates spread out and none is later than the policy says.
    fn jittered(&mut self, duration: Duration) -> Duration {
        let share = f64::from(self.policy.jitter_percent()) / 100.0 * self.rng.f64();
        duration.mul_f64(1.0 - share)
    }
}
