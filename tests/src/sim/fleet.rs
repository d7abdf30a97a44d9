//! The candidates' processes and the store they share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::record::RecordLock;
use tenure_core::{Identity, LockBackend, Policy, SharedClock};

use super::candidate::Application;
use super::checker::at_most;
use super::clock::SimClock;
use super::history::Fault;
use super::network::Link;
use super::plan::Family;
use super::process::Process;
use super::records::{self, RecordServer, SimRecords};
use super::session::{self, SimSessions};
use super::ttl::{self, SimTtl};
use super::world::World;

/// The store.
#[derive(Clone, Debug)]
enum Server {
    Records(records::Shared),
    Ttl(ttl::Shared),
    Session(session::Shared),
}

/// All candidates.
#[derive(Debug)]
pub struct Fleet {
    /// The world.
    pub world: Arc<World>,
    server: Server,
    /// The store's own clock.
    store: Link,
    /// Each candidate's latest life.
    processes: Mutex<Vec<Arc<Process>>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Starts every candidate.
    pub fn start(world: &Arc<World>) -> Arc<Self> {
        let store = Link::new(world.clone(), usize::MAX, 0);
        let server = match world.plan.family {
            Family::Records => {
                let server = RecordServer::new(world.plan.terse_hints);
                Server::Records(Arc::new(Mutex::new(server)))
            }
            Family::Ttl => Server::Ttl(Arc::default()),
            Family::Session => {
                let server = session::Shared::default();
                drop(tokio::spawn(session::sweep(server.clone(), store.clone())));
                Server::Session(server)
            }
        };
        let fleet = Arc::new(Self {
            world: world.clone(),
            server,
            store,
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
        let backend = self.backend(link, clock, Some(process.clone()));
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
            .and_then(|identity| Application::new(process.clone(), plan, backend, identity))
            .expect("a valid application");
        application.start();
        process
    }

    /// A client of the store.
    pub fn backend(
        &self,
        link: Link,
        clock: SharedClock,
        process: Option<Arc<Process>>,
    ) -> Arc<dyn LockBackend> {
        match &self.server {
            Server::Records(server) => Arc::new(RecordLock::new(SimRecords {
                link,
                server: server.clone(),
                clock,
            })),
            Server::Ttl(server) => Arc::new(SimTtl::new(link, server.clone(), clock)),
            Server::Session(server) => {
                Arc::new(SimSessions::new(link, server.clone(), clock, process))
            }
        }
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
        let world = &self.world;
        let token = match &self.server {
            Server::Records(server) => lock(server).delete(world),
            Server::Ttl(server) => lock(server).delete(world),
            Server::Session(server) => lock(server).delete(world),
        };
        world.fault(Fault::Deleted { token });
    }

    /// Makes the store forget everything.
    pub fn lose_state(&self) {
        let world = &self.world;
        world.fault(Fault::StateLost);
        match &self.server {
            Server::Records(server) => lock(server).lose_state(world),
            Server::Ttl(server) => lock(server).lose_state(world),
            Server::Session(server) => lock(server).lose_state(world),
        }
        // Tokens begin again, so the operator clears the fence once every term from before the
        // loss is over.
        let (world, over) = (world.clone(), at_most(world.plan.longest(Policy::validity)));
        drop(tokio::spawn(async move {
            tokio::time::sleep(over).await;
            world.clear_the_fence();
        }));
    }

    /// Sends a candidate a hint without a reason.
    pub fn poke(&self, candidate: usize) {
        let world = &self.world;
        world.fault(Fault::Hint { candidate });
        match &self.server {
            Server::Records(server) => lock(server).poke(world, candidate),
            Server::Ttl(server) => lock(server).poke(world, candidate),
            Server::Session(server) => lock(server).poke(world, candidate),
        }
    }

    /// Whose traces the store holds.
    pub fn owners(&self) -> Vec<(usize, u32)> {
        let now = self.store.store_time();
        match &self.server {
            Server::Records(server) => lock(server).owner().into_iter().collect(),
            Server::Ttl(server) => lock(server).owner(now).into_iter().collect(),
            Server::Session(server) => lock(server).owners(now),
        }
    }

    /// How long after the end of a lease the store may go on refusing the lock.
    pub fn lag(&self) -> Duration {
        match &self.server {
            Server::Session(_) => Duration::from_secs(1),
            Server::Records(_) | Server::Ttl(_) => Duration::ZERO,
        }
    }
}
