//! What the machine asks for.

use crate::contract::clock::Time;
use crate::election::machine::cause::Cause;

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
