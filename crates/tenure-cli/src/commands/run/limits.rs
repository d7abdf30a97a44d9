//! Until when the command of a term may work.

use std::time::Duration;

use tenure::{BootClock, Clock as _, Policy, Term, Time};
use tokio::time::Instant;

/// How long before the validity's end the command is killed, at most.
const MAX_MARGIN: Duration = Duration::from_millis(500);

/// What decides how long a command may work.
pub(super) struct Limits {
    pub(super) policy: Policy,
    /// How long it may take to stop when we were told to.
    pub(super) drain_limit: Duration,
}

impl Limits {
    pub(super) fn new(policy: Policy, drain_limit: Duration) -> Self {
        Self {
            policy: with_time_to_tell(policy),
            drain_limit,
        }
    }

    /// Whether the command is told to stop before it is killed.
    pub(super) fn leave_time_to_stop(&self) -> bool {
        self.policy.stop_grace() > margin(&self.policy)
    }

    /// The time left until the command must be killed.
    pub(super) fn time_left(&self, term: &Term) -> Duration {
        term.remaining().saturating_sub(margin(&self.policy))
    }

    /// When the command must be killed. The guard does it then, if we cannot.
    pub(super) fn end(&self, term: &Term) -> Time {
        // The clock is read first, so that this is never too late.
        let now = BootClock.now();
        now + self.time_left(term)
    }
}

/// The command is killed this long before the validity ends, so that it is dead by then.
fn margin(policy: &Policy) -> Duration {
    (policy.stop_grace() / 4).clamp(least_margin(policy), MAX_MARGIN)
}

/// What a kill takes does not depend on how long the command may take to stop, so it is not taken
/// off this when the stop grace is short.
fn least_margin(policy: &Policy) -> Duration {
    (policy.lease() / 100).min(MAX_MARGIN)
}

/// `policy` with a stop grace that does not end before it has begun: the command is killed a
/// [`margin`] before the validity ends, and has to be told to stop before that. A policy so tight
/// that there is no room for it stays as it is: then the command is killed without a word.
fn with_time_to_tell(policy: Policy) -> Policy {
    let least = least_margin(&policy) * 2;
    if policy.stop_grace() >= least {
        return policy;
    }
    let roomy = policy.to_builder().stop_grace(least).build();
    roomy.unwrap_or(policy)
}

/// Returns at that time, or never.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_told_before_it_is_killed_and_killed_before_the_validity_ends() {
        let second = Duration::from_secs(1);
        for lease in [
            second / 10,
            second * 2,
            second * 20,
            second * 600,
            second * 3600,
        ] {
            for grace in [
                Duration::ZERO,
                Duration::from_millis(1),
                lease / 200,
                lease / 100,
                lease / 50,
                lease / 4,
            ] {
                let policy = Policy::builder().lease(lease).stop_grace(grace);
                let policy = with_time_to_tell(policy.build().unwrap());
                let margin = margin(&policy);
                assert!(margin <= policy.stop_grace() / 2, "{policy}: {margin:?}");
                assert!(margin >= (lease / 100).min(MAX_MARGIN), "{policy}");
                assert!(policy.stop_grace() >= grace, "{policy}");
                assert_eq!(policy.lease(), lease);
            }
        }
    }

    #[test]
    fn the_usual_stop_grace_is_left_alone() {
        let long = Policy::builder()
            .lease(Duration::from_secs(600))
            .heartbeat(Duration::from_secs(60))
            .stop_grace(Duration::from_secs(5));
        let long = long.build().unwrap();
        for policy in [Policy::default(), Policy::client_go(), Policy::fast(), long] {
            assert_eq!(with_time_to_tell(policy.clone()), policy);
        }
    }

    #[test]
    fn a_policy_without_room_for_it_is_not_refused() {
        let tight = Policy::builder()
            .lease(Duration::from_secs(2))
            .heartbeat(Duration::from_millis(1650))
            .stop_grace(Duration::from_millis(10));
        let tight = tight.build().unwrap();
        assert_eq!(with_time_to_tell(tight.clone()), tight);
        assert_eq!(margin(&tight), Duration::from_millis(20));
    }
}
