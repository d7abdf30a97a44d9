//! What a run is told as: a few lines for people, and one line for the file of all runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::run::{Outcome, Plan};

/// The names of the columns of the file of all runs.
pub const COLUMNS: &str = "start\tend\tcommit\tbackend\tpromise\tseed\tminutes\tterms\tfaults\t\
                           at leader\tleaders killed\tled %\tmedian gap ms\tlongest gap ms\tformula ms\t\
                           violations\texcused\tmissed\tfaults by name\tcommand";

/// So many violations are printed.
const SHOWN: usize = 10;

/// What a run was, beside its plan.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// When it began, by the wall clock.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The command.
    pub command: String,
}

/// How often each fault was brought about: `freeze 3, kill 5`.
fn counts(outcome: &Outcome) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for struck in &outcome.verdict.struck {
        *counts.entry(&struck.fault).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    counts.join(", ")
}

fn median(gaps: &[Duration]) -> Duration {
    let mut sorted = gaps.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The line of a run for the file of all runs.
pub fn row(plan: &Plan, outcome: &Outcome, around: &Circumstances) -> String {
    let verdict = &outcome.verdict;
    let promise = if plan.beyond { "beyond" } else { "within" };
    let longest = verdict.gaps.iter().max().copied().unwrap_or_default();
    let cells = [
        around.start.clone(),
        around.end.clone(),
        around.commit.clone(),
        plan.backend.clone(),
        promise.to_owned(),
        plan.seed.to_string(),
        format!("{:.1}", plan.time.as_secs_f64() / 60.0),
        verdict.terms.to_string(),
        verdict.struck.len().to_string(),
        verdict.at_leader.to_string(),
        verdict.leaders_killed.to_string(),
        verdict.led_percent.to_string(),
        median(&verdict.gaps).as_millis().to_string(),
        longest.as_millis().to_string(),
        outcome.formula.as_millis().to_string(),
        (verdict.violations.len() + verdict.stale_writes.len()).to_string(),
        verdict.excused.len().to_string(),
        verdict.shortfalls.len().to_string(),
        counts(outcome),
        around.command.clone(),
    ];
    cells.join("\t")
}

/// Appends a run to the file of all runs.
pub fn append(file: &Path, row: &str) -> Result<()> {
    let is_new = !file.exists();
    let opened = OpenOptions::new().create(true).append(true).open(file);
    let mut opened = opened.with_context(|| file.display().to_string())?;
    if is_new {
        writeln!(opened, "{COLUMNS}")?;
    }
    writeln!(opened, "{row}")?;
    Ok(())
}

/// What a run has shown, for people.
pub fn text(plan: &Plan, outcome: &Outcome) -> String {
    let verdict = &outcome.verdict;
    let mut text = format!(
        "{} seed {}: {} terms, {} faults ({}), {} of them at the leader, {} leaders killed, \
         led {} %\n",
        plan.backend,
        plan.seed,
        verdict.terms,
        verdict.struck.len(),
        counts(outcome),
        verdict.at_leader,
        verdict.leaders_killed,
        verdict.led_percent,
    );
    let longest = verdict.gaps.iter().max().copied().unwrap_or_default();
    let median = median(&verdict.gaps);
    let mut line = |line: String| {
        // Writing to a string does not fail.
        let _written = writeln!(text, "{line}");
    };
    line(format!(
        "without a leader: median {median:.0?}, longest {longest:.0?}; formula {:.0?}",
        outcome.formula
    ));
    // One broken promise can show in each write of a term.
    for violation in verdict.violations.iter().take(SHOWN) {
        line(format!("VIOLATION {violation}"));
    }
    let more = verdict.violations.len().saturating_sub(SHOWN);
    if more > 0 {
        line(format!("and {more} more VIOLATIONS"));
    }
    for stale in &verdict.stale_writes {
        let seen = &stale.rest;
        line(format!(
            "STALE WRITE token {} stands after {seen}",
            stale.token
        ));
    }
    for excused in &verdict.excused {
        let (violation, fault) = (&excused.violation, excused.fault);
        line(format!(
            "excused {violation}; {fault}; \"{}\"",
            excused.sentence
        ));
    }
    for missed in &verdict.shortfalls {
        line(format!("MISSED {missed}"));
    }
    text
}
