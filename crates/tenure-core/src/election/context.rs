//! What the parts of one election share: its settings, its store, and what it reports.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::contract::backend::{CampaignId, Holder, LockBackend};
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::{Identity, LockName, PublishedValue};
use crate::contract::process::{Process, random_u64};
use crate::election::event::{ElectionState, Event};
use crate::election::gauges::Gauges;
use crate::election::probe::HealthProbe;
use crate::election::spawn::Spawn;
use crate::election::telemetry::{self, Labels};
use crate::policy::Policy;

/// How many events a subscriber may lag behind before it misses some.
const EVENT_BUFFER: usize = 32;

/// What the builder has collected and checked.
pub(super) struct Setup {
    pub(super) backend: Arc<dyn LockBackend>,
    pub(super) lock: LockName,
    pub(super) identity: Identity,
    pub(super) policy: Policy,
    /// What each campaign publishes from its start.
    pub(super) value: Option<PublishedValue>,
    pub(super) health: Option<HealthProbe>,
    pub(super) drain_limit: Duration,
    pub(super) abort_on_overrun: bool,
    pub(super) spawner: Arc<dyn Spawn>,
    pub(super) numbers: Numbers,
}

/// What an [`Election`](crate::Election) is behind its clones.
pub(crate) struct Context {
    pub(super) setup: Setup,
    pub(super) clock: SharedClock,
    /// What the backend calls itself.
    store: &'static str,
    /// Campaigns of a fork would be the parent's.
    pub(super) process: Process,
    pub(super) due: Due,
    pub(super) gauges: Arc<Gauges>,
    /// Held by the campaign that may use the store: the next one waits until this one has given
    /// everything back.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    state: watch::Sender<ElectionState>,
    /// Made by the first subscriber: its buffer is larger than everything else here.
    events: OnceLock<broadcast::Sender<Event>>,
    occupied: AtomicBool,
    /// Before this the next campaign does not begin, in the clock's nanoseconds.
    head_start_until: AtomicU64,
    /// The last campaign failed for good: the service wants to lead and cannot.
    gave_up: AtomicBool,
    /// The store has answered an `acquire`: permissions and configuration were fine once.
    answered: AtomicBool,
}

impl Context {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            clock: setup.backend.clock(),
            store: setup.backend.capabilities().store,
            gauges: Arc::new(Gauges::new(setup.lock.clone())),
            setup,
            process: Process::current(),
            due: Due::default(),
            turn: Arc::default(),
            state: watch::Sender::new(ElectionState::Idle),
            events: OnceLock::new(),
            occupied: AtomicBool::new(false),
            gave_up: AtomicBool::new(false),
            head_start_until: AtomicU64::new(Time::ZERO.as_nanos()),
            answered: AtomicBool::new(false),
        }
    }

    pub(super) fn labels(&self) -> Labels<'_> {
        Labels {
            lock: &self.setup.lock,
            identity: &self.setup.identity,
            store: self.store,
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        let patience = self.setup.policy.lease() * 2;
        let probe = self.setup.health.as_ref();
        probe.is_none_or(|probe| probe.is_well(patience))
    }

    pub(super) fn is_probed(&self) -> bool {
        self.setup.health.is_some()
    }

    pub(super) fn store_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_given_up(&self) {
        self.gave_up.store(true, Ordering::Relaxed);
    }

    /// A campaign has failed before its engine could begin it.
    pub(super) fn campaign_failed(&self) {
        self.note_given_up();
        self.gauges.candidate(true);
    }

    /// A campaign and its term are over, and no alert waits for a leader. One that has failed still
    /// counts as a candidate until the next one: that nobody leads is an alert then.
    pub(super) fn left(&self) {
        if !self.gave_up.load(Ordering::Relaxed) {
            self.gauges.candidate(false);
        }
    }

    /// Gives the others a head start of a retry interval before the next campaign: who was asked to
    /// resign must not win again at once.
    pub(super) fn grant_head_start(&self) {
        let until = self.clock.now() + self.setup.policy.retry_interval();
        self.head_start_until
            .store(until.as_nanos(), Ordering::Relaxed);
    }

    /// Waits until the head start of the others is over.
    pub(super) async fn head_start(&self) {
        let until = Time::from_nanos(self.head_start_until.load(Ordering::Relaxed));
        if self.clock.now() < until {
            self.clock.sleep_until(until).await;
        }
    }

    /// A campaign's number and the seed of its jitter.
    pub(super) fn draw(&self) -> Result<(CampaignId, u64), Error> {
        let numbers = &self.setup.numbers;
        Ok((CampaignId::new(numbers.draw()?), numbers.draw()?))
    }

    pub(super) fn state(&self) -> &watch::Sender<ElectionState> {
        &self.state
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events
            .get_or_init(|| broadcast::Sender::new(EVENT_BUFFER))
            .subscribe()
    }

    pub(super) fn set_state(&self, state: ElectionState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    /// Logs an event and sends it to the subscribers.
    pub(super) fn report(&self, event: Event) {
        telemetry::event(self.labels(), &event);
        self.gauges.note(&event);
        if let Some(events) = self.events.get() {
            // An error says that there is no subscriber just now.
            let _unheard = events.send(event);
        }
    }

    pub(super) fn campaign_begins(&self) {
        self.gave_up.store(false, Ordering::Relaxed);
        self.enter(
            ElectionState::Candidate { leader: None },
            Event::Campaigning,
        );
    }

    pub(super) fn enter(&self, state: ElectionState, event: Event) {
        self.set_state(state);
        self.report(event);
    }

    pub(super) fn leader_seen(&self, holder: Holder) {
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
        self.report(Event::LeaderSeen(holder));
    }
}

/// Where the numbers of campaigns come from.
pub(super) enum Numbers {
    /// The operating system, at the moment of use.
    System(fn() -> Result<u64, Error>),
    /// A simulation that has to be repeatable.
    Seeded(Mutex<fastrand::Rng>),
}

impl Numbers {
    pub(super) fn new(seed: Option<u64>) -> Self {
        match seed {
            Some(seed) => Self::Seeded(Mutex::new(fastrand::Rng::with_seed(seed))),
            None => Self::System(random_u64),
        }
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
pub(crate) struct Occupied(Arc<Context>);

impl Occupied {
    pub(super) fn claim(context: &Arc<Context>) -> Result<Self, Error> {
        if context.occupied.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                Operation::Campaign,
                format!(
                    "this election for {} campaigns or leads already; drop its leadership first, \
                     or build another election",
                    context.setup.lock
                ),
            ));
        }
        Ok(Self(context.clone()))
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.occupied.store(false, Ordering::Release);
    }
}

/// When the engine means to wake next.
#[derive(Debug, Default)]
pub(super) struct Due(AtomicU64);

impl Due {
    /// No time is as late as this.
    const NEVER: u64 = 0;

    pub(super) fn set(&self, at: Option<Time>) {
        self.0
            .store(at.map_or(Self::NEVER, Time::as_nanos), Ordering::Relaxed);
    }

    pub(super) fn lag(&self, now: Time) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            Self::NEVER => Duration::ZERO,
            at => now.since(Time::from_nanos(at)),
        }
    }
}
