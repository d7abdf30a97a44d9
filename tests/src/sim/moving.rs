//! A fleet that moves from one store to another, through [`Both`].
//!
//! Each candidate is stopped and started again on the next step's backend, one after the other and
//! in bad weather. Only what holds over two stores is asserted: never two leaders, tokens that
//! rise from the second step on, work that has stopped before the lock is given back, and somebody
//! who leads whenever all is well.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::record::RecordLock;
use tenure_core::{Both, Identity, LockBackend};
use tokio::time::sleep;

use super::Moment;
use super::candidate::{Application, LONGEST_OVERRUN};
use super::checker::{Invariant, Violation, check};
use super::clock::SimClock;
use super::faults::{Faults, SLOWEST};
use super::history::{Event, Fault, History};
use super::network::Link;
use super::process::Process;
use super::records::{self, RecordServer, SimRecords};
use super::ttl::{self, SimTtl, TtlServer};
use super::world::{LATEST_TIMER, World};

const SECOND: Duration = Duration::from_secs(1);

/// The new store's counter starts here, as in a generation of its own: so no two terms share a
/// token.
const NEW_COUNTER: u64 = 1 << 40;

/// What a candidate is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Old,
    Both,
    New,
}

#[derive(Clone, Debug)]
enum Server {
    Records(records::Shared),
    Ttl(ttl::Shared),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn new(world: &World, counter: u64) -> Self {
        if world.chance(60) {
            let server = RecordServer::new(world.plan.terse_hints).counting_from(counter);
            Self::Records(Arc::new(Mutex::new(server)))
        } else {
            Self::Ttl(Arc::new(Mutex::new(TtlServer::counting_from(counter))))
        }
    }

    fn client(&self, link: Link, clock: Arc<SimClock>) -> Arc<dyn LockBackend> {
        match self {
            Self::Records(server) => Arc::new(RecordLock::new(SimRecords {
                link,
                server: server.clone(),
                clock,
            })),
            Self::Ttl(server) => Arc::new(SimTtl::new(link, server.clone(), clock)),
        }
    }
}

/// A fleet on the move.
#[derive(Debug)]
pub struct Move {
    world: Arc<World>,
    old: Server,
    new: Server,
    processes: Vec<Arc<Process>>,
    steps: Vec<Step>,
    settled: Settled,
}

/// How a fleet stood between its steps.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// In calm weather, after each step: when, and whether somebody led.
    led: Vec<(Moment, bool)>,
    /// When everybody had reached the second step: from here on tokens rise.
    all_on_both: Option<Moment>,
}

impl Move {
    /// A fleet on the old store.
    pub fn new(world: &Arc<World>) -> Self {
        let old = Server::new(world, 0);
        let new = Server::new(world, NEW_COUNTER);
        let mut fleet = Self {
            world: world.clone(),
            old,
            new,
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
        let client = |server: &Server, route: usize| {
            let link = Link::new(world.clone(), candidate, life).by(route);
            server.client(link, clock.clone())
        };
        let old = || client(&self.old, candidate);
        let new = || client(&self.new, self.steps.len() + candidate);
        #[expect(clippy::expect_used, reason = "both clients have the same clock")]
        let backend = match self.steps.get(candidate) {
            Some(Step::Both) => Arc::new(Both::new(old(), new()).expect("one clock")),
            Some(Step::New) => new(),
            _ => old(),
        };
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
            .and_then(|identity| Application::new(process.clone(), plan, backend, identity))
            .expect("a valid application");
        application.start();
        process
    }

    /// The whole move.
    pub async fn play(&mut self) {
        self.storm(120 * SECOND).await;
        self.calm().await;
        self.roll_out(Step::Both).await;
        self.settled.all_on_both = Some(self.world.now());
        self.calm().await;
        self.roll_out(Step::New).await;
        self.calm().await;
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
            let patience = self.world.now() + 60 * SECOND;
            while !process.has_exited() && self.world.now() < patience {
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
        let blow = world.rng().u8(0..12);
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
        let token = match &self.new {
            Server::Records(server) => lock(server).delete(&self.world),
            Server::Ttl(server) => lock(server).delete(&self.world),
        };
        self.world.fault(Fault::Deleted { token });
    }

    /// Ends all faults; somebody must lead soon.
    async fn calm(&mut self) {
        let world = self.world.clone();
        *world.faults() = Faults {
            stormy_until: world.now(),
            ..Faults::none(2 * self.steps.len())
        };
        for process in &self.processes {
            process.thaw();
        }
        let drains = world.plan.candidates.iter().map(|c| c.drain_limit);
        // As in one store; and on two of them the leases that nobody holds any more may have to
        // be waited for one after the other.
        let settling = 2 * SLOWEST
            + LONGEST_OVERRUN
            + drains.max().unwrap_or_default()
            + world.plan.longest_lease() * 5
            + LATEST_TIMER
            + 10 * SECOND;
        let until = world.now() + settling;
        while world.now() < until {
            self.restart();
            sleep(SECOND).await;
        }
        let led = world.leader().is_some();
        self.settled.led.push((world.now(), led));
    }

    /// How it stood between its steps.
    pub fn settled(&self) -> Settled {
        self.settled.clone()
    }
}

/// What is wrong with what happened.
pub fn violations(history: &History, settled: &Settled) -> Vec<Violation> {
    let mut violations = check(history);
    // Those that speak of one store's counter and promise.
    violations
        .retain(|violation| !matches!(violation.invariant, Invariant::Tokens | Invariant::Covered));
    for (at, _) in settled.led.iter().filter(|(_, led)| !led) {
        violations.push(Violation {
            at: *at,
            invariant: Invariant::Recovery,
            what: "nobody leads in calm weather".to_owned(),
        });
    }
    if let Some(since) = settled.all_on_both {
        violations.extend(fallen_tokens(history, since));
    }
    violations
}

fn fallen_tokens(history: &History, since: Moment) -> Vec<Violation> {
    let mut largest = 0;
    let mut fallen = Vec::new();
    let mut deleted = BTreeSet::new();
    for (at, event) in &history.events {
        if let Event::Fault(Fault::Deleted { token: Some(token) }) = event {
            deleted.insert(*token);
        }
        let Event::Elected { term, .. } = event else {
            continue;
        };
        let Some(term) = history.terms.get(*term).filter(|_| *at >= since) else {
            continue;
        };
        // The answer that tells of a term may be on its way while its lock is deleted.
        if term.token <= largest && !deleted.contains(&term.token) {
            fallen.push(Violation {
                at: *at,
                invariant: Invariant::Tokens,
                what: format!("token {} came after {largest}", term.token),
            });
        }
        largest = largest.max(term.token);
    }
    fallen
}
