//! What the judge has to know of a run, and what it says.

use std::time::Duration;

use tenure_sim::invariant::Violation;

use crate::fault::Fault;
use crate::history::{Line, Nanos};
use crate::stores::Applies;

/// The least that a run must show.
#[derive(Clone, Copy, Debug)]
pub struct Minimums {
    /// So many terms.
    pub terms: usize,
    /// A process leads for this part of the run, in percent.
    pub led_percent: u64,
    /// This part of the faults hits the process that leads, in percent.
    pub at_leader_percent: usize,
    /// So many processes that lead get `kill -9`.
    pub leaders_killed: usize,
}

impl Default for Minimums {
    fn default() -> Self {
        Self {
            terms: 10,
            led_percent: 50,
            at_leader_percent: 50,
            leaders_killed: 0,
        }
    }
}

/// A fault that was brought about.
#[derive(Clone, Debug)]
pub struct Struck {
    /// When it began.
    pub at: Nanos,
    /// When it was over.
    pub healed: Option<Nanos>,
    /// The process that it hit; 0 for the store.
    pub pid: u32,
    /// Its name.
    pub fault: String,
    /// The evidence that it took effect; empty if there is none.
    pub evidence: String,
}

/// What the judge has to know of a run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The faults that could be drawn.
    pub faults: Vec<Applies>,
    /// How long the next leader may take after a crash.
    pub formula: Duration,
    /// The longest lease in the fleet.
    pub lease: Duration,
    /// The faults that take the tokens back to their start.
    pub forgetting: Vec<Fault>,
    /// What the run must show at least.
    pub minimums: Minimums,
}

/// What a run has shown.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The terms that were valid when they began.
    pub terms: usize,
    /// The faults, with their evidence.
    pub struck: Vec<Struck>,
    /// How many of them hit the process that led.
    pub at_leader: usize,
    /// How many processes got `kill -9` while they led.
    pub leaders_killed: usize,
    /// The part of the run in which a process led, in percent.
    pub led_percent: u64,
    /// The times without a leader.
    pub gaps: Vec<Duration>,
    /// What the checker called broken.
    pub violations: Vec<Violation>,
    /// What it would have called broken without the excuse of a fault beyond the promise.
    pub excused: Vec<Excused>,
    /// Writes that the register took although it had seen a larger token.
    pub stale_writes: Vec<Line>,
    /// What the run failed to show.
    pub shortfalls: Vec<String>,
}

/// A violation that a fault beyond the promise excuses.
#[derive(Clone, Debug)]
pub struct Excused {
    /// What it is.
    pub violation: Violation,
    /// The fault.
    pub fault: Fault,
    /// The sentence of the documentation that excludes it.
    pub sentence: &'static str,
}

impl Verdict {
    /// Whether nothing is broken and nothing is missing.
    pub fn is_green(&self) -> bool {
        self.violations.is_empty() && self.shortfalls.is_empty() && self.stale_writes.is_empty()
    }
}
