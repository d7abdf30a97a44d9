//! Other servers than the system's, that a backend's tests run on too.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use tenure_testkit::paths;
use tenure_testkit::provision::other_servers::OtherServer;
use tenure_testkit::shell::capture;

use crate::report::{Outcome, Row};
use crate::steps::{cargo, forget_this_package, row, step};

/// Runs what `command` has built of its tests, each program as it is: the cases of a suite
/// share a lock in their process.
pub(crate) fn test_on(
    other: &OtherServer,
    command: &[&str],
    environment: &[(OsString, OsString)],
    output: Option<&File>,
) -> Result<Row> {
    let start = Instant::now();
    let mut environment = environment.to_vec();
    let programs = other.programs.clone().into();
    environment.push((other.variable.into(), programs));
    let mut row = row(&format!("tests on {}", other.name), || {
        run_each(other, &built(other, command)?, &environment, output)
    })?;
    row.took = start.elapsed();
    Ok(row)
}

fn run_each(
    other: &OtherServer,
    tests: &[(&str, PathBuf)],
    environment: &[(OsString, OsString)],
    output: Option<&File>,
) -> Result<String> {
    let without = other.without.iter();
    let arguments: Vec<&str> = without.flat_map(|test| ["--skip", test]).collect();
    let mut failures = Vec::new();
    for (test, program) in tests {
        let name = format!("{test} on {}", other.name);
        let output = output.map(File::try_clone).transpose()?;
        let row = step(&name, program.as_os_str(), &arguments, environment, output)?;
        if let Outcome::Failed(how) = row.outcome {
            failures.push(how);
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(other.tests.join(", "))
}

/// The programs of the tests: cargo's features are those of a whole command, so one that named
/// only this package would build everything once more.
fn built(other: &OtherServer, command: &[&str]) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut building = Command::new(cargo());
    building
        .args(command)
        .args(["--no-run", "--message-format", "json"])
        .current_dir(paths::workspace());
    forget_this_package(&mut building);
    let messages = capture(&mut building)?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let manifest_of_ours = Path::new(other.package).join("Cargo.toml");
    let found: Vec<_> = messages
        .filter_map(|message| {
            let manifest = Path::new(message["manifest_path"].as_str()?);
            let name = message["target"]["name"].as_str()?;
            let test = other.tests.iter().find(|test| **test == name)?;
            let program = PathBuf::from(message["executable"].as_str()?);
            let is_ours = manifest.ends_with(&manifest_of_ours);
            is_ours.then_some((*test, program))
        })
        .collect();
    anyhow::ensure!(
        found.len() == other.tests.len(),
        "of the tests {:?} there are only {found:?}",
        other.tests
    );
    Ok(found)
}
