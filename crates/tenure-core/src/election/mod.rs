//! An election: one candidate for one lock.

pub(crate) mod engine;
pub(crate) mod event;
pub(crate) mod leadership;
pub mod machine;
pub(crate) mod observer;
pub(crate) mod run;
pub(crate) mod spawn;
pub(crate) mod telemetry;
pub(crate) mod term;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use tracing::Instrument as _;

use crate::contract::backend::{CampaignId, Candidate, Holder, LockBackend};
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::{Identity, LockName, PublishedValue};
use crate::contract::process::{Process, random_u64};
use crate::election::engine::{Control, Engine, Order};
use crate::election::event::{ElectionState, Event};
use crate::election::leadership::Leadership;
use crate::election::spawn::{CurrentRuntime, Spawn};
use crate::policy::Policy;

/// How many events a subscriber may lag behind before it misses some.
const EVENT_BUFFER: usize = 32;

/// The default of [`ElectionBuilder::drain_limit`]; below the 30 s that Kubernetes gives a pod.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

type HealthProbe = Box<dyn Fn() -> bool + Send + Sync>;

/// One candidate for one lock, which leads one term at a time.
///
/// Cheap to clone; clones are the same candidate.
///
/// ```
/// use std::sync::Arc;
/// use tenure_core::{Election, LockName, MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure_core::Error> {
/// let backend = Arc::new(MemoryBackend::private());
/// let election = Election::builder(backend, LockName::new("nightly-batch")?).build()?;
///
/// let leadership = election.campaign().await?;
/// if let Ok(permit) = leadership.permit(std::time::Duration::from_secs(1)) {
///     println!("leading with fencing token {}", permit.token);
/// }
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Election {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn LockBackend>,
    pub(crate) lock: LockName,
    pub(crate) identity: Identity,
    pub(crate) policy: Policy,
    pub(crate) clock: SharedClock,
    pub(crate) drain_limit: Duration,
    pub(crate) abort_on_overrun: bool,
    pub(crate) due: Due,
    value: Option<PublishedValue>,
    health: Option<HealthProbe>,
    spawner: Arc<dyn Spawn>,
    /// Campaigns of a fork would be the parent's.
    pub(crate) process: Process,
    numbers: Numbers,
    state: watch::Sender<ElectionState>,
    /// Made by the first subscriber: its buffer is larger than everything else here.
    events: OnceLock<broadcast::Sender<Event>>,
    occupied: AtomicBool,
    /// The store has answered an `acquire`: permissions and configuration were fine once.
    answered: AtomicBool,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Election {
    /// Starts to describe an election for `lock` on `backend`.
    pub fn builder(backend: Arc<dyn LockBackend>, lock: LockName) -> ElectionBuilder {
        ElectionBuilder {
            backend,
            lock,
            identity: None,
            policy: Policy::default(),
            value: None,
            health: None,
            drain_limit: DRAIN_LIMIT,
            abort_on_overrun: false,
            spawner: Arc::new(CurrentRuntime),
            seed: None,
        }
    }

    /// Campaigns until elected.
    ///
    /// Faults of the store are retried for as long as it takes. What somebody has to mend
    /// (permissions, configuration) is an error if the first answer that this election gets from
    /// the store says so; later it is an event, and the campaign goes on.
    ///
    /// Cancel safe: dropping the future withdraws from the election, in the background. One
    /// `Election` campaigns or leads once at a time; a second call meanwhile is an
    /// [`InvalidInput`](ErrorKind::InvalidInput) error. A release still under way is waited for.
    ///
    /// In a child that was forked since the election was built it fails with
    /// [`Forked`](ErrorKind::Forked): connect and build the election after the fork. It fails with
    /// [`Unsupported`](ErrorKind::Unsupported) when the operating system gives no random number.
    pub async fn campaign(&self) -> Result<Leadership, Error> {
        self.inner.process.check(Operation::Campaign)?;
        let occupied = Occupied::claim(&self.inner)?;
        let turn = self.inner.turn.clone().lock_owned().await;
        let control = Arc::new(Control::default());
        let (elected, outcome) = oneshot::channel();
        let (campaign, seed) = self.inner.draw()?;
        let candidate = Candidate {
            identity: self.inner.identity.clone(),
            campaign,
            value: self.inner.value.clone(),
        };
        let engine = Engine::new(
            self.inner.clone(),
            candidate,
            control.clone(),
            seed,
            elected,
            turn,
        );
        let span = telemetry::campaign(&self.inner);
        let engine = engine.run().instrument(span);
        self.inner.spawner.spawn(Box::pin(engine))?;
        let mut pending = PendingCampaign {
            control: control.clone(),
            process: self.inner.process.clone(),
            over: false,
        };
        let outcome = outcome.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                Operation::Campaign,
                "the engine was stopped: is its runtime shutting down?",
            ))
        });
        pending.over = true;
        Ok(Leadership::new(outcome?, control, occupied))
    }

    /// Waits until what a dropped campaign or leadership gives back in the background is given
    /// back, or a request timeout has passed: before the process exits, so that others need not
    /// wait for the lease to end.
    pub async fn settled(&self) {
        let deadline = self.inner.clock.now() + self.inner.policy.request_timeout();
        tokio::select! {
            biased;
            _turn = self.inner.turn.lock() => {}
            () = self.inner.clock.sleep_until(deadline) => {}
        }
    }

    /// Gives the others a head start.
    pub(crate) async fn pause(&self) {
        let until = self.inner.clock.now() + self.inner.policy.retry_interval();
        self.inner.clock.sleep_until(until).await;
    }

    /// The lock that is campaigned for.
    pub fn lock(&self) -> &LockName {
        &self.inner.lock
    }

    /// Who campaigns.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Where the election stands, as a value to watch. It may be behind; ask the
    /// [`Term`](crate::Term) before a side effect.
    pub fn state(&self) -> watch::Receiver<ElectionState> {
        self.inner.state.subscribe()
    }

    /// What happens from now on. A subscriber that lags behind misses the oldest events, and is
    /// told how many.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner
            .events
            .get_or_init(|| broadcast::Sender::new(EVENT_BUFFER))
            .subscribe()
    }

    /// How far the engine is behind its own timer: for a liveness probe.
    ///
    /// Zero when it is on time or nothing is to be done; more than a request timeout when its
    /// runtime is starved or blocked.
    pub fn engine_lag(&self) -> Duration {
        self.inner.due.lag(self.inner.clock.now())
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election")
            .field("lock", &self.inner.lock)
            .field("identity", &self.inner.identity)
            .field("state", &*self.inner.state.borrow())
            .finish_non_exhaustive()
    }
}

