//! Small scenes beside the main play, for what a fleet on one lock cannot show: threads that get
//! in between, several locks on one backend value, a counter that reaches its end.
//!
//! Each finds its own violations, and its timing comes from the seed.

mod far;
mod wishes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_core::{
    Acquired, Both, CampaignId, Candidate as Campaign, Election, FencingToken, Generation,
    Identity, InGeneration, Leadership, LockBackend, LockName, Policy, Term, Wakeup,
};
use tokio::time::sleep;

use super::clock::SimClock;
use super::invariant::{Invariant, Violation};
use super::network::Link;
use super::plan::{Family, Knowledge, Plan};
use super::process::{OnProcess, Process};
use super::store::Store;
use super::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// What a round trip takes in calm weather, with room for a lost race.
const CALM_TRIP: Duration = Duration::from_millis(200);

/// Which scene a seed plays beside its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drill {
    /// An owner on another thread gives its term back while a heartbeat's answer is handled.
    Preempted,
    /// Several locks and candidates share one backend value.
    Shared,
    /// The store's counter reaches the end of what a token can hold.
    Counter,
    /// A candidate on two stores comes to stand in the second one's queue.
    Queue,
    /// A leader is asked to resign: too late, for another term, in time.
    Wishes,
    /// One candidate's answers take long.
    Far,
}

impl Drill {
    /// The one of `seed`, if it has one.
    pub fn of(seed: u64) -> Option<Self> {
        match seed % 4 {
            1 => Some(Self::Preempted),
            2 => Some(Self::Shared),
            3 if seed % 8 == 3 => Some(Self::Counter),
            3 if seed % 16 == 15 => Some(Self::Wishes),
            3 => Some(Self::Queue),
            0 if seed % 16 == 4 => Some(Self::Far),
            _ => None,
        }
    }

    /// The plan that suits it.
    pub fn plan(self, mut plan: Plan) -> Plan {
        plan.repeats = false;
        plan.amnesia = false;
        plan.late_timers = false;
        plan.knowledge = Knowledge::None;
        if self != Self::Preempted {
            plan.family = Family::Records;
        }
        if self == Self::Queue {
            plan.wakeup = Wakeup::Push;
            plan.tells_of_loss = false;
        }
        plan
    }

    /// Plays it.
    pub async fn play(self, world: Arc<World>) -> Vec<Violation> {
        let stage = Stage {
            broken: Mutex::default(),
            world,
        };
        match self {
            Self::Preempted => stage.preempted().await,
            Self::Shared => stage.shared().await,
            Self::Counter => stage.counter().await,
            Self::Queue => stage.queue().await,
            Self::Wishes => stage.wishes().await,
            Self::Far => stage.far().await,
        }
        stage.broken.into_inner().unwrap_or_default()
    }
}

struct Stage {
    world: Arc<World>,
    broken: Mutex<Vec<Violation>>,
}

/// One candidate, and the process that it runs in.
struct Candidate {
    election: Election,
    process: Arc<Process>,
}

impl Stage {
    fn broken(&self, invariant: Invariant, what: impl Into<String>) {
        if let Ok(mut broken) = self.broken.lock() {
            broken.push(Violation {
                at: self.world.now(),
                invariant,
                what: what.into(),
            });
        }
    }

    fn store(&self, counter: u64) -> Store {
        let link = Link::new(self.world.clone(), usize::MAX, 0);
        Store::start(&self.world, self.world.plan.family, counter, link)
    }

    fn process(&self, number: usize) -> Arc<Process> {
        let clock = SimClock::new(self.world.clone(), 1_000 * SECOND, 0);
        Process::new(self.world.clone(), number, 0, clock)
    }

    #[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
    fn candidate(
        &self,
        number: usize,
        process: &Arc<Process>,
        backend: &Arc<dyn LockBackend>,
        lock: &LockName,
    ) -> Candidate {
        let seed = self.world.rng().u64(..);
        let election = Election::builder(backend.clone(), lock.clone())
            .identity(Identity::new(format!("host-{number}")).expect("a valid identity"))
            .policy(Policy::default())
            .spawn_on(OnProcess(process.clone()))
            .seed(seed)
            .build()
            .expect("a valid election");
        Candidate {
            election,
            process: process.clone(),
        }
    }

