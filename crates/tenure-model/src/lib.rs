//! A bounded exhaustive search: what can happen to three candidates, in whatever order.
//!
//! Each candidate runs the real [`Machine`](tenure_core::machine::Machine) of `tenure-core`, which
//! has neither a clock nor I/O. Around it stand a small driver, which does what the engine does,
//! and one of three small stores. The search tries every order of requests, answers, timers, hints
//! and faults, and checks the invariants in each state. States that differ only in when they
//! happen are one state, so that with a limited number of faults there are finitely many.

mod client;
mod invariant;
mod mutant;
mod search;
mod store;
mod time;
mod world;

use std::time::Duration;

use tenure_core::{Error, Policy};

pub use invariant::{Invariant, Violation};
pub use mutant::{Mutant, PLANTED, Planted};
pub use search::{Report, search};
pub use store::StoreKind;

use world::Rules;

/// What a search tries.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store.
    pub store: StoreKind,
    /// How many faults may happen.
    pub faults: u8,
    /// How many leaders may give their term back, or be told to stop, without a fault.
    pub resigns: u8,
    /// Which faults.
    pub may: Vec<Fault>,
    /// After so many ticks without a fault somebody must lead.
    pub vacancy: u8,
    /// A broken rule.
    pub mutant: Option<Mutant>,
    /// What is checked.
    pub checked: Vec<Invariant>,
    /// How many steps a way may have.
    pub depth: usize,
    /// After how many states the search ends with the level it is on.
    pub states: usize,
}

/// The faults that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// A call gets no answer in time. Its request was applied, or arrives late or never.
    Silence,
    /// The store refuses a call at once.
    Refuse,
    /// The store refuses a call and asks for a long pause.
    RefuseForLong,
    /// The store grants less than was asked for.
    Shorten,
    /// A process stands still.
    Freeze,
    /// A process dies, and may be started again.
    Crash,
    /// Somebody deletes the lock.
    Delete,
    /// Work ignores being told to stop.
    Ignore,
    /// A health probe says no, until it says yes again. With this among the faults the machines
    /// ask their probes, at each retry interval too.
    Unwell,
}

impl Fault {
    /// All of them where there is no health probe.
    pub const WITHOUT_PROBE: [Self; 8] = [
        Self::Silence,
        Self::Refuse,
        Self::RefuseForLong,
        Self::Shorten,
        Self::Freeze,
        Self::Crash,
        Self::Delete,
        Self::Ignore,
    ];
}

impl Options {
    /// All invariants, all faults, `faults` of them at most, on one store.
    pub fn new(store: StoreKind, faults: u8) -> Self {
        Self {
            store,
            faults,
            resigns: 1,
            may: Fault::WITHOUT_PROBE.to_vec(),
            vacancy: vacancy(store),
            mutant: None,
            checked: Invariant::ALL.to_vec(),
            depth: usize::MAX,
            states: usize::MAX,
        }
    }

    /// A search for one invariant that a broken rule breaks.
    pub fn planted(planted: &Planted, invariant: Invariant) -> Self {
        Self {
            resigns: planted.resigns,
            may: planted.faults.to_vec(),
            mutant: Some(planted.mutant),
            checked: vec![invariant],
            ..Self::new(
                planted.store,
                u8::try_from(planted.faults.len()).unwrap_or(u8::MAX),
            )
        }
    }

    fn first_of(&self, broken: &mut Vec<Violation>) -> Option<Violation> {
        broken
            .drain(..)
            .find(|violation| self.checked.contains(&violation.invariant))
    }
}

/// Three policies without jitter: chance would make a state's future unknown. The second one is
/// of another version of the application, with a shorter lease.
fn policies() -> Result<[Policy; world::CANDIDATES], Error> {
    let policy = |lease: u64, grace: u64| {
        Policy::builder()
            .lease(Duration::from_millis(lease))
            .heartbeat(Duration::from_millis(1600))
            .request_timeout(Duration::from_millis(1600))
            .retry_interval(Duration::from_secs(1))
            .stop_grace(Duration::from_millis(grace))
            .jitter_percent(0)
            .drift_ppm(time::DRIFT_PERCENT * 10_000)
            .build()
    };
    Ok([policy(6000, 1000)?, policy(5000, 700)?, policy(6000, 1000)?])
}

/// How long nobody may lead without a fault, in ticks. A key's or a session's lease ends, and its
/// waiter's timer comes and its call is answered. A record's waiter may see the last heartbeat only
/// when its timer comes, and waits a lease from then on.
fn vacancy(store: StoreKind) -> u8 {
    match store {
        StoreKind::Records => 24,
        StoreKind::Keys | StoreKind::Sessions => 18,
    }
}

fn rules(options: &Options) -> Result<Rules, Error> {
    Ok(Rules {
        policies: policies()?,
        options: options.clone(),
    })
}
