//! A fleet that moves from one store to another, through [`Both`].
//!
//! Each candidate is stopped and started again on the next step's backend, one after the other and
//! in bad weather. Only what holds over two stores is asserted: never two leaders, tokens that
//! rise from the second step on, work that has stopped before the lock is given back, and somebody
//! who leads whenever all is well.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::{Both, FencingToken, Generation, Identity, InGeneration, LockBackend, Policy};
use tokio::time::sleep;

use super::Moment;
use super::candidate::{Application, LONGEST_OVERRUN};
use super::checker::check;
use super::clock::SimClock;
use super::faults::{Faults, SLOWEST};
use super::history::{Event, Fault, History};
use super::invariant::{Invariant, Violation};
use super::network::Link;
use super::plan::Family;
use super::process::Process;
use super::store::Store;
use super::watched::Watched;
use super::world::{LATEST_TIMER, World};

const SECOND: Duration = Duration::from_secs(1);

/// What a candidate is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Old,
    Both,
    New,
}

/// A fleet on the move.
#[derive(Debug)]
pub struct Move {
    world: Arc<World>,
    old: Store,
    new: Store,
    /// That of the new store, so that its tokens are larger.
    generation: Generation,
    processes: Vec<Arc<Process>>,
    steps: Vec<Step>,
    settled: Settled,
}

/// How a fleet stood between its steps.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// In calm weather, after each step: when, and whether somebody led.
    led: Vec<(Moment, bool)>,
}

impl Move {
    /// A fleet on the old store.
    pub fn new(world: &Arc<World>) -> Self {
        let link = Link::new(world.clone(), usize::MAX, 0);
        let draw = || match world.rng().u8(0..10) {
            0..4 => Family::Records,
            4..7 => Family::Ttl,
            _ => Family::Session,
        };
        let (old, new) = (draw(), draw());
        world.fault(Fault::Moves { from: old, to: new });
        let old = Store::start(world, old, 0, link.clone());
        let new = Store::start(world, new, 0, link.clone());
        let mut fleet = Self {
            world: world.clone(),
            old,
            new,
            generation: Generation::new(1).unwrap_or_default(),
            processes: Vec::new(),
            steps: vec![Step::Old; world.plan.candidates.len()],
            settled: Settled::default(),
        };
        *world.faults() = Faults::none(2 * fleet.steps.len());
        for candidate in 0..fleet.steps.len() {
            let process = fleet.launch(candidate, 0);
            fleet.processes.push(process);
        }
        fleet
    }

