//! What elections write to the log and, with the feature `metrics`, to the metrics recorder.
//!
//! Names and fields are a promise to those who search logs and draw graphs: they stand in
//! `docs/reference/observability.md`, and a test compares.

use std::time::Duration;

use crate::contract::error::Error;
use crate::contract::name::{Identity, LockName};
use crate::contract::token::FencingToken;
use crate::election::event::Event;
use crate::election::{relay, series};

/// Part of the promise: those who filter logs name it.
const TARGET: &str = "tenure_core::telemetry";

/// Whose log lines and metrics they are.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) lock: &'a LockName,
    pub(crate) identity: &'a Identity,
    pub(crate) store: &'static str,
}

/// Around all that the engine and the store do for one campaign and its term. Below the level of
/// the events, which name lock and identity themselves. None on a heartbeat thread: to enter it is
/// to wait for the subscriber, at each step of the engine.
pub(crate) fn campaign(of: Labels<'_>) -> tracing::Span {
    if relay::is_used() {
        return tracing::Span::none();
    }
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
    let store = of.store;
    relay::hand_over(move || {
        let of = Labels {
            lock: &lock,
            identity: &identity,
            store,
        };
        tell(of, &event);
    });
}

/// Identities and errors may hold what other programs wrote, so they are logged escaped (`?`).
fn tell(of: Labels<'_>, event: &Event) {
    let (lock, identity) = (of.lock.as_str(), of.identity.as_str());
    match event {
        Event::Campaigning => {
            tracing::debug!(target: TARGET, lock, identity, "campaigning");
            // Again, for a recorder that was installed after the election was built.
            series::register(of.lock, of.store);
        }
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
            series::elected(of.lock);
        }
        Event::Renewed { slack } => {
            tracing::trace!(target: TARGET, lock, identity, ?slack, "renewed");
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
            series::heartbeat_missed(of.lock);
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
            series::ended(of.lock, *cause);
        }
        Event::Overrun => {
            tracing::error!(target: TARGET, lock,
                identity,
                "the work still runs although its term is over"
            );
            series::overrun(of.lock);
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

/// From the building of an election on.
pub(crate) fn registered(lock: &LockName, store: &'static str) {
    count(lock, move |lock| series::register(lock, store));
}

pub(crate) fn won(lock: &LockName, took: Duration) {
    count(lock, move |lock| series::campaign(lock, took));
}

pub(crate) fn term_lasted(lock: &LockName, lasted: Duration) {
    count(lock, move |lock| series::term(lock, lasted));
}

pub(crate) fn heartbeat(lock: &LockName, latency: Duration) {
    count(lock, move |lock| series::heartbeat(lock, latency));
}

pub(crate) fn failure(lock: &LockName, error: &Error) {
    let kind = error.kind().name();
    count(lock, move |lock| series::failure(lock, kind));
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
