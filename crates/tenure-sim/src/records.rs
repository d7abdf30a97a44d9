//! A store of records with compare-and-swap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::record::{
    Liveness, Record, RecordEvent, RecordEvents, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    Capabilities, Error, Expiry, FencingToken, LockName, Operation, Rises, SharedClock, Time, Wish,
};

use super::common::fencing;
use super::hints::Watchers;
use super::network::Link;
use super::plan::{DRIFT_PPM, Knowledge};
use super::world::World;

/// The server: one record for each lock.
#[derive(Debug, Default)]
pub struct RecordServer {
    slots: BTreeMap<LockName, Slot>,
    last_version: u64,
    incarnations: u64,
    terse: bool,
    /// Versions begin again with each record.
    repeats: bool,
    knowledge: Knowledge,
}

#[derive(Debug, Default)]
struct Slot {
    stored: Option<Stored>,
    /// The last wish that a leader resign, and when it ends on the store's clock. It stays there.
    wish: Option<(FencingToken, Duration)>,
    watchers: Watchers<RecordEvent>,
}

#[derive(Clone, Debug)]
struct Stored {
    versioned: Versioned,
    /// Which record it is, of those that were written one after the other.
    incarnation: u64,
    /// Changes with each write of a candidate.
    mark: u64,
    /// When the lease ends, on the clock of the host that all share.
    ends: Time,
    owner: Option<(usize, u32)>,
}

/// A server that several links share.
pub type Shared = Arc<Mutex<RecordServer>>;

impl Stored {
    fn token(&self) -> Option<FencingToken> {
        self.versioned.record.holder.as_ref()?.token
    }

    /// What names this very record, as an open file does.
    fn handle(&self) -> Arc<u64> {
        Arc::new(self.incarnation)
    }

    fn read(&self, world: &World, knowledge: Knowledge) -> Versioned {
        let gone = self
            .owner
            .is_some_and(|(candidate, life)| world.is_dead(candidate, life));
        let liveness = match knowledge {
            Knowledge::None => Liveness::Observed,
            Knowledge::Death if gone => Liveness::Gone,
            Knowledge::End | Knowledge::Death => Liveness::Until(self.ends),
        };
        let mark = format!("{}/{}", self.incarnation, self.mark);
        let versioned = self.versioned.clone().with_liveness(liveness);
        versioned.with_mark(mark)
    }
}

