//! `cargo xtask test --more`: the tests on servers that have to be built from source, with a table of
//! their own.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tenure_testkit::environment::STRICT;
use tenure_testkit::interrupt;
use tenure_testkit::provision::other_servers::BUILT;
use tenure_testkit::provision::{self, Need};

use crate::other_servers::test_on;
use crate::report::report;
use crate::steps::failed;

/// The build of the tests of these servers.
const TESTS: [&str; 5] = [
    "test",
    "-p",
    "tenure-etcd",
    "--all-features",
    "--no-fail-fast",
];

/// Fails when one of the servers cannot be built, as when a test on it fails.
pub(crate) fn test() -> Result<ExitCode> {
    let begin = Instant::now();
    provision::ensure(&Need::ALL)?;
    let mut rows = Vec::new();
    for (name, provide) in BUILT {
        match provide() {
            Ok(other) => rows.push(test_on(
                &other,
                &TESTS,
                &[(STRICT.into(), "1".into())],
                None,
            )?),
            Err(error) => {
                interrupt::check()?;
                rows.push(failed(name.to_owned(), &format!("{error:#}")));
            }
        }
    }
    Ok(report(&rows, begin.elapsed()))
}
