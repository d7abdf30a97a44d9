//! What every case stands on: connections, contestants and patience.

use std::error::Error as _;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tenure_core::{
    Acquired, CampaignId, Candidate, Capabilities, Error, ErrorKind, Expiry, Grant, Holder,
    Identity, LockBackend, LockName, Occupancy, Operation, PublishedValue, Renewal, Time,
};
use tokio::time::{Instant, sleep, timeout};

use crate::target::round_up;
use crate::verdict::{ensure, fail};
use crate::{Stop, Target};

/// A lease that no case outlives.
const LONG: Duration = Duration::from_secs(600);

/// How often a lease is doubled for a machine that was too slow for it.
pub(crate) const DOUBLINGS: u32 = 6;

/// The pauses of [`CaseContext::eventually`]: short at first, so that little is missed.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// A case's view of its target.
pub(crate) struct CaseContext<'a> {
    pub(crate) target: &'a dyn Target,
    pub(crate) capabilities: Capabilities,
    patience: Duration,
    secrets: Arc<[String]>,
    nonce: u64,
    locks: AtomicU32,
}

impl<'a> CaseContext<'a> {
    pub(crate) async fn open(target: &'a dyn Target) -> Result<Self, Stop> {
        let patience = target.patience();
        let backend = connect(target, patience).await?;
        Ok(Self {
            target,
            capabilities: backend.capabilities(),
            patience,
            secrets: target.secrets().into(),
            nonce: fastrand::u64(..),
            locks: AtomicU32::new(0),
        })
    }

    /// A lock that no other case uses, nor another run on the same store.
    pub(crate) fn lock(&self) -> Result<LockName, Stop> {
        let number = self.locks.fetch_add(1, Ordering::Relaxed);
        lock_name(&format!("conformance-{:016x}-{number}", self.nonce))
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Stop> {
        let backend = connect(self.target, self.patience).await?;
        Ok(self.connection(backend))
    }

    pub(crate) fn connection(&self, backend: Arc<dyn LockBackend>) -> Connection {
        Connection {
            backend,
            patience: self.patience,
            secrets: self.secrets.clone(),
        }
    }

    /// A candidate on a connection of its own, with a lease that no case outlives.
    pub(crate) async fn contestant(&self, lock: &LockName) -> Result<Contestant, Stop> {
        let connection = self.connect().await?;
        self.player_on(&connection, lock)
    }

    pub(crate) fn player_on(&self, on: &Connection, lock: &LockName) -> Result<Contestant, Stop> {
        let identity = identity(&format!("candidate-{:08x}", fastrand::u32(..)))?;
        Ok(Contestant {
            on: on.clone(),
            lock: lock.clone(),
            candidate: Candidate::new(identity, new_campaign()),
            lease: self.long(),
        })
    }

    /// A lease that no case outlives.
    pub(crate) fn long(&self) -> Duration {
        round_up(
            LONG.max(self.capabilities.min_lease),
            self.capabilities.lease_granularity,
        )
    }

    /// The leases to try a case with that a slow machine can spoil.
    pub(crate) fn short_leases(&self) -> impl Iterator<Item = Duration> + use<> {
        let first = self.target.lease(&self.capabilities);
        (0..DOUBLINGS).map(move |doubling| first * 2_u32.pow(doubling))
    }

    pub(crate) fn short(&self) -> Duration {
        self.target.lease(&self.capabilities)
    }

    /// How long anything may take that should take no time at all.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// How long after a first look a silent holder's lock has to be free.
    pub(crate) fn until_free(&self, lease: Duration) -> Duration {
        lease + self.capabilities.expiry_lag + self.patience
    }

    /// Repeats `attempt` until it gives something.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut attempt: impl AsyncFnMut() -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(found) = attempt().await? {
                return Ok(found);
            }
            ensure!(start.elapsed() < within, "{what}: not within {within:?}");
            sleep(pause).await;
            pause = (pause * 5 / 4).min(LAST_PAUSE);
        }
    }

    /// Polls `call` at most `polls` times and then drops it: `None` if it was not done.
    pub(crate) async fn drop_after<F: Future>(
        &self,
        polls: usize,
        call: F,
    ) -> Result<Option<F::Output>, Stop> {
        let mut call = Box::pin(call);
        let mut left = polls;
        let polled = std::future::poll_fn(move |context| {
            use std::task::Poll;
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            match call.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        timeout(self.patience, polled).await.map_err(|_| {
            Stop::failed(format!(
                "a call that had been polled fewer than {polls} times was not woken within {:?}",
                self.patience
            ))
        })
    }
}

/// Repeated as long as it fails with what can pass: a server that starts many sessions at once, on
/// a machine that is busy, may be late.
async fn connect(target: &dyn Target, patience: Duration) -> Result<Arc<dyn LockBackend>, Stop> {
    let start = Instant::now();
    loop {
        match timeout(patience, target.connect()).await {
            Ok(Ok(backend)) => return Ok(backend),
            Ok(Err(error)) if error.is_retryable() && start.elapsed() < patience => {
                sleep(LAST_PAUSE).await;
            }
            Ok(Err(error)) => fail!("connect: {error}"),
            Err(_) => fail!("connect: not within {patience:?}"),
        }
    }
}

pub(crate) fn lock_name(name: &str) -> Result<LockName, Stop> {
    LockName::new(name).map_err(|error| Stop::failed(format!("the suite's own name: {error}")))
}

pub(crate) fn identity(text: &str) -> Result<Identity, Stop> {
    Identity::new(text).map_err(|error| Stop::failed(format!("the suite's own identity: {error}")))
}

pub(crate) fn value(text: &str) -> Result<PublishedValue, Stop> {
    PublishedValue::new(text)
        .map_err(|error| Stop::failed(format!("the suite's own value: {error}")))
}

pub(crate) fn new_campaign() -> CampaignId {
    CampaignId::new(fastrand::u64(..))
}

/// One connection. Its calls have a deadline and repeat what failed for the moment.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) backend: Arc<dyn LockBackend>,
    patience: Duration,
    secrets: Arc<[String]>,
}

