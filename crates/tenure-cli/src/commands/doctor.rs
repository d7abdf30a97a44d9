//! `tenure doctor`: whether a store is fit to hold a lock, and what to do where it is not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenure::{
    Capabilities, Check, Error, ErrorKind, LockBackend, LockName, Operation, Policy, Registry,
    Rises, Verdict,
};

use crate::failure::{Failure, exit};
use crate::options::{self, DoctorArgs};
use crate::output::{harmless_line, print};

/// The lock that is looked at when none is named.
const ANY_LOCK: &str = "tenure-doctor";

/// How long all that a backend looks at may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How often the store is asked who leads, to see how long it takes.
const LOOKS: u32 = 5;

pub(crate) fn doctor(args: &DoctorArgs, registry: &Registry) -> Result<u8, Failure> {
    let lock = options::lock(args.lock.as_deref().unwrap_or(ANY_LOCK))?;
    let policy = options::policy(&args.policy)?;
    let url = args.backend.url()?;
    let checks = options::runtime()?.block_on(examine(registry, &url, &lock, &policy));
    let verdict = checks.iter().map(|check| check.verdict).max();
    let verdict = verdict.unwrap_or(Verdict::Fine);
    if args.json {
        let told = json!({
            "lock": lock.as_str(),
            "verdict": verdict.name(),
            "checks": checks.iter().map(as_json).collect::<Vec<_>>(),
        });
        print(&told.to_string())?;
    } else {
        for check in &checks {
            print(&as_text(check))?;
        }
        print(&summary(&checks, verdict))?;
    }
    Ok(match verdict {
        Verdict::Fine => 0,
        Verdict::Warning => exit::WARNINGS,
        _ => exit::ERROR,
    })
}

async fn examine(registry: &Registry, url: &str, lock: &LockName, policy: &Policy) -> Vec<Check> {
    let backend = match registry.connect_to_look(url).await {
        Ok(backend) => backend,
        Err(error) => return vec![failed("connection", &error)],
    };
    let capabilities = backend.capabilities();
    let store = capabilities.store;
    let mut checks = vec![
        Check::fine("connection", format!("connected to the store {store}")),
        latency(&*backend, lock, policy).await,
        granted(policy, &capabilities),
        fencing(&capabilities),
    ];
    let looking = backend.checks(lock, policy.lease());
    match tokio::time::timeout(LIMIT, looking).await {
        Ok(more) if more.is_empty() => checks.push(nothing_checked(store)),
        Ok(more) => checks.extend(more),
        Err(_) => checks.push(failed(
            "settings",
            &Error::timeout(Operation::Connect, LIMIT),
        )),
    }
    checks
}

/// What was not looked at is not fine.
fn nothing_checked(store: &str) -> Check {
    Check::warning(
        "settings",
        format!(
            "the backend of the store {store} checks nothing: no setting, version or permission"
        ),
        "check them by hand; the backend's author can add LockBackend::checks",
    )
}

/// The message says already what is wrong with what; this says whom to turn to.
fn failed(name: &'static str, error: &Error) -> Check {
    let remedy = match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled { .. } => {
            "see whether the store runs, whether the URL names it, and whether a firewall is in \
             between"
        }
        ErrorKind::Forbidden => "fix the user, the password or the permissions",
        _ => "fix what the reason names",
    };
    Check::unusable(name, error.message(), remedy)
}

/// How long a call takes, beside what the policy allows it.
async fn latency(backend: &dyn LockBackend, lock: &LockName, policy: &Policy) -> Check {
    const NAME: &str = "latency";
    let limit = policy.request_timeout();
    let mut slowest = Duration::ZERO;
    for _ in 0..LOOKS {
        let start = Instant::now();
        match tokio::time::timeout(limit, backend.holder(lock)).await {
            Ok(Ok(_)) => slowest = slowest.max(start.elapsed()),
            Ok(Err(error)) => return failed(NAME, &error),
            Err(_) => return failed(NAME, &Error::timeout(Operation::Holder, limit)),
        }
    }
    let reason = format!("the slowest of {LOOKS} looks took {slowest:.1?}, of {limit:?} allowed");
    if slowest * 4 > limit {
        return Check::warning(
            NAME,
            reason,
            "choose a longer lease, or bring the store nearer: a busy hour could end a term",
        );
    }
    Check::fine(NAME, reason)
}

