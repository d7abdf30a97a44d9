//! The metrics of elections, through the `metrics` facade; nothing without the feature `metrics`.
//!
//! Only `telemetry` calls this, which knows where a recorder may be waited for.

#[cfg(feature = "metrics")]
pub(super) use recorded::*;
#[cfg(not(feature = "metrics"))]
pub(super) use unrecorded::*;

#[cfg(feature = "metrics")]
mod recorded {
    use std::time::Duration;

    use metrics::{
        Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    };

    use crate::contract::name::LockName;
    use crate::contract::token::FencingToken;
    use crate::election::machine::Cause;

    /// What gauges tell of a term; 0 after its end.
    const OF_A_TERM: [&str; 3] = ["tenure_is_leader", "tenure_slack_seconds", "tenure_token"];

    const IS_CANDIDATE: &str = "tenure_is_candidate";

    /// The label `change` of the beginning of a term.
    const ELECTED: &str = "elected";

    fn label(lock: &LockName) -> String {
        lock.as_str().to_owned()
    }

    /// Makes the series of a lock known, with what they have or zero. So a candidate that never
    /// leads is counted as one that does not lead, and the first end of a term is an increase.
    pub(crate) fn register(lock: &LockName, store: &'static str) {
        describe();
        gauge!("tenure_store", "lock" => label(lock), "store" => store).set(1.0);
        for gauge in OF_A_TERM.into_iter().chain([IS_CANDIDATE]) {
            gauge!(gauge, "lock" => label(lock)).increment(0.0);
        }
        let causes = Cause::COUNTED.into_iter().map(Cause::name);
        for change in [ELECTED].into_iter().chain(causes) {
            transitions(lock, change).increment(0);
        }
        counter!("tenure_overruns_total", "lock" => label(lock)).increment(0);
        counter!("tenure_heartbeats_missed_total", "lock" => label(lock)).increment(0);
    }

    fn describe() {
        describe_gauge!(
            "tenure_is_leader",
            "1 while this instance leads, 0 otherwise."
        );
        describe_gauge!(
            IS_CANDIDATE,
            "1 while this instance campaigns or leads, and after a campaign that failed for good. 0 \
             while its election is stopped."
        );
        describe_gauge!(
            "tenure_store",
            "Always 1: the label says which store the lock is in."
        );
        describe_gauge!(
            "tenure_token",
            "The fencing token of this instance's term, 0 while it does not lead. Rounded above 2^53."
        );
        describe_gauge!(
            "tenure_slack_seconds",
            Unit::Seconds,
            "What was left, at the last heartbeat, until the work would be told to stop. 0 while \
             this instance does not lead."
        );
        describe_counter!(
            "tenure_transitions_total",
            "Terms that began (change=\"elected\") or ended (change is why)."
        );
        describe_counter!(
            "tenure_overruns_total",
            "Terms that ended before their work had stopped."
        );
        describe_counter!(
            "tenure_heartbeats_missed_total",
            "Heartbeats of leaders that failed; each is tried again until the work must stop."
        );
        describe_counter!(
            "tenure_failures_total",
            "Calls to the store that failed, by the kind of error."
        );
        describe_histogram!(
            "tenure_heartbeat_seconds",
            Unit::Seconds,
            "How long the heartbeats took that got through."
        );
        describe_histogram!(
            "tenure_campaign_seconds",
            Unit::Seconds,
            "How long the campaigns took that were won."
        );
        describe_histogram!(
            "tenure_term_seconds",
            Unit::Seconds,
            "How long the terms lasted that are over."
        );
    }

    fn transitions(lock: &LockName, change: &'static str) -> metrics::Counter {
        counter!("tenure_transitions_total", "lock" => label(lock), "change" => change)
    }

    pub(crate) fn elected(lock: &LockName) {
        transitions(lock, ELECTED).increment(1);
    }

    pub(crate) fn campaign(lock: &LockName, took: Duration) {
        histogram!("tenure_campaign_seconds", "lock" => label(lock)).record(took);
    }

    pub(crate) fn term(lock: &LockName, lasted: Duration) {
        histogram!("tenure_term_seconds", "lock" => label(lock)).record(lasted);
    }

    pub(crate) fn ended(lock: &LockName, cause: Cause) {
        transitions(lock, cause.name()).increment(1);
    }

    /// With the term's token and slack, while there is one.
    pub(crate) fn term_gauges(lock: &LockName, term: Option<(FencingToken, Duration)>) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a metric is a float; its text says so"
        )]
        let token = term.map_or(0.0, |(token, _)| token.as_u64() as f64);
        let slack = term.map_or(0.0, |(_, slack)| slack.as_secs_f64());
        let is_leader = f64::from(u8::from(term.is_some()));
        gauge!("tenure_is_leader", "lock" => label(lock)).set(is_leader);
        gauge!("tenure_slack_seconds", "lock" => label(lock)).set(slack);
        gauge!("tenure_token", "lock" => label(lock)).set(token);
    }

    pub(crate) fn candidate(lock: &LockName, is_one: bool) {
        gauge!(IS_CANDIDATE, "lock" => label(lock)).set(f64::from(u8::from(is_one)));
    }

    pub(crate) fn heartbeat_missed(lock: &LockName) {
        counter!("tenure_heartbeats_missed_total", "lock" => label(lock)).increment(1);
    }

    pub(crate) fn overrun(lock: &LockName) {
        counter!("tenure_overruns_total", "lock" => label(lock)).increment(1);
    }

    pub(crate) fn heartbeat(lock: &LockName, latency: Duration) {
        histogram!("tenure_heartbeat_seconds", "lock" => label(lock)).record(latency);
    }

    pub(crate) fn failure(lock: &LockName, kind: &'static str) {
        counter!("tenure_failures_total", "lock" => label(lock), "kind" => kind).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod unrecorded {
    use std::time::Duration;

    use crate::contract::name::LockName;
    use crate::contract::token::FencingToken;
    use crate::election::machine::Cause;

    pub(crate) fn register(_: &LockName, _: &'static str) {}
    pub(crate) fn elected(_: &LockName) {}
    pub(crate) fn campaign(_: &LockName, _: Duration) {}
    pub(crate) fn term(_: &LockName, _: Duration) {}
    pub(crate) fn ended(_: &LockName, _: Cause) {}
    pub(crate) fn term_gauges(_: &LockName, _: Option<(FencingToken, Duration)>) {}
    pub(crate) fn candidate(_: &LockName, _: bool) {}
    pub(crate) fn heartbeat_missed(_: &LockName) {}
    pub(crate) fn overrun(_: &LockName) {}
    pub(crate) fn heartbeat(_: &LockName, _: Duration) {}
    pub(crate) fn failure(_: &LockName, _: &'static str) {}
}
