//! The memory backend: elections among the tasks of one process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

use crate::contract::capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};
use crate::contract::check::Check;
use crate::contract::clock::{BootClock, SharedClock, Time};
use crate::contract::error::Error;
use crate::contract::name::LockName;
use crate::contract::page::Page;
use crate::contract::process::PerProcess;
use crate::contract::token::FencingToken;
use crate::contract::wish::Wish;
use crate::record::lock::RecordLock;
use crate::record::store::{
    Liveness, Record, RecordEvent, RecordEvents, RecordStore, Step, Versioned, Written,
};
use crate::record::version::Version;
use crate::sync::{Mutex, MutexGuard};

/// Elections among the tasks of one process: for tests, and for a service that runs alone.
///
/// Clones share their locks, as does everything that was opened with [`MemoryBackend::shared`].
pub type MemoryBackend = RecordLock<MemoryStore>;

impl MemoryBackend {
    /// A backend with locks of its own, on the boot clock.
    pub fn private() -> Self {
        Self::with_clock(BootClock::shared())
    }

    /// A backend with locks of its own, on another clock: for tests.
    pub fn with_clock(clock: SharedClock) -> Self {
        Self::new(MemoryStore {
            shared: Arc::default(),
            clock,
        })
    }

    /// The backend behind the URL `memory:`: all of a process share its locks.
    pub fn shared() -> Self {
        static SHARED: PerProcess<MemoryBackend> = PerProcess::new();
        SHARED.get_or_init(Self::private).clone()
    }
}

/// The records behind [`MemoryBackend`].
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct Shared {
    locks: HashMap<LockName, LockState>,
    /// One counter for all locks, so that tokens rise over a deletion too.
    last_version: u64,
}

#[derive(Debug, Default)]
struct LockState {
    stored: Option<Stored>,
    /// Made for the term in which the record was then: it names its token.
    wish: Option<Wish>,
    /// Made by the first watcher: most locks of a process with many elections have none.
    changed: Option<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
struct Stored {
    record: Record,
    version: u64,
    ends: Time,
}

impl Stored {
    fn versioned(&self) -> Versioned {
        Versioned::new(self.record.clone(), self.version).with_liveness(Liveness::Until(self.ends))
    }
}

impl MemoryStore {
    /// Deletes a lock's record, as an operator would at a real store.
    pub fn delete(&self, lock: &LockName) {
        let mut shared = self.lock();
        if let Some(state) = shared.locks.get_mut(lock) {
            state.stored = None;
            state.wish = None;
            state.announce();
        }
    }

    fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<&Versioned>,
    ) -> Result<Written, Error> {
        let mut shared = self.lock();
        let current = shared
            .locks
            .get(lock)
            .and_then(|state| state.stored.as_ref());
        let current = current.map(|stored| Version::from(stored.version));
        if current.as_ref() != expected.map(|expected| &expected.version) {
            return Ok(Written::Conflict);
        }
        shared.last_version += 1;
        let version = shared.last_version;
        let mut record = record.clone();
        if step == Step::Acquire
            && let Some(holder) = &mut record.holder
        {
            holder.token = Some(FencingToken::from_counter(version)?);
        }
        let stored = Stored {
            ends: self.clock.now() + record.lease,
            record,
            version,
        };
        let state = shared.locks.entry(lock.clone()).or_default();
        if step != Step::Renew {
            state.wish = None;
        }
        let written = stored.versioned().with_wish(state.wish);
        state.stored = Some(stored);
        state.announce();
        Ok(Written::Applied(written))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is made by one assignment, so a panic elsewhere leaves it whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockState {
    fn announce(&self) {
        if let Some(changed) = &self.changed {
            changed.send_replace(());
        }
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: "memory",
            min_lease: Duration::from_millis(10),
            lease_granularity: Duration::from_nanos(1),
            expiry: Expiry::Store,
            expiry_lag: Duration::ZERO,
            wakeup: Wakeup::Push,
            order: Order::Race,
            fencing: FencingGuarantee {
                over_crash: Rises::Never,
                over_failover: Rises::NotApplicable,
                over_deletion: Rises::Always,
                over_restore: Rises::NotApplicable,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        true
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let shared = self.lock();
        let stored = shared
            .locks
            .get(lock)
            .and_then(|state| state.stored.as_ref());
        Ok(stored.map(Stored::versioned))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.write(lock, record, Step::Acquire, None)
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.write(lock, record, step, Some(expected))
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let wish = Wish::new(token, self.clock.now() + lasts);
        let mut shared = self.lock();
        let state = shared.locks.get_mut(lock);
        let leads = |state: &&mut LockState| {
            let holder = state
                .stored
                .as_ref()
                .and_then(|it| it.record.holder.as_ref());
            holder.is_some_and(|holder| holder.token == Some(token))
        };
        // One for another term takes nobody's place.
        if let Some(state) = state.filter(leads) {
            state.wish = Some(wish);
        }
        Ok(())
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let shared = self.lock();
        let stored = shared
            .locks
            .iter()
            .filter(|(_, lock)| lock.stored.is_some());
        Ok(page.of(stored.map(|(name, _)| name.clone())))
    }

    async fn checks(&self, _lock: &LockName, _lease: Duration) -> Vec<Check> {
        vec![Check::warning(
            "scope",
            "the locks are known to the tasks of this process only; another process elects a \
             leader of its own",
            "use a store that all candidates reach, such as file:///directory on one host",
        )]
    }

    fn watch(&self, lock: &LockName) -> RecordEvents {
        let receiver = {
            let mut shared = self.lock();
            let state = shared.locks.entry(lock.clone()).or_default();
            state
                .changed
                .get_or_insert_with(|| watch::Sender::new(()))
                .subscribe()
        };
        let (store, lock) = (self.clone(), lock.clone());
        Box::pin(stream::unfold(receiver, move |mut receiver| {
            let (store, lock) = (store.clone(), lock.clone());
            async move {
                receiver.changed().await.ok()?;
                let stored = store.get(&lock).await.ok()?;
                let event = stored.map_or(RecordEvent::Gone, RecordEvent::Is);
                Some((event, receiver))
            }
        }))
    }
}
