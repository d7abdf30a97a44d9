//! The model's connections: requests and answers take their time, and can be lost.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tenure_conformance::Answers;
use tenure_core::{
    Acquired, CampaignId, Candidate, Capabilities, Changes, Error, ErrorKind, Expiry,
    FencingGuarantee, FencingToken, Grant, Hint, LockBackend, LockName, Loss, Occupancy, Operation,
    Order, Renewal, Rises, SharedClock, Time, Wakeup, Wish,
};
use tokio::time::sleep;

use crate::lies::{Honest, Lie};
use crate::model::{LEG, Model};
use crate::network::Wire;
use crate::store::{Answer, Ask, Renewed, SECRET};

/// So many hints come at once in a flood.
const BURST: u64 = 10_000;

/// A connection of the model.
pub(crate) struct Connection {
    model: Arc<Model>,
    wire: Arc<Wire>,
    alive: Arc<Alive>,
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
    lost: bool,
}

/// Which renewal of its term a grant is of, and in which session.
struct Renewals {
    number: u64,
    session: u64,
    _alive: Arc<Alive>,
}

/// A session goes on for as long as its connection or one of its grants is there.
struct Alive {
    model: Arc<Model>,
    wire: Arc<Wire>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let id = self.model.session_of(&self.wire, self.wire.breaks());
        let mut store = self.model.store();
        if self.model.kind == Honest::Session {
            store.session_over(id);
        }
    }
}

impl Connection {
    pub(crate) fn new(model: Arc<Model>, wire: Arc<Wire>, absent: bool) -> Self {
        let alive = Arc::new(Alive {
            model: model.clone(),
            wire: wire.clone(),
        });
        Self {
            model,
            wire,
            alive,
            absent,
            memory: Mutex::default(),
        }
    }

    fn lies(&self, lie: Lie) -> bool {
        self.model.lie == Some(lie)
    }

    fn now(&self) -> Time {
        self.model.clock.now()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_session(&self) -> bool {
        self.model.kind == Honest::Session
    }

    /// The request on its way: dropped here, it is not applied.
    async fn request(&self, operation: Operation) -> Result<Call<'_>, Error> {
        let call = Call {
            on: self,
            operation,
            breaks: self.wire.breaks(),
        };
        if !self.wire.request(call.breaks).await {
            return Err(call.broken());
        }
        if self.absent && !self.lies(Lie::AbsenceUnnoticed) {
            let text = "the store cannot be reached";
            return Err(self
                .model
                .store()
                .error(ErrorKind::Unavailable, operation, text));
        }
        if self.by_session() && self.model.store().is_over(call.session()) {
            return Err(call.broken());
        }
        Ok(call)
    }
}

/// A request that has arrived, on the connection as it was when it was sent.
struct Call<'a> {
    on: &'a Connection,
    operation: Operation,
    breaks: u64,
}

impl Call<'_> {
    /// The session, as far as the store has one.
    fn session(&self) -> u64 {
        self.on.session_at(self.breaks)
    }

    /// The answer on its way: dropped here, the request was applied nevertheless.
    async fn answer(&self) -> Result<(), Error> {
        let answers = self.on.model.store().answers;
        let leg = async {
            match answers {
                Answers::Prompt => sleep(LEG).await,
                Answers::Late(late) => sleep(LEG + late).await,
                Answers::Lost => std::future::pending().await,
            }
        };
        if self.on.wire.answer(self.breaks, leg).await {
            Ok(())
        } else {
            Err(self.broken())
        }
    }

    fn broken(&self) -> Error {
        let text = "the connection was lost";
        let store = self.on.model.store();
        store.error(ErrorKind::Unavailable, self.operation, text)
    }
}

impl Connection {
    /// The value of a renewal is written a while after it was answered.
    fn write_value_late(&self, grant: &Grant) {
        if !self.lies(Lie::ValuesLate) {
            return;
        }
        let (model, grant, session) = (self.model.clone(), grant.clone(), self.session());
        tokio::spawn(async move {
            sleep(LEG * 50).await;
            model.store().write_value(&grant, session);
        });
    }

    fn session_at(&self, breaks: u64) -> u64 {
        self.model.session_of(&self.wire, breaks)
    }

    fn session(&self) -> u64 {
        self.session_at(self.wire.breaks())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Connection");
        if self.lies(Lie::SecretInDebug) {
            shown.field("password", &SECRET);
        }
        shown.field("id", &self.wire.id).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.model.store().connection_gone(self.wire.id);
    }
}

