//! How often a waiting candidate is told that its lock may be free, and when it comes back to a
//! server that it has lost.
//!
//! Each notification costs a call to the store. Other users of the server may be allowed to publish
//! on a lock's channel, or everyone on its channels: what they send must not become as many calls.

use std::time::Duration;

use tenure_kit::Backoff;
use tokio::time::{Instant, sleep_until};

/// Notifications that may follow each other at once: as many as there are, while each is true.
const AT_ONCE: u32 = 50;

/// One more is allowed after this time.
const EVERY: Duration = Duration::from_millis(50);

/// A process that only waits comes back within this time.
const SPREAD: Duration = Duration::from_secs(1);

/// How long to wait before a lost connection for subscriptions is made again. `was_open` says that
/// releases were heard of on it.
///
/// A server that restarts ends the connections of a whole fleet at once, and each process that
/// comes back makes its candidates look. So those that only wait come back at random. One that may
/// lead does not wait.
pub(crate) fn before_return(was_open: bool, may_lead: bool, backoff: &mut Backoff) -> Duration {
    if was_open && !may_lead {
        return SPREAD.mul_f64(fastrand::f64());
    }
    backoff.next(None)
}

/// The notifications of one candidate.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    /// When the last one was allowed.
    allowed_at: Instant,
    /// How often the lock had changed hands when this was last full.
    changes: u64,
}

impl Pace {
    pub(crate) fn new(changes: u64) -> Self {
        Self {
            left: AT_ONCE,
            allowed_at: Instant::now(),
            changes,
        }
    }

    /// Completes when a notification may be passed on. `changes` is how often the lock has changed
    /// hands, as this process has seen: then the notifications before were true.
    pub(crate) async fn allow(&mut self, changes: u64) {
        if changes != self.changes {
            *self = Self::new(changes);
        }
        let elapsed = self.allowed_at.elapsed().as_millis() / EVERY.as_millis();
        let more = u32::try_from(elapsed).unwrap_or(AT_ONCE);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(AT_ONCE);
            self.allowed_at = Instant::now();
        }
        if self.left == 0 {
            self.allowed_at += EVERY;
            sleep_until(self.allowed_at).await;
            return;
        }
        self.left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_waits_comes_back_spread_over_time() {
        let longest = Duration::from_millis(20);
        let wait = |was_open, may_lead| {
            let mut backoff = Backoff::new(longest, longest);
            before_return(was_open, may_lead, &mut backoff)
        };
        let waits: Vec<Duration> = (0..200).map(|_| wait(true, false)).collect();
        assert!(waits.iter().all(|wait| *wait <= SPREAD));
        assert!(waits.iter().any(|wait| *wait < SPREAD / 4));
        assert!(waits.iter().any(|wait| *wait > SPREAD / 4 * 3));
        for (was_open, may_lead) in [(true, true), (false, false), (false, true)] {
            assert!(wait(was_open, may_lead) <= longest);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hints_that_come_to_nothing_are_passed_on_ever_more_slowly() {
        let start = Instant::now();
        let mut pace = Pace::new(0);
        for _ in 0..AT_ONCE {
            pace.allow(0).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            pace.allow(0).await;
        }
        assert_eq!(start.elapsed(), EVERY * 20);
        // They were true.
        let start = Instant::now();
        for changes in 1..1000 {
            pace.allow(changes).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
