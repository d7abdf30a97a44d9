//! What a run has shown: the simulator's checker on the histories, and what a run must show at
//! least.

mod minimums;
mod terms;
mod translate;

use std::time::Duration;

use anyhow::Result;
use tenure_sim::checker::check;
use tenure_sim::history::{Event, Fault as SimFault, History};
use tenure_sim::invariant::Violation;

use crate::fault::{Fault, Promise};
use crate::history::{Line, Nanos};
use crate::stores::Applies;

pub use minimums::{Minimums, Struck};
pub use terms::{BothBelieved, TermSeen, overlaps, terms};
use translate::Translation;

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

/// Judges the lines of all histories of a run.
pub fn judge(lines: &[Line], rules: &Rules) -> Result<Verdict> {
    let terms = terms(lines);
    let translation = Translation::new(lines, &terms, rules)?;
    let excusing = translation.history(true)?;
    let strict = translation.history(false)?;
    let violations = check(&excusing);
    let mut excused = Vec::new();
    for violation in check(&strict) {
        let same = |other: &Violation| {
            other.invariant == violation.invariant && other.what == violation.what
        };
        if violations.iter().any(same) {
            continue;
        }
        let (fault, sentence) = excuse_of(&translation, &violation, rules);
        excused.push(Excused {
            violation,
            fault,
            sentence,
        });
    }
    let struck = minimums::struck(lines);
    let valid = terms.iter().filter(|term| term.is_valid_at_first());
    let mut verdict = Verdict {
        terms: valid.count(),
        at_leader: minimums::at_leader(&struck, &terms),
        led_percent: minimums::led_percent(lines, &terms),
        gaps: translation.gaps(),
        violations,
        excused,
        stale_writes: stale_writes(lines),
        struck,
        shortfalls: Vec::new(),
    };
    verdict.shortfalls = rules.minimums.missed_by(&verdict);
    Ok(verdict)
}

/// The last fault beyond the promise before a violation.
fn excuse_of(
    translation: &Translation<'_>,
    violation: &Violation,
    rules: &Rules,
) -> (Fault, &'static str) {
    let before = translation.beyond().filter(|(at, _)| *at <= violation.at);
    let fault = before.last().map_or(Fault::KeyDeleted, |(_, fault)| fault);
    let applies = rules.faults.iter().find(|applies| applies.fault == fault);
    let sentence = match applies.map(|applies| applies.promise) {
        Some(Promise::Beyond(sentence)) => sentence,
        _ => "",
    };
    (fault, sentence)
}

/// Writes under a token below one that the register had seen.
fn stale_writes(lines: &[Line]) -> Vec<Line> {
    let took = lines.iter().filter(|line| line.event == "took");
    let stale = took.filter(|line| line.number(0).is_some_and(|seen| line.token < seen));
    stale.cloned().collect()
}

/// The moment of a simulation for a time of the boot clock.
fn moment(at: Nanos, start: Nanos) -> Duration {
    Duration::from_nanos(at.saturating_sub(start))
}
