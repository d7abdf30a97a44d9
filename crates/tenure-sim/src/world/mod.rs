//! What all parts of a simulation share: true time, chance, faults and the history.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tenure_core::{FencingToken, LockName, Policy, Term};
use tokio::time::Instant;

use crate::Moment;
use crate::drift::Drift;
use crate::faults::{Fate, Faults, SLOWEST};
use crate::history::{Event, Fault, History, TermId, TermInfo};
use crate::plan::Plan;

/// So many looks at clocks at one moment are a livelock.
const STEPS_AT_ONE_MOMENT: u64 = 100_000;

/// Panicked with when a livelock is found: inside one poll nothing else can stop it.
pub const LIVELOCK: &str = "livelock in the simulation";

/// The shared part of one simulation.
pub struct World {
    /// The plan.
    pub plan: Plan,
    /// The one lock.
    pub lock: LockName,
    start: Instant,
    rng: Mutex<Rng>,
    faults: Mutex<Faults>,
    history: Mutex<History>,
    terms: Mutex<Terms>,
    applied: Mutex<BTreeMap<Proof, Applied>>,
    dead: Mutex<BTreeSet<(usize, u32)>>,
    register: Mutex<(u64, u64)>,
    eras: Mutex<Eras>,
    moment: AtomicU64,
    steps: AtomicU64,
    stuck: AtomicBool,
}

/// The last thing the stores of a term have applied for it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// When.
    pub at: Moment,
    /// Until when each store gives the lock to nobody else.
    pub covered: Moment,
    /// What is published in each.
    pub values: Vec<Option<String>>,
}

/// Whose proof it is, and in which store. A term in several stores has another token in each, so
/// there the latest of its candidate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof {
    /// The store: the first or the second of two.
    pub store: u8,
    /// The candidate.
    pub candidate: usize,
    /// Which of its lives.
    pub life: u32,
    /// The term's token; `None`: of any term.
    pub token: Option<u64>,
}

/// How often a store's tokens have begun again, now and when each term was begun.
#[derive(Debug, Default)]
struct Eras {
    now: u64,
    of: BTreeMap<(usize, u32, u64), u64>,
}

#[derive(Default)]
struct Terms {
    /// Those that are valid or were lately.
    recent: Vec<Watched>,
    working: BTreeMap<TermId, u64>,
    /// Pairs of terms that were valid together, and when that was written down last.
    overlaps: BTreeMap<(TermId, TermId), Moment>,
}

/// Terms that stay valid together are reported so often: what excuses an overlap has an end.
const OVERLAP_AGAIN: Duration = Duration::from_secs(1);

struct Watched {
    id: TermId,
    term: Term,
    candidate: usize,
    life: u32,
    drift: Drift,
    /// Until when it is valid, in true time, by the last heartbeat.
    until: Moment,
    over_since: Option<Moment>,
    resurrected: bool,
}

fn latest(recent: &mut [Watched], candidate: usize, life: u32) -> Option<&mut Watched> {
    let mut recent = recent.iter_mut().rev();
    recent.find(|watched| watched.candidate == candidate && watched.life == life)
}

/// The leader as the world sees it.
#[derive(Clone, Debug)]
pub struct Leading {
    /// Its term.
    pub id: TermId,
    /// The candidate.
    pub candidate: usize,
    /// The term's handle.
    pub term: Term,
}

/// By so much timers are late at most.
pub const LATEST_TIMER: Duration = Duration::from_secs(4);

/// After this a term that is over is not watched any longer.
const WATCHED_AFTER_THE_END: Duration = Duration::from_secs(60);

impl World {
    /// A world at its start; call it on the simulation's runtime.
    pub fn new(plan: Plan, lock: LockName, verbose: bool) -> Arc<Self> {
        Arc::new(Self {
            lock,
            start: Instant::now(),
            rng: Mutex::new(Rng::with_seed(plan.seed)),
            faults: Mutex::new(Faults::none(plan.candidates.len())),
            history: Mutex::new(
                History::new(plan.longest(Policy::validity), verbose)
                    .whose_tokens_begin_again(plan.repeats),
            ),
            terms: Mutex::default(),
            applied: Mutex::default(),
            dead: Mutex::default(),
            register: Mutex::default(),
            eras: Mutex::default(),
            moment: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            plan,
        })
    }

