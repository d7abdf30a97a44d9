//! [`KubeLeaseBackend`]: the lock protocol on Leases, and the candidate's object beside it.

use std::time::Duration;

use async_trait::async_trait;
use tenure_core::record::RecordLock;
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Check, Error, FencingToken, Grant, LockBackend,
    LockName, Occupancy, Page, Renewal, SharedClock, Time,
};
use tenure_kube::{Cluster, ObjectStore};

use crate::form::LeaseForm;

/// Elections on the Leases of a namespace; see the [crate's documentation](crate).
///
/// Clones share one connection.
#[derive(Clone, Debug)]
pub struct KubeLeaseBackend {
    lock: RecordLock<ObjectStore<LeaseForm>>,
}

impl KubeLeaseBackend {
    pub(crate) fn on(cluster: Cluster) -> Self {
        Self {
            lock: RecordLock::new(ObjectStore::new(cluster)),
        }
    }

    /// The store of the records.
    pub fn store(&self) -> &ObjectStore<LeaseForm> {
        self.lock.store()
    }
}

/// As [`RecordLock`] does it. Where the API server decides who leads, a candidate takes part from
/// its first attempt on, until its term is given back or it withdraws.
#[async_trait]
impl LockBackend for KubeLeaseBackend {
    fn capabilities(&self) -> Capabilities {
        self.lock.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.lock.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.store().enter(lock, &candidate.identity).await?;
        self.lock.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.lock.renew(grant, not_before).await
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        self.lock.may_go_on(began_at)
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.store().leave(&grant.lock).await;
        self.lock.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.store().leave(lock).await;
        self.lock.withdraw(lock, candidate).await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        self.lock.ask_to_resign(lock, token, lasts).await
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        self.lock.elections(page).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.lock.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.lock.changes(lock)
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        self.lock.checks(lock, lease).await
    }
}
