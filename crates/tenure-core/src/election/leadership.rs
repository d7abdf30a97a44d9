//! The owner of a term.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::PublishedValue;
use crate::election::context::Occupied;
use crate::election::instruction::{Instruction, Instructions};
use crate::election::machine::Cause;
use crate::election::term::{Term, TermState};

/// The owner of one term: as long as it lives the engine renews the term, and dropping it gives
/// the term back in the background.
///
/// Keep it where the work is supervised, and give clones of the [`Term`] to the work. Drop or
/// [`resign`](Self::resign) only after the work has returned: from that moment on the next
/// leader may start.
#[must_use = "dropping a leadership gives the term back at once"]
pub struct Leadership {
    term: Term,
    state: Arc<TermState>,
    instructions: Arc<Instructions>,
    /// `None` once the engine knows that the work is over.
    occupied: Option<Occupied>,
}

impl Leadership {
    pub(crate) fn new(
        state: Arc<TermState>,
        instructions: Arc<Instructions>,
        occupied: Occupied,
    ) -> Self {
        Self {
            term: Term::new(state.clone()),
            state,
            instructions,
            occupied: Some(occupied),
        }
    }

    /// A handle on the term for the work.
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Gives the term back and waits until the store has it.
    ///
    /// Every [`Term`] is invalid from the call on. Retries for at most one lease; after an error
    /// the others have to wait for the lease to end. Dropping the future leaves the release going
    /// on in the background.
    pub async fn resign(mut self) -> Result<(), Error> {
        self.state.process.check(Operation::Release)?;
        let Some(occupied) = self.occupied.take() else {
            return Ok(());
        };
        self.state.give_back();
        let answer = self
            .instructions
            .ask(|reply| Instruction::WorkEnded(Some(reply)))
            .await;
        drop(occupied);
        match answer {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Error::new(
                error.kind(),
                Operation::Release,
                format!("the lock stays taken until its lease ends: {error}"),
            )),
            None => Err(Error::new(
                ErrorKind::Internal,
                Operation::Release,
                "the engine was stopped before it could give the lock back; it stays taken until \
                 its lease ends",
            )),
        }
    }

    /// Tells the work to stop at once, and keeps the term up while it does, for at most the
    /// election's drain limit. The term goes on until the leadership is dropped or resigned.
    ///
    /// `cause` becomes the [cause](Term::cause) of the term, unless its work was told to stop
    /// before or the time for that had come: the first reason counts.
    pub fn stop(&self, cause: Cause) {
        if self.state.process.is_current() {
            let told = self.state.stop(cause);
            self.instructions.send(Instruction::Stop(told));
        }
    }

    /// Changes the value that is published beside the leader's identity, and waits until the
    /// store has it; `None` takes it away.
    ///
    /// On an error the store may have it or not; it goes out again with the next heartbeat. A
    /// heartbeat that was sent before and arrives late takes its older value along, until the next
    /// one.
    pub async fn publish(&self, value: Option<PublishedValue>) -> Result<(), Error> {
        self.state.process.check(Operation::Renew)?;
        match self
            .instructions
            .ask(|reply| Instruction::Publish(value, reply))
            .await
        {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Error::new(
                error.kind(),
                Operation::Renew,
                format!("the value may not be published: {error}"),
            )),
            None => Err(Error::new(
                ErrorKind::Conflict,
                Operation::Renew,
                "the value was not published: the term is over",
            )),
        }
    }
}

impl Deref for Leadership {
    type Target = Term;

    fn deref(&self) -> &Term {
        &self.term
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // In a forked child the term is the parent's, and its lock may have been held at the fork by
        // a thread that does not exist here.
        if self.occupied.is_some() && self.state.process.is_current() {
            self.state.give_back();
            self.instructions.send(Instruction::WorkEnded(None));
        }
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leadership").field(&self.term).finish()
    }
}
