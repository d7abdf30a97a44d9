//! `tenure policy`: what a policy means, in numbers.

use std::time::Duration;

use serde_json::json;
use tenure::Policy;

use crate::failure::Failure;
use crate::options::{self, PolicyShownArgs};
use crate::output::print;

/// Prints it; asks no store.
pub(crate) fn policy(args: &PolicyShownArgs) -> Result<u8, Failure> {
    let policy = options::policy(&args.policy)?;
    let gaps = Gaps::of(&policy);
    let tolerance = policy.tolerance();
    let told = policy.validity().saturating_sub(policy.stop_grace());
    if args.json {
        let shown = json!({
            "lease_ms": millis(policy.lease()),
            "heartbeat_ms": millis(policy.heartbeat()),
            "request_timeout_ms": millis(policy.request_timeout()),
            "retry_interval_ms": millis(policy.retry_interval()),
            "stop_grace_ms": millis(policy.stop_grace()),
            "validity_ms": millis(policy.validity()),
            "told_to_stop_after_ms": millis(told),
            "lost_heartbeats": tolerance.lost_heartbeats,
            "outage_ms": millis(tolerance.outage),
            "nobody_leads_ms": {
                "after_resignation": millis(gaps.resignation),
                "after_crash_observed": millis(gaps.observed),
                "after_crash_expired": millis(gaps.expired),
                "after_crash_reported": millis(gaps.reported),
            },
        });
        print(&shown.to_string())?;
        return Ok(0);
    }
    let rows = [
        ("lease", policy.lease()),
        ("heartbeat", policy.heartbeat()),
        ("request timeout", policy.request_timeout()),
        ("retry interval", policy.retry_interval()),
        ("stop grace", policy.stop_grace()),
        ("valid after a heartbeat", policy.validity()),
        ("work told to stop after", told),
        ("outage survived", tolerance.outage),
    ];
    for (name, duration) in rows {
        print(&format!("{name:28}{}", shown(duration)))?;
    }
    print(
        "  where a lock ends with its connection: no cut; about 6s of silence if no session moves",
    )?;
    print("nobody leads, at worst, after")?;
    for (name, duration) in [
        ("  a resignation", gaps.resignation),
        ("  a crash, candidates judge", gaps.observed),
        ("  a crash, the store judges", gaps.expired),
        ("  a crash that is reported", gaps.reported),
    ] {
        print(&format!("{name:28}{}", shown(duration)))?;
    }
    print("  and what the store adds: the policy's page says which line is that of which store")?;
    Ok(0)
}

/// For how long nobody leads, at worst, without the store's own lag.
struct Gaps {
    resignation: Duration,
    /// Each candidate judges by its own observation.
    observed: Duration,
    /// The store ends the lease.
    expired: Duration,
    /// The death of a process is reported.
    reported: Duration,
}

impl Gaps {
    fn of(policy: &Policy) -> Self {
        let request = policy.request_timeout();
        let lease = policy.lease() + policy.lease() * policy.drift_ppm() / 1_000_000;
        Self {
            resignation: policy.stop_grace() + 2 * request,
            observed: lease + 2 * request,
            expired: lease + request,
            reported: request,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole milliseconds: what is left of them says nothing.
fn shown(duration: Duration) -> String {
    format!("{:?}", Duration::from_millis(millis(duration)))
}
