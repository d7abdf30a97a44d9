//! A term: heartbeats, and its end.

use crate::contract::clock::Time;
use crate::election::machine::Machine;
use crate::election::machine::cause::Cause;
use crate::election::machine::command::Command;
use crate::election::machine::input::Input;
use crate::election::machine::schedule::pause;
use crate::election::machine::state::State;

impl Machine {
    pub(super) fn leader(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
        let heartbeat = self.policy.heartbeat();
        let request_timeout = self.policy.request_timeout();
        let retry_timeout = self.policy.retry_timeout();
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
                // What was sent after the drain limit, by a call that was overdue, counts no more.
                let counts = leading.drain_until.is_none_or(|until| proven_at < until);
                if let Some(span) = new_span
                    && counts
                    && leading.is_news(proven_at, span)
                {
                    leading.span = span;
                    leading.proven_at = proven_at;
                    commands.push(Command::Extend(span));
                }
                leading.missed = false;
                leading.renew_at =
                    Some(leading.next_renewal(now, heartbeat, request_timeout, retry));
                // A shorter lease may be over, or its end may be near.
                self.look_at_the_time(now, commands);
                return self.renew_if_due(now, commands);
            }
            Input::Lost => {
                let cause = leading.cancelled.unwrap_or(Cause::Lost);
                commands.push(Command::End(cause));
                // Work that is quick to stop gets the chance before it is called an overrun.
                let grace = now + self.policy.stop_grace();
                let overrun_at = Some(grace.min(leading.span.valid_until));
                self.state = State::Ended {
                    lost: true,
                    overrun_at,
                };
                return;
            }
            Input::Failed(failure) => {
                leading.missed = true;
                // The last attempt that still fits, whatever pause the store asks for.
                let limit = leading.ends_at().minus(request_timeout).since(now);
                let pause = pause(retry, failure, limit.min(heartbeat));
                leading.renew_at = Some(leading.next_attempt(now, pause, retry_timeout));
            }
            Input::Overdue { goes_on } => {
                leading.missed = true;
                leading.overlaps = goes_on;
                // Its time was the pause, as far as it goes.
                let rest = retry.saturating_sub(request_timeout);
                leading.renew_at = Some(leading.next_attempt(now, rest, retry_timeout));
            }
            Input::RenewNow => leading.renew_at = leading.renew_at.map(|_| now),
            Input::Stop(cause) => {
                leading.cancel(cause, now + drain_limit, commands);
            }
            Input::WorkEnded => {
                // Work that was told to stop returns because of that.
                let cause = leading.cancelled.unwrap_or(Cause::Resigned);
                commands.push(Command::End(cause));
                self.give_back(now, Command::Release, commands);
                return;
            }
            _ => {}
        }
        self.renew_if_due(now, commands);
    }

    fn renew_if_due(&mut self, now: Time, commands: &mut Vec<Command>) {
        if let State::Leader(leading) = &mut self.state {
            commands.extend(leading.take_due_renewal(now, &self.policy));
        }
    }
}
