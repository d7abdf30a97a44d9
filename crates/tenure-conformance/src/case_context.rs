//! What every case starts from: its target, fresh locks, contestants and patience.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use tenure_core::{
    CampaignId, Candidate, Capabilities, Grant, LockBackend, LockName, Occupancy, Time,
};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::Connection;
use crate::contestant::Contestant;
use crate::names::{identity, lock_name};
use crate::target::{Target, round_up};
use crate::verdict::{Stop, Verdict, ensure, fail};

/// A lease that no case outlives.
const LONG: Duration = Duration::from_secs(600);

/// How often a lease is doubled for a machine that was too slow for it.
const DOUBLINGS: u32 = 6;

/// The pauses of [`CaseContext::eventually`]: short at first, so that little is missed.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// The fixture of one case.
pub(crate) struct CaseContext<'a> {
    pub(crate) target: &'a dyn Target,
    pub(crate) capabilities: Capabilities,
    patience: Duration,
    secrets: Arc<[String]>,
    nonce: u64,
    locks: AtomicU32,
}

/// A context, and so many contestants for one fresh lock: the beginning of most cases.
pub(crate) async fn contest<const N: usize>(
    target: &dyn Target,
) -> Result<(CaseContext<'_>, [Contestant; N]), Stop> {
    let context = CaseContext::open(target).await?;
    let contestants = context.contestants().await?;
    Ok((context, contestants))
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
        Connection::new(backend, self.patience, self.secrets.clone())
    }

    /// A contestant on a connection of its own, with a lease that no case outlives.
    pub(crate) async fn contestant(&self, lock: &LockName) -> Result<Contestant, Stop> {
        let connection = self.connect().await?;
        self.contestant_on(&connection, lock)
    }

    /// So many for one fresh lock.
    pub(crate) async fn contestants<const N: usize>(&self) -> Result<[Contestant; N], Stop> {
        let lock = self.lock()?;
        let mut all = Vec::with_capacity(N);
        for _ in 0..N {
            all.push(self.contestant(&lock).await?);
        }
        all.try_into()
            .map_err(|_| Stop::failed("the suite's own count of contestants"))
    }

    pub(crate) fn contestant_on(
        &self,
        on: &Connection,
        lock: &LockName,
    ) -> Result<Contestant, Stop> {
        let identity = identity(&format!("candidate-{:08x}", fastrand::u32(..)))?;
        Ok(Contestant {
            on: on.clone(),
            lock: lock.clone(),
            candidate: Candidate::new(identity, CampaignId::new(fastrand::u64(..))),
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

    /// The lease of cases that wait for its end.
    pub(crate) fn short(&self) -> Duration {
        self.target.lease(&self.capabilities)
    }

    /// Tries a case that a slow machine can spoil with longer and longer leases, until one try
    /// gives something.
    pub(crate) async fn try_leases<T>(
        &self,
        mut attempt: impl AsyncFnMut(Duration) -> Result<Option<T>, Stop>,
    ) -> Result<Option<T>, Stop> {
        for doubling in 0..DOUBLINGS {
            if let Some(done) = attempt(self.short() * 2_u32.pow(doubling)).await? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// The same; one try has to give something.
    pub(crate) async fn on_a_lease<T>(
        &self,
        attempt: impl AsyncFnMut(Duration) -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let done = self.try_leases(attempt).await?;
        done.ok_or_else(|| Stop::failed("this machine was too slow for every lease that was tried"))
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

    /// The lock is granted to `contestant` in the end.
    pub(crate) async fn granted(
        &self,
        contestant: &Contestant,
        what: &str,
        within: Duration,
    ) -> Result<Grant, Stop> {
        self.eventually(what, within, async || contestant.try_held().await)
            .await
    }

    /// The lock of a holder that was silent for `lease` is granted in the end.
    pub(crate) async fn granted_after(
        &self,
        lease: Duration,
        contestant: &Contestant,
        what: &str,
    ) -> Result<Grant, Stop> {
        self.granted(contestant, what, self.until_free(lease)).await
    }

    /// The lock is granted to `rival` in the end, and not before the lease of `of` has ended by
    /// its holder's own count. `rival` withdraws.
    pub(crate) async fn ends_in_time(&self, of: &Grant, rival: &Contestant) -> Verdict {
        self.granted_after(of.lease, rival, "the end of a lease")
            .await?;
        not_before(earliest_end(of), rival.now())?;
        rival.withdraw().await
    }

    /// Observers see the lock as free in the end.
    pub(crate) async fn seen_free(
        &self,
        what: &str,
        lease: Duration,
        on: &Connection,
        lock: &LockName,
    ) -> Verdict {
        self.eventually(what, self.until_free(lease), async || {
            Ok((on.holder(lock).await? == Occupancy::Free).then_some(()))
        })
        .await
    }

    /// Polls `call` at most `polls` times and then drops it: `None` if it was not done.
    pub(crate) async fn drop_after<F: Future>(
        &self,
        polls: usize,
        call: F,
    ) -> Result<Option<F::Output>, Stop> {
        let mut call = Box::pin(call);
        let mut left = polls;
        let polled = poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            match call.as_mut().poll(cx) {
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

/// Repeats what fails for the moment: a busy server may be late with many sessions at once.
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

/// When the lease of `grant` ends by the holder's clock, for the strictest of two clocks: clocks
/// may drift apart by 500 ppm each (I2).
pub(crate) fn earliest_end(grant: &Grant) -> Time {
    grant.proven_at + grant.lease.mul_f64(0.999)
}

/// A lock was granted at `granted_at`: its silent holder's lease has ended by then.
pub(crate) fn not_before(end: Time, granted_at: Time) -> Verdict {
    ensure!(
        granted_at >= end,
        "a lock was granted {:?} before the lease of its silent holder had ended",
        end.since(granted_at)
    );
    Ok(())
}
