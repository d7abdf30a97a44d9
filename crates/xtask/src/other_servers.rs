//! Other servers than the system's, that a backend's tests run on too: another product that speaks
//! the same protocol, or a newer release than Debian has.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use tempfile::TempDir;

use crate::interrupt;
use crate::paths;
use crate::provision;
use crate::shell::capture;
use crate::suite::{Backend, Outcome, Row, cargo, forget_this_package, step};

/// A test program of the backend, and the arguments that leave out what the server cannot do.
type Test = (&'static str, &'static [&'static str]);

/// Without those that need TLS, which the fetched Valkey has not, and a clock that can be made to
/// jump, which it ignores.
const ON_VALKEY: [Test; 5] = [
    ("conformance", &[]),
    ("election", &[]),
    ("faults", &[]),
    ("lock", &[]),
    ("topology", &[]),
];

/// Without those that need TLS, which the fetched one has not.
const ON_POSTGRES: [Test; 5] = [
    ("conformance", &[]),
    ("guard", &[]),
    ("lock", &[]),
    ("processes", &[]),
    (
        "servers",
        &[
            "--skip",
            "the_server_may_demand_a_certificate",
            "--skip",
            "tls_is_verified_when_it_is_asked_for",
        ],
    ),
];

/// A server, and the tests that run on it.
#[derive(Debug)]
pub(crate) struct OtherServer {
    backend: Backend,
    /// `Valkey 9.1.2`
    name: String,
    /// How the tests are told of it.
    variable: &'static str,
    programs: PathBuf,
    package: &'static str,
    tests: &'static [Test],
    /// Where it was unpacked, until the run is over.
    _folder: Option<TempDir>,
}

/// The tests of the Redis backend on Valkey.
pub(crate) fn valkey() -> Result<OtherServer> {
    let valkey = provision::valkey()?;
    Ok(OtherServer {
        backend: Backend::Redis,
        name: format!("Valkey {}", valkey.version),
        variable: "TENURE_TEST_REDIS_SERVER",
        programs: valkey.program,
        package: "tenure-redis",
        tests: &ON_VALKEY,
        _folder: None,
    })
}

/// The tests of the Postgres backend on the newest release.
pub(crate) fn newest_postgres() -> Result<OtherServer> {
    let newest = provision::newest_postgres()?;
    Ok(OtherServer {
        backend: Backend::Postgres,
        name: format!("PostgreSQL {}", newest.version),
        variable: "TENURE_TEST_POSTGRES_BIN",
        programs: newest.programs,
        package: "tenure-postgres",
        tests: &ON_POSTGRES,
        _folder: Some(newest.folder),
    })
}

impl OtherServer {
    pub(crate) fn is_of(&self, backend: Backend) -> bool {
        self.backend == backend
    }

    /// Runs what `command` has built of its tests.
    pub(crate) fn test(
        &self,
        command: &[&str],
        environment: &[(OsString, OsString)],
        output: Option<&File>,
    ) -> Result<Row> {
        let start = Instant::now();
        let mut environment = environment.to_vec();
        environment.push((self.variable.into(), self.programs.clone().into()));
        let outcome = match self.built(command) {
            Ok(tests) => self.run_each(&tests, &environment, output)?,
            Err(error) => {
                interrupt::check()?;
                Outcome::Failed(format!("{error:#}"))
            }
        };
        Ok(Row {
            name: format!("tests on {}", self.name),
            outcome,
            took: start.elapsed(),
        })
    }

    fn run_each(
        &self,
        tests: &[(Test, PathBuf)],
        environment: &[(OsString, OsString)],
        output: Option<&File>,
    ) -> Result<Outcome> {
        let mut failures = Vec::new();
        for ((test, arguments), program) in tests {
            let name = format!("{test} on {}", self.name);
            let output = output.map(File::try_clone).transpose()?;
            let row = step(&name, program.as_os_str(), arguments, environment, output)?;
            if let Outcome::Failed(how) = row.outcome {
                failures.push(how);
            }
        }
        Ok(if failures.is_empty() {
            let names = tests.iter().map(|((test, _), _)| *test);
            Outcome::Passed(names.collect::<Vec<_>>().join(", "))
        } else {
            Outcome::Failed(failures.join("; "))
        })
    }

    /// The programs of the tests: cargo's features are those of a whole command, so one that named
    /// only this package would build everything once more.
    fn built(&self, command: &[&str]) -> Result<Vec<(Test, PathBuf)>> {
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
        let manifest_of_ours = Path::new(self.package).join("Cargo.toml");
        let found: Vec<_> = messages
            .filter_map(|message| {
                let manifest = Path::new(message["manifest_path"].as_str()?);
                let name = message["target"]["name"].as_str()?;
                let test = self.tests.iter().find(|(test, _)| *test == name)?;
                let program = PathBuf::from(message["executable"].as_str()?);
                manifest
                    .ends_with(&manifest_of_ours)
                    .then_some((*test, program))
            })
            .collect();
        anyhow::ensure!(
            found.len() == self.tests.len(),
            "of the tests {:?} there are only {found:?}",
            self.tests
        );
        Ok(found)
    }
}