#[async_trait]
impl LockBackend for Connection {
    fn capabilities(&self) -> Capabilities {
        let least = if self.lies(Lie::NoMinLease) { 0 } else { 10 };
        Capabilities::new(
            "model",
            if self.by_session() {
                Expiry::Session
            } else {
                Expiry::Store
            },
            FencingGuarantee::none()
                .over_crash(Rises::Always)
                .over_failover(Rises::NotApplicable)
                .over_deletion(Rises::Always)
                .over_restore(Rises::NotApplicable),
        )
        .with_min_lease(Duration::from_millis(least))
        .with_lease_granularity(Duration::from_millis(1))
        .with_wakeup(Wakeup::Push)
        .with_order(if self.model.kind == Honest::Fifo {
            Order::Fifo
        } else {
            Order::Race
        })
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
        let call = self.request(Operation::Acquire).await?;
        let answer = self.model.store().acquire(&Ask {
            lock: lock.as_str(),
            candidate,
            lease,
            connection: call.session(),
            now: self.now(),
        });
        call.answer().await?;
        match answer? {
            Answer::Taken { holder, free_in } => Ok(Acquired::taken(holder, free_in)),
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
                    store.settle(lock.as_str(), call.session(), token, end);
                }
                let granted = match self.model.lie {
                    Some(Lie::GrantsLongerLeases) => lease * 2,
                    _ => lease,
                };
                let token = FencingToken::from_counter(token)?;
                let grant = Grant::new(lock.clone(), candidate.clone(), token, granted, proven_at);
                let state = Renewals {
                    number: 0,
                    session: call.session(),
                    _alive: self.alive.clone(),
                };
                Ok(Acquired::Held(grant.with_state(state)))
            }
        }
    }

    async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
        let _under_way = self.wire.renewing();
        let mut proven_at = self.now();
        let state = grant.state::<Renewals>();
        let number = state.map_or(0, |state| state.number);
        let taken_out = if self.lies(Lie::RenewInTwoSteps) {
            let taken_out = self.model.store().take_out(grant);
            sleep(LEG).await;
            taken_out
        } else {
            None
        };
        let call = self.request(Operation::Renew).await?;
        // A write takes longer than a look, so that one who is told too early can see it.
        sleep(LEG * 4).await;
        // A term of another session is over, whatever this one holds.
        let session = state.map_or(call.session(), |state| state.session);
        let resumed = self.lies(Lie::RenewAfterLoss);
        if self.by_session() && session != call.session() && !resumed {
            call.answer().await?;
            return Ok(Renewal::lost(None));
        }
        let renewed = {
            let mut store = self.model.store();
            store.put_back(grant.lock.as_str(), taken_out);
            store.renew(grant, number, call.session(), self.now())
        };
        self.write_value_late(grant);
        call.answer().await?;
        if self.lies(Lie::ProofAfterAnswer) {
            proven_at = self.now();
        }
        if self.lies(Lie::RenewWithOldProof) {
            proven_at = grant.proven_at;
        }
        let Renewed { token, lease } = match renewed? {
            Ok(renewed) => renewed,
            Err(_) if self.lies(Lie::RenewAsksNobody) => Renewed {
                token: grant.token.as_u64(),
                lease: grant.lease,
            },
            Err(holder) => return Ok(Renewal::lost(holder)),
        };
        if self.lies(Lie::RenewKeepsOrphans) {
            let end = proven_at + grant.lease;
            let mut store = self.model.store();
            store.settle(grant.lock.as_str(), call.session(), token, end);
        }
        let (lock, candidate) = (grant.lock.clone(), grant.candidate.clone());
        let token = FencingToken::from_counter(token)?;
        let wish = self.model.wish(&lock, token);
        let renewed = Grant::new(lock, candidate, token, lease, proven_at).with_wish(wish);
        Ok(Renewal::Renewed(renewed.with_state(Renewals {
            number: number + 1,
            session: call.session(),
            _alive: self.alive.clone(),
        })))
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let first = self.memory().released.insert(grant.token.as_u64());
        if self.lies(Lie::ReleaseOnlyOnce) && !first {
            return Ok(());
        }
        let call = self.request(Operation::Release).await?;
        let released = self
            .model
            .store()
            .release(grant, call.session(), self.now());
        call.answer().await?;
        released
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        let first = self.memory().withdrawn.insert(candidate.campaign);
        if self.lies(Lie::WithdrawOnlyOnce) && !first {
            return Ok(());
        }
        let call = self.request(Operation::Withdraw).await?;
        let withdrawn =
            self.model
                .store()
                .withdraw(lock.as_str(), candidate, call.session(), self.now());
        call.answer().await?;
        withdrawn
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let call = self.request(Operation::AskToResign).await?;
        let wish = Wish::new(token, self.now() + lasts);
        self.model.leave_wish(lock, wish);
        call.answer().await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        if self.lies(Lie::DroppedLookWedges) {
            let wedged = std::mem::replace(&mut self.memory().looking, true);
            if wedged {
                std::future::pending::<()>().await;
            }
        }
        let call = self.request(Operation::Holder).await?;
        let seen = self
            .model
            .store()
            .holder(lock.as_str(), call.session(), self.now());
        call.answer().await?;
        self.memory().looking = false;
        seen
    }

    fn changes(&self, lock: &LockName) -> Changes {
        if self.lies(Lie::HintsFlood) {
            // With a rest between two bursts, or nothing else would ever run.
            return Box::pin(stream::unfold(0_u64, async |given| {
                if given % BURST == BURST - 1 {
                    sleep(LEG).await;
                }
                Some((Hint::MayBeFree, given + 1))
            }));
        }
        let first = self.memory().streams.insert(lock.clone());
        if self.lies(Lie::HintsOnlyForTheFirst) && !first {
            return Box::pin(stream::pending());
        }
        let id = self.session();
        let receiver = self.model.store().watch(lock.as_str(), id);
        let (model, lock) = (self.model.clone(), lock.clone());
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

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        if !self.by_session() || self.lies(Lie::NoLoss) {
            return None;
        }
        let session = grant.state::<Renewals>()?.session;
        let first = !std::mem::replace(&mut self.memory().lost, true);
        if self.lies(Lie::LossOfTheFirstTermOnly) && !first {
            return Some(Box::pin(std::future::pending()));
        }
        Some(self.wire.loss(session, self.model.lie))
    }
}
