//! The engine's side of a term, for `tenure-threads`: its scenarios are what a thread does to a
//! term beside the work. Not part of any other build.

use std::fmt;
use std::sync::Arc;

use crate::contract::clock::SharedClock;
use crate::contract::name::{Identity, LockName};
use crate::contract::token::FencingToken;
use crate::election::instruction::Instructions;
use crate::election::machine::cause::Cause;
use crate::election::machine::command::Span;
use crate::election::term::{Term, TermState};

/// A term without an engine.
#[derive(Clone)]
pub struct BareTerm(Arc<TermState>);

impl BareTerm {
    /// A term with this span.
    pub fn new(
        lock: LockName,
        identity: Identity,
        token: FencingToken,
        span: Span,
        clock: SharedClock,
    ) -> Self {
        let instructions = Arc::new(Instructions::default());
        Self(TermState::new(
            lock,
            identity,
            token,
            span,
            clock,
            instructions,
        ))
    }

    /// The work's side.
    pub fn term(&self) -> Term {
        Term::new(self.0.clone())
    }

    /// What the engine does with a heartbeat's answer; fails with the cause if the work was told to
    /// stop meanwhile.
    pub fn extend(&self, span: Span) -> Result<(), Cause> {
        self.0.extend(span)
    }

    /// What the engine does to tell the work to stop.
    pub fn cancel(&self, cause: Cause) {
        self.0.cancel(cause);
    }

    /// What the owner does to tell the work to stop.
    pub fn stop(&self, cause: Cause) {
        self.0.stop(cause);
    }

    /// What the owner does when it resigns.
    pub fn give_back(&self) {
        self.0.give_back();
    }

    /// What the engine does to end the term.
    pub fn end(&self, cause: Cause) {
        self.0.end(cause);
    }

    /// Whether it was ended.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

impl fmt::Debug for BareTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BareTerm").field(&self.term()).finish()
    }
}