    /// A thread is between two others at every look at the clock: there the owner gives its term
    /// back. From that moment on the term must not be valid, whatever the engine is doing.
    async fn preempted(&self) {
        let store = self.store(0);
        for look in 1..=32 {
            let process = self.process(look);
            let link = Link::new(self.world.clone(), look, 0);
            let clock = process.clock.clone();
            let backend = store.client(link, clock.clone(), Some(process.clone()));
            let candidate = self.candidate(look, &process, &backend, &self.world.lock);
            let campaign = tokio::time::timeout(60 * SECOND, candidate.election.campaign());
            let Ok(Ok(leadership)) = campaign.await else {
                self.broken(Invariant::Recovery, "nobody leads in calm weather");
                return;
            };
            let term = leadership.term();
            let owner = Arc::new(Owner {
                leadership: Mutex::new(Some(leadership)),
                term,
                came_back: AtomicBool::new(false),
            });
            // Confirming is a heartbeat at a moment of our choice.
            let asking = owner.term.clone();
            let between = owner.clone();
            let mut looks = look;
            process.clock.preempt(move || {
                looks = looks.saturating_sub(1);
                if between.gave_back() {
                    let valid = between.term.is_valid();
                    between.came_back.fetch_or(valid, Ordering::Relaxed);
                } else if looks == 0 {
                    between.give_back();
                }
            });
            let asked = tokio::time::timeout(30 * SECOND, asking.confirm()).await;
            drop(asked);
            process.clock.preempt(|| {});
            if owner.came_back.load(Ordering::Relaxed)
                || (owner.gave_back() && owner.term.is_valid())
            {
                self.broken(
                    Invariant::OverForGood,
                    "a term that its owner has given back is valid again",
                );
            }
            owner.give_back();
            candidate.election.settled().await;
        }
    }

    /// Two locks, each with two candidates on a backend value that all share and one on another.
    #[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
    async fn shared(&self) {
        let store = self.store(0);
        let locks = ["left", "right"].map(|name| LockName::new(name).expect("a valid name"));
        let (one, other) = (self.process(0), self.process(1));
        let backend = |process: &Arc<Process>| {
            let link = Link::new(self.world.clone(), process.candidate, 0);
            store.client(link, process.clock.clone(), Some(process.clone()))
        };
        let (shared, apart) = (backend(&one), backend(&other));
        let leaders: Arc<Mutex<Vec<(usize, Term)>>> = Arc::default();
        let mut number = 0;
        for (side, lock) in locks.iter().enumerate() {
            for (process, backend) in [(&other, &apart), (&one, &shared), (&one, &shared)] {
                let candidate = self.candidate(number, process, backend, lock);
                number += 1;
                lead_for_ever(candidate, side, leaders.clone());
            }
            // In one order, so that the first leads.
            sleep(SECOND).await;
        }
        self.look_for(25 * SECOND, &leaders).await;
        self.must_lead(&leaders, "at the start");
        let pause = self.world.between(Duration::ZERO, 10 * SECOND);
        self.look_for(pause, &leaders).await;
        // Both leaders die in one process.
        other.crash();
        if let Ok(mut leaders) = leaders.lock() {
            leaders.retain(|(_, term)| !term.identity().as_str().ends_with(['0', '3']));
        }
        let lease = Policy::default().lease();
        let retry = Policy::default().retry_interval();
        self.look_for(lease + lease / 1_000 + retry * 2 + CALM_TRIP * 2, &leaders)
            .await;
        self.must_lead(&leaders, "a lease after the leader's crash");
        one.crash();
    }

    /// Looks at all terms, several times a second.
    async fn look_for(&self, lasts: Duration, leaders: &Arc<Mutex<Vec<(usize, Term)>>>) {
        let until = self.world.now() + lasts;
        while self.world.now() < until {
            sleep(SECOND / 10).await;
            for side in 0..2 {
                if valid(leaders, side) > 1 {
                    self.broken(
                        Invariant::Exclusive,
                        format!("lock {side} has two valid terms"),
                    );
                }
            }
        }
    }

    fn must_lead(&self, leaders: &Arc<Mutex<Vec<(usize, Term)>>>, when: &str) {
        for side in 0..2 {
            if valid(leaders, side) == 0 {
                self.broken(
                    Invariant::Leaderless,
                    format!("nobody holds lock {side} {when}"),
                );
            }
        }
    }

