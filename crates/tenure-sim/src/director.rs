//! Bad weather, and in calm weather the scripted scenes whose outcome must be exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tenure_core::{FencingToken, Observation, Observer, Wakeup};
use tokio::time::sleep;

use super::Moment;
use super::candidate::LONGEST_OVERRUN;
use super::faults::SLOWEST;
use super::fleet::Fleet;
use super::history::{Event, Fault};
use super::plan::{Family, Knowledge};
use super::world::{Leading, World};

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
        let scene = self.world.rng().u8(0..21);
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
            17 | 18 => self.of_the_store(&leader, false).await,
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
            (Family::Records, _) => self.foreign_write(leader, other).await,
            (Family::Ttl, _) => self.deletion(leader).await,
        }
    }

    fn provoke(&self, leader: &Leading) {
        self.world.record(Event::Provoked(leader.id));
    }

    /// Graceful: wake-up latency and two requests.
    async fn resignation(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        if self.world.chance(50) {
            // Their requests and the release cross each other: the answers are older than the
            // hint that follows.
            for waiting in 0..self.fleet.len() {
                self.fleet.poke(waiting);
            }
            sleep(
                self.world
                    .between(Duration::ZERO, Duration::from_millis(15)),
            )
            .await;
        }
        self.resign(candidate);
        let grace = self.fleet.policy(candidate).stop_grace();
        let bound = grace + self.wake() + CALM_TRIP * 2;
        self.world.record(Event::Vacant {
            how: "a resignation",
            bound,
            after_release: bound.saturating_sub(grace),
        });
        self.settle(bound + SECOND).await;
    }

    /// Crash: the lease on a slow clock, the store's sweep, wake-up latency and two requests.
    async fn crash(&self, leader: &Leading) {
        self.provoke(leader);
        let lease = self.fleet.policy(leader.candidate).lease();
        self.fleet.crash(leader.candidate);
        let bound = if self.world.plan.knowledge == Knowledge::Death {
            // The store knows, and tells.
            self.wake() + CALM_TRIP * 2
        } else {
            lease + lease / 1_000 + self.fleet.lag() + self.wake() + CALM_TRIP * 2
        };
        self.world.record(Event::Vacant {
            how: "a crash",
            bound,
            after_release: bound,
        });
        sleep(bound).await;
        self.settle(3 * SECOND).await;
    }

    /// What the policy says it survives.
    async fn short_outage(&self, leader: &Leading) {
        let policy = self.fleet.policy(leader.candidate);
        let outage = policy.tolerance().outage.saturating_sub(CALM_TRIP);
        if outage.is_zero() {
            return;
        }
        self.world.faults().outage_until = self.world.now() + outage;
        self.world.fault(Fault::Outage { lasts: outage });
        sleep(outage + policy.lease()).await;
        self.world.record(Event::MustStand {
            term: leader.id,
            what: "an outage that the policy tolerates",
            stands: leader.term.is_valid() && !leader.term.is_cancelled(),
        });
        self.settle(self.settling_time()).await;
    }

    /// What no policy survives: the work is told in time, and all is well afterwards.
    async fn long_outage(&self, leader: &Leading) {
        self.provoke(leader);
        let outage = self.fleet.policy(leader.candidate).lease() * 2;
        self.world.faults().outage_until = self.world.now() + outage;
        self.world.fault(Fault::Outage { lasts: outage });
        sleep(outage).await;
        self.settle(self.settling_time()).await;
    }

    /// On shutdown the term is kept up for the work, up to a limit.
    async fn drain(&self, leader: &Leading, beyond: bool) {
        let limit = self.world.plan.candidates.get(leader.candidate);
        let limit = limit.map_or(Duration::ZERO, |plan| plan.drain_limit);
        let policy = self.fleet.policy(leader.candidate);
        self.provoke(leader);
        let stop = if beyond {
            limit + policy.lease() * 2
        } else {
            limit.saturating_sub(policy.stop_grace() + 2 * SECOND)
        };
        self.shut_down(leader.candidate, Some((stop, !beyond)));
        if !beyond {
            self.world.record(Event::Vacant {
                how: "a drain",
                bound: policy.stop_grace() + stop + stop / 1_000 + self.wake() + CALM_TRIP * 2,
                after_release: self.wake() + CALM_TRIP * 2,
            });
        }
        let over = self.world.now() + policy.stop_grace() + stop;
        if beyond && self.world.chance(50) {
            // A host that is stopped over the end of the drain limit, and wakes while its term
            // is still valid.
            let lease = policy.lease();
            sleep(limit.saturating_sub(lease / 3)).await;
            self.freeze(leader.candidate, lease / 2);
        }
        sleep(over.saturating_sub(self.world.now())).await;
        self.settle(self.settling_time()).await;
    }

    /// Hazard 16: noticed with the next heartbeat.
    async fn deletion(&self, leader: &Leading) {
        self.provoke(leader);
        let policy = self.fleet.policy(leader.candidate);
        let proof_age = match self.world.plan.family {
            // A heartbeat may be answered by a proof of the last half heartbeat.
            Family::Session => policy.heartbeat() / 2,
            Family::Records | Family::Ttl => Duration::ZERO,
        };
        let beat = policy.heartbeat() + proof_age;
        let bound = if self.world.plan.tells_of_loss {
            CALM_TRIP
        } else {
            beat + beat / 500 + CALM_TRIP
        };
        if self.world.chance(50) {
            // Nobody takes the lock meanwhile, so that a heartbeat finds none at all.
            let under_way = CALM_TRIP / 4;
            let until = self.world.now() + under_way + bound;
            {
                let mut faults = self.world.faults();
                for (candidate, cut) in faults.requests_cut_until.iter_mut().enumerate() {
                    if candidate != leader.candidate {
                        *cut = until;
                    }
                }
            }
            sleep(under_way).await;
        }
        self.fleet.delete();
        self.world.record(Event::MustNotice {
            term: leader.id,
            bound,
        });
        sleep(bound + policy.lease()).await;
        self.settle(self.settling_time()).await;
    }

    /// The store does not serve when the lock is given back, but soon after.
    async fn release_again(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        let lasts = SECOND / 4;
        self.world.faults().down_until = self.world.now() + lasts;
        self.world.fault(Fault::Down { lasts });
        self.resign(candidate);
        // Each of them tries again a retry interval after it was refused.
        let retry = self.longest_retry();
        let grace = self.fleet.policy(candidate).stop_grace();
        let bound = grace + lasts + retry * 2 + self.wake() + CALM_TRIP * 2;
        self.world.record(Event::Vacant {
            how: "a release that was refused once",
            bound,
            after_release: retry + self.wake() + CALM_TRIP * 2,
        });
        self.settle(bound + SECOND).await;
    }

    /// The store grants the lock and its answer is lost: the candidate asks again a retry interval
    /// after its request timeout, though it hears meanwhile that the lock is held.
    async fn lost_grant(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        let before = self.fleet.owners().first().copied();
        let plan = &self.world.plan;
        let grace = self.fleet.policy(candidate).stop_grace();
        let timeout = plan.longest(tenure_core::Policy::request_timeout);
        let asks_again = timeout + timeout / 500 + self.longest_retry();
        let after_release = self.wake() + asks_again + CALM_TRIP * 2;
        self.resign(candidate);
        self.world.record(Event::Vacant {
            how: "a grant whose answer was lost",
            bound: grace + after_release,
            after_release,
        });
        let patience = self.world.now() + grace + self.wake() + CALM_TRIP;
        while self.world.now() < patience {
            sleep(Duration::from_millis(1)).await;
            let granted = self.fleet.owners().first().copied();
            if granted.is_some() && granted != before {
                break;
            }
        }
        if let Some((winner, _)) = self.fleet.owners().first().copied() {
            let lost_until = self.world.now() + CALM_TRIP / 2;
            if let Some(until) = self.world.faults().replies_cut_until.get_mut(winner) {
                *until = lost_until;
            }
            let timeout = self.fleet.policy(winner).request_timeout();
            sleep(timeout + timeout / 500 + Duration::from_millis(5)).await;
            for _ in 0..3 {
                self.fleet.touch();
                sleep(Duration::from_millis(15)).await;
            }
        }
        sleep(after_release).await;
        self.settle(self.settling_time()).await;
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

    /// For so long the store asks everybody for a pause beyond all reason.
    fn throttle(&self, lasts: Duration) {
        let mut faults = self.world.faults();
        faults.throttled_until = self.world.now() + lasts;
        faults.asks_for = Some(ABSURD);
        drop(faults);
        self.world.fault(Fault::Throttled { lasts });
    }

    /// The leader has died, and the store asks for absurd pauses when its lease ends.
    async fn crash_throttled(&self, leader: &Leading) {
        if self.world.plan.knowledge == Knowledge::Death {
            // There the lock is taken before its lease ends.
            return self.crash(leader).await;
        }
        self.provoke(leader);
        let lease = self.fleet.policy(leader.candidate).lease();
        self.fleet.crash(leader.candidate);
        let heartbeat = self.fleet.policy(leader.candidate).heartbeat();
        let longest = self.world.plan.longest(tenure_core::Policy::heartbeat);
        let soonest = lease.saturating_sub(heartbeat + SECOND);
        let late = self.longest_retry() + self.fleet.lag() + CALM_TRIP * 2;
        let bound = if self.world.chance(50) {
            // Over the whole time in which the lease can end.
            sleep(soonest).await;
            let lasts = heartbeat + 2 * SECOND;
            self.throttle(lasts);
            lasts + longest + late
        } else {
            // Shortly before.
            sleep(soonest.saturating_sub(SECOND)).await;
            self.throttle(SECOND / 4);
            for waiting in 0..self.fleet.len() {
                self.fleet.poke(waiting);
            }
            // A queue does not say when the lock can be free, so its pauses last a heartbeat.
            let pause = match self.world.plan.family {
                Family::Session => longest,
                Family::Records | Family::Ttl => Duration::ZERO,
            };
            lease.saturating_sub(soonest) + SECOND * 2 + pause + late
        };
        self.world.record(Event::Vacant {
            how: "a crash while the store asked for long pauses",
            bound,
            after_release: bound,
        });
        sleep(bound).await;
        self.settle(self.settling_time()).await;
    }

    /// Candidates were asked for a pause, and then the lock is given back: the hint ends it.
    async fn hint_in_a_pause(&self, leader: &Leading) {
        if !self.wake().is_zero() {
            // Without hints the pause is waited for.
            return self.resignation(leader).await;
        }
        self.provoke(leader);
        // Shorter than a heartbeat takes to be missed for good.
        let lasts = SECOND / 4;
        self.throttle(lasts);
        for waiting in 0..self.fleet.len() {
            self.fleet.poke(waiting);
        }
        let retry = self.longest_retry();
        // Within the retry interval in which not even a hint is heeded, or after it.
        let waits = if self.world.chance(50) {
            Duration::ZERO
        } else {
            retry * 2
        };
        sleep(lasts + waits + CALM_TRIP).await;
        let candidate = leader.candidate;
        self.resign(candidate);
        let grace = self.fleet.policy(candidate).stop_grace();
        let bound = grace + retry + CALM_TRIP * 2;
        self.world.record(Event::Vacant {
            how: "a hand-over after the store had asked for a long pause",
            bound,
            after_release: retry.saturating_sub(waits) + CALM_TRIP * 2,
        });
        sleep(bound + SECOND).await;
        self.settle(self.settling_time()).await;
    }

    /// What the policy says it survives, whatever pause the store asks for meanwhile.
    async fn throttled(&self, leader: &Leading) {
        let policy = self.fleet.policy(leader.candidate);
        let outage = policy.tolerance().outage.saturating_sub(CALM_TRIP);
        if outage.is_zero() {
            return;
        }
        self.throttle(outage);
        sleep(outage + policy.lease()).await;
        self.world.record(Event::MustStand {
            term: leader.id,
            what: "an outage in which the store asks for long pauses",
            stands: leader.term.is_valid() && !leader.term.is_cancelled(),
        });
        self.settle(self.settling_time()).await;
    }

    /// The observer is asked for an absurd pause while the lock changes hands.
    async fn observer_throttled(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        self.resign(candidate);
        sleep(self.world.between(Duration::ZERO, SECOND / 10)).await;
        self.throttle(self.world.between(SECOND / 10, 2 * SECOND));
        self.settle(self.settling_time()).await;
    }

    /// Another program writes the record and changes nothing of the election's: a leader goes on,
    /// and one that gives the lock back does so.
    async fn foreign_write(&self, leader: &Leading, resigns: bool) {
        if resigns {
            self.fleet.touch();
            return self.resignation(leader).await;
        }
        self.fleet.touch();
        sleep(self.fleet.policy(leader.candidate).lease()).await;
        self.world.record(Event::MustStand {
            term: leader.id,
            what: "another program's write",
            stands: leader.term.is_valid() && !leader.term.is_cancelled(),
        });
        self.settle(3 * SECOND).await;
    }

    /// The record is deleted and written again, under the version that others have seen before.
    async fn repeated_version(&self, leader: &Leading) {
        self.provoke(leader);
        self.fleet.delete();
        let patience = self.world.now() + 30 * SECOND;
        let second = loop {
            sleep(SECOND / 50).await;
            match self.world.leader() {
                Some(second) if second.id != leader.id => break second,
                _ if self.world.now() >= patience => return self.settle(SECOND).await,
                _ => {}
            }
        };
        self.provoke(&second);
        let lease = self.fleet.policy(second.candidate).lease();
        // It writes its record once, and no more.
        self.freeze(second.candidate, 2 * lease);
        sleep(lease.mul_f64(0.7)).await;
        self.fleet.delete();
        sleep(lease + self.world.plan.longest_lease()).await;
        self.settle(self.settling_time()).await;
    }

    /// The lock's next holder, however it came to be.
    async fn next_leader(&self, not: &[usize]) -> Option<Leading> {
        let patience = self.world.now() + 60 * SECOND;
        while self.world.now() < patience {
            sleep(SECOND / 100).await;
            match self.world.leader() {
                Some(leader) if !not.contains(&leader.id) => return Some(leader),
                _ => {}
            }
        }
        None
    }

    /// A candidate is stopped before it hears that the lock is free, and hears of it when the
    /// record is another that has come to the same version.
    async fn told_long_ago(&self, leader: &Leading) {
        self.provoke(leader);
        self.fleet.delete();
        let Some(second) = self.next_leader(&[leader.id]).await else {
            return;
        };
        self.provoke(&second);
        sleep(CALM_TRIP).await;
        let others = |not: &[usize]| -> Vec<usize> {
            let all = 0..self.fleet.len();
            all.filter(|candidate| !not.contains(candidate)).collect()
        };
        let Some(hears_late) = others(&[leader.candidate, second.candidate])
            .first()
            .copied()
        else {
            return;
        };
        self.freeze(hears_late, 60 * SECOND);
        self.resign(second.candidate);
        let Some(third) = self.next_leader(&[leader.id, second.id]).await else {
            return;
        };
        self.provoke(&third);
        self.fleet.delete();
        let before = [leader.id, second.id, third.id];
        let Some(fourth) = self.next_leader(&before).await else {
            return;
        };
        // Its first heartbeat writes the version that the lock was given back with.
        let heartbeat = self.fleet.policy(fourth.candidate).heartbeat();
        sleep(heartbeat + CALM_TRIP / 2).await;
        if let Some(process) = self.fleet.process(hears_late) {
            process.thaw();
        }
        sleep(self.world.plan.longest_lease()).await;
        self.settle(self.settling_time()).await;
    }

    /// The next in the queue has died when the lock is given back: its session ends with its
    /// lease.
    async fn dead_waiter(&self, leader: &Leading) {
        let Some((next, _)) = self.fleet.waiting().first().copied() else {
            return;
        };
        let lease = self.fleet.policy(next).lease();
        self.fleet.crash(next);
        sleep(self.world.between(Duration::ZERO, lease)).await;
        self.provoke(leader);
        let candidate = leader.candidate;
        self.resign(candidate);
        let grace = self.fleet.policy(candidate).stop_grace();
        let bound = grace + lease + lease / 1_000 + self.fleet.lag() + self.wake() + CALM_TRIP * 2;
        self.world.record(Event::Vacant {
            how: "a hand-over behind a dead waiter",
            bound,
            after_release: bound,
        });
        sleep(bound).await;
        self.settle(self.settling_time()).await;
    }

    /// The others become unwell while the store may be granting the lock to one of them.
    async fn unwell_at_the_grant(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        self.resign(candidate);
        let patience = self.world.now() + self.fleet.policy(candidate).stop_grace();
        while self.world.is_working(leader.id) && self.world.now() < patience {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(
            self.world
                .between(Duration::ZERO, Duration::from_millis(25)),
        )
        .await;
        for candidate in 0..self.fleet.len() {
            self.make_unwell(candidate, 2 * SECOND);
        }
        self.settle(self.settling_time()).await;
    }

    /// The next in the queue is unwell when the lock is given back: it has made way.
    async fn unwell_waiter(&self, leader: &Leading) {
        let waiting = self.fleet.waiting();
        let Some((next, life)) = waiting.first().copied() else {
            return;
        };
        if waiting.len() < 2 {
            return;
        }
        self.provoke(leader);
        self.make_unwell(next, self.settling_time());
        let retry = self.fleet.policy(next).retry_interval();
        sleep(retry + retry / 500 + CALM_TRIP * 2).await;
        if self.fleet.waiting().contains(&(next, life)) {
            self.world.record(Event::Unwell {
                candidate: next,
                what: "keeps its place in the queue",
            });
        }
        self.resignation(leader).await;
        self.settle(self.settling_time()).await;
    }

    /// A candidate leaves in the very moment in which it may be winning.
    async fn withdrawal(&self, leader: &Leading) {
        self.provoke(leader);
        let others: Vec<usize> = (0..self.fleet.len())
            .filter(|candidate| *candidate != leader.candidate)
            .collect();
        let pick = self.world.rng().usize(0..others.len());
        let Some(process) = others
            .get(pick)
            .and_then(|other| self.fleet.process(*other))
        else {
            return;
        };
        self.resign(leader.candidate);
        sleep(
            self.world
                .between(Duration::ZERO, Duration::from_millis(60)),
        )
        .await;
        self.shut_down(process.candidate, None);
        let patience = self.world.now() + 30 * SECOND;
        while !process.has_exited() && self.world.now() < patience {
            sleep(SECOND / 10).await;
        }
        sleep(SECOND).await;
        let left = (process.candidate, process.life);
        if process.has_exited() && self.fleet.owners().contains(&left) {
            self.world.record(Event::Orphan { candidate: left.0 });
        }
        self.settle(self.settling_time()).await;
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
        let patience: Moment = self.world.now() + self.settling_time();
        while self.world.now() < patience && self.left_over() > 0 {
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