    fn launch(&self, candidate: usize, life: u32) -> Arc<Process> {
        let world = &self.world;
        #[expect(clippy::expect_used, reason = "candidates are numbered by the plan")]
        let plan = world
            .plan
            .candidates
            .get(candidate)
            .cloned()
            .expect("a candidate of the plan");
        let clock = SimClock::new(world.clone(), plan.offset, plan.ppm);
        let process = Process::new(world.clone(), candidate, life, clock.clone());
        let link = |route: usize| Link::new(world.clone(), candidate, life).by(route);
        let old = || {
            let link = link(candidate);
            self.old.client(link, clock.clone(), Some(process.clone()))
        };
        let new = || -> Arc<dyn LockBackend> {
            let link = link(self.steps.len() + candidate).to_second(self.generation);
            let client = self.new.client(link, clock.clone(), Some(process.clone()));
            Arc::new(InGeneration::new(client, self.generation))
        };
        #[expect(clippy::expect_used, reason = "both clients have the same clock")]
        let (backend, stores): (Arc<dyn LockBackend>, &'static [u8]) =
            match self.steps.get(candidate) {
                Some(Step::Both) => {
                    let both = Both::new(old(), new()).expect("one clock");
                    (Arc::new(both), &[0, 1])
                }
                Some(Step::New) => (new(), &[1]),
                _ => (old(), &[0]),
            };
        let policy = plan.policy.clone();
        let backend = Arc::new(Watched::new(backend, process.clone(), policy));
        world.fault(Fault::Start { candidate, life });
        let name = if life == 0 || plan.name == "twin" {
            plan.name.clone()
        } else {
            format!("{}-{life}", plan.name)
        };
        #[expect(
            clippy::expect_used,
            reason = "the plan's names and policies are valid"
        )]
        let application = Identity::new(name)
            .and_then(|identity| Application::new(process.clone(), plan, backend, identity, stores))
            .expect("a valid application");
        application.start();
        process
    }

    /// The whole move.
    pub async fn play(&mut self) {
        self.storm(120 * SECOND).await;
        self.calm().await;
        self.roll_out(Step::Both).await;
        self.world.history().tokens_rise_from = self.world.now();
        self.calm().await;
        for _ in 0..3 {
            self.hand_over().await;
            self.withdrawal().await;
        }
        self.roll_out(Step::New).await;
        self.calm().await;
        self.finish().await;
    }

    /// A leader on both stores gives its locks back.
    async fn hand_over(&mut self) {
        let Some(leader) = self.world.leader() else {
            return;
        };
        let candidate = leader.candidate;
        self.world.record(Event::GivesBoth { candidate });
        self.world.fault(Fault::Resign { candidate });
        if let Some(process) = self.processes.get(candidate) {
            process.resign();
        }
        let plan = &self.world.plan;
        let bound = plan.longest(Policy::stop_grace)
            + plan.longest(Policy::heartbeat)
            + plan.longest(Policy::retry_interval) * 2
            + SECOND;
        self.world.record(Event::Vacant {
            how: "a hand-over on two stores",
            bound,
            after_release: bound,
        });
        sleep(self.world.plan.longest_lease() * 2).await;
    }

    /// A candidate on both stores leaves, often in the moment in which it may be winning.
    async fn withdrawal(&mut self) {
        let Some(leader) = self.world.leader() else {
            return;
        };
        let others: Vec<usize> = (0..self.steps.len())
            .filter(|candidate| *candidate != leader.candidate)
            .collect();
        let pick = self.world.rng().usize(0..others.len());
        let Some(process) = others
            .get(pick)
            .and_then(|other| self.processes.get(*other))
        else {
            return;
        };
        let process = process.clone();
        if let Some(leading) = self.processes.get(leader.candidate) {
            leading.resign();
        }
        let soon = Duration::from_millis(80);
        sleep(self.world.between(Duration::ZERO, soon)).await;
        process.shutdown.send_replace(true);
        let deadline = self.world.now() + 60 * SECOND;
        while !process.has_exited() && self.world.now() < deadline {
            sleep(SECOND / 10).await;
        }
        sleep(SECOND).await;
        let left = (process.candidate, process.life);
        if process.has_exited() && self.owners().contains(&left) {
            self.world.record(Event::Orphan { candidate: left.0 });
        }
        self.restart();
        sleep(self.world.plan.longest_lease() * 2).await;
    }

    /// Of whose latest lives the two stores hold traces.
    fn owners(&self) -> Vec<(usize, u32)> {
        let now = Link::new(self.world.clone(), usize::MAX, 0).store_time();
        let of = |store: &Store| store.owners(&self.world.lock, now);
        let mut owners = [of(&self.old), of(&self.new)].concat();
        let latest = |process: &Arc<Process>| (process.candidate, process.life);
        owners.retain(|owner| {
            self.processes
                .iter()
                .any(|process| latest(process) == *owner)
        });
        owners
    }

    /// Everybody leaves in good order.
    async fn finish(&self) {
        for process in &self.processes {
            process.shutdown.send_replace(true);
        }
        let left_over = || self.processes.iter().map(|p| p.running()).sum();
        let deadline = self.world.now() + self.settling_time();
        while self.world.now() < deadline && left_over() > 0_usize {
            sleep(SECOND).await;
        }
        self.world.record(Event::Over {
            working: self.world.working(),
            running: left_over(),
            held: !self.owners().is_empty(),
        });
    }

    /// Moves the candidates one after the other, in bad weather.
    async fn roll_out(&mut self, step: Step) {
        let mut waiting: Vec<usize> = (0..self.steps.len()).collect();
        self.world.rng().shuffle(&mut waiting);
        for candidate in waiting {
            let lasts = self.world.between(SECOND, 90 * SECOND);
            self.storm(lasts).await;
            self.stop(candidate).await;
            if let Some(slot) = self.steps.get_mut(candidate) {
                *slot = step;
            }
            self.start(candidate);
        }
        let lasts = self.world.between(SECOND, 120 * SECOND);
        self.storm(lasts).await;
    }

    /// Its process ends: by itself, or it is killed.
    async fn stop(&mut self, candidate: usize) {
        let Some(process) = self.processes.get(candidate) else {
            return;
        };
        process.thaw();
        if self.world.chance(70) {
            process.shutdown.send_replace(true);
            let deadline = self.world.now() + 60 * SECOND;
            while !process.has_exited() && self.world.now() < deadline {
                sleep(SECOND / 4).await;
            }
        }
        if !process.has_exited() {
            self.world.fault(Fault::Crash { candidate });
            process.crash();
        }
    }

    fn start(&mut self, candidate: usize) {
        let Some(life) = self.processes.get(candidate).map(|process| process.life) else {
            return;
        };
        let process = self.launch(candidate, life + 1);
        if let Some(slot) = self.processes.get_mut(candidate) {
            *slot = process;
        }
    }

    /// Starts again whoever has left or was killed.
    fn restart(&mut self) {
        for candidate in 0..self.processes.len() {
            let gone = self
                .processes
                .get(candidate)
                .is_some_and(|process| !process.is_alive() || process.has_exited());
            if gone {
                self.start(candidate);
            }
        }
    }

    async fn storm(&mut self, lasts: Duration) {
        let until = self.world.now() + lasts;
        self.world.faults().stormy = true;
        while self.world.now() < until {
            self.blow();
            let pause = self.world.between(SECOND / 2, 20 * SECOND);
            sleep(pause).await;
            if self.world.chance(40) {
                self.restart();
            }
        }
    }

    fn blow(&self) {
        let world = &self.world;
        let now = world.now();
        let leader = world.leader().map(|leader| leader.candidate);
        let anybody = world.rng().usize(0..self.processes.len());
        let whom = leader.filter(|_| world.chance(50)).unwrap_or(anybody);
        let lasts = world.between(SECOND / 2, 2 * world.plan.longest_lease());
        let Some(process) = self.processes.get(whom).cloned() else {
            return;
        };
        let blow = world.rng().u8(0..13);
        match blow {
            // From one of the stores, or from each for another time.
            0..3 => self.cut(whom, now + lasts),
            3 => self.cut(self.steps.len() + whom, now + lasts),
            4 => {
                self.cut(whom, now + lasts);
                self.cut(self.steps.len() + whom, now + lasts / 2);
            }
            5..7 => {
                process.freeze();
                drop(tokio::spawn(async move {
                    sleep(lasts).await;
                    process.thaw();
                }));
            }
            7 => {
                world.fault(Fault::Crash { candidate: whom });
                process.crash();
            }
            8 => world.faults().down_until = now + lasts,
            9 => world.faults().slow_until = now + lasts,
            10 => self.delete(),
            11 => {
                // One of the stores grants less than the other.
                let percent = world.rng().u32(40..100);
                let mut faults = world.faults();
                let store = usize::from(lasts.as_millis().is_multiple_of(2));
                if let Some(until) = faults.stingy_until.get_mut(store) {
                    *until = now + lasts;
                }
                faults.stingy_percent = percent;
            }
            _ => process.resign(),
        }
    }

    fn cut(&self, route: usize, until: Moment) {
        let mut faults = self.world.faults();
        if let Some(cut) = faults.requests_cut_until.get_mut(route) {
            *cut = until;
        }
        if let Some(cut) = faults.replies_cut_until.get_mut(route) {
            *cut = until;
        }
    }

    /// Deletes the new store's lock, whose token is that of the terms in it. The old one's must
    /// stand while anybody relies on it alone.
    fn delete(&self) {
        let deleted = self.new.delete(&self.world);
        let token = deleted.and_then(|token| token.in_generation(self.generation).ok());
        let token = token.map(FencingToken::as_u64);
        self.world.fault(Fault::Deleted { token });
    }

    /// Ends all faults; somebody must lead soon.
    async fn calm(&mut self) {
        let world = self.world.clone();
        world.end_faults(2 * self.steps.len());
        for process in &self.processes {
            process.thaw();
        }
        let until = world.now() + self.settling_time();
        while world.now() < until {
            self.restart();
            sleep(SECOND).await;
        }
        let led = world.leader().is_some();
        self.settled.led.push((world.now(), led));
    }

    /// As in one store; and on two of them the leases that nobody holds any more may have to be
    /// waited for one after the other.
    fn settling_time(&self) -> Duration {
        let plan = &self.world.plan;
        let drains = plan.candidates.iter().map(|c| c.drain_limit);
        2 * SLOWEST
            + LONGEST_OVERRUN
            + drains.max().unwrap_or_default()
            + plan.longest_lease() * 5
            + LATEST_TIMER
            + 10 * SECOND
    }

    /// How it stood between its steps.
    pub fn settled(&self) -> Settled {
        self.settled.clone()
    }
}

/// What is wrong with what happened.
pub fn violations(history: &History, settled: &Settled) -> Vec<Violation> {
    let mut violations = check(history);
    for (at, _) in settled.led.iter().filter(|(_, led)| !led) {
        violations.push(Violation {
            at: *at,
            invariant: Invariant::Recovery,
            what: "nobody leads in calm weather".to_owned(),
        });
    }
    violations
}
