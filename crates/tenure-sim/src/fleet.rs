//! The candidates' processes and the store they share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{FencingToken, Identity, LockBackend, Policy, SharedClock};

use super::candidate::Application;
use super::clock::SimClock;
use super::history::Fault;
use super::network::Link;
use super::process::Process;
use super::store::Store;
use super::watched::Watched;
use super::world::World;

/// All candidates.
#[derive(Debug)]
pub struct Fleet {
    /// The world.
    pub world: Arc<World>,
    /// The store.
    pub store: Store,
    /// The store's own clock.
    link: Link,
    /// Each candidate's latest life.
    processes: Mutex<Vec<Arc<Process>>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Starts every candidate.
    pub fn start(world: &Arc<World>) -> Arc<Self> {
        let link = Link::new(world.clone(), usize::MAX, 0);
        let fleet = Arc::new(Self {
            world: world.clone(),
            store: Store::start(world, world.plan.family, 0, link.clone()),
            link,
            processes: Mutex::default(),
        });
        for candidate in 0..world.plan.candidates.len() {
            let process = fleet.launch(candidate, 0);
            lock(&fleet.processes).push(process);
        }
        fleet
    }

    fn launch(&self, candidate: usize, life: u32) -> Arc<Process> {
        let world = &self.world;
        let plan = world.plan.candidates.get(candidate).cloned();
        #[expect(clippy::expect_used, reason = "candidates are numbered by the plan")]
        let plan = plan.expect("a candidate of the plan");
        let clock = SimClock::new(world.clone(), plan.offset, plan.ppm);
        let process = Process::new(world.clone(), candidate, life, clock.clone());
        let link = Link::new(world.clone(), candidate, life);
        let backend = self.store.client(link, clock, Some(process.clone()));
        let policy = plan.policy.clone();
        let backend: Arc<dyn LockBackend> =
            Arc::new(Watched::new(backend, process.clone(), policy));
        // With the same name as before, or with a new one, as after a new pod was made.
        let name = if life == 0 || plan.name == "twin" || world.chance(50) {
            plan.name.clone()
        } else {
            format!("{}-{life}", plan.name)
        };
        world.fault(Fault::Start { candidate, life });
        #[expect(
            clippy::expect_used,
            reason = "the plan's names and policies are valid"
        )]
        let application = Identity::new(name)
            .and_then(|identity| Application::new(process.clone(), plan, backend, identity, &[0]))
            .expect("a valid application");
        application.start();
        process
    }

    /// A client of the store that is no candidate.
    pub fn onlooker(&self) -> Arc<dyn LockBackend> {
        let world = &self.world;
        let (offset, ppm) = world.plan.onlooker();
        let clock: SharedClock = SimClock::new(world.clone(), offset, ppm);
        let link = Link::new(world.clone(), world.plan.candidates.len(), 0);
        self.store.client(link, clock, None)
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        lock(&self.processes).len()
    }

    /// Never: every fleet has candidates.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The latest life of a candidate.
    pub fn process(&self, candidate: usize) -> Option<Arc<Process>> {
        lock(&self.processes).get(candidate).cloned()
    }

    /// All latest lives.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        lock(&self.processes).clone()
    }

    /// The policy of a candidate.
    pub fn policy(&self, candidate: usize) -> Policy {
        let plan = self.world.plan.candidates.get(candidate);
        plan.map(|plan| plan.policy.clone()).unwrap_or_default()
    }

    /// Kills a candidate.
    pub fn crash(&self, candidate: usize) {
        if let Some(process) = self.process(candidate) {
            self.world.fault(Fault::Crash { candidate });
            process.crash();
            self.store.tell_of_a_death(&self.world);
        }
    }

    /// Starts a candidate again that has crashed or left.
    pub fn restart(&self, candidate: usize) {
        if let Some(process) = self.process(candidate)
            && (!process.is_alive() || process.has_exited())
        {
            let process = self.launch(candidate, process.life + 1);
            if let Some(slot) = lock(&self.processes).get_mut(candidate) {
                *slot = process;
            }
        }
    }

    /// Deletes the lock at the store.
    pub fn delete(&self) {
        let token = self.store.delete(&self.world);
        let token = token.map(FencingToken::as_u64);
        self.world.fault(Fault::Deleted { token });
        if self.world.plan.repeats {
            self.world.begin_again();
        }
    }

    /// Makes the store forget everything.
    pub fn lose_state(&self) {
        let world = &self.world;
        world.fault(Fault::StateLost);
        self.store.lose_state(world);
        world.begin_again();
    }

    /// Another program writes where the lock's record is.
    pub fn touch(&self) {
        self.world.fault(Fault::Touched);
        self.store.touch(&self.world, false);
    }

    /// Another program removes what stands beside the lock's record.
    pub fn prune(&self) {
        self.world.fault(Fault::Touched);
        self.store.touch(&self.world, true);
    }

    /// Sends a candidate a hint without a reason.
    pub fn poke(&self, candidate: usize) {
        let world = &self.world;
        world.fault(Fault::Hint { candidate });
        self.store.poke(world, candidate);
    }

    /// Whose traces the store holds.
    pub fn owners(&self) -> Vec<(usize, u32)> {
        self.store.owners(&self.world.lock, self.link.store_time())
    }

    /// Who stands behind the holder where the store has a queue.
    pub fn waiting(&self) -> Vec<(usize, u32)> {
        self.store.waiting(self.link.store_time())
    }

    /// How long after the end of a lease the store may go on refusing the lock.
    pub fn lag(&self) -> Duration {
        self.store.lag()
    }
}
