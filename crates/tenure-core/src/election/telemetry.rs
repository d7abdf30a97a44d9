//! What elections write to the log and, with the feature `metrics`, to the metrics recorder.
//!
//! Names and fields are a promise to those who search logs and draw graphs: they stand in
//! `docs/observability.md`, and a test compares.

use std::time::Duration;

use crate::contract::error::Error;
use crate::election::Inner;
use crate::election::event::Event;
use crate::election::term::Term;

/// Part of the promise: those who filter logs name it.
const TARGET: &str = "tenure_core::telemetry";

/// Around all that the engine and the store do for one campaign and its term. Below the level of
/// the events, which name lock and identity themselves.
pub(crate) fn campaign(election: &Inner) -> tracing::Span {
    let lock = election.lock.as_str();
    let identity = election.identity.as_str();
    tracing::debug_span!(target: TARGET, "campaign", lock, identity)
}

/// Around the work: so its own log lines say under which token they were written.
pub(crate) fn term(term: &Term) -> tracing::Span {
    let lock = term.lock().as_str();
    tracing::info_span!(target: TARGET, "term", lock, token = term.token().as_u64())
}

/// Identities and errors may hold what other programs wrote, so they are logged escaped (`?`).
pub(crate) fn event(election: &Inner, event: &Event) {
    let lock = election.lock.as_str();
    let identity = election.identity.as_str();
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
            metrics::is_leader(election, true);
            metrics::transition(election, "elected");
        }
        Event::Renewed { slack } => {
            tracing::trace!(target: TARGET, lock, identity, ?slack, "renewed");
            metrics::slack(election, *slack);
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
            metrics::slack(election, *slack);
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
            metrics::is_leader(election, false);
            metrics::transition(election, cause.name());
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

pub(crate) fn heartbeat(election: &Inner, latency: Duration) {
    metrics::heartbeat(election, latency);
}

pub(crate) fn failure(election: &Inner, error: &Error) {
    metrics::failure(election, error.kind().name());
}

#[cfg(feature = "metrics")]
mod metrics {
    use std::time::Duration;

    use metrics::{counter, gauge, histogram};

    use crate::election::Inner;

    fn lock(election: &Inner) -> String {
        election.lock.as_str().to_owned()
    }

    pub(super) fn is_leader(election: &Inner, leads: bool) {
        gauge!("tenure_is_leader", "lock" => lock(election)).set(f64::from(u8::from(leads)));
    }

    pub(super) fn transition(election: &Inner, change: &'static str) {
        counter!("tenure_transitions_total", "lock" => lock(election), "change" => change)
            .increment(1);
    }

    pub(super) fn heartbeat(election: &Inner, latency: Duration) {
        histogram!("tenure_heartbeat_seconds", "lock" => lock(election)).record(latency);
    }

    pub(super) fn slack(election: &Inner, slack: Duration) {
        gauge!("tenure_slack_seconds", "lock" => lock(election)).set(slack.as_secs_f64());
    }

    pub(super) fn failure(election: &Inner, kind: &'static str) {
        counter!("tenure_failures_total", "lock" => lock(election), "kind" => kind).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod metrics {
    use std::time::Duration;

    use crate::election::Inner;

    pub(super) fn is_leader(_: &Inner, _: bool) {}
    pub(super) fn transition(_: &Inner, _: &'static str) {}
    pub(super) fn heartbeat(_: &Inner, _: Duration) {}
    pub(super) fn slack(_: &Inner, _: Duration) {}
    pub(super) fn failure(_: &Inner, _: &'static str) {}
}
