//! Clocks that drift, and timers that fire late.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Clock, Time};

use super::Moment;
use super::world::World;

/// The clock of one host: an offset and a constant drift against true time.
pub struct SimClock {
    world: Arc<World>,
    offset: Duration,
    ppm: i64,
}

const MILLION: u128 = 1_000_000;

impl SimClock {
    /// A clock that gains `ppm` microseconds each second.
    pub fn new(world: Arc<World>, offset: Duration, ppm: i64) -> Arc<Self> {
        Arc::new(Self { world, offset, ppm })
    }

    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + self.ppm).unwrap_or(MILLION)
    }

    /// What this clock shows at a true time.
    pub fn at(&self, moment: Moment) -> Time {
        let run = moment.as_nanos() * self.rate() / MILLION;
        Time::ZERO + self.offset + nanos(run)
    }

    /// How much true time passes while this clock advances by `duration`, rounded up.
    pub fn true_time(&self, duration: Duration) -> Duration {
        nanos((duration.as_nanos() * MILLION).div_ceil(self.rate()))
    }

    /// Waits for `duration` on this clock.
    pub async fn pause(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Time {
        self.at(self.world.step())
    }

    async fn sleep_until(&self, deadline: Time) {
        loop {
            let now = self.now();
            if now >= deadline {
                return;
            }
            let wait = self.true_time(deadline.since(now));
            tokio::time::sleep(wait + self.world.timer_delay()).await;
        }
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimClock")
            .field("ppm", &self.ppm)
            .finish_non_exhaustive()
    }
}
