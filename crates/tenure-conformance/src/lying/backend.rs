//! The model's connections: requests and answers take their time, and can be lost.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_core::{
    Acquired, CampaignId, Candidate, Capabilities, Changes, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, Hint, LockBackend, LockName, Occupancy, Operation,
    Order, Renewal, Rises, SharedClock, Time, Wakeup,
};
use tokio::time::sleep;

use super::store::{Answer, Ask, SECRET, Store};
use super::{Lie, PATIENCE, TokioClock};
use crate::{Answers, Hook, Subject};

/// One way of a request or an answer.
const LEG: Duration = Duration::from_millis(1);

/// A store in memory, honest or not, that can do all that hooks ask for.
pub(super) struct ModelSubject {
    model: Arc<Model>,
    connections: AtomicU64,
}

struct Model {
    lie: Option<Lie>,
    fifo: bool,
    clock: SharedClock,
    store: Mutex<Store>,
}

impl Model {
    fn store(&self) -> MutexGuard<'_, Store> {
        // One lie panics while it holds the lock; the others shall go on.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModelSubject {
    pub(super) fn new(fifo: bool, lie: Option<Lie>) -> Self {
        Self {
            model: Arc::new(Model {
                lie,
                fifo,
                clock: Arc::new(TokioClock::new(lie == Some(Lie::ClockStands))),
                store: Mutex::new(Store::new(fifo, lie)),
            }),
            connections: AtomicU64::new(0),
        }
    }

    fn open(&self, absent: bool) -> Arc<dyn LockBackend> {
        Arc::new(Connection {
            model: self.model.clone(),
            id: self.connections.fetch_add(1, Ordering::Relaxed),
            absent,
            memory: Mutex::default(),
        })
    }
}

#[async_trait]
impl Subject for ModelSubject {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        Ok(self.open(false))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned()]
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        self.model.store().delete(lock.as_str());
        Hook::Done
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        self.model.store().corrupt(lock.as_str());
        Hook::Done
    }

    async fn restart_store(&self) -> Hook {
        self.model.store().restart();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        self.model.store().answers = answers;
        Hook::Done
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        Some(Ok(self.open(true)))
    }
}

struct Connection {
    model: Arc<Model>,
    id: u64,
    absent: bool,
    memory: Mutex<Memory>,
}

/// What lies remember on the client's side.
#[derive(Default)]
struct Memory {
    released: HashSet<u64>,
    withdrawn: HashSet<CampaignId>,
    looking: bool,
    streams: HashSet<LockName>,
}

/// Which renewal of its term a grant is of.
struct Renewals(u64);

impl Connection {
    fn lies(&self, lie: Lie) -> bool {
        self.model.lie == Some(lie)
    }

