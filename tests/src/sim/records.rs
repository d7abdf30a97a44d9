//! A store of records with compare-and-swap, judged by observation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::record::{
    Record, RecordEvent, RecordEvents, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    Capabilities, Error, Expiry, FencingGuarantee, FencingToken, LockName, Operation, Order, Rises,
    SharedClock,
};

use super::hints::Watchers;
use super::history::Event;
use super::network::Link;
use super::plan::DRIFT_PPM;
use super::world::World;

/// The server.
#[derive(Debug, Default)]
pub struct RecordServer {
    slot: Option<Stored>,
    last_version: u64,
    watchers: Watchers<RecordEvent>,
    terse: bool,
}

#[derive(Clone, Debug)]
struct Stored {
    versioned: Versioned,
    owner: Option<(usize, u32)>,
}

/// A server that several links share.
pub type Shared = Arc<Mutex<RecordServer>>;

impl RecordServer {
    /// An empty server; a terse one tells only that something has changed.
    pub fn new(terse: bool) -> Self {
        Self {
            terse,
            ..Self::default()
        }
    }

    /// The same server, but versions go on from `version`.
    #[must_use]
    pub fn counting_from(self, version: u64) -> Self {
        Self {
            last_version: version,
            ..self
        }
    }

    /// Deletes the record, as an operator would. Returns the token of the term that was there.
    pub fn delete(&mut self, world: &World) -> Option<u64> {
        let token = self.token();
        if self.slot.take().is_some() {
            self.announce(world);
        }
        token
    }

    /// Everything is gone, and versions start again.
    pub fn lose_state(&mut self, world: &World) {
        self.last_version = 0;
        self.delete(world);
    }

    /// The candidate that holds the lock, in which of its lives.
    pub fn owner(&self) -> Option<(usize, u32)> {
        self.slot.as_ref()?.owner
    }

    /// A hint without a reason.
    pub fn poke(&mut self, world: &World, candidate: usize) {
        self.watchers.poke(world, candidate, &RecordEvent::Changed);
    }

    fn token(&self) -> Option<u64> {
        let holder = self.slot.as_ref()?.versioned.record.holder.as_ref()?;
        Some(holder.token?.as_u64())
    }

    fn announce(&mut self, world: &World) {
        let event = match &self.slot {
            _ if self.terse => RecordEvent::Changed,
            Some(stored) => RecordEvent::Is(stored.versioned.clone()),
            None => RecordEvent::Gone,
        };
        self.watchers.tell(world, &event);
    }

    fn write(
        &mut self,
        link: &Link,
        record: &Record,
        step: Step,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let current = self.slot.as_ref().map(|stored| stored.versioned.version);
        if current != expected {
            return Ok(Written::Conflict);
        }
        let world = &link.world;
        let before = self.token();
        self.last_version += 1;
        let version = self.last_version;
        let mut record = record.clone();
        let mut owner = self.owner();
        match step {
            Step::Acquire => {
                owner = Some((link.candidate, link.life));
                if let Some(holder) = &mut record.holder {
                    holder.token = Some(FencingToken::from_counter(version)?);
                }
                world.record(Event::Minted {
                    candidate: link.candidate,
                    life: link.life,
                    token: version,
                });
            }
            Step::Renew => {}
            Step::Release => {
                owner = None;
                if let Some(token) = before {
                    let working = world.working_under(token);
                    world.record(Event::Released { token, working });
                }
            }
        }
        let lease = record.lease;
        let versioned = Versioned::new(record, version);
        self.slot = Some(Stored {
            versioned: versioned.clone(),
            owner,
        });
        if let Some(token) = self.token() {
            // The fastest observer sees it at once, and counts on the fastest clock.
            world.applied(token, world.now() + on_the_fastest_clock(lease));
            if step == Step::Renew {
                world.record(Event::Prolonged { token });
            }
        }
        self.announce(world);
        Ok(Written::Applied(versioned))
    }
}

fn on_the_fastest_clock(lease: Duration) -> Duration {
    let rate = u128::try_from(1_000_000 + DRIFT_PPM).unwrap_or(1_000_000);
    let nanos = lease.as_nanos() * 1_000_000 / rate;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// One candidate's client.
#[derive(Clone, Debug)]
pub struct SimRecords {
    /// The network.
    pub link: Link,
    /// The server.
    pub server: Shared,
    /// The candidate's clock.
    pub clock: SharedClock,
}

impl SimRecords {
    fn server(server: &Shared) -> MutexGuard<'_, RecordServer> {
        server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(
        &self,
        record: &Record,
        step: Step,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let (link, server, record) = (self.link.clone(), self.server.clone(), record.clone());
        self.link
            .call(Operation::Renew, move || {
                Self::server(&server).write(&link, &record, step, expected)
            })
            .await
    }
}

#[async_trait]
impl RecordStore for SimRecords {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: "simulated records",
            min_lease: Duration::from_millis(10),
            lease_granularity: Duration::from_nanos(1),
            expiry: Expiry::Observation,
            expiry_lag: Duration::ZERO,
            wakeup: self.link.world.plan.wakeup,
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: Rises::Always,
                over_failover: Rises::Always,
                over_deletion: Rises::Always,
                over_restore: Rises::Never,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn get(&self, _lock: &LockName) -> Result<Option<Versioned>, Error> {
        let server = self.server.clone();
        self.link
            .call(Operation::Holder, move || {
                let server = Self::server(&server);
                Ok(server.slot.as_ref().map(|stored| stored.versioned.clone()))
            })
            .await
    }

    async fn create(&self, _lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.write(record, Step::Acquire, None).await
    }

    async fn replace(
        &self,
        _lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.write(record, step, Some(expected.version)).await
    }

    fn watch(&self, _lock: &LockName) -> RecordEvents {
        let link = &self.link;
        Self::server(&self.server)
            .watchers
            .watch(&link.world, link.candidate)
            .boxed()
    }
}
