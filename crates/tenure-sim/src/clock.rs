//! Clocks that drift, and timers that fire late.

use std::fmt;
use std::sync::{Arc, Mutex};
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
    /// What another thread does at each look.
    between: Mutex<Option<Preemption>>,
}

type Preemption = Box<dyn FnMut() + Send>;

const MILLION: u128 = 1_000_000;

impl SimClock {
    /// A clock that gains `ppm` microseconds each second.
    pub fn new(world: Arc<World>, offset: Duration, ppm: i64) -> Arc<Self> {
        Arc::new(Self {
            world,
            offset,
            ppm,
            between: Mutex::default(),
        })
    }

    /// From now on `act` is done before each look at this clock, as if another thread did it
    /// there. A look by `act` itself is a plain one.
    pub fn preempt(&self, act: impl FnMut() + Send + 'static) {
        if let Ok(mut between) = self.between.lock() {
            *between = Some(Box::new(act));
        }
    }

    fn let_others_run(&self) {
        let act = self.between.lock().ok().and_then(|mut act| act.take());
        if let Some(mut act) = act {
            act();
            if let Ok(mut between) = self.between.lock() {
                between.get_or_insert(act);
            }
        }
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
        self.let_others_run();
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
