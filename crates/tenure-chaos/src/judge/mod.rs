//! What a run has shown: the simulator's checker on the histories, and what a run must show at
//! least.

mod minimums;
mod terms;
mod translate;
mod verdict;

use anyhow::Result;
use tenure_sim::checker::check;
use tenure_sim::invariant::Violation;

use crate::fault::{Fault, Promise};
use crate::history::Line;

pub use terms::{BothBelieved, TermSeen, overlaps, terms};
use translate::Translation;
pub use verdict::{Excused, Minimums, Rules, Struck, Verdict};

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
    let at_leader: Vec<&Struck> = struck
        .iter()
        .filter(|struck| minimums::hit_a_leader(struck, &terms))
        .collect();
    let killed = at_leader
        .iter()
        .filter(|struck| struck.fault == Fault::Kill.name());
    let valid = terms.iter().filter(|term| term.is_valid_at_first());
    let mut verdict = Verdict {
        terms: valid.count(),
        leaders_killed: killed.count(),
        at_leader: at_leader.len(),
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
