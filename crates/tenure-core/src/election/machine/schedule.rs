//! When a machine acts next.

use std::time::Duration;

use crate::contract::clock::Time;
use crate::election::machine::input::Failure;

/// One heartbeat after `proven_at`, moved forward by at most a 64th of it to a moment that all
/// elections of a process share. So 10,000 of them wake the process 64 times per heartbeat and not
/// 10,000 times, and a store's client can send their renewals together.
pub(super) fn next_heartbeat(proven_at: Time, heartbeat: Duration) -> Time {
    let due = (proven_at + heartbeat).as_nanos();
    let grid = Time::ZERO + heartbeat / 64;
    Time::from_nanos(due - due % grid.as_nanos().max(1))
}

/// The pause after a failed call: what the store asks for, or else the retry interval. At most
/// `limit`, unless the retry interval is longer.
pub(super) fn pause(retry: Duration, failure: Failure, limit: Duration) -> Duration {
    let asked = failure.retry_after.unwrap_or_default();
    retry.max(asked.min(limit))
}

pub(super) fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A wait of nothing would ask the store in a tight loop when it answers "taken, free now".
pub(super) fn at_least_a_tick(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}