    /// True time.
    pub fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// True time for a candidate that asks: counts the step, and stops a simulation that does not
    /// get on.
    pub fn step(&self) -> Moment {
        let moment = self.now();
        let now = u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX);
        if self.moment.swap(now, Ordering::Relaxed) != now {
            self.steps.store(0, Ordering::Relaxed);
        }
        if self.steps.fetch_add(1, Ordering::Relaxed) == STEPS_AT_ONE_MOMENT {
            self.stuck.store(true, Ordering::Relaxed);
            self.record(Event::Livelock);
        }
        // What is dropped because of that panic may look at the clock.
        let is_ending = std::thread::panicking();
        let is_stuck = self.stuck.load(Ordering::Relaxed);
        assert!(!is_stuck || is_ending, "{LIVELOCK}");
        moment
    }

    /// Whether nothing gets on any more.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Chance. Drawn in the order in which a single thread runs, so always the same.
    pub fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True with this probability in percent.
    pub fn chance(&self, percent: u8) -> bool {
        self.rng().u8(0..100) < percent
    }

    /// A duration between two others, in whole milliseconds.
    pub fn between(&self, low: Duration, high: Duration) -> Duration {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.rng().u64(millis(low)..=millis(high).max(millis(low))))
    }

    /// The faults in force.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all faults, on so many ways to stores.
    pub fn end_faults(&self, routes: usize) {
        let now = self.now();
        let mut faults = self.faults();
        *faults = Faults {
            stormy_until: now,
            stingy_until: faults.stingy_until.map(|until| until.min(now)),
            ..Faults::none(routes)
        };
    }

    /// Writes to the history.
    pub fn record(&self, event: Event) {
        self.history().push(self.now(), event);
    }

    /// Writes a fault to the history.
    pub fn fault(&self, fault: Fault) {
        self.record(Event::Fault(fault));
    }

    /// The history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a message.
    pub fn fate(&self, candidate: usize) -> Fate {
        let now = self.now();
        let (stormy, slow, sluggish) = {
            let faults = self.faults();
            let far = faults.far.filter(|(far, _)| *far == candidate);
            let sluggish = (now < faults.sluggish_until).then_some(faults.trip);
            let sluggish = sluggish.or(far.map(|(_, trip)| trip));
            (faults.stormy, now < faults.slow_until, sluggish)
        };
        let storm = self.plan.storm;
        let mut rng = self.rng();
        let millis = Duration::from_millis;
        let mut fate = Fate {
            // A third takes no time at all: that is where margins are needed.
            there: millis(rng.u64(0..20).saturating_sub(7)),
            back: millis(rng.u64(0..20).saturating_sub(7)),
            ..Fate::default()
        };
        if stormy {
            let mut hit = |percent: u8| rng.u8(0..100) < percent;
            fate.lose_request = hit(storm.lose_request);
            fate.lose_reply = hit(storm.lose_reply);
            let (repeat, late, late_reply) = (hit(storm.repeat), hit(storm.slow), hit(storm.slow));
            if repeat {
                fate.repeat_after = Some(millis(rng.u64(0..12_000)));
            }
            if late {
                fate.there = millis(rng.u64(100..12_000));
            }
            if late_reply {
                fate.back = millis(rng.u64(100..12_000));
            }
        }
        if slow {
            fate.there = millis(rng.u64(1_000..12_000)) / 2;
            fate.back = millis(rng.u64(1_000..12_000)) / 2;
        }
        if let Some(trip) = sluggish {
            fate.there = trip / 2;
            fate.back = trip / 2;
        }
        drop(rng);
        debug_assert!(fate.there <= SLOWEST && fate.back <= SLOWEST);
        self.record(Event::Sent { candidate, fate });
        fate
    }

    /// How long a hint takes to a candidate; `None` when it is lost.
    pub fn hint_delay(&self, candidate: usize) -> Option<Duration> {
        let now = self.now();
        let stormy = {
            let faults = self.faults();
            if faults.cuts_replies(candidate, now) {
                return None;
            }
            faults.stormy
        };
        let mut rng = self.rng();
        if stormy && rng.u8(0..100) < self.plan.storm.lose_hint {
            return None;
        }
        let late = stormy && rng.u8(0..100) < self.plan.storm.slow;
        Some(Duration::from_millis(
            rng.u64(0..if late { 12_000 } else { 20 }),
        ))
    }

    /// Whether the weather was bad at or after this moment.
    pub fn was_stormy_since(&self, since: Moment) -> bool {
        let faults = self.faults();
        faults.stormy || faults.stormy_until >= since.max(Duration::from_nanos(1))
    }

    /// Whether the store was slow, but not dead, at or after this moment.
    pub fn was_slow_since(&self, since: Moment) -> bool {
        self.faults().sluggish_until >= since.max(Duration::from_nanos(1))
    }

    /// Whether a store has granted less than a lease at or after this moment.
    pub fn was_stingy_since(&self, since: Moment) -> bool {
        let faults = self.faults();
        let mut until = faults.stingy_until.iter();
        until.any(|until| *until >= since.max(Duration::from_nanos(1)))
    }

    /// By how much a timer fires late.
    pub fn timer_delay(&self) -> Duration {
        if self.plan.late_timers && self.faults().stormy && self.chance(2) {
            self.between(Duration::from_millis(10), LATEST_TIMER)
        } else {
            Duration::ZERO
        }
    }

    /// A store has applied something for a term: it gives the lock to nobody else until `covered`,
    /// and publishes `value`.
    pub fn applied(&self, proof: Proof, covered: Moment, value: Option<&str>) {
        let applied = Applied {
            at: self.now(),
            covered,
            values: vec![value.map(str::to_owned)],
        };
        let mut all = self.all_applied();
        let of_any_token = Proof {
            token: None,
            ..proof
        };
        for proof in [proof, of_any_token] {
            all.insert(proof, applied.clone());
        }
    }

    /// The last thing that the stores have applied for a term; `None` unless each of them has.
    pub fn last_applied(&self, term: &TermInfo) -> Option<Applied> {
        let all = self.all_applied();
        let of_store = |store: &u8| {
            let proof = Proof {
                store: *store,
                candidate: term.candidate,
                life: term.life,
                token: (term.stores.len() == 1).then_some(term.token),
            };
            all.get(&proof).cloned()
        };
        let applied: Option<Vec<Applied>> = term.stores.iter().map(of_store).collect();
        applied?.into_iter().reduce(|one, other| Applied {
            at: one.at.min(other.at),
            covered: one.covered.min(other.covered),
            values: [one.values, other.values].concat(),
        })
    }

    fn covered(&self, term: &TermInfo) -> Option<Moment> {
        self.last_applied(term).map(|applied| applied.covered)
    }

    /// What is known of a term from its begin.
    pub fn term(&self, id: TermId) -> Option<TermInfo> {
        self.history().terms.get(id).cloned()
    }

    /// A process has ended.
    pub fn died(&self, candidate: usize, life: u32) {
        self.all_dead().insert((candidate, life));
    }

    /// Whether a process has ended.
    pub fn is_dead(&self, candidate: usize, life: u32) -> bool {
        self.all_dead().contains(&(candidate, life))
    }

    fn all_dead(&self) -> MutexGuard<'_, BTreeSet<(usize, u32)>> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_applied(&self) -> MutexGuard<'_, BTreeMap<Proof, Applied>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all terms, which hold clocks, which hold this.
    pub fn close(&self) {
        self.terms().recent.clear();
    }

    /// The store's tokens begin again, and the operator raises the generation: what comes from now
    /// on counts for more than everything before.
    pub fn begin_again(&self) {
        self.eras().now += 1;
    }

    /// A store has begun a term.
    pub fn minted(&self, candidate: usize, life: u32, token: u64) {
        let mut eras = self.eras();
        let now = eras.now;
        eras.of.insert((candidate, life, token), now);
    }

    /// In which of them a term was begun.
    pub fn era(&self, candidate: usize, life: u32, token: FencingToken) -> u64 {
        let eras = self.eras();
        let of = eras.of.get(&(candidate, life, token.as_u64()));
        of.copied().unwrap_or_default()
    }

    fn eras(&self) -> MutexGuard<'_, Eras> {
        self.eras.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write to the fenced register: accepted unless a larger token was seen. Returns what had
    /// been seen.
    pub fn write_fenced(&self, era: u64, token: FencingToken) -> (bool, u64) {
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, seen) = ((era, token.as_u64()), *register);
        *register = seen.max(written);
        (written >= seen, seen.1)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.plan.seed)
            .finish_non_exhaustive()
    }
}