    fn now(&self) -> Time {
        self.model.clock.now()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request on its way: dropped here, it is not applied.
    async fn request(&self, operation: Operation) -> Result<(), Error> {
        sleep(LEG).await;
        if self.absent && !self.lies(Lie::AbsenceUnnoticed) {
            let text = "the store cannot be reached";
            return Err(self
                .model
                .store()
                .error(ErrorKind::Unavailable, operation, text));
        }
        Ok(())
    }

    /// The answer on its way: dropped here, it was applied all the same.
    async fn answer(&self) {
        let answers = self.model.store().answers;
        match answers {
            Answers::Prompt => sleep(LEG).await,
            Answers::Late(late) => sleep(LEG + late).await,
            Answers::Lost => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Connection");
        if self.lies(Lie::SecretInDebug) {
            shown.field("password", &SECRET);
        }
        shown.field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.model.store().connection_gone(self.id);
    }
}

#[async_trait]
impl LockBackend for Connection {
    fn capabilities(&self) -> Capabilities {
        let least = if self.lies(Lie::NoMinLease) { 0 } else { 10 };
        Capabilities {
            store: "model",
            min_lease: Duration::from_millis(least),
            lease_granularity: Duration::from_millis(1),
            expiry: Expiry::Store,
            expiry_lag: Duration::ZERO,
            wakeup: Wakeup::Push,
            order: if self.model.fifo {
                Order::Fifo
            } else {
                Order::Race
            },
            fencing: FencingGuarantee {
                over_crash: Rises::Always,
                over_failover: Rises::NotApplicable,
                over_deletion: Rises::Always,
                over_restore: Rises::NotApplicable,
            },
        }
    }

    fn clock(&self) -> SharedClock {
        self.model.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let mut proven_at = self.now();
        self.request(Operation::Acquire).await?;
        let answer = self.model.store().acquire(&Ask {
            lock: lock.as_str(),
            candidate,
            lease,
            connection: self.id,
            now: self.now(),
        });
        self.answer().await;
        match answer? {
            Answer::Taken { holder, free_in } => Ok(Acquired::Taken { holder, free_in }),
            Answer::Held {
                token,
                began,
                adopted,
            } => {
                if self.lies(Lie::ProofAfterAnswer) {
                    proven_at = self.now();
                }
                if adopted && self.lies(Lie::AdoptsWithOldProof) {
                    proven_at = began;
                }
                if self.lies(Lie::AcquireKeepsOrphans) {
                    let end = proven_at + lease;
                    let mut store = self.model.store();
                    store.settle(lock.as_str(), self.id, token, end);
                }
                let granted = match self.model.lie {
                    Some(Lie::GrantsLongerLeases) => lease * 2,
                    _ => lease,
                };
                let token = FencingToken::from_counter(token)?;
                let grant = Grant::new(lock.clone(), candidate.clone(), token, granted, proven_at);
                Ok(Acquired::Held(grant.with_state(Renewals(0))))
            }
        }
    }

    async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
        let mut proven_at = self.now();
        let renewals = grant.state::<Renewals>().map_or(0, |renewals| renewals.0);
        let taken_out = if self.lies(Lie::RenewInTwoSteps) {
            let taken_out = self.model.store().take_out(grant);
            sleep(LEG).await;
            taken_out
        } else {
            None
        };
        self.request(Operation::Renew).await?;
        let renewed = {
            let mut store = self.model.store();
            store.put_back(grant.lock.as_str(), taken_out);
            store.renew(grant, renewals, self.id, self.now())
        };
        self.answer().await;
        if self.lies(Lie::ProofAfterAnswer) {
            proven_at = self.now();
        }
        if self.lies(Lie::RenewWithOldProof) {
            proven_at = grant.proven_at;
        }
        let token = match renewed? {
            Ok(token) => FencingToken::from_counter(token)?,
            Err(_) if self.lies(Lie::RenewAsksNobody) => grant.token,
            Err(holder) => return Ok(Renewal::Lost { holder }),
        };
        if self.lies(Lie::RenewKeepsOrphans) {
            let end = proven_at + grant.lease;
            let mut store = self.model.store();
            store.settle(grant.lock.as_str(), self.id, token.as_u64(), end);
        }
        let (lock, candidate) = (grant.lock.clone(), grant.candidate.clone());
        let renewed = Grant::new(lock, candidate, token, grant.lease, proven_at);
        Ok(Renewal::Renewed(renewed.with_state(Renewals(renewals + 1))))
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let first = self.memory().released.insert(grant.token.as_u64());
        if self.lies(Lie::ReleaseOnlyOnce) && !first {
            return Ok(());
        }
        self.request(Operation::Release).await?;
        let released = self.model.store().release(grant, self.id, self.now());
        self.answer().await;
        released
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        let first = self.memory().withdrawn.insert(candidate.campaign);
        if self.lies(Lie::WithdrawOnlyOnce) && !first {
            return Ok(());
        }
        self.request(Operation::Withdraw).await?;
        let withdrawn = self
            .model
            .store()
            .withdraw(lock.as_str(), candidate, self.id, self.now());
        self.answer().await;
        withdrawn
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        if self.lies(Lie::DroppedLookWedges) {
            let wedged = std::mem::replace(&mut self.memory().looking, true);
            if wedged {
                std::future::pending::<()>().await;
            }
        }
        self.request(Operation::Holder).await?;
        let seen = self
            .model
            .store()
            .holder(lock.as_str(), self.id, self.now());
        self.answer().await;
        self.memory().looking = false;
        seen
    }

    fn changes(&self, lock: &LockName) -> Changes {
        if self.lies(Lie::HintsFlood) {
            return Box::pin(stream::repeat(Hint::MayBeFree));
        }
        let first = self.memory().streams.insert(lock.clone());
        if self.lies(Lie::HintsOnlyForTheFirst) && !first {
            return Box::pin(stream::pending());
        }
        let receiver = self.model.store().watch(lock.as_str(), self.id);
        let (model, id, lock) = (self.model.clone(), self.id, lock.clone());
        Box::pin(stream::unfold(receiver, move |mut receiver| {
            let (model, lock) = (model.clone(), lock.clone());
            async move {
                receiver.changed().await.ok()?;
                let now = model.clock.now();
                let left = model.store().left(lock.as_str(), id, now);
                let hint = left.map_or(Hint::MayBeFree, Hint::HeldFor);
                Some((hint, receiver))
            }
        }))
    }
}
