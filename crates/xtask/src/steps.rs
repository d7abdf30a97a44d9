//! Programs that are run for a row of the table.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use tenure_testkit::shell::run_shown;
use tenure_testkit::{bound, interrupt, paths};

use crate::report::{Outcome, Row};

/// Variables for a program.
pub(crate) type Environment = Vec<(OsString, OsString)>;

pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Arguments that are written in one line.
pub(crate) fn words(arguments: &str) -> Vec<&str> {
    arguments.split(' ').collect()
}

/// Runs cargo; its failure is a row of the table, so that the steps after it still run.
pub(crate) fn cargo_step(
    name: &str,
    arguments: &[&str],
    environment: &[(OsString, OsString)],
) -> Result<Row> {
    step(name, &cargo(), arguments, environment, None)
}

/// Runs a program, with its output shown or in a file.
pub(crate) fn step(
    name: &str,
    program: &OsStr,
    arguments: &[&str],
    environment: &[(OsString, OsString)],
    output: Option<File>,
) -> Result<Row> {
    let file_name = Path::new(program).file_name().unwrap_or(program);
    let shown = format!("{} {}", file_name.to_string_lossy(), arguments.join(" "));
    eprintln!("\n== {name}: {shown}");
    let start = Instant::now();
    let mut command = bound::watched(program)?;
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(paths::workspace());
    if let Some(file) = output {
        command.stdout(file.try_clone()?).stderr(file);
    }
    forget_this_package(&mut command);
    let status = run_shown(&mut command, || {})?;
    let outcome = if status.success() {
        let first = arguments.first().copied().unwrap_or_default();
        Outcome::Passed(format!("{} {first}", file_name.to_string_lossy()))
    } else {
        Outcome::Failed(format!("{shown} ended with {status}"))
    };
    Ok(Row {
        name: name.to_owned(),
        outcome,
        took: start.elapsed(),
    })
}

/// Does some work for a row: what it says is what ran.
pub(crate) fn row(name: &str, work: impl FnOnce() -> Result<String>) -> Result<Row> {
    let start = Instant::now();
    let outcome = match work() {
        Ok(done) => Outcome::Passed(done),
        Err(error) => {
            interrupt::check()?;
            Outcome::Failed(format!("{error:#}"))
        }
    };
    Ok(Row {
        name: name.to_owned(),
        outcome,
        took: start.elapsed(),
    })
}

/// A row of something that could not run.
pub(crate) fn failed(name: String, why: &str) -> Row {
    Row {
        name,
        outcome: Outcome::Failed(why.to_owned()),
        took: Duration::ZERO,
    }
}

/// Removes the variables that name this package: they were set for this program, and another build
/// that sees them builds crates anew which look at them.
pub(crate) fn forget_this_package(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&variable);
        }
    }
}