impl RecordServer {
    /// An empty server of the plan's kind.
    pub fn new(world: &World) -> Self {
        Self {
            terse: world.plan.terse_hints,
            repeats: world.plan.repeats,
            knowledge: world.plan.knowledge,
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

    /// How often it was written to, beyond where it counts from.
    pub fn writes(&self) -> u64 {
        self.last_version
    }

    /// Deletes the record, as an operator would. Returns the token of the term that was there.
    pub fn delete(&mut self, world: &World) -> Option<FencingToken> {
        let slot = self.slots.entry(world.lock.clone()).or_default();
        let deleted = slot.stored.take()?;
        self.announce(world, &world.lock);
        deleted.token()
    }

    /// Everything is gone, and versions start again.
    pub fn lose_state(&mut self, world: &World) {
        self.last_version = 0;
        self.delete(world);
    }

    /// Another program writes the object without changing what the election has written (hazard
    /// 34). One that `prunes` also removes what stands beside the record: whose campaign it is. The
    /// token stays, for an observer here must always know it.
    pub fn touch(&mut self, world: &World, prunes: bool) {
        let slot = self.slots.entry(world.lock.clone()).or_default();
        if let Some(stored) = &mut slot.stored {
            self.last_version += 1;
            stored.versioned.version = self.last_version.into();
            if prunes && let Some(holder) = &mut stored.versioned.record.holder {
                holder.campaign = None;
            }
            self.announce(world, &world.lock);
        }
    }

    /// Tells of a holder's death, where the store knows of it.
    pub fn tell_of_a_death(&mut self, world: &World) {
        if self.knowledge == Knowledge::Death {
            self.announce(world, &world.lock);
        }
    }

    /// The candidate that holds the lock, in which of its lives.
    pub fn owner(&self, lock: &LockName) -> Option<(usize, u32)> {
        self.slots.get(lock)?.stored.as_ref()?.owner
    }

    /// A hint without a reason.
    pub fn poke(&mut self, world: &World, candidate: usize) {
        let slot = self.slots.entry(world.lock.clone()).or_default();
        slot.watchers.poke(world, candidate, &RecordEvent::Changed);
    }

    fn announce(&mut self, world: &World, lock: &LockName) {
        let (terse, knowledge) = (self.terse, self.knowledge);
        let slot = self.slots.entry(lock.clone()).or_default();
        let event = match &slot.stored {
            _ if terse => RecordEvent::Changed,
            Some(stored) => RecordEvent::Is(stored.read(world, knowledge)),
            None => RecordEvent::Gone,
        };
        slot.watchers.tell(world, &event);
    }

    fn get(&self, world: &World, lock: &LockName) -> Option<Versioned> {
        let stored = self.slots.get(lock)?.stored.as_ref()?;
        let read = stored.read(world, self.knowledge);
        Some(read.with_state(stored.handle()))
    }

    /// Whether a conditional write meets the record that it names. What was read or written names
    /// the record itself; what was told of names its version alone.
    fn meets(current: Option<&Stored>, expected: Option<&Versioned>) -> bool {
        let (current, expected) = match (current, expected) {
            (None, None) => return true,
            (Some(current), Some(expected)) => (current, expected),
            _ => return false,
        };
        let read = expected.state::<u64>();
        current.versioned.version == expected.version
            && read.is_none_or(|incarnation| *incarnation == current.incarnation)
    }

    fn write(
        &mut self,
        link: &Link,
        write: &Write,
        expected: Option<&Versioned>,
        now: Time,
    ) -> Result<Written, Error> {
        let Write { lock, record, step } = write;
        let current = self.slots.get(lock).and_then(|slot| slot.stored.as_ref());
        if !Self::meets(current, expected) {
            return Ok(Written::Conflict);
        }
        let before = current.and_then(Stored::token);
        if current.is_none() {
            self.incarnations += 1;
        }
        let mut owner = current.and_then(|stored| stored.owner);
        if self.repeats && current.is_none() {
            self.last_version = 0;
        }
        self.last_version += 1;
        let version = self.last_version;
        let mut record = record.clone();
        match step {
            Step::Acquire => {
                owner = Some((link.candidate, link.life));
                let token = FencingToken::from_counter(version)?;
                if let Some(holder) = &mut record.holder {
                    holder.token = Some(token);
                }
                link.minted(token);
            }
            Step::Release => {
                if let (Some(token), Some(owner)) = (before, owner) {
                    link.released(token, owner);
                }
                owner = None;
            }
            _ => {}
        }
        let lease = record.lease;
        let stored = Stored {
            versioned: Versioned::new(record, version),
            incarnation: self.incarnations,
            mark: version,
            ends: now + lease,
            owner,
        };
        if let Some(token) = stored.token() {
            let holder = stored.versioned.record.holder.as_ref();
            let value = holder.and_then(|holder| holder.value.as_deref());
            // The fastest observer sees it at once, and counts on the fastest clock.
            let covered = link.world.now() + on_the_fastest_clock(lease);
            link.applied(token, covered, value);
            if *step == Step::Renew {
                link.prolonged(token);
            }
        }
        let slot = self.slots.entry(lock.clone()).or_default();
        let wish = slot.wish.map(|(token, ends)| {
            let left = ends.saturating_sub(link.store_time());
            Wish::new(token, now + left)
        });
        let written = stored
            .read(&link.world, self.knowledge)
            .with_wish(wish)
            .with_state(stored.handle());
        slot.stored = Some(stored);
        self.announce(&link.world, lock);
        Ok(Written::Applied(written))
    }
}

fn on_the_fastest_clock(lease: Duration) -> Duration {
    let rate = u128::try_from(1_000_000 + DRIFT_PPM).unwrap_or(1_000_000);
    let nanos = lease.as_nanos() * 1_000_000 / rate;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A conditional write.
#[derive(Clone, Debug)]
struct Write {
    lock: LockName,
    record: Record,
    step: Step,
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

    async fn write(&self, write: Write, expected: Option<&Versioned>) -> Result<Written, Error> {
        let (link, server, clock) = (self.link.clone(), self.server.clone(), self.clock.clone());
        let expected = expected.cloned();
        self.link
            .call(Operation::Renew, move || {
                Self::server(&server).write(&link, &write, expected.as_ref(), clock.now())
            })
            .await
    }
}

#[async_trait]
impl RecordStore for SimRecords {
    fn capabilities(&self) -> Capabilities {
        let plan = &self.link.world.plan;
        Capabilities::new(
            "simulated records",
            match plan.knowledge {
                Knowledge::None => Expiry::Observation,
                Knowledge::End | Knowledge::Death => Expiry::Store,
            },
            fencing(
                Rises::Always,
                if plan.repeats {
                    Rises::Never
                } else {
                    Rises::Always
                },
            ),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_nanos(1))
        .with_wakeup(plan.wakeup)
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        self.link.world.plan.heartbeats_overlap
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let (server, world, lock) = (self.server.clone(), self.link.world.clone(), lock.clone());
        self.link
            .call(Operation::Holder, move || {
                Ok(Self::server(&server).get(&world, &lock))
            })
            .await
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        let write = Write {
            lock: lock.clone(),
            record: record.clone(),
            step: Step::Acquire,
        };
        self.write(write, None).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        let write = Write {
            lock: lock.clone(),
            record: record.clone(),
            step,
        };
        self.write(write, Some(expected)).await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let lock = lock.clone();
        let asking = move |server: &mut RecordServer, link: &Link| {
            let ends = link.store_time() + lasts;
            server.slots.entry(lock.clone()).or_default().wish = Some((token, ends));
        };
        let (server, operation) = (&self.server, Operation::AskToResign);
        self.link.ask(operation, server, asking).await
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        let link = &self.link;
        Self::server(&self.server)
            .slots
            .entry(lock.clone())
            .or_default()
            .watchers
            .watch(&link.world, link.candidate)
            .boxed()
    }
}
