//! What elections write to the log and, with the feature `metrics`, to the metrics recorder.
//!
//! Names and fields are a promise to those who search logs and draw graphs: they stand in
//! `docs/reference/observability.md`, and a test compares.

use std::time::Duration;

use crate::contract::error::Error;
use crate::contract::name::{Identity, LockName};
use crate::contract::token::FencingToken;
use crate::election::event::Event;
use crate::election::relay;

/// Part of the promise: those who filter logs name it.
const TARGET: &str = "tenure_core::telemetry";

/// Whose log lines and metrics they are.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) lock: &'a LockName,
    pub(crate) identity: &'a Identity,
}

/// Around all that the engine and the store do for one campaign and its term. Below the level of
/// the events, which name lock and identity themselves.
pub(crate) fn campaign(of: Labels<'_>) -> tracing::Span {
    let (lock, identity) = (of.lock.as_str(), of.identity.as_str());
    tracing::debug_span!(target: TARGET, "campaign", lock, identity)
}

/// Around the work: so its own log lines say under which token they were written.
pub(crate) fn term(lock: &LockName, token: FencingToken) -> tracing::Span {
    let lock = lock.as_str();
    tracing::info_span!(target: TARGET, "term", lock, token = token.as_u64())
}

/// On a heartbeat thread, which waits for no subscriber, another thread does it.
pub(crate) fn event(of: Labels<'_>, event: &Event) {
    if !relay::is_used() {
        tell(of, event);
        return;
    }
    let (lock, identity, event) = (of.lock.clone(), of.identity.clone(), event.clone());
    relay::hand_over(move || {
        let of = Labels {
            lock: &lock,
            identity: &identity,
        };
        tell(of, &event);
    });
}

/// Identities and errors may hold what other programs wrote, so they are logged escaped (`?`).
fn tell(of: Labels<'_>, event: &Event) {
    let (lock, identity) = (of.lock.as_str(), of.identity.as_str());
    match event {
        Event::Campaigning => tracing::debug!(target: TARGET, lock, identity, "campaigning"),
        Event::LeaderSeen(holder) => {
            tracing::info!(
                target: TARGET,
                lock,
                identity,
                leader = ?holder.identity,
                "another candidate leads"
            );
        }
        Event::Elected { token } => {
            tracing::info!(target: TARGET, lock, identity, token = token.as_u64(), "elected");
            metrics::is_leader(of.lock, true);
            metrics::transition(of.lock, "elected");
        }
        Event::Renewed { slack } => {
            tracing::trace!(target: TARGET, lock, identity, ?slack, "renewed");
            metrics::slack(of.lock, *slack);
        }
        Event::HeartbeatMissed {
            attempts,
            slack,
            error,
        } => {
            let error = error
                .as_ref()
                .map_or("the health probe said no".to_owned(), |error| {
                    error.to_string()
                });
            tracing::warn!(
                target: TARGET,
                lock,
                identity,
                attempts, ?slack, ?error,
                "heartbeat missed"
            );
            metrics::slack(of.lock, *slack);
        }
        Event::Unhealthy => {
            tracing::warn!(target: TARGET, lock, identity, "unhealthy, not campaigning");
        }
        Event::StoreFailed(error) => {
            tracing::warn!(
                target: TARGET,
                lock,
                identity,
                error = ?error.to_string(),
                "store failed, will retry"
            );
        }
        Event::SteppingDown(cause) => {
            tracing::info!(
                target: TARGET,
                lock,
                identity,
                cause = cause.describe(),
                "stepping down"
            );
        }
        Event::SteppedDown(cause) => {
            tracing::info!(
                target: TARGET,
                lock,
                identity,
                cause = cause.describe(),
                "stepped down"
            );
            metrics::is_leader(of.lock, false);
            metrics::transition(of.lock, cause.name());
        }
        Event::Overrun => {
            tracing::error!(target: TARGET, lock,
                identity,
                "the work still runs although its term is over"
            );
        }
        Event::Released => tracing::debug!(target: TARGET, lock, identity, "released"),
        Event::ReleaseFailed(error) => {
            let error = error.to_string();
            tracing::warn!(target: TARGET, lock,
                identity,
                ?error,
                "not released: others wait for the lease to end"
            );
        }
    }
}

pub(crate) fn heartbeat(lock: &LockName, latency: Duration) {
    count(lock, move |lock| metrics::heartbeat(lock, latency));
}

pub(crate) fn failure(lock: &LockName, error: &Error) {
    let kind = error.kind().name();
    count(lock, move |lock| metrics::failure(lock, kind));
}

/// As with events.
fn count(lock: &LockName, metric: impl FnOnce(&LockName) + Send + 'static) {
    if !relay::is_used() {
        metric(lock);
    } else if cfg!(feature = "metrics") {
        let lock = lock.clone();
        relay::hand_over(move || metric(&lock));
    }
}

#[cfg(feature = "metrics")]
mod metrics {
    use std::time::Duration;

    use metrics::{counter, gauge, histogram};

    use crate::contract::name::LockName;

    fn label(lock: &LockName) -> String {
        lock.as_str().to_owned()
    }

    pub(super) fn is_leader(lock: &LockName, leads: bool) {
        gauge!("tenure_is_leader", "lock" => label(lock)).set(f64::from(u8::from(leads)));
    }

    pub(super) fn transition(lock: &LockName, change: &'static str) {
        counter!("tenure_transitions_total", "lock" => label(lock), "change" => change)
            .increment(1);
    }

    pub(super) fn heartbeat(lock: &LockName, latency: Duration) {
        histogram!("tenure_heartbeat_seconds", "lock" => label(lock)).record(latency);
    }

    pub(super) fn slack(lock: &LockName, slack: Duration) {
        gauge!("tenure_slack_seconds", "lock" => label(lock)).set(slack.as_secs_f64());
    }

    pub(super) fn failure(lock: &LockName, kind: &'static str) {
        counter!("tenure_failures_total", "lock" => label(lock), "kind" => kind).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod metrics {
    use std::time::Duration;

    use crate::contract::name::LockName;

    pub(super) fn is_leader(_: &LockName, _: bool) {}
    pub(super) fn transition(_: &LockName, _: &'static str) {}
    pub(super) fn heartbeat(_: &LockName, _: Duration) {}
    pub(super) fn slack(_: &LockName, _: Duration) {}
    pub(super) fn failure(_: &LockName, _: &'static str) {}
}
