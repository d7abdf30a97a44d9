//! Clocks that drift, and timers that fire late.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Clock, Time};

use super::Moment;
use super::drift::Drift;
use super::world::World;

/// The clock of one host: an offset and a constant drift against true time.
pub struct SimClock {
    world: Arc<World>,
    offset: Duration,
    /// How fast it runs.
    pub drift: Drift,
    /// What another thread does at each look.
    between: Mutex<Option<Preemption>>,
}

type Preemption = Box<dyn FnMut() + Send>;

impl SimClock {
    /// A clock that gains `ppm` microseconds each second.
    pub fn new(world: Arc<World>, offset: Duration, ppm: i64) -> Arc<Self> {
        Arc::new(Self {
            world,
            offset,
            drift: Drift { ppm },
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

    /// What this clock shows at a true time.
    pub fn at(&self, moment: Moment) -> Time {
        Time::ZERO + self.offset + self.drift.shown(moment)
    }

    /// Waits for `duration` on this clock.
    pub async fn pause(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }
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
            let wait = self.drift.true_time(deadline.since(now));
            tokio::time::sleep(wait + self.world.timer_delay()).await;
        }
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimClock")
            .field("drift", &self.drift)
            .finish_non_exhaustive()
    }
}
