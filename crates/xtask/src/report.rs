//! The table that a run ends in.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

/// What became of one row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and all is well; the text says what ran.
    Passed(String),
    /// It ran and failed, or could not run: a store that is missing is a failure.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(text) => write!(f, "ok      {text}"),
            Self::Failed(text) => write!(f, "FAILED  {text}"),
        }
    }
}

/// One row of the final table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

/// Prints the table; the exit code says whether all is well.
pub(crate) fn report(rows: &[Row], took: Duration) -> ExitCode {
    let width = rows.iter().map(|row| row.name.len()).max();
    let width = width.unwrap_or_default();
    println!();
    for row in rows {
        let seconds = row.took.as_secs_f32();
        println!("{:width$}  {seconds:7.1} s  {}", row.name, row.outcome);
    }
    let failed = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed(_)))
        .count();
    if took > Duration::ZERO {
        println!("{:width$}  {:7.1} s", "in all", took.as_secs_f32());
    }
    if failed == 0 {
        println!("all is well");
        ExitCode::SUCCESS
    } else {
        println!("{failed} failed");
        ExitCode::FAILURE
    }
}
