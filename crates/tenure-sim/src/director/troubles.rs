//! Scenes in which the store is out, asks for pauses, or is written to by others.

use std::time::Duration;

use tokio::time::sleep;

use super::{ABSURD, CALM_TRIP, Director, SECOND};
use crate::faults::SLOWEST;
use crate::history::Fault;
use crate::plan::{Family, Knowledge};
use crate::world::Leading;

impl Director {
    /// What the policy says it survives.
    pub(super) async fn short_outage(&self, leader: &Leading) {
        let policy = self.fleet.policy(leader.candidate);
        let outage = policy.tolerance().outage.saturating_sub(CALM_TRIP);
        if outage.is_zero() {
            return;
        }
        self.world.faults().outage_until = self.world.now() + outage;
        self.world.fault(Fault::Outage { lasts: outage });
        sleep(outage + policy.lease()).await;
        self.must_stand(leader, "an outage that the policy tolerates");
        self.settle(self.settling_time()).await;
    }

    /// Each answer takes seconds: a leader whose heartbeats overlap goes on.
    pub(super) async fn slow_store(&self, leader: &Leading) {
        let policy = self.fleet.policy(leader.candidate);
        let trip = policy.tolerance().outage.mul_f64(0.55).min(SLOWEST);
        // On a store of records more attempts than three at once are in each other's way.
        let trip = trip.min(policy.request_timeout() * 2);
        if !self.world.plan.heartbeats_overlap || trip.is_zero() {
            return self.short_outage(leader).await;
        }
        // Another program may have written the record just now: then a heartbeat takes three trips.
        sleep(policy.heartbeat() + CALM_TRIP).await;
        let lasts = policy.heartbeat() * 4;
        let until = self.world.now() + lasts;
        {
            let mut faults = self.world.faults();
            faults.sluggish_until = until;
            faults.trip = trip;
        }
        self.world.fault(Fault::Slow { lasts });
        sleep(lasts + policy.lease()).await;
        self.must_stand(leader, "a store that answers slowly");
        self.settle(self.settling_time()).await;
    }

    /// What no policy survives: the work is told in time, and all is well afterwards.
    pub(super) async fn long_outage(&self, leader: &Leading) {
        self.provoke(leader);
        let outage = self.fleet.policy(leader.candidate).lease() * 2;
        self.world.faults().outage_until = self.world.now() + outage;
        self.world.fault(Fault::Outage { lasts: outage });
        sleep(outage).await;
        self.settle(self.settling_time()).await;
    }

    /// For so long the store asks everybody for a pause beyond all reason.
    pub(super) fn throttle(&self, lasts: Duration) {
        let mut faults = self.world.faults();
        faults.throttled_until = self.world.now() + lasts;
        faults.asks_for = Some(ABSURD);
        drop(faults);
        self.world.fault(Fault::Throttled { lasts });
    }

    /// The leader has died, and the store asks for absurd pauses when its lease ends.
    pub(super) async fn crash_throttled(&self, leader: &Leading) {
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
        self.vacant(
            "a crash while the store asked for long pauses",
            bound,
            bound,
        );
        sleep(bound).await;
        self.settle(self.settling_time()).await;
    }

    /// Candidates were asked for a pause, and then the lock is given back: the hint ends it.
    pub(super) async fn hint_in_a_pause(&self, leader: &Leading) {
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
        self.vacant(
            "a hand-over after the store had asked for a long pause",
            bound,
            retry.saturating_sub(waits) + CALM_TRIP * 2,
        );
        sleep(bound + SECOND).await;
        self.settle(self.settling_time()).await;
    }

    /// What the policy says it survives, whatever pause the store asks for meanwhile.
    pub(super) async fn throttled(&self, leader: &Leading) {
        let policy = self.fleet.policy(leader.candidate);
        let outage = policy.tolerance().outage.saturating_sub(CALM_TRIP);
        if outage.is_zero() {
            return;
        }
        self.throttle(outage);
        sleep(outage + policy.lease()).await;
        self.must_stand(leader, "an outage in which the store asks for long pauses");
        self.settle(self.settling_time()).await;
    }

    /// The observer is asked for an absurd pause while the lock changes hands.
    pub(super) async fn observer_throttled(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        self.resign(candidate);
        sleep(self.world.between(Duration::ZERO, SECOND / 10)).await;
        self.throttle(self.world.between(SECOND / 10, 2 * SECOND));
        self.settle(self.settling_time()).await;
    }

    /// Another program writes the record and changes nothing of the election's: a leader goes on,
    /// and one that gives the lock back does so.
    pub(super) async fn foreign_write(&self, leader: &Leading, resigns: bool) {
        if resigns {
            self.fleet.touch();
            return self.resignation(leader).await;
        }
        // Versions that repeat are those of stores that no other program writes.
        if self.world.chance(50) && !self.world.plan.repeats {
            self.fleet.prune();
        } else {
            self.fleet.touch();
        }
        sleep(self.fleet.policy(leader.candidate).lease()).await;
        self.must_stand(leader, "another program's write");
        self.settle(3 * SECOND).await;
    }

    /// The leader has died, and another program writes to the object again and again: that makes
    /// nobody wait longer.
    pub(super) async fn crash_annotated(&self, leader: &Leading) {
        if self.world.plan.knowledge == Knowledge::Death {
            return self.crash(leader).await;
        }
        self.provoke(leader);
        let lease = self.fleet.policy(leader.candidate).lease();
        self.fleet.crash(leader.candidate);
        // A write between a candidate's look and its own costs it another attempt.
        let bound = lease + lease / 1_000 + self.wake() + CALM_TRIP * 4;
        self.vacant("a crash while another program writes", bound, bound);
        let until = self.world.now() + bound;
        while self.world.now() < until {
            self.fleet.touch();
            sleep(SECOND).await;
        }
        self.settle(3 * SECOND).await;
    }

    /// The record is deleted and written again, under the version that others have seen before.
    pub(super) async fn repeated_version(&self, leader: &Leading) {
        self.provoke(leader);
        self.fleet.delete();
        let deadline = self.world.now() + 30 * SECOND;
        let second = loop {
            sleep(SECOND / 50).await;
            match self.world.leader() {
                Some(second) if second.id != leader.id => break second,
                _ if self.world.now() >= deadline => return self.settle(SECOND).await,
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
    pub(super) async fn next_leader(&self, not: &[usize]) -> Option<Leading> {
        let deadline = self.world.now() + 60 * SECOND;
        while self.world.now() < deadline {
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
    pub(super) async fn told_long_ago(&self, leader: &Leading) {
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
}