impl Connection {
    pub(crate) fn now(&self) -> Time {
        self.backend.clock().now()
    }

    /// Repeats `call` as long as it fails with what can pass, which the engine would do too.
    async fn ask<T, F>(&self, operation: Operation, call: impl Fn() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let start = Instant::now();
        loop {
            match self.once(operation, call()).await? {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retryable() && start.elapsed() < self.patience => {
                    sleep(error.retry_after().unwrap_or(FIRST_PAUSE).max(FIRST_PAUSE)).await;
                }
                Err(error) => fail!("{}", describe(&error)),
            }
        }
    }

    /// One call, its error judged but given back.
    pub(crate) async fn once<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, Stop> {
        let Ok(answer) = timeout(self.patience, call).await else {
            fail!("{operation}: no answer within {:?}", self.patience);
        };
        if let Err(error) = &answer {
            self.judge(operation, error)?;
        }
        Ok(answer)
    }

    /// Every error that comes up in a case has to say what it is and to keep secrets.
    pub(crate) fn judge(&self, operation: Operation, error: &Error) -> Result<(), Stop> {
        let shown = describe(error);
        ensure!(
            error.kind() != ErrorKind::Internal,
            "an error of kind Internal while {operation}: {shown}"
        );
        ensure!(
            !error.message().trim().is_empty(),
            "an error without a message while {operation}"
        );
        // Reading the record is the first half of each step on a store of records.
        let fits = error.operation() == operation
            || matches!(
                error.operation(),
                Operation::Connect | Operation::Configure | Operation::Holder
            );
        ensure!(
            fits,
            "an error while {operation} says it arose while {}",
            error.operation()
        );
        self.keeps_secrets("an error", &shown)?;
        self.keeps_secrets("an error's debug output", &format!("{error:?}"))
    }

