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
#[non_exhaustive]
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

impl FencingGuarantee {
    /// Whether no token comes a second time while candidates run. A restore is left out: candidates
    /// are stopped before one.
    pub(crate) fn never_repeats(&self) -> bool {
        let events = [self.over_crash, self.over_failover, self.over_deletion];
        events.iter().all(|rises| rises.is_certain())
    }

    /// No guarantee at all: tokens rise over no event. The methods add what the store does guarantee.
    ///
    /// ```
    /// use tenure_core::{FencingGuarantee, Rises};
    ///
    /// let fencing = FencingGuarantee::none().over_crash(Rises::Always);
    /// assert_eq!(fencing.over_restore, Rises::Never);
    /// ```
    pub const fn none() -> Self {
        Self {
            over_crash: Rises::Never,
            over_failover: Rises::Never,
            over_deletion: Rises::Never,
            over_restore: Rises::Never,
        }
    }

    /// Sets [`over_crash`](Self#structfield.over_crash).
    #[must_use]
    pub const fn over_crash(mut self, rises: Rises) -> Self {
        self.over_crash = rises;
        self
    }

    /// Sets [`over_failover`](Self#structfield.over_failover).
    #[must_use]
    pub const fn over_failover(mut self, rises: Rises) -> Self {
        self.over_failover = rises;
        self
    }

    /// Sets [`over_deletion`](Self#structfield.over_deletion).
    #[must_use]
    pub const fn over_deletion(mut self, rises: Rises) -> Self {
        self.over_deletion = rises;
        self
    }

    /// Sets [`over_restore`](Self#structfield.over_restore).
    #[must_use]
    pub const fn over_restore(mut self, rises: Rises) -> Self {
        self.over_restore = rises;
        self
    }
}

/// What a backend can promise, as data: the engine, the conformance suite and the documentation
/// all read it from here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
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
    /// The promises of `store`, by the name that logs and metrics show.
    ///
    /// Until the methods say otherwise: leases of whole seconds from 1 s, no lag after expiry,
    /// candidates that poll, and no order among them.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tenure_core::{Capabilities, Expiry, FencingGuarantee, Rises};
    ///
    /// let fencing = FencingGuarantee::none().over_crash(Rises::Always);
    /// let capabilities = Capabilities::new("my-store", Expiry::Store, fencing)
    ///     .with_lease_granularity(Duration::from_millis(1))
    ///     .with_min_lease(Duration::from_millis(100));
    /// assert_eq!(capabilities.expiry_lag, Duration::ZERO);
    /// ```
    pub const fn new(store: &'static str, expiry: Expiry, fencing: FencingGuarantee) -> Self {
        Self {
            store,
            min_lease: Duration::from_secs(1),
            lease_granularity: Duration::from_secs(1),
            expiry,
            expiry_lag: Duration::ZERO,
            wakeup: Wakeup::Poll,
            order: Order::Race,
            fencing,
        }
    }

    /// Sets the shortest lease that the store grants.
    #[must_use]
    pub const fn with_min_lease(mut self, lease: Duration) -> Self {
        self.min_lease = lease;
        self
    }

    /// Sets the duration of which leases are whole multiples.
    #[must_use]
    pub const fn with_lease_granularity(mut self, granularity: Duration) -> Self {
        self.lease_granularity = granularity;
        self
    }

    /// Sets how long after the end of a lease the store may still refuse the lock, at most.
    #[must_use]
    pub const fn with_expiry_lag(mut self, lag: Duration) -> Self {
        self.expiry_lag = lag;
        self
    }

    /// Sets how waiting candidates are woken.
    #[must_use]
    pub const fn with_wakeup(mut self, wakeup: Wakeup) -> Self {
        self.wakeup = wakeup;
        self
    }

    /// Sets in which order waiting candidates win.
    #[must_use]
    pub const fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

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
