//! How the engine makes an input of what has happened, and gives it to the machine.

use crate::contract::name::PublishedValue;
use crate::election::engine::Engine;
use crate::election::engine::running::Answer;
use crate::election::engine::wait::Happening;
use crate::election::instruction::{Instruction, Reply};
use crate::election::machine::input::Input;

impl Engine {
    pub(super) fn handle(&mut self, happening: Happening) {
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

    /// Gives the machine what has happened, and has carried out what it answers.
    pub(super) fn feed(&mut self, input: Input) {
        let mut commands = Vec::new();
        self.machine
            .handle(self.context.clock.now(), input, &mut commands);
        self.carry_out_all(commands);
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
