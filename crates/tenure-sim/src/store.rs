//! A simulated store of any kind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::record::RecordLock;
use tenure_core::{FencingToken, LockBackend, LockName, SharedClock};

use super::network::Link;
use super::plan::Family;
use super::process::Process;
use super::records::{self, RecordServer, SimRecords};
use super::session::{self, SessionServer, SimSessions};
use super::ttl::{self, SimTtl, TtlServer};
use super::world::World;

/// A store, as its clients share it.
#[derive(Clone, Debug)]
pub enum Store {
    /// Records with compare-and-swap.
    Records(records::Shared),
    /// Keys with a lifetime.
    Ttl(ttl::Shared),
    /// Sessions with a queue.
    Session(session::Shared),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// An empty store, whose tokens go on from `counter`. `link` is its own way to the world.
    pub fn start(world: &World, family: Family, counter: u64, link: Link) -> Self {
        match family {
            Family::Records => {
                let server = RecordServer::new(world).counting_from(counter);
                Self::Records(Arc::new(Mutex::new(server)))
            }
            Family::Ttl => Self::Ttl(Arc::new(Mutex::new(TtlServer::counting_from(counter)))),
            Family::Session => {
                let server = Arc::new(Mutex::new(SessionServer::counting_from(counter)));
                drop(tokio::spawn(session::sweep(server.clone(), link)));
                Self::Session(server)
            }
        }
    }

    /// A client. With a process its keepalives, if it has any, run there.
    pub fn client(
        &self,
        link: Link,
        clock: SharedClock,
        process: Option<Arc<Process>>,
    ) -> Arc<dyn LockBackend> {
        match self {
            Self::Records(server) => Arc::new(RecordLock::new(SimRecords {
                link,
                server: server.clone(),
                clock,
            })),
            Self::Ttl(server) => Arc::new(SimTtl::new(link, server.clone(), clock)),
            Self::Session(server) => {
                Arc::new(SimSessions::new(link, server.clone(), clock, process))
            }
        }
    }

    /// Deletes the lock.
    pub fn delete(&self, world: &World) -> Option<FencingToken> {
        match self {
            Self::Records(server) => lock(server).delete(world),
            Self::Ttl(server) => lock(server).delete(world),
            Self::Session(server) => lock(server).delete(world),
        }
    }

    /// Forgets everything.
    pub fn lose_state(&self, world: &World) {
        match self {
            Self::Records(server) => lock(server).lose_state(world),
            Self::Ttl(server) => lock(server).lose_state(world),
            Self::Session(server) => lock(server).lose_state(world),
        }
    }

    /// Sends a candidate a hint without a reason.
    pub fn poke(&self, world: &World, candidate: usize) {
        match self {
            Self::Records(server) => lock(server).poke(world, candidate),
            Self::Ttl(server) => lock(server).poke(world, candidate),
            Self::Session(server) => lock(server).poke(world, candidate),
        }
    }

    /// Another program writes where the lock's record is; nothing on other stores.
    pub fn touch(&self, world: &World, prunes: bool) {
        if let Self::Records(server) = self {
            lock(server).touch(world, prunes);
        }
    }

    /// A number that changes with each write to a store of records.
    pub fn writes(&self) -> u64 {
        match self {
            Self::Records(server) => lock(server).writes(),
            Self::Ttl(_) | Self::Session(_) => 0,
        }
    }

    /// A process has died, which a store on the same host knows.
    pub fn tell_of_a_death(&self, world: &World) {
        if let Self::Records(server) = self {
            lock(server).tell_of_a_death(world);
        }
    }

    /// Whose traces the store holds, the holder first.
    pub fn owners(&self, name: &LockName, now: Duration) -> Vec<(usize, u32)> {
        match self {
            Self::Records(server) => lock(server).owner(name).into_iter().collect(),
            Self::Ttl(server) => lock(server).owner(now).into_iter().collect(),
            Self::Session(server) => lock(server).owners(now),
        }
    }

    /// Who stands behind the holder.
    pub fn waiting(&self, now: Duration) -> Vec<(usize, u32)> {
        match self {
            Self::Records(_) | Self::Ttl(_) => Vec::new(),
            Self::Session(server) => lock(server).waiting(now),
        }
    }

    /// How long after the end of a lease the store may go on refusing the lock.
    pub fn lag(&self) -> Duration {
        match self {
            Self::Session(_) => Duration::from_secs(1),
            Self::Records(_) | Self::Ttl(_) => Duration::ZERO,
        }
    }
}
