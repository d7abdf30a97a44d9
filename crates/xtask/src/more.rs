//! `cargo xtask test --more`: the tests on servers that have to be built from source, with a table of
//! their own.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tenure_testkit::environment::STRICT;
use tenure_testkit::interrupt;
use tenure_testkit::provision::other_servers::{BUILT, OtherServer};
use tenure_testkit::provision::{self, Need};

use crate::other_servers::test_on;
use crate::report::{Row, report};
use crate::steps::{Environment, cargo_step, failed, words};

/// Fails when one of the servers cannot be built, as when a test on it fails.
pub(crate) fn test() -> Result<ExitCode> {
    let begin = Instant::now();
    provision::ensure(&Need::ALL)?;
    let mut rows = Vec::new();
    let mut servers = Vec::new();
    for (name, provide) in BUILT {
        match provide() {
            Ok(server) => servers.push(server),
            Err(error) => {
                interrupt::check()?;
                rows.push(failed(name.to_owned(), &format!("{error:#}")));
            }
        }
    }
    rows.extend(tests(&servers)?);
    Ok(report(&rows, begin.elapsed()))
}

fn tests(servers: &[OtherServer]) -> Result<Vec<Row>> {
    let packages: BTreeSet<&str> = servers.iter().map(|server| server.package).collect();
    let mut command = words("test --all-features --no-fail-fast");
    command.extend(packages.into_iter().flat_map(|package| ["-p", package]));
    let environment: Environment = vec![(STRICT.into(), "1".into())];
    // A step of its own, since it takes minutes: the programs are only looked up after it.
    let building = [&command[..], &["--no-run"]].concat();
    let mut rows = vec![cargo_step("build of the tests", &building, &environment)?];
    for server in servers {
        rows.push(test_on(server, &command, &environment, None)?);
    }
    Ok(rows)
}
