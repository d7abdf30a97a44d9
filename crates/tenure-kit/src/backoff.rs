//! How long to wait before the next attempt.

use std::time::Duration;

/// Waits that grow, at random within bounds, so that a fleet does not come back as one.
///
/// ```
/// # use std::time::Duration;
/// use tenure_kit::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
/// let first = backoff.next(None);
/// assert!(first <= Duration::from_millis(10));
/// assert!(backoff.next(None) > first);
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    /// The last wait of our own choice; the next one is longer.
    last: Duration,
}

impl Backoff {
    /// Begins at up to `shortest`, and stops growing at `longest`.
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            last: Duration::ZERO,
        }
    }

    /// The longest wait there is.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The wait after an attempt that failed: about twice the last one. `asked` is how long the
    /// server asked to wait, if it did. It is kept up to the longest wait: a server can ask for
    /// hours and be well in a second.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let share = 0.75 + fastrand::f64() / 4.0;
        self.last = (self.last * 2)
            .clamp(self.shortest, self.longest)
            .mul_f64(share);
        match asked {
            Some(asked) if asked > self.longest => self.longest.mul_f64(share),
            Some(asked) => self.last.max(asked),
            None => self.last,
        }
    }

    /// The wait after something that lasted has ended: up to the shortest one. A server that
    /// restarts ends the connections of all at once.
    pub fn restart(&mut self) -> Duration {
        self.last = self.shortest.mul_f64(fastrand::f64());
        self.last
    }

    /// Begins at the shortest wait again.
    pub fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn the_waits_grow_up_to_the_longest() {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        for _ in 0..100 {
            let before = backoff.last;
            let next = backoff.next(None);
            assert!(next >= before.mul_f64(1.5).min(LONGEST.mul_f64(0.75)));
            assert!(next <= LONGEST);
        }
        assert!(backoff.restart() <= SHORTEST);
        backoff.reset();
        assert!(backoff.next(None) <= SHORTEST);
    }

    #[test]
    fn a_server_is_given_the_time_it_asks_for_up_to_the_longest() {
        for seconds in [0, 1, 7, 29, 30, 31, 600, u64::MAX] {
            let asked = Duration::from_secs(seconds);
            let mut backoff = Backoff::new(SHORTEST, LONGEST);
            for _ in 0..20 {
                let next = backoff.next(Some(asked));
                let least = asked.min(LONGEST.mul_f64(0.75));
                assert!(next >= least, "{seconds}: {next:?}");
                assert!(next <= LONGEST, "{seconds}: {next:?}");
            }
        }
    }

    #[test]
    fn a_long_wait_that_was_asked_for_is_one() {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        backoff.next(Some(Duration::from_secs(600)));
        assert!(backoff.next(None) <= 4 * SHORTEST);
    }
}
