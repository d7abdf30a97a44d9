//! How often one who listens is woken at most.
//!
//! Every user who may write below an election's key can cause a change, and each wake-up costs a look at the
//! store: a flood of changes must not become a flood of calls.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// So many wake-ups come at once, as many hand-overs do that follow each other.
const BURST: u32 = 20;

/// Beyond these, one in this time.
const INTERVAL: Duration = Duration::from_millis(100);

/// The wake-ups of one listener.
pub(super) struct Pace {
    /// When the burst is whole again.
    whole_at: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            whole_at: Instant::now(),
        }
    }

    /// Returns when the next wake-up may come. Changes meanwhile are one with it.
    pub(super) async fn next(&mut self) {
        let now = Instant::now();
        self.whole_at = self.whole_at.max(now) + INTERVAL;
        sleep_until(self.whole_at - INTERVAL * BURST).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_at_once_and_a_flood_in_its_time() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        for _ in 0..BURST {
            pace.next().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for told in 1..=10 {
            pace.next().await;
            assert_eq!(start.elapsed(), INTERVAL * told);
        }
        tokio::time::sleep(INTERVAL * BURST).await;
        let later = Instant::now();
        pace.next().await;
        assert_eq!(later.elapsed(), Duration::ZERO);
    }
}
