//! Rules that are broken on purpose, to show that the search notices.

use crate::{Fault, Invariant, StoreKind};

/// A broken rule of the driver, of a store's client or of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The lease counts from the moment at which the answer is read.
    LeaseFromAnswer,
    /// The validity is the whole lease: neither drift nor margin.
    ValidityIsLease,
    /// An answer that waited is handled as if no time had passed since its deadline.
    LateAnswerRevives,
    /// The work is never told that the validity is about to end.
    NotTold,
    /// The lock is released when the work is told to stop, and not when it has returned.
    ReleaseOnCancel,
    /// A leader sends no heartbeat.
    NoHeartbeat,
    /// A candidate's timers are never heeded.
    NeverWakes,
    /// A renewal writes the record although the lock is gone.
    RenewIsUpsert,
    /// A release ends whatever term the store holds.
    ReleaseByName,
    /// A withdrawal ends whatever term the store holds.
    WithdrawByName,
    /// A record that was not seen to change is taken over at once.
    UnprovenIsFree,
    /// The observer's own lease counts, not the record's.
    OwnDuration,
    /// The lease runs from the first sight of a record although it has changed since.
    FirstSight,
    /// A write is not conditional on the version.
    Unconditional,
    /// What an earlier campaign of the same identity left is adopted.
    IdentityAdopts,
    /// A key is adopted with a new proof and its old lifetime.
    AdoptsWithoutExtending,
    /// The store's counter stands still after the first term.
    TokenReuse,
    /// A session proves any term of its candidate.
    SessionProvesAnyTerm,
    /// Whoever queues is told that it holds the lock.
    QueueIsIgnored,
}

/// Where a broken rule has to be noticed, and as what.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// The rule.
    pub mutant: Mutant,
    /// Its name on the command line.
    pub name: &'static str,
    /// The store on which it is planted.
    pub store: StoreKind,
    /// The faults that may happen, each as often as it is listed; few, so that the search is short.
    pub faults: &'static [Fault],
    /// How many leaders may give their term back.
    pub resigns: u8,
    /// The invariants that it must be found to break, each in a search for that one alone.
    pub breaks: &'static [Invariant],
}

use Fault::{Crash, Delete, Freeze, Silence, Unwell};
use Invariant::{Exclusive, I1, I2, I3, I4, I5, I6, Reelection};
use StoreKind::{Keys, Records, Sessions};

/// All broken rules.
pub const PLANTED: &[Planted] = &[
    planted(Mutant::LeaseFromAnswer, "lease-from-answer", Keys)
        .after(&[Freeze], 0)
        .breaks(&[I1, Exclusive]),
    planted(
        Mutant::LeaseFromAnswer,
        "session-lease-from-answer",
        Sessions,
    )
    .after(&[Freeze], 0)
    .breaks(&[I1, Exclusive]),
    planted(Mutant::LeaseFromAnswer, "record-lease-from-answer", Records)
        .after(&[Freeze], 0)
        .breaks(&[I1, Exclusive]),
    planted(Mutant::ValidityIsLease, "validity-is-lease", Keys)
        .after(&[Freeze], 0)
        .breaks(&[I2, Exclusive]),
    planted(Mutant::LateAnswerRevives, "late-answer-revives", Keys)
        .after(&[Freeze], 0)
        .breaks(&[I1]),
    planted(Mutant::NotTold, "not-told", Keys)
        .after(&[Silence, Silence], 0)
        .breaks(&[I4]),
    planted(Mutant::ReleaseOnCancel, "release-on-cancel", Keys)
        .after(&[Freeze], 0)
        .breaks(&[I4]),
    planted(Mutant::NoHeartbeat, "no-heartbeat", Keys).breaks(&[I3]),
    planted(Mutant::NeverWakes, "never-wakes", Keys)
        .after(&[Crash], 0)
        .breaks(&[Reelection]),
    planted(Mutant::RenewIsUpsert, "renew-is-upsert", Keys)
        .after(&[Delete], 0)
        .breaks(&[I6]),
    planted(Mutant::RenewIsUpsert, "record-renew-is-upsert", Records)
        .after(&[Delete], 0)
        .breaks(&[I6]),
    planted(Mutant::ReleaseByName, "release-by-name", Keys)
        .after(&[Freeze], 0)
        .breaks(&[I6, Exclusive]),
    planted(Mutant::ReleaseByName, "record-release-by-name", Records)
        .after(&[Freeze], 0)
        .breaks(&[I6]),
    planted(Mutant::WithdrawByName, "withdraw-by-name", Keys)
        .after(&[Unwell], 0)
        .breaks(&[I6, Exclusive]),
    planted(Mutant::UnprovenIsFree, "unproven-is-free", Records).breaks(&[I5, Exclusive]),
    planted(Mutant::OwnDuration, "own-duration", Records)
        .after(&[Freeze], 0)
        .breaks(&[I5, Exclusive]),
    planted(Mutant::FirstSight, "first-sight", Records).breaks(&[I5, Exclusive]),
    planted(Mutant::Unconditional, "unconditional-write", Records).breaks(&[I5, Exclusive]),
    planted(Mutant::IdentityAdopts, "identity-adopts", Keys)
        .after(&[Crash], 0)
        .breaks(&[I6]),
    planted(
        Mutant::AdoptsWithoutExtending,
        "adopts-without-extending",
        Keys,
    )
    .after(&[Silence, Freeze], 0)
    .breaks(&[Exclusive]),
    planted(Mutant::TokenReuse, "token-reuse", Keys)
        .after(&[], 1)
        .breaks(&[I6]),
    planted(
        Mutant::SessionProvesAnyTerm,
        "session-proves-any-term",
        Sessions,
    )
    .after(&[Delete], 0)
    .breaks(&[I6]),
    planted(Mutant::QueueIsIgnored, "queue-is-ignored", Sessions).breaks(&[Exclusive]),
];

const fn planted(mutant: Mutant, name: &'static str, store: StoreKind) -> Planted {
    Planted {
        mutant,
        name,
        store,
        faults: &[],
        resigns: 0,
        breaks: &[],
    }
}

impl Planted {
    const fn after(mut self, faults: &'static [Fault], resigns: u8) -> Self {
        self.faults = faults;
        self.resigns = resigns;
        self
    }

    const fn breaks(mut self, breaks: &'static [Invariant]) -> Self {
        self.breaks = breaks;
        self
    }
}
