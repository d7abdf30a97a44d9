//! A campaign before its term: waiting for the lock, and sitting out while unwell.

use std::mem;
use std::time::Duration;

use crate::contract::backend::Hint;
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::Time;
use crate::election::machine::Machine;
use crate::election::machine::command::Command;
use crate::election::machine::input::Input;
use crate::election::machine::schedule::{at_least_a_tick, next_heartbeat, pause};
use crate::election::machine::state::{Candidacy, Leading, Pending, SittingOut, State};

impl Machine {
    /// Begins to campaign.
    pub(super) fn enter(&mut self, now: Time, commands: &mut Vec<Command>) {
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

    pub(super) fn candidate(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
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

    /// The store answers too slowly for a term, or not at all. What it holds for this candidate is
    /// withdrawn, so that others can lead. Then it campaigns again.
    pub(super) fn leave_for_others(&mut self, now: Time, commands: &mut Vec<Command>) {
        self.unanswered = 0;
        commands.push(Command::Withdraw);
        self.state = State::SittingOut(SittingOut {
            giving_back: Some(Command::Withdraw),
            retry_at: None,
            until: now + self.policy.lease(),
            probe_at: now + self.policy.retry_interval(),
            back_from: now,
        });
    }

    pub(super) fn sitting_out(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
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
                    self.unanswered = 0;
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
            cancelled: None,
            missed: false,
            not_before: proven_at,
            overlaps: false,
            drain_until: None,
        });
    }
}
