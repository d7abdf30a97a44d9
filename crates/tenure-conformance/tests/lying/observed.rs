//! A store of records that is judged by observation and gives no hints.
//!
//! The versions of a lock start again when it is deleted, as in a store that forgets. Its writes are
//! conditional on more than that, as in Kubernetes on an object's UID, so only who judges a record
//! by its version alone is deceived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_conformance::{Hook, Target};
use tenure_core::record::{
    Liveness, MAX_LEASE, Record, RecordEvents, RecordLock, RecordStore, Step, Version, Versioned,
    Written,
};
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Error, Expiry, FencingGuarantee, FencingToken,
    Grant, LockBackend, LockName, Occupancy, Renewal, Rises, SharedClock, Time,
};

use crate::clock::{PATIENCE, TokioClock};
use crate::lies::Lie;

pub(crate) struct ObservedTarget {
    clock: SharedClock,
    records: Arc<Mutex<Records>>,
    lie: Option<Lie>,
}

impl ObservedTarget {
    pub(crate) fn new(lie: Option<Lie>) -> Self {
        Self {
            clock: Arc::new(TokioClock::new(false)),
            records: Arc::default(),
            lie,
        }
    }
}

#[async_trait]
impl Target for ObservedTarget {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        // Each connection has observations of its own.
        let lock = RecordLock::new(ObservedStore {
            clock: self.clock.clone(),
            records: self.records.clone(),
            lie: self.lie,
            known: Mutex::default(),
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
        locked(&self.records).by_lock.remove(lock);
        Hook::Done
    }

    async fn write_beside(&self, lock: &LockName) -> Hook {
        let mut records = locked(&self.records);
        records.writes += 1;
        let write = records.writes;
        if let Some(stored) = records.by_lock.get_mut(lock) {
            stored.version += 1;
            stored.write = write;
            if self.lie == Some(Lie::ObservedForgetsItsHolder)
                && let Some(holder) = &mut stored.record.holder
            {
                holder.campaign = None;
                stored.renewal = write;
            }
        }
        Hook::Done
    }
}

#[derive(Debug, Default)]
struct Records {
    by_lock: HashMap<LockName, Stored>,
    writes: u64,
}

#[derive(Clone, Debug)]
struct Stored {
    record: Record,
    /// Of the lock since its creation.
    version: u64,
    /// Of all locks, so it never comes again.
    write: u64,
    /// The last of them by a candidate.
    renewal: u64,
}

impl Stored {
    fn versioned(&self) -> Versioned {
        Versioned::new(self.record.clone(), self.version)
            .with_mark(self.renewal.to_string())
            .with_liveness(Liveness::Observed)
            .with_state(Arc::new(self.write))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct ObservedStore {
    clock: SharedClock,
    records: Arc<Mutex<Records>>,
    lie: Option<Lie>,
    /// The record of each lock as it was first seen with its version.
    known: Mutex<HashMap<LockName, (Version, Record)>>,
}

impl ObservedStore {
    fn write(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: Option<u64>,
    ) -> Result<Written, Error> {
        let mut records = locked(&self.records);
        let found = records.by_lock.get(lock);
        if found.map(|found| found.write) != expected {
            return Ok(Written::Conflict);
        }
        let version = found.map_or(0, |found| found.version) + 1;
        let mut record = record.clone();
        if step == Step::Acquire
            && let Some(holder) = &mut record.holder
        {
            holder.token = Some(FencingToken::from_counter(version)?);
        }
        records.writes += 1;
        let stored = Stored {
            record,
            version,
            write: records.writes,
            renewal: records.writes,
        };
        let written = stored.versioned();
        records.by_lock.insert(lock.clone(), stored);
        Ok(Written::Applied(written))
    }

    /// What was known of this version, for one who takes it for the same record.
    fn known(&self, lock: &LockName, version: Version, record: Record) -> Record {
        let mut known = locked(&self.known);
        match known.get(lock) {
            Some((seen, record)) if *seen == version => record.clone(),
            _ => {
                known.insert(lock.clone(), (version, record.clone()));
                record
            }
        }
    }
}

#[async_trait]
impl RecordStore for ObservedStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "observed",
            Expiry::Observation,
            FencingGuarantee::none()
                .over_failover(Rises::NotApplicable)
                .over_restore(Rises::NotApplicable),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_nanos(1))
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error> {
        let stored = locked(&self.records).by_lock.get(lock).cloned();
        Ok(stored.map(|stored| {
            let mut found = stored.versioned();
            if self.lie == Some(Lie::ObservedForEver) && found.record.holder.is_some() {
                found.record.lease = MAX_LEASE;
            }
            if self.lie == Some(Lie::ObservedByVersionAlone) {
                found.record = self.known(lock, found.version.clone(), found.record);
                found.mark = None;
            }
            if self.lie == Some(Lie::ObservedWritesBeside) {
                found.mark = None;
            }
            found
        }))
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
        // Every record that is passed on has its state.
        let write = expected.state::<u64>().map_or(0, |write| *write);
        self.write(lock, record, step, Some(write))
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