/// Describes an [`Election`].
#[must_use]
pub struct ElectionBuilder {
    backend: Arc<dyn LockBackend>,
    lock: LockName,
    identity: Option<Identity>,
    policy: Policy,
    value: Option<PublishedValue>,
    health: Option<HealthProbe>,
    drain_limit: Duration,
    abort_on_overrun: bool,
    spawner: Arc<dyn Spawn>,
    seed: Option<u64>,
}

impl ElectionBuilder {
    /// Who campaigns; by default [`Identity::of_this_process`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The policy; by default [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What is published beside the identity while leading.
    pub fn value(mut self, value: PublishedValue) -> Self {
        self.value = Some(value);
        self
    }

    /// A probe that must say `true` for this candidate to campaign and to go on renewing, so that
    /// an application that is stuck loses the lead. It must return at once.
    ///
    /// A leader's probe is asked before each heartbeat. A candidate's probe is asked at least
    /// every retry interval while it waits, and once more between the store's grant and the start
    /// of the term. When it says no the candidate withdraws at once, so that nobody waits behind
    /// it. When it says yes again the candidate comes back, at the end of the queue where the
    /// store has one, and one heartbeat after it left at the earliest.
    pub fn health(mut self, probe: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.health = Some(Box::new(probe));
        self
    }

    /// How long the term is kept up for work that was told to stop and has not returned; 25 s by
    /// default. After that the validity runs out.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Aborts the process when the work still runs although its term is over. Off by default:
    /// then it is reported as an event and in the log.
    pub fn abort_on_overrun(mut self, abort: bool) -> Self {
        self.abort_on_overrun = abort;
        self
    }

    /// Where the engine runs; by default on the runtime that `campaign` is called on. See
    /// [`HeartbeatThread`](crate::HeartbeatThread).
    pub fn spawn_on(mut self, spawner: impl Spawn) -> Self {
        self.spawner = Arc::new(spawner);
        self
    }

    /// Seeds jitter and campaign numbers, so that a simulation can be replayed. Two candidates
    /// with the same seed and identity could take each other's campaigns for their own: never set
    /// it outside tests.
    #[cfg(feature = "test-util")]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The election, or a [`Misconfigured`](ErrorKind::Misconfigured) error if the store cannot
    /// grant the policy's lease. Without an identity of its own it fails like
    /// [`Identity::of_this_process`].
    pub fn build(self) -> Result<Election, Error> {
        self.policy.check_for(&self.backend.capabilities())?;
        let identity = match self.identity {
            Some(identity) => identity,
            None => Identity::of_this_process()?,
        };
        Ok(Election {
            inner: Arc::new(Inner {
                clock: self.backend.clock(),
                backend: self.backend,
                lock: self.lock,
                identity,
                policy: self.policy,
                drain_limit: self.drain_limit,
                abort_on_overrun: self.abort_on_overrun,
                due: Due::default(),
                value: self.value,
                health: self.health,
                spawner: self.spawner,
                process: Process::current(),
                numbers: self
                    .seed
                    .map_or(Numbers::System(random_u64), Numbers::seeded),
                state: watch::Sender::new(ElectionState::Idle),
                events: OnceLock::new(),
                occupied: AtomicBool::new(false),
                answered: AtomicBool::new(false),
                turn: Arc::default(),
            }),
        })
    }
}

