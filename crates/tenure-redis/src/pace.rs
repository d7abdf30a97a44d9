//! How often a waiting candidate is told that its lock may be free.
//!
//! Each hint costs a call to the store. Other users of the server may be allowed to publish on a
//! lock's channel, or everyone on its channels: what they send must not become as many calls.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Hints that may follow each other at once: as many as there are, while each is true.
const AT_ONCE: u32 = 50;

/// One more is allowed after this time.
const EVERY: Duration = Duration::from_millis(50);

/// The hints of one candidate.
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

    /// Completes when a hint may be passed on. `changes` is how often the lock has changed hands,
    /// as this process has seen: then the hints before were true.
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
