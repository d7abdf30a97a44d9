//! Other servers than the system's, that a backend's tests run on too.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use tempfile::TempDir;
use tenure_testkit::stores::{self, Backend, NEWEST_POSTGRES, VALKEY};

use crate::paths;
use crate::provision;
use crate::report::{Outcome, Row};
use crate::shell::capture;
use crate::steps::{cargo, forget_this_package, row, step};

/// A server that is here, and the tests that run on it.
#[derive(Debug)]
pub(crate) struct OtherServer {
    what: &'static stores::OtherServer,
    version: String,
    programs: PathBuf,
    /// Where it was unpacked, until the run is over.
    _folder: Option<TempDir>,
}

/// Those of the backends.
pub(crate) fn provide(backends: &[&Backend]) -> Result<Vec<OtherServer>> {
    let of = |other: &stores::OtherServer| backends.iter().any(|b| b.name == other.backend);
    let mut all = Vec::new();
    if of(&VALKEY) {
        let valkey = provision::valkey()?;
        all.push(OtherServer {
            what: &VALKEY,
            version: valkey.version,
            programs: valkey.program,
            _folder: None,
        });
    }
    if of(&NEWEST_POSTGRES) {
        let newest = provision::newest_postgres()?;
        all.push(OtherServer {
            what: &NEWEST_POSTGRES,
            version: newest.version,
            programs: newest.programs,
            _folder: Some(newest.folder),
        });
    }
    Ok(all)
}

impl OtherServer {
    pub(crate) fn is_of(&self, backend: &Backend) -> bool {
        self.what.backend == backend.name
    }

    /// `Valkey 9.1.2`
    fn name(&self) -> String {
        format!("{} {}", self.what.name, self.version)
    }

    /// Runs what `command` has built of its tests, each program as it is: the cases of a suite
    /// share a lock in their process.
    pub(crate) fn test(
        &self,
        command: &[&str],
        environment: &[(OsString, OsString)],
        output: Option<&File>,
    ) -> Result<Row> {
        let start = Instant::now();
        let mut environment = environment.to_vec();
        let programs = self.programs.clone().into();
        environment.push((self.what.variable.into(), programs));
        let mut row = row(&format!("tests on {}", self.name()), || {
            self.run_each(&self.built(command)?, &environment, output)
        })?;
        row.took = start.elapsed();
        Ok(row)
    }

    fn run_each(
        &self,
        tests: &[(&str, PathBuf)],
        environment: &[(OsString, OsString)],
        output: Option<&File>,
    ) -> Result<String> {
        let without = self.what.without.iter();
        let arguments: Vec<&str> = without.flat_map(|test| ["--skip", test]).collect();
        let mut failures = Vec::new();
        for (test, program) in tests {
            let name = format!("{test} on {}", self.name());
            let output = output.map(File::try_clone).transpose()?;
            let row = step(&name, program.as_os_str(), &arguments, environment, output)?;
            if let Outcome::Failed(how) = row.outcome {
                failures.push(how);
            }
        }
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(self.what.tests.join(", "))
    }

    /// The programs of the tests: cargo's features are those of a whole command, so one that named
    /// only this package would build everything once more.
    fn built(&self, command: &[&str]) -> Result<Vec<(&str, PathBuf)>> {
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
        let manifest_of_ours = Path::new(self.what.package).join("Cargo.toml");
        let found: Vec<_> = messages
            .filter_map(|message| {
                let manifest = Path::new(message["manifest_path"].as_str()?);
                let name = message["target"]["name"].as_str()?;
                let test = self.what.tests.iter().find(|test| **test == name)?;
                let program = PathBuf::from(message["executable"].as_str()?);
                let is_ours = manifest.ends_with(&manifest_of_ours);
                is_ours.then_some((*test, program))
            })
            .collect();
        anyhow::ensure!(
            found.len() == self.what.tests.len(),
            "of the tests {:?} there are only {found:?}",
            self.what.tests
        );
        Ok(found)
    }
}
