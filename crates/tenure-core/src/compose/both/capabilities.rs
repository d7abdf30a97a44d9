//! What two stores as one promise.

use std::time::Duration;

use crate::contract::capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};

/// What both promise.
pub(super) fn common(first: &Capabilities, second: &Capabilities) -> Capabilities {
    let fencing = (first.fencing, second.fencing);
    let pushed = first.wakeup == Wakeup::Push && second.wakeup == Wakeup::Push;
    Capabilities {
        store: "both",
        min_lease: first.min_lease.max(second.min_lease),
        lease_granularity: common_multiple(first.lease_granularity, second.lease_granularity),
        expiry: match (first.expiry, second.expiry) {
            (Expiry::Observation, _) | (_, Expiry::Observation) => Expiry::Observation,
            (Expiry::Session, _) | (_, Expiry::Session) => Expiry::Session,
            _ => Expiry::Store,
        },
        expiry_lag: first.expiry_lag.max(second.expiry_lag),
        wakeup: if pushed { Wakeup::Push } else { Wakeup::Poll },
        // Two queues do not make one: the first of one may be the last of the other.
        order: Order::Race,
        fencing: FencingGuarantee {
            over_crash: weaker(fencing.0.over_crash, fencing.1.over_crash),
            over_failover: weaker(fencing.0.over_failover, fencing.1.over_failover),
            over_deletion: weaker(fencing.0.over_deletion, fencing.1.over_deletion),
            over_restore: weaker(fencing.0.over_restore, fencing.1.over_restore),
        },
    }
}

fn weaker(first: Rises, second: Rises) -> Rises {
    match (first, second) {
        (Rises::Never, _) | (_, Rises::Never) => Rises::Never,
        (Rises::If(_), Rises::If(_)) => Rises::If("each store is set up as it asks for"),
        (Rises::If(text), _) | (_, Rises::If(text)) => Rises::If(text),
        (Rises::NotApplicable, Rises::NotApplicable) => Rises::NotApplicable,
        _ => Rises::Always,
    }
}

/// The shortest duration that is a whole multiple of both.
pub(super) fn common_multiple(first: Duration, second: Duration) -> Duration {
    let (a, b) = (first.as_nanos().max(1), second.as_nanos().max(1));
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    Duration::from_nanos(u64::try_from(a / divisor * b).unwrap_or(u64::MAX))
}
