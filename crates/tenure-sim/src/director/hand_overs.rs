//! Scenes in which the lock changes hands, within an exact bound.

use std::time::Duration;

use tokio::time::sleep;

use super::{CALM_TRIP, Director, SECOND};
use crate::history::{Event, Fault};
use crate::plan::{Family, Knowledge};
use crate::world::Leading;

impl Director {
    /// Graceful: wake-up latency and two requests.
    pub(super) async fn resignation(&self, leader: &Leading) {
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
        self.vacant("a resignation", bound, bound.saturating_sub(grace));
        self.settle(bound + SECOND).await;
    }

    /// Crash: the lease on a slow clock, the store's sweep, wake-up latency and two requests.
    pub(super) async fn crash(&self, leader: &Leading) {
        self.provoke(leader);
        let lease = self.fleet.policy(leader.candidate).lease();
        self.fleet.crash(leader.candidate);
        let bound = if self.world.plan.knowledge == Knowledge::Death {
            // The store knows, and tells.
            self.wake() + CALM_TRIP * 2
        } else {
            lease + lease / 1_000 + self.fleet.lag() + self.wake() + CALM_TRIP * 2
        };
        self.vacant("a crash", bound, bound);
        sleep(bound).await;
        self.settle(3 * SECOND).await;
    }

    /// On shutdown the term is kept up for the work, up to a limit.
    pub(super) async fn drain(&self, leader: &Leading, beyond: bool) {
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
            self.vacant(
                "a drain",
                policy.stop_grace() + stop + stop / 1_000 + self.wake() + CALM_TRIP * 2,
                self.wake() + CALM_TRIP * 2,
            );
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
    pub(super) async fn deletion(&self, leader: &Leading) {
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
    pub(super) async fn release_again(&self, leader: &Leading) {
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
        self.vacant(
            "a release that was refused once",
            bound,
            retry + self.wake() + CALM_TRIP * 2,
        );
        self.settle(bound + SECOND).await;
    }

    /// The store grants the lock and its answer is lost: the candidate asks again a retry interval
    /// after its request timeout, though it hears meanwhile that the lock is held.
    pub(super) async fn lost_grant(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        let before = self.fleet.owners().first().copied();
        let plan = &self.world.plan;
        let grace = self.fleet.policy(candidate).stop_grace();
        let timeout = plan.longest(tenure_core::Policy::request_timeout);
        let asks_again = timeout + timeout / 500 + self.longest_retry();
        let after_release = self.wake() + asks_again + CALM_TRIP * 2;
        self.resign(candidate);
        self.vacant(
            "a grant whose answer was lost",
            grace + after_release,
            after_release,
        );
        let deadline = self.world.now() + grace + self.wake() + CALM_TRIP;
        while self.world.now() < deadline {
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

    /// The next in the queue has died when the lock is given back: its session ends with its
    /// lease.
    pub(super) async fn dead_waiter(&self, leader: &Leading) {
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
        self.vacant("a hand-over behind a dead waiter", bound, bound);
        sleep(bound).await;
        self.settle(self.settling_time()).await;
    }

    /// The others become unwell while the store may be granting the lock to one of them.
    pub(super) async fn unwell_at_the_grant(&self, leader: &Leading) {
        self.provoke(leader);
        let candidate = leader.candidate;
        self.resign(candidate);
        let deadline = self.world.now() + self.fleet.policy(candidate).stop_grace();
        while self.world.is_working(leader.id) && self.world.now() < deadline {
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
    pub(super) async fn unwell_waiter(&self, leader: &Leading) {
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
    pub(super) async fn withdrawal(&self, leader: &Leading) {
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
        let deadline = self.world.now() + 30 * SECOND;
        while !process.has_exited() && self.world.now() < deadline {
            sleep(SECOND / 10).await;
        }
        sleep(SECOND).await;
        let left = (process.candidate, process.life);
        if process.has_exited() && self.fleet.owners().contains(&left) {
            self.world.record(Event::Orphan { candidate: left.0 });
        }
        self.settle(self.settling_time()).await;
    }
}
