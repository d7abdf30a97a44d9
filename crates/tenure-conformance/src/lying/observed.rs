//! A store of records that is judged by observation and gives no hints.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::record::{
    Liveness, MAX_LEASE, Record, RecordEvents, RecordLock, RecordStore, Step, Versioned, Written,
};
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Error, Expiry, Grant, LockBackend, LockName,
    MemoryBackend, MemoryStore, Occupancy, Renewal, SharedClock, Time, Wakeup,
};

use super::{Lie, PATIENCE, TokioClock};
use crate::{Hook, Subject};

pub(super) struct ObservedSubject {
    store: MemoryStore,
    lie: Option<Lie>,
}

impl ObservedSubject {
    pub(super) fn new(lie: Option<Lie>) -> Self {
        let clock = Arc::new(TokioClock::new(false));
        Self {
            store: MemoryBackend::with_clock(clock).store().clone(),
            lie,
        }
    }
}

#[async_trait]
impl Subject for ObservedSubject {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        // Each connection has observations of its own.
        let lock = RecordLock::new(ObservedStore {
            store: self.store.clone(),
            for_ever: self.lie == Some(Lie::ObservedForEver),
        });
        Ok(match self.lie {
            Some(Lie::FirstLookIsProof) => Arc::new(Credulous(lock)),
            _ => Arc::new(lock),
        })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.store.delete(lock);
        Hook::Done
    }
}

#[derive(Debug)]
struct ObservedStore {
    store: MemoryStore,
    for_ever: bool,
}

#[async_trait]
impl RecordStore for ObservedStore {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.store.capabilities();
        capabilities.store = "observed";
        capabilities.expiry = Expiry::Observation;
        capabilities.wakeup = Wakeup::Poll;
        capabilities
    }

    fn clock(&self) -> SharedClock {
        self.store.clock()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let found = self.store.get(lock).await?;
        Ok(found.map(|found| {
            let mut observed = found.with_liveness(Liveness::Observed);
            if self.for_ever && observed.record.holder.is_some() {
                observed.record.lease = MAX_LEASE;
            }
            observed
        }))
    }

    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error> {
        self.store.create(lock, record).await
    }

    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error> {
        self.store.replace(lock, record, step, expected).await
    }

    fn watch(&self, _: &LockName) -> RecordEvents {
        Box::pin(stream::empty())
    }
}

/// Takes a record for a proof of life.
#[derive(Debug)]
struct Credulous(RecordLock<ObservedStore>);

#[async_trait]
impl LockBackend for Credulous {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.0.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.0.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.0.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.0.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        Ok(match self.0.holder(lock).await? {
            Occupancy::Unknown(holder) => Occupancy::Led(holder),
            other => other,
        })
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.0.changes(lock)
    }
}
