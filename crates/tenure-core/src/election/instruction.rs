//! What the owner of a campaign or term, and its work, ask of the engine.

use std::mem;
use std::sync::{Arc, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::oneshot;

use crate::contract::error::Error;
use crate::contract::name::PublishedValue;
use crate::election::machine::cause::Cause;
use crate::sync::{Mutex, Notify};

/// The answer to an instruction. The error is shared: one failed call can be the answer to several.
pub(crate) type Reply = oneshot::Sender<Result<(), Arc<Error>>>;

/// What the owner of a campaign or term, and its work, may ask of the engine.
pub(crate) enum Instruction {
    /// Tell the work to stop.
    Stop(Cause),
    /// The work is over: give everything back.
    WorkEnded(Option<Reply>),
    /// Publish this value, or none.
    Publish(Option<PublishedValue>, Reply),
    /// Prove the term by a heartbeat sent from now on.
    Confirm(Reply),
}

/// The instructions that the engine has not taken yet. A list and a notification, because a
/// channel's buffer for each of 10,000 elections would cost more than everything else together.
#[derive(Default)]
pub(crate) struct Instructions {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    list: Vec<Instruction>,
    closed: bool,
}

impl Instructions {
    /// Adds an instruction. After the engine has ended it is dropped, and the reply in it too:
    /// that answers [`ask`](Self::ask).
    pub(crate) fn send(&self, instruction: Instruction) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.closed {
            waiting.list.push(instruction);
            self.changed.notify_one();
        }
    }

    /// Adds an instruction and awaits the answer; `None` when the engine has ended without one.
    pub(crate) async fn ask(
        &self,
        instruction: impl FnOnce(Reply) -> Instruction,
    ) -> Option<Result<(), Arc<Error>>> {
        let (reply, answer) = oneshot::channel();
        self.send(instruction(reply));
        answer.await.ok()
    }

    /// Returns when there are new instructions. Cancel safe.
    pub(crate) fn arrived(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn take(&self) -> Vec<Instruction> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut waiting.list)
    }

    /// The engine ends: it takes no more instructions.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.list.clear();
    }
}