impl fmt::Debug for ElectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElectionBuilder")
            .field("lock", &self.lock)
            .field("identity", &self.identity)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn is_healthy(&self) -> bool {
        self.health.as_ref().is_none_or(|probe| probe())
    }

    pub(crate) fn is_probed(&self) -> bool {
        self.health.is_some()
    }

    pub(crate) fn store_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// A campaign's number and the seed of its jitter.
    pub(crate) fn draw(&self) -> Result<(CampaignId, u64), Error> {
        Ok((CampaignId::new(self.numbers.draw()?), self.numbers.draw()?))
    }

    pub(crate) fn set_state(&self, state: ElectionState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    pub(crate) fn event(&self, event: Event) {
        telemetry::event(self, &event);
        if let Some(events) = self.events.get() {
            // Nobody listens just now.
            let _unheard = events.send(event);
        }
    }

    pub(crate) fn tell(&self, state: ElectionState, event: Event) {
        self.set_state(state);
        self.event(event);
    }

    pub(crate) fn leader_seen(&self, holder: Holder) {
        let known = match &*self.state.borrow() {
            ElectionState::Candidate {
                leader: Some(leader),
            } => leader.identity == holder.identity,
            _ => false,
        };
        if known {
            return;
        }
        if matches!(&*self.state.borrow(), ElectionState::Candidate { .. }) {
            let leader = Some(holder.clone());
            self.set_state(ElectionState::Candidate { leader });
        }
        self.event(Event::LeaderSeen(holder));
    }
}

/// Where the numbers of campaigns come from.
enum Numbers {
    /// The operating system, at the moment of use.
    System(fn() -> Result<u64, Error>),
    /// A simulation that has to be repeatable.
    Seeded(Mutex<fastrand::Rng>),
}

impl Numbers {
    fn seeded(seed: u64) -> Self {
        Self::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    fn draw(&self) -> Result<u64, Error> {
        match self {
            Self::System(random) => random(),
            Self::Seeded(rng) => {
                let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(rng.u64(..))
            }
        }
    }
}

/// The claim on an election's one campaign or term at a time.
pub(crate) struct Occupied(Arc<Inner>);

impl Occupied {
    fn claim(inner: &Arc<Inner>) -> Result<Self, Error> {
        if inner.occupied.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                Operation::Campaign,
                format!(
                    "this election for {} campaigns or leads already; drop its leadership first, \
                     or build another election",
                    inner.lock
                ),
            ));
        }
        Ok(Self(inner.clone()))
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.occupied.store(false, Ordering::Release);
    }
}

/// Withdraws when the future of a campaign is dropped before it is elected, or after that but
/// before its owner has got the leadership.
struct PendingCampaign {
    control: Arc<Control>,
    process: Process,
    over: bool,
}

impl Drop for PendingCampaign {
    fn drop(&mut self) {
        if !self.over && self.process.is_current() {
            self.control.send(Order::WorkEnded(None));
        }
    }
}

/// When the engine means to wake next.
#[derive(Debug, Default)]
pub(crate) struct Due(AtomicU64);

impl Due {
    /// No time is as late as this.
    const NEVER: u64 = 0;

    pub(crate) fn set(&self, at: Option<Time>) {
        self.0
            .store(at.map_or(Self::NEVER, Time::as_nanos), Ordering::Relaxed);
    }

    fn lag(&self, now: Time) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            Self::NEVER => Duration::ZERO,
            at => now.since(Time::from_nanos(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn without_random_numbers_a_campaign_fails_and_the_next_one_is_free_to_try() {
        let backend = Arc::new(MemoryBackend::private());
        let lock = LockName::new("test").unwrap();
        let mut election = Election::builder(backend, lock).build().unwrap();
        let inner = Arc::get_mut(&mut election.inner).unwrap();
        inner.numbers = Numbers::System(|| {
            Err(Error::new(
                ErrorKind::Unsupported,
                Operation::Configure,
                "no number",
            ))
        });
        for _ in 0..2 {
            let error = election.campaign().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
}
