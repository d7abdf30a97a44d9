//! What a store can promise, as data.

use std::time::Duration;

/// Who ends a lease whose holder has fallen silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Expiry {
    /// The store, by its own clock.
    Store,
    /// Each candidate, by its own clock, from the last change of the record it has seen (I5).
    Observation,
    /// The store, when the session that holds the lock ends.
    Session,
}

/// How a waiting candidate learns that a lock has become free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Wakeup {
    /// The store tells it.
    Push,
    /// It asks, every retry interval.
    Poll,
}

/// In which order waiting candidates win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Order {
    /// First come, first served.
    Fifo,
    /// The first to write wins.
    Race,
}

/// Whether the fencing tokens of a lock go on rising over some event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Rises {
    /// They do.
    Always,
    /// They do when the store is set up as the text says.
    If(&'static str),
    /// They may start again below earlier ones.
    Never,
    /// The event cannot happen to this store.
    NotApplicable,
}

impl Rises {
    /// Whether the guarantee holds without any condition.
    pub fn is_certain(self) -> bool {
        matches!(self, Self::Always | Self::NotApplicable)
    }
}

/// How far the promise "each term's token is larger than all before" reaches on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FencingGuarantee {
    /// Over a crash and restart of the store.
    pub over_crash: Rises,
    /// Over a failover from one server of the store to another.
    pub over_failover: Rises,
    /// Over the deletion of the lock's key, object or file.
    pub over_deletion: Rises,
    /// Over a restore of the store from a backup.
    pub over_restore: Rises,
}

/// What a backend can promise, as data: the engine, the conformance suite and the documentation
/// all read it from here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Capabilities {
    /// The store's name, as in logs and metrics.
    pub store: &'static str,
    /// The shortest lease it grants.
    pub min_lease: Duration,
    /// Leases are whole multiples of this.
    pub lease_granularity: Duration,
    /// Who ends a silent holder's lease.
    pub expiry: Expiry,
    /// How long after the end of a lease the lock may still be refused to others, at most, on a
    /// store that is up: its sweep interval, for instance.
    pub expiry_lag: Duration,
    /// How waiting candidates are woken.
    pub wakeup: Wakeup,
    /// In which order they win.
    pub order: Order,
    /// How far fencing tokens are guaranteed to rise.
    pub fencing: FencingGuarantee,
}

impl Capabilities {
    /// How long a candidate that has died while it waited can hold up the next leader, at most,
    /// where it had asked for this lease.
    ///
    /// On a store that serves in order its turn comes, and no other candidate passes it. The store
    /// ends its place as it ends a silent leader's lease. On other stores it delays no candidate.
    pub fn hand_over_delay(&self, lease: Duration) -> Duration {
        match self.order {
            Order::Fifo => lease + self.expiry_lag,
            Order::Race => Duration::ZERO,
        }
    }
}
