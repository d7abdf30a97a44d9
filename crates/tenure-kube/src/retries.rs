//! When a client may be made again.

use std::time::{Duration, Instant};

use tenure_kit::Backoff;

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Waits between one client and the next: the last one could not be made, or was refused.
pub(crate) struct Retries {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Retries {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Backoff::new(SHORTEST_WAIT, LONGEST_WAIT),
            not_before: None,
        }
    }

    /// How long to wait with the next client.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        let Some(not_before) = self.not_before else {
            return Duration::ZERO;
        };
        // The last client was of use for a while.
        if now > not_before + LONGEST_WAIT {
            self.backoff.reset();
        }
        not_before.saturating_duration_since(now)
    }

    /// Notes that an attempt has ended, well or not: whether a client is refused is known later.
    pub(crate) fn ended(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_and_begin_anew_after_a_quiet_while() {
        let (mut retries, mut now) = (Retries::new(), Instant::now());
        assert_eq!(retries.wait(now), Duration::ZERO);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            retries.ended(now);
            let wait = retries.wait(now);
            assert!(wait >= last.mul_f64(1.4).min(LONGEST_WAIT.mul_f64(0.7)));
            assert!(wait <= LONGEST_WAIT);
            (last, now) = (wait, now + wait);
        }
        now += 2 * LONGEST_WAIT;
        assert_eq!(retries.wait(now), Duration::ZERO);
        retries.ended(now);
        assert!(retries.wait(now) <= SHORTEST_WAIT);
    }
}
