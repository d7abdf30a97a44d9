//! What the machine asks for.

use crate::contract::clock::Time;
use crate::election::machine::cause::Cause;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Call `acquire`; its future replaces any call under way, as with the three below.
    Acquire,
    /// Call `renew` for a proof not older than the time given, or newer if the driver wants one.
    Renew {
        /// The oldest proof that will do for a heartbeat.
        not_before: Time,
        /// Without an answer by then give [`Input::Overdue`](super::Input::Overdue). The call may
        /// go on.
        overdue_at: Time,
    },
    /// Call `release`.
    Release,
    /// Call `withdraw`.
    Withdraw,
    /// Ask the health probe, and give the answer as [`Input::Health`](super::Input::Health) at once.
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
    /// The validity is over: nothing may be done in the term's name any more. Work that was told to
    /// stop before ends for that reason.
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

impl Span {
    /// Why the work must be stopping at `now`, or have stopped, by the time alone. The machine and
    /// the term's own look at the clock both ask here.
    pub fn cause_at(self, now: Time) -> Option<Cause> {
        if now >= self.valid_until {
            return Some(Cause::Expired);
        }
        (now >= self.cancel_at).then_some(Cause::HeartbeatsMissed)
    }
}
