//! Bad weather, and in calm weather the scripted scenes whose outcome must be exact.

mod hand_overs;
mod troubles;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure_core::{FencingToken, Observation, Observer, Wakeup};
use tokio::time::sleep;

use crate::Moment;
use crate::candidate::LONGEST_OVERRUN;
use crate::faults::SLOWEST;
use crate::fleet::Fleet;
use crate::history::{Event, Fault};
use crate::plan::Family;
use crate::world::{Leading, World};

/// Lets things happen to a fleet.
#[derive(Debug)]
pub struct Director {
    fleet: Arc<Fleet>,
    world: Arc<World>,
    /// The token the observer has seen last.
    observed: Arc<AtomicU64>,
}

const SECOND: Duration = Duration::from_secs(1);

/// A pause that no store asks for in its right mind.
const ABSURD: Duration = Duration::from_secs(600);

/// What a round trip takes in calm weather, with room for a lost race.
const CALM_TRIP: Duration = Duration::from_millis(200);

impl Director {
    /// A director of `fleet`.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            world: fleet.world.clone(),
            fleet,
            observed: Arc::default(),
        }
    }

    /// The whole play.
    pub async fn direct(&self) {
        self.observe();
        drop(tokio::spawn(look_now_and_then(self.world.clone())));
        let length = self.world.plan.length;
        while self.world.now() < length {
            let storm = self.world.between(30 * SECOND, 300 * SECOND);
            self.storm(storm).await;
            self.calm().await;
            if self.world.now() >= length {
                break;
            }
            let scenes = self.world.rng().u32(2..7);
            for _ in 0..scenes {
                self.scene().await;
            }
            self.world.record(Event::Calm(false));
        }
        self.finish().await;
    }

    fn observe(&self) {
        let (world, fleet) = (&self.world, &self.fleet);
        let backend = fleet.onlooker();
        let watching = Observer::new(backend, world.lock.clone(), fleet.policy(0));
        let (world, observed) = (world.clone(), self.observed.clone());
        drop(tokio::spawn(async move {
            let mut seen = watching.watch();
            while let Some(observation) = seen.next().await {
                let (led, token) = match observation {
                    Observation::Led { token, .. } => (true, token.map(FencingToken::as_u64)),
                    _ => (false, None),
                };
                observed.store(token.unwrap_or(0), Ordering::Relaxed);
                world.record(Event::Observed { token, led });
            }
        }));
    }

    /// Bad weather for so long.
    async fn storm(&self, lasts: Duration) {
        let until = self.world.now() + lasts;
        self.world.faults().stormy = true;
        while self.world.now() < until {
            self.blow();
            let pause = self.world.between(SECOND / 2, 20 * SECOND);
            sleep(pause).await;
            for process in self.fleet.processes() {
                if self.world.chance(40) {
                    self.fleet.restart(process.candidate);
                }
            }
        }
    }

    /// One fault, or a bundle.
    fn blow(&self) {
        let (world, fleet) = (&self.world, &self.fleet);
        let now = world.now();
        let leader = world.leader().map(|leader| leader.candidate);
        let anybody = world.rng().usize(0..fleet.len());
        // Half of all blows meet the leader, who has the most to lose.
        let whom = leader.filter(|_| world.chance(50)).unwrap_or(anybody);
        let lease = fleet.policy(whom).lease();
        let lasts = world.between(SECOND / 2, 2 * lease);
        let blow = world.rng().u8(0..27);
        match blow {
            0..4 => {
                let direction = world.rng().u8(0..3);
                let (requests, replies) = match direction {
                    0 => (true, true),
                    1 => (true, false),
                    _ => (false, true),
                };
                let mut faults = world.faults();
                if requests && let Some(until) = faults.requests_cut_until.get_mut(whom) {
                    *until = now + lasts;
                }
                if replies && let Some(until) = faults.replies_cut_until.get_mut(whom) {
                    *until = now + lasts;
                }
                drop(faults);
                world.fault(Fault::Partition {
                    candidate: whom,
                    requests,
                    replies,
                    lasts,
                });
            }
            4..7 => self.freeze(whom, lasts),
            7..9 => fleet.crash(whom),
            9..12 => {
                world.faults().slow_until = now + lasts;
                world.fault(Fault::Slow { lasts });
            }
            12 => {
                world.faults().outage_until = now + lasts;
                world.fault(Fault::Outage { lasts });
            }
            13 => {
                world.faults().down_until = now + lasts;
                world.fault(Fault::Down { lasts });
            }
            14 => {
                world.faults().throttled_until = now + lasts;
                world.fault(Fault::Throttled { lasts });
            }
            15 => self.make_unwell(whom, lasts),
            16 => {
                if world.plan.amnesia && world.chance(50) {
                    fleet.lose_state();
                } else {
                    fleet.delete();
                }
            }
            17 | 18 => {
                self.resign(whom);
            }
            19 => self.shut_down(whom, None),
            20 => fleet.poke(anybody),
            23 => fleet.touch(),
            24 => {
                let lasts = lasts.min(10 * SECOND);
                world.faults().denied_until = now + lasts;
                world.fault(Fault::Denied { lasts });
            }
            25 => {
                let percent = world.rng().u32(30..100);
                let mut faults = world.faults();
                faults.stingy_until = [now + lasts; 2];
                faults.stingy_percent = percent;
                drop(faults);
                let store = 0;
                world.fault(Fault::Stingy {
                    store,
                    percent,
                    lasts,
                });
            }
            26 => {
                // A store that asks for a pause beyond all reason.
                let lasts = lasts.min(5 * SECOND);
                let mut faults = world.faults();
                faults.throttled_until = now + lasts;
                faults.asks_for = Some(ABSURD);
                drop(faults);
                world.fault(Fault::Throttled { lasts });
            }
            // The combination that a deadline from the reply's time does not survive: slow
            // answers, then nothing.
            _ => {
                let mut faults = world.faults();
                faults.slow_until = now + 2 * lease;
                drop(faults);
                world.fault(Fault::Slow { lasts: 2 * lease });
                self.freeze(whom, lasts.min(3 * SECOND));
            }
        }
    }

    fn freeze(&self, whom: usize, lasts: Duration) {
        if let Some(process) = self.fleet.process(whom) {
            self.world.fault(Fault::Freeze {
                candidate: whom,
                lasts,
            });
            process.freeze();
            drop(tokio::spawn(async move {
                sleep(lasts).await;
                process.thaw();
            }));
        }
    }

    fn make_unwell(&self, whom: usize, lasts: Duration) {
        if let Some(process) = self.fleet.process(whom) {
            self.world.fault(Fault::Unwell {
                candidate: whom,
                lasts,
            });
            process.make_unwell(lasts);
        }
    }

    /// Tells an application to shut down; its work goes on for so long.
    fn shut_down(&self, whom: usize, stop: Option<(Duration, bool)>) {
        if let Some(process) = self.fleet.process(whom) {
            self.world.fault(Fault::Shutdown { candidate: whom });
            if let Ok(mut asked) = process.stop.lock() {
                *asked = stop;
            }
            process.shutdown.send_replace(true);
            // Also a term that its user has got hold of just now.
            if let Some((term, _)) = self.world.latest(whom, process.life) {
                self.world.record(Event::Provoked(term));
            }
        }
    }

    /// Ends all faults and waits until everything must be well again.
    async fn calm(&self) {
        let (world, fleet) = (&self.world, &self.fleet);
        world.end_faults(fleet.len());
        for process in fleet.processes() {
            process.thaw();
            process.make_unwell(Duration::ZERO);
        }
        world.record(Event::Calm(true));
        self.settle(self.settling_time()).await;
    }

    /// Messages and repetitions still on their way; work that goes on; a lease seen late once and
    /// waited for once.
    fn settling_time(&self) -> Duration {
        let drains = self.world.plan.candidates.iter().map(|c| c.drain_limit);
        2 * SLOWEST
            + LONGEST_OVERRUN
            + drains.max().unwrap_or_default()
            + self.world.plan.longest_lease() * 5 / 2
            + 10 * SECOND
    }

    /// Starts again whoever has left, meanwhile.
    async fn settle(&self, time: Duration) {
        let until = self.world.now() + time;
        while self.world.now() < until {
            for candidate in 0..self.fleet.len() {
                self.fleet.restart(candidate);
            }
            sleep(SECOND).await;
        }
        let leader = self.world.leader();
        let token = leader.as_ref().map(|leader| leader.term.token().as_u64());
        self.world.record(Event::Settled {
            led: leader.is_some(),
            // An observer that is not told looks now and then.
            observed: time < self.settling_time()
                || token.is_none_or(|token| token == self.observed.load(Ordering::Relaxed)),
        });
    }

    /// How soon a candidate looks after the lock has become free.
    fn wake(&self) -> Duration {
        let plan = &self.world.plan;
        if plan.wakeup == Wakeup::Poll || plan.hints_end {
            plan.longest(tenure_core::Policy::retry_interval)
        } else {
            Duration::ZERO
        }
    }

    /// One scene in calm weather.
    async fn scene(&self) {
        // At any point of the heartbeat's rhythm.
        sleep(self.world.between(Duration::ZERO, 15 * SECOND)).await;
        let Some(leader) = self.world.leader() else {
            self.world.record(Event::Settled {
                led: false,
                observed: true,
            });
            return;
        };
        let scene = self.world.rng().u8(0..22);
        match scene {
            0 | 1 => self.resignation(&leader).await,
            2 | 3 => self.crash(&leader).await,
            4 => self.short_outage(&leader).await,
            5 => self.long_outage(&leader).await,
            6 => self.drain(&leader, false).await,
            7 => self.drain(&leader, true).await,
            8 => self.deletion(&leader).await,
            9 => self.withdrawal(&leader).await,
            10 => self.release_again(&leader).await,
            11 => self.crash_throttled(&leader).await,
            12 => self.hint_in_a_pause(&leader).await,
            13 => self.throttled(&leader).await,
            14 => self.observer_throttled(&leader).await,
            15 => self.unwell_at_the_grant(&leader).await,
            16 => self.lost_grant(&leader).await,
            17 => self.slow_store(&leader).await,
            18 | 19 => self.of_the_store(&leader, false).await,
            _ => self.of_the_store(&leader, true).await,
        }
    }

    /// Scenes that only some stores can play.
    async fn of_the_store(&self, leader: &Leading, other: bool) {
        let plan = &self.world.plan;
        match (plan.family, other) {
            (Family::Session, false) => self.dead_waiter(leader).await,
            (Family::Session, true) => self.unwell_waiter(leader).await,
            (Family::Records, false) if plan.repeats => self.repeated_version(leader).await,
            (Family::Records, true) if plan.repeats => self.told_long_ago(leader).await,
            (Family::Records, true) if self.world.chance(50) => self.crash_annotated(leader).await,
            (Family::Records, _) => self.foreign_write(leader, other).await,
            (Family::Ttl, _) => self.deletion(leader).await,
        }
    }

    /// From now on somebody must lead within `bound`, and within the other of the lock's release.
    fn vacant(&self, how: &'static str, bound: Duration, after_release: Duration) {
        self.world.record(Event::Vacant {
            how,
            bound,
            after_release,
        });
    }

    /// The term must have survived `what`.
    fn must_stand(&self, leader: &Leading, what: &'static str) {
        self.world.record(Event::MustStand {
            term: leader.id,
            what,
            stands: leader.term.is_valid() && !leader.term.is_cancelled(),
        });
    }

    fn provoke(&self, leader: &Leading) {
        self.world.record(Event::Provoked(leader.id));
    }

    /// Asks the work of a candidate to return.
    fn resign(&self, candidate: usize) {
        self.world.fault(Fault::Resign { candidate });
        if let Some(process) = self.fleet.process(candidate) {
            process.resign();
        }
    }

    fn longest_retry(&self) -> Duration {
        let retry = self.world.plan.longest(tenure_core::Policy::retry_interval);
        retry + retry / 500
    }

    /// Everybody leaves in good order.
    async fn finish(&self) {
        if let Some(leader) = self.world.leader() {
            self.provoke(&leader);
        }
        self.world.record(Event::Calm(false));
        for candidate in 0..self.fleet.len() {
            self.shut_down(candidate, None);
        }
        let deadline: Moment = self.world.now() + self.settling_time();
        while self.world.now() < deadline && self.left_over() > 0 {
            sleep(SECOND).await;
        }
        self.world.record(Event::Over {
            working: self.world.working(),
            running: self.left_over(),
            held: !self.fleet.owners().is_empty(),
        });
    }

    fn left_over(&self) -> usize {
        self.fleet.processes().iter().map(|p| p.running()).sum()
    }
}

async fn look_now_and_then(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        world.look();
    }
}