    pub(crate) fn keeps_secrets(&self, what: &str, shown: &str) -> Result<(), Stop> {
        for secret in self.secrets.iter() {
            ensure!(
                !shown.contains(secret.as_str()),
                "{what} shows a secret: {}",
                shown.replace(secret.as_str(), "<secret>")
            );
        }
        Ok(())
    }

    pub(crate) async fn holder(&self, lock: &LockName) -> Result<Occupancy, Stop> {
        self.ask(Operation::Holder, || self.backend.holder(lock))
            .await
    }
}

/// An error with its sources.
fn describe(error: &Error) -> String {
    let mut text = format!("{} error: {error}", error.kind().name());
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// What a refused candidate was told.
pub(crate) struct Refusal {
    pub(crate) holder: Option<Holder>,
    pub(crate) free_in: Option<Duration>,
}

/// One candidate of one lock on one connection.
#[derive(Clone)]
pub(crate) struct Contestant {
    pub(crate) on: Connection,
    pub(crate) lock: LockName,
    pub(crate) candidate: Candidate,
    pub(crate) lease: Duration,
}

impl Contestant {
    pub(crate) fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    pub(crate) fn identity(mut self, identity: &Identity) -> Self {
        self.candidate.identity = identity.clone();
        self
    }

    pub(crate) fn on_lock(mut self, lock: &LockName) -> Self {
        self.lock = lock.clone();
        self
    }

    pub(crate) fn value(mut self, text: &str) -> Result<Self, Stop> {
        self.candidate.value = Some(value(text)?);
        Ok(self)
    }

    /// The same candidate with another's campaign number, as after a fork that numbered two
    /// campaigns alike.
    pub(crate) fn numbered_as(mut self, other: &Self) -> Self {
        self.candidate.campaign = other.candidate.campaign;
        self
    }

    /// Two that are not this candidate, although each has one half of its name: the identity or
    /// the campaign's number (contract 9). On `on`.
    pub(crate) fn halves(&self, on: &Connection) -> Result<[(&'static str, Self); 2], Stop> {
        let here = Self {
            on: on.clone(),
            ..self.clone()
        };
        let stranger = identity(&format!("stranger-{:08x}", fastrand::u32(..)))?;
        Ok([
            (
                "another identity with the same campaign number",
                here.clone().identity(&stranger),
            ),
            ("another campaign of the same identity", here.next()),
        ])
    }

    /// The grant as this candidate would have it, had it been granted the term of another.
    pub(crate) fn usurped(&self, grant: &Grant) -> Grant {
        let mut usurped = grant.clone();
        usurped.candidate = self.candidate.clone();
        usurped
    }

    /// The same candidate in its next campaign.
    pub(crate) fn next(&self) -> Self {
        let mut next = self.clone();
        next.candidate.campaign = new_campaign();
        next
    }

    pub(crate) fn backend(&self) -> &dyn LockBackend {
        &*self.on.backend
    }

    pub(crate) fn now(&self) -> Time {
        self.on.now()
    }

    /// A call to acquire as the backend gives it, to be polled and dropped.
    pub(crate) fn acquiring(&self) -> impl Future<Output = Result<Acquired, Error>> + '_ {
        self.on
            .backend
            .acquire(&self.lock, &self.candidate, self.lease)
    }

    pub(crate) async fn acquire(&self) -> Result<Acquired, Stop> {
        let before = self.now();
        let acquired = self.on.ask(Operation::Acquire, || self.acquiring()).await?;
        if let Acquired::Held(grant) = &acquired {
            self.check(grant, before)?;
        }
        Ok(acquired)
    }

    /// The lock has to be granted now.
    pub(crate) async fn held(&self, why: &str) -> Result<Grant, Stop> {
        match self.acquire().await? {
            Acquired::Held(grant) => Ok(grant),
            Acquired::Taken { holder, free_in } => fail!(
                "{why}: the lock should have been granted, but it is taken by {holder:?}, free in {free_in:?}"
            ),
        }
    }

    /// The lock, if it is granted now.
    pub(crate) async fn try_held(&self) -> Result<Option<Grant>, Stop> {
        Ok(match self.acquire().await? {
            Acquired::Held(grant) => Some(grant),
            Acquired::Taken { .. } => None,
        })
    }

    /// The lock has to be refused now. Leaves no place in a queue.
    pub(crate) async fn refused(&self, why: &str) -> Result<Refusal, Stop> {
        match self.acquire().await? {
            Acquired::Held(grant) => {
                fail!("{why}: the lock should have been refused, but it was granted: {grant:?}")
            }
            Acquired::Taken { holder, free_in } => {
                self.withdraw().await?;
                Ok(Refusal { holder, free_in })
            }
        }
    }

    pub(crate) async fn renew(&self, grant: &Grant) -> Result<Renewal, Stop> {
        let not_before = self.now();
        let renewal = self
            .on
            .ask(Operation::Renew, || {
                self.on.backend.renew(grant, not_before)
            })
            .await?;
        if let Renewal::Renewed(renewed) = &renewal {
            self.check(renewed, not_before)?;
            ensure!(
                renewed.proven_at >= not_before,
                "the proof of a renewal is older than it was asked for"
            );
        }
        Ok(renewal)
    }

    pub(crate) async fn renewed(&self, grant: &Grant, why: &str) -> Result<Grant, Stop> {
        match self.renew(grant).await? {
            Renewal::Renewed(grant) => Ok(grant),
            Renewal::Lost { holder } => {
                fail!("{why}: the term should have been renewed, but it is lost to {holder:?}")
            }
        }
    }

    pub(crate) async fn lost(&self, grant: &Grant, why: &str) -> Result<Option<Holder>, Stop> {
        match self.renew(grant).await? {
            Renewal::Lost { holder } => Ok(holder),
            Renewal::Renewed(grant) => {
                fail!("{why}: the term should have been lost, but it was renewed: {grant:?}")
            }
        }
    }

    pub(crate) async fn release(&self, grant: &Grant) -> Result<(), Stop> {
        self.on
            .ask(Operation::Release, || self.on.backend.release(grant))
            .await
    }

    pub(crate) async fn withdraw(&self) -> Result<(), Stop> {
        self.on
            .ask(Operation::Withdraw, || {
                self.on.backend.withdraw(&self.lock, &self.candidate)
            })
            .await
    }

    pub(crate) async fn holder(&self) -> Result<Occupancy, Stop> {
        self.on.holder(&self.lock).await
    }

    /// What holds for every grant.
    fn check(&self, grant: &Grant, before: Time) -> Result<(), Stop> {
        ensure!(
            grant.lock == self.lock,
            "a grant for {} says it is for {}",
            self.lock,
            grant.lock
        );
        ensure!(
            grant.candidate.identity == self.candidate.identity
                && grant.candidate.campaign == self.candidate.campaign,
            "a grant for {:?} says it is for {:?}",
            self.candidate,
            grant.candidate
        );
        ensure!(!grant.lease.is_zero(), "a grant has a lease of nothing");
        let now = self.now();
        ensure!(
            grant.proven_at <= now,
            "a grant was proven {:?} in the future",
            grant.proven_at.since(now)
        );
        // One proof may serve many elections of a session; elsewhere it is of this very request,
        // and an older one would be of a term that may have ended since.
        let session = self.backend().capabilities().expiry == Expiry::Session;
        ensure!(
            session || grant.proven_at >= before,
            "a grant was proven {:?} before it was asked for",
            before.since(grant.proven_at)
        );
        Ok(())
    }
}

/// When the lease of `grant` ends by the holder's clock, for the strictest of two clocks: clocks
/// may drift apart by 500 ppm each (I2).
pub(crate) fn earliest_end(grant: &Grant) -> Time {
    grant.proven_at + grant.lease.mul_f64(0.999)
}
