//! What is asserted.

use std::fmt;

use clap::ValueEnum;

use super::Moment;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Invariant {
    /// Two terms were valid at the same moment.
    Exclusive,
    /// A term was valid for longer than the store promised it (I1, I2).
    Covered,
    /// A term that was over came back, or work that was told to stop was told to go on.
    OverForGood,
    /// Tokens are unique and rise (I6).
    Tokens,
    /// A permit held less than it said, or was given after the work had stopped.
    Permits,
    /// Each start of work has exactly one stop.
    StartStop,
    /// The lock was given back while the work still ran.
    ReleaseAfterWork,
    /// The work is told to stop a stop grace before the end (I4).
    ToldInTime,
    /// A drain stands within its limit, and ends with it.
    Drain,
    /// A deletion is noticed with the next heartbeat (hazard 16).
    Noticed,
    /// The time without a leader is within the formula.
    Leaderless,
    /// After faults cease somebody leads, and goes on leading.
    Recovery,
    /// A leader survives what its policy says.
    Tolerance,
    /// Nothing is left in the store of a candidate that has gone.
    Orphans,
    /// The observer sees who leads.
    Observer,
    /// `confirm` proves what it says.
    Confirm,
    /// A store that asks to wait is not called, for a bounded time.
    Backoff,
    /// Work that outlives its term is reported.
    Reported,
    /// The store holds the value that `publish` has said yes to.
    Published,
    /// A campaign is given up for what somebody must mend, if that is the store's first answer,
    /// and for nothing else.
    GivesUp,
    /// A candidate whose health probe says no makes way for others.
    Health,
    /// A leader resigns on a wish for its own term, before that wish ends, and on no other.
    Asked,
    /// Of two locks the second is given back before the first.
    Order,
    /// It gets on.
    Livelock,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When it showed.
    pub at: Moment,
    /// Which.
    pub invariant: Invariant,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.invariant, self.at, self.what)
    }
}