    /// A candidate on two stores is overtaken in the second one by a candidate on that one alone,
    /// and stands in its queue. When the other leaves, it must not wait behind itself.
    #[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
    async fn queue(&self) {
        let link = || Link::new(self.world.clone(), usize::MAX, 0);
        let first = Store::start(&self.world, Family::Ttl, 0, link());
        let second = Store::start(&self.world, Family::Session, 1_000, link());
        let (ours, theirs) = (self.process(0), self.process(1));
        let client = |store: &Store, process: &Arc<Process>, second: bool| {
            let link = Link::new(self.world.clone(), process.candidate, 0);
            let link = if second {
                link.to_second(Generation::default())
            } else {
                link
            };
            store.client(link, process.clock.clone(), Some(process.clone()))
        };
        let (one, other) = (client(&first, &ours, false), client(&second, &ours, true));
        let both = Both::new(one, other).expect("one clock");
        let alone = client(&second, &theirs, true);
        let lease = Policy::default().lease();
        for round in 0..12_u64 {
            let us = campaign("ours", round);
            let them = campaign("theirs", round);
            let head_start = self.world.between(Duration::ZERO, SECOND / 40);
            let overtake = async {
                sleep(head_start).await;
                alone.acquire(&self.world.lock, &them, lease).await
            };
            let tried = both.acquire(&self.world.lock, &us, lease);
            let (tried, overtook) = futures_util::future::join(tried, overtake).await;
            if let (Ok(Acquired::Taken { .. }), Ok(Acquired::Held(grant))) = (&tried, &overtook) {
                let left = alone.release(grant).await;
                drop(left);
                sleep(CALM_TRIP).await;
                let waiting = second.owners(&self.world.lock, link().store_time());
                let again = both.acquire(&self.world.lock, &us, lease).await;
                if waiting.contains(&(0, 0)) && !matches!(again, Ok(Acquired::Held(_))) {
                    self.broken(
                        Invariant::Leaderless,
                        "a candidate on two stores waits behind its own place in a queue",
                    );
                }
            }
            let left = (
                both.withdraw(&self.world.lock, &us).await,
                alone.withdraw(&self.world.lock, &them).await,
            );
            drop(left);
        }
    }

    /// A store counts past what a token can hold: then nobody leads, rather than with a token that
    /// is smaller than one before.
    #[expect(clippy::expect_used, reason = "a fixed scene in fine weather")]
    async fn counter(&self) {
        const LARGEST: u64 = FencingToken::MAX.as_u64() - 7 * Generation::STEP;
        let before = self.world.rng().u64(1..8);
        let store = self.store(LARGEST - before);
        let generation = Generation::new(7).expect("a valid generation");
        let process = self.process(0);
        let link = Link::new(self.world.clone(), 0, 0);
        let inner = store.client(link, process.clock.clone(), Some(process.clone()));
        let backend: Arc<dyn LockBackend> = Arc::new(InGeneration::new(inner, generation));
        let candidate = self.candidate(0, &process, &backend, &self.world.lock);
        let mut last: Option<FencingToken> = None;
        for _ in 0..8 {
            let writes = store.writes();
            let campaign = tokio::time::timeout(60 * SECOND, candidate.election.campaign());
            let Ok(Ok(leadership)) = campaign.await else {
                if store.writes() != writes {
                    self.broken(
                        Invariant::Tokens,
                        "a candidate wrote to a lock for which there is no token",
                    );
                }
                break;
            };
            let token = leadership.token();
            // As a database column has it.
            if last.is_some_and(|last| token.as_i64() <= last.as_i64()) {
                self.broken(
                    Invariant::Tokens,
                    format!("token {token} came after {last:?}"),
                );
            }
            last = Some(token);
            sleep(self.world.between(Duration::ZERO, 20 * SECOND)).await;
            // Given back or not: beyond the end the store takes no more writes.
            let released = tokio::time::timeout(60 * SECOND, leadership.resign()).await;
            drop(released);
        }
        if last.is_none() {
            self.broken(Invariant::Recovery, "nobody led while the counter had room");
        }
        process.crash();
    }
}

#[expect(clippy::expect_used, reason = "a constant")]
fn campaign(name: &str, number: u64) -> Campaign {
    let identity = Identity::new(name).expect("a valid identity");
    Campaign::new(identity, CampaignId::new(number))
}

/// The owner of a term, as another thread.
struct Owner {
    leadership: Mutex<Option<Leadership>>,
    term: Term,
    came_back: AtomicBool,
}

impl Owner {
    fn give_back(&self) {
        let taken = self.leadership.lock().ok().and_then(|mut held| held.take());
        drop(taken);
    }

    fn gave_back(&self) -> bool {
        self.leadership.lock().is_ok_and(|held| held.is_none())
    }
}

fn lead_for_ever(candidate: Candidate, side: usize, leaders: Arc<Mutex<Vec<(usize, Term)>>>) {
    let process = candidate.process.clone();
    process.run(async move {
        while let Ok(leadership) = candidate.election.campaign().await {
            let term = leadership.term();
            if let Ok(mut leaders) = leaders.lock() {
                leaders.push((side, term.clone()));
            }
            term.cancelled().await;
        }
    });
}

fn valid(leaders: &Arc<Mutex<Vec<(usize, Term)>>>, side: usize) -> usize {
    let leaders = leaders.lock().map(|leaders| leaders.clone());
    let leaders = leaders.unwrap_or_default();
    leaders
        .iter()
        .filter(|(of, term)| *of == side && term.is_valid())
        .count()
}