fn granted(policy: &Policy, capabilities: &Capabilities) -> Check {
    const NAME: &str = "policy";
    let (lease, heartbeat) = (policy.lease(), policy.heartbeat());
    match policy.check_for(capabilities) {
        Ok(()) => Check::fine(
            NAME,
            format!(
                "the store can grant a lease of {lease:?} with a heartbeat every {heartbeat:?}"
            ),
        ),
        Err(error) => Check::unusable(NAME, error.message(), "choose it by --lease or --policy"),
    }
}

fn fencing(capabilities: &Capabilities) -> Check {
    const NAME: &str = "fencing";
    let fencing = capabilities.fencing;
    let events = [
        ("a crash of the store", fencing.over_crash),
        ("a failover of the store", fencing.over_failover),
        ("a deletion of the lock", fencing.over_deletion),
        ("a restore from a backup", fencing.over_restore),
    ];
    let mut exceptions = events.iter().filter_map(|(event, rises)| match rises {
        Rises::If(condition) => Some(format!("over {event} only if {condition}")),
        Rises::Never => Some(format!("not over {event}")),
        _ => None,
    });
    let Some(first) = exceptions.next() else {
        return Check::fine(NAME, "tokens rise over whatever happens to the store");
    };
    let reason = exceptions.fold(format!("tokens rise, but {first}"), |text, exception| {
        format!("{text}; {exception}")
    });
    Check::fine(NAME, reason)
}

fn as_json(check: &Check) -> Value {
    json!({
        "name": check.name,
        "verdict": check.verdict.name(),
        "reason": tenure::redact(&check.reason),
        "remedy": check.remedy.as_deref().map(tenure::redact),
    })
}

/// What stores have said is escaped: a terminal must not obey it.
fn as_text(check: &Check) -> String {
    let shown = |text: &str| harmless_line(&tenure::redact(text));
    let (verdict, name) = (check.verdict, check.name);
    let line = format!("{verdict:<9} {name:<21} {}", shown(&check.reason));
    match &check.remedy {
        Some(remedy) => format!("{line}\n{:<31} -> {}", "", shown(remedy)),
        None => line,
    }
}

fn summary(checks: &[Check], verdict: Verdict) -> String {
    let count = |of| checks.iter().filter(|check| check.verdict == of).count();
    let (warnings, unusable) = (count(Verdict::Warning), count(Verdict::Unusable));
    match verdict {
        Verdict::Fine => "all is fine".to_owned(),
        Verdict::Warning => format!("usable, with {warnings} to look at"),
        _ => format!("not usable: {unusable} to fix, {warnings} to look at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_has_said_cannot_reach_the_terminal() {
        let check = Check::unusable("settings", "\u{1b}[31m\nx", "do\u{7}");
        let text = as_text(&check);
        assert_eq!(
            text.chars().filter(|c| c.is_control()).count(),
            1,
            "{text:?}"
        );
        assert!(!as_json(&check).to_string().chars().any(char::is_control));
    }

    #[test]
    fn no_password_is_told_in_either_form() {
        let url = "redis://app:hunter2@h";
        let check = Check::unusable("connection", format!("no answer from {url}"), url);
        for told in [as_text(&check), as_json(&check).to_string()] {
            assert!(told.contains("@h") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_slow_store_and_a_lease_that_cannot_be_granted_are_told() {
        let policy = Policy::default();
        let coarse = tenure::MemoryBackend::private().capabilities();
        let coarse = coarse.with_min_lease(Duration::from_secs(60));
        assert_eq!(granted(&policy, &coarse).verdict, Verdict::Unusable);
        assert!(fencing(&coarse).reason.contains("not over a crash"));
    }
}
