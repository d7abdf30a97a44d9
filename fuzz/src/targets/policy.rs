//! Policies, and the settings of a candidate.

use std::ffi::OsString;
use std::time::Duration;

use tenure::{Policy, PolicySettings, Setting, Settings, variable};

use crate::{inputs, plant, rules};

/// Numbers for each part of a policy.
pub(crate) fn policy(input: &[u8]) {
    let mut rest = input;
    let mut next = || {
        let (number, after) = inputs::number(rest)?;
        rest = after;
        Some(number)
    };
    let mut builder = Policy::builder();
    if let Some(nanos) = next() {
        builder = builder.lease(Duration::from_nanos(nanos));
    }
    if let Some(nanos) = next() {
        builder = builder.heartbeat(Duration::from_nanos(nanos));
    }
    if let Some(nanos) = next() {
        builder = builder.request_timeout(Duration::from_nanos(nanos));
    }
    if let Some(nanos) = next() {
        builder = builder.retry_interval(Duration::from_nanos(nanos));
    }
    if let Some(nanos) = next() {
        builder = builder.stop_grace(Duration::from_nanos(nanos));
    }
    if let Some(number) = next() {
        builder = builder.jitter_percent(number.to_le_bytes()[0]);
        builder = builder.drift_ppm(u32::try_from(number >> 32).unwrap_or(u32::MAX));
    }
    match builder.build() {
        Ok(policy) => check(&policy),
        Err(error) => rules::error(&error),
    }
}

/// The rules of docs/guarantees.md: I2, and a validity in which work, stop and a heartbeat fit.
fn check(policy: &Policy) {
    let (lease, validity) = (policy.lease(), policy.validity());
    let drift = u128::from(policy.drift_ppm());
    let safe = lease.as_nanos() * (1_000_000 - drift) / (1_000_000 + drift);
    assert!(validity.as_nanos() <= safe, "I2: {policy:?}");
    assert!(policy.request_timeout() <= policy.heartbeat(), "{policy:?}");
    let used = policy.heartbeat() + policy.request_timeout() + policy.stop_grace();
    assert!(used <= validity, "I3: {policy:?}");
    let _tolerance = policy.tolerance();
    let is_odd = |time: Duration| time.as_nanos() % 2 == 1;
    plant::behind(
        is_odd(lease),
        is_odd(policy.heartbeat()),
        is_odd(policy.stop_grace()),
    );
}

const VARIABLES: [&str; 8] = [
    variable::BACKEND,
    variable::LOCK,
    variable::IDENTITY,
    variable::POLICY,
    variable::LEASE,
    variable::HEARTBEAT,
    variable::STOP_GRACE,
    variable::DRAIN_LIMIT,
];

/// A line for each variable of the environment; an empty one is not set.
pub(crate) fn settings(input: &[u8]) {
    let Some(text) = inputs::text(input) else {
        return;
    };
    let lines: Vec<&str> = text.split('\n').collect();
    let value = |name: &str| {
        let index = VARIABLES.iter().position(|variable| *variable == name)?;
        let line = lines.get(index).filter(|line| !line.is_empty())?;
        Some(OsString::from(line))
    };
    match Settings::from_variables(value) {
        Ok(settings) => {
            check(&settings.policy);
            plant::at(settings.drain_limit.is_some(), settings.lock.as_str());
        }
        Err(error) => rules::error(&error),
    }
    let part = |index: usize| Setting::new("--setting", lines.get(index).copied());
    let policy = PolicySettings {
        preset: part(3),
        lease: part(4),
        heartbeat: part(5),
        stop_grace: part(6),
    };
    match policy.read() {
        Ok(policy) => check(&policy),
        Err(error) => rules::error(&error),
    }
}
