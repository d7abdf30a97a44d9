//! What must hold in every state.

use std::fmt;

/// A promise or an invariant, as docs/reference/guarantees.md names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub enum Invariant {
    /// At most one candidate reports leadership at a time.
    Exclusive,
    /// A term is valid only while `now < t0 + V`, and stays over once it is over.
    I1,
    /// The validity is at most `L (1-r)/(1+r)`.
    I2,
    /// Without a fault no leader loses its term.
    I3,
    /// The work is told to stop by `t0 + V - C`, work beyond `t0 + V` is reported, and no lock is
    /// released while the work still runs.
    I4,
    /// Nobody takes a lock over before a whole lease of the record has passed since it received
    /// that version, and the write is conditional on that version.
    I5,
    /// One token per term, each larger than those before; renewals and releases act on their own
    /// term only.
    I6,
    /// After the last fault somebody leads within the bound.
    Reelection,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Exclusive,
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::Reelection,
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What happened.
    pub text: String,
}
