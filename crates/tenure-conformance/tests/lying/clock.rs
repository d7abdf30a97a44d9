//! tokio's clock, which tests can pause.

use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Clock, Time};
use tokio::time::Instant;

/// How long lying targets let anything take; on paused time this passes at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Stands still for one lie.
#[derive(Debug)]
pub(crate) struct TokioClock {
    start: Instant,
    stands: bool,
}

impl TokioClock {
    pub(crate) fn new(stands: bool) -> Self {
        Self {
            start: Instant::now(),
            stands,
        }
    }
}

#[async_trait]
impl Clock for TokioClock {
    fn now(&self) -> Time {
        // A while past the start, so that "a minute ago" exists.
        let begin = Time::ZERO + Duration::from_secs(3600);
        if self.stands {
            return begin;
        }
        begin + self.start.elapsed()
    }
}
