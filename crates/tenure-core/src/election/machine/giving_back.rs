//! After a term or a campaign: what the store may still hold is given back.

use crate::contract::clock::Time;
use crate::election::machine::Machine;
use crate::election::machine::command::Command;
use crate::election::machine::input::Input;
use crate::election::machine::schedule::pause;
use crate::election::machine::state::State;

impl Machine {
    /// The work has returned after its term had ended.
    pub(super) fn after_the_end(&mut self, now: Time, lost: bool, commands: &mut Vec<Command>) {
        if lost {
            self.state = State::Finished;
            commands.push(Command::Finish);
            return;
        }
        // The store may still hold the lock for us: giving it back spares the others the wait.
        self.give_back(now, Command::Release, commands);
    }

    pub(super) fn give_back(&mut self, now: Time, command: Command, commands: &mut Vec<Command>) {
        commands.push(command);
        self.state = State::GivingBack {
            command,
            retry_at: None,
            // By then the lease has ended by itself, unless its request was held up on the way.
            until: now + self.policy.lease(),
        };
    }

    pub(super) fn giving_back(&mut self, now: Time, input: Input, commands: &mut Vec<Command>) {
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
}
