//! `cargo xtask test`: everything, with the real stores up, and one table at the end.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use tenure_testkit::backends::{BACKENDS, Backend};
use tenure_testkit::interrupt;
use tenure_testkit::paths::{self, Dirs};
use tenure_testkit::provision::newer_etcd::ETCD_3_6;
use tenure_testkit::provision::other_servers::{self, OtherServer};
use tenure_testkit::provision::tools::NEXTEST;
use tenure_testkit::provision::{self, Need, mdbook};
use tenure_testkit::stores::kind::Kind;
use tenure_testkit::stores::process::Hold;
use tenure_testkit::stores::session::{self, Session};
use tenure_testkit::stores::state::State;

use crate::features;
use crate::other_servers::test_on;
use crate::report::{Outcome, Row, report};
use crate::steps::{Environment, cargo, cargo_step, failed, row, step, words};

/// `cargo xtask test`
pub(crate) fn test(only: &[String]) -> Result<ExitCode> {
    let begin = Instant::now();
    let all = only.is_empty();
    let wanted = |backend: &&Backend| all || only.iter().any(|name| name == backend.name);
    let backends: Vec<&Backend> = BACKENDS.iter().filter(wanted).collect();
    let mut rows = Vec::new();
    let dirs = Dirs::open()?;
    let log = dirs.root.join("conformance.log");
    // Each case appends a line; what an earlier run left must not count.
    paths::remove_file(&log)?;
    // Before anything is built or run: tests start servers of their own too.
    provision::ensure(&Need::ALL)?;
    let nextest = NEXTEST.provide()?;
    let others = other_servers::provide(&backends)?;
    let newer_etcd = newer_etcd(&backends)?;
    if all {
        for (name, arguments) in CHECKS {
            rows.push(cargo_step(name, &words(arguments), &[])?);
        }
        rows.push(documentation()?);
        rows.push(row("features' crates", || {
            let looked_at = features::assert_trees()?;
            Ok(format!("cargo tree of {looked_at}"))
        })?);
    }
    let (session, store_rows) = bring_up(&dirs, &backends)?;
    let state = State::load(&dirs)?;
    let mut environment = strict(&log, &state);
    environment.extend(newer_etcd);
    if all {
        environment.push((mdbook::PROGRAM.into(), mdbook::provide()?.into()));
        rows.extend(tests(&dirs, nextest.as_os_str(), &others, &environment)?);
        rows.push(cargo_step("doc tests", &words(DOC_TESTS), &environment)?);
    } else {
        for backend in &backends {
            let mut arguments = words("test --all-features --no-fail-fast");
            arguments.extend(backend.packages.iter().flat_map(|name| ["-p", name]));
            let name = format!("tests of {}", backend.name);
            rows.push(cargo_step(&name, &arguments, &environment)?);
            for other in others.iter().filter(|other| other.backend == backend.name) {
                rows.push(test_on(other, &arguments, &environment, None)?);
            }
        }
    }
    rows.extend(store_rows);
    for backend in &backends {
        let name = format!("backend {}", backend.name);
        rows.push(row(&name, || conformance(backend, &state, &log))?);
    }
    if all {
        rows.extend(across_stores(&state)?);
    }
    if let Some(mut session) = session {
        session.stop()?;
    }
    Ok(report(&rows, begin.elapsed()))
}

/// `cargo xtask docs`
pub(crate) fn docs() -> Result<ExitCode> {
    Ok(report(&[documentation()?], Duration::ZERO))
}

fn documentation() -> Result<Row> {
    cargo_step(
        "documentation",
        &words("doc --workspace --all-features --no-deps"),
        &[("RUSTDOCFLAGS".into(), "-D warnings".into())],
    )
}

/// The environment of tests that have to show everything: what they would leave out on a lesser
/// machine is a failure here, each conformance case says how it ended, and those that cannot
/// start their store find the one that runs.
fn strict(log: &Path, state: &State) -> Environment {
    let mut all = state.variables();
    all.push((tenure_testkit::environment::STRICT.into(), "1".into()));
    all.push((tenure_conformance::LOG.into(), log.into()));
    all
}

/// The newer line of etcd, for tests of the backends that run on etcd. Built if it is not cached.
fn newer_etcd(backends: &[&Backend]) -> Result<Option<(OsString, OsString)>> {
    let mut kinds = backends.iter().filter_map(|backend| Kind::of(backend));
    if !kinds.any(|kind| matches!(kind, Kind::Etcd | Kind::Kube)) {
        return Ok(None);
    }
    let newer = ETCD_3_6.provide()?;
    let programs = newer.programs.display();
    eprintln!("etcd: {} beside the system's, {programs}", newer.version);
    let variable = tenure_testkit::etcd::programs::NEWER;
    Ok(Some((variable.into(), newer.programs.into())))
}

const CHECKS: [(&str, &str); 3] = [
    ("format", "fmt --all --check"),
    (
        "lints",
        "clippy --workspace --all-targets --all-features -- -D warnings",
    ),
    // With each backend alone the swap example is built, with all of them the tests are.
    ("no backend", "check -p tenure --no-default-features"),
];

/// The build of all tests but those in the documentation.
const TESTS: &str =
    "test --workspace --all-features --no-fail-fast --lib --bins --tests --examples";

const DOC_TESTS: &str = "test --workspace --all-features --doc --no-fail-fast";

/// The test programs that are no programs of nextest, with the features of [`TESTS`]: the cases of
/// a suite share a lock in their process, and a test that forks has no harness.
const IN_ONE_PROCESS: &str =
    "test --workspace --all-features --no-fail-fast --test conformance --test fork";

/// All others, each test in a process of its own; `.config/nextest.toml` says how many at a time.
const BY_NEXTEST: &str =
    "nextest run --workspace --all-features --lib --bins --tests --examples --no-fail-fast";

/// With the same features as [`TESTS`], so that nothing is built again.
const ACROSS_STORES: &str = "test --workspace --all-features --test across_stores \
    --test documented --test leader_killed --test stores --test swap";

/// The unit and integration tests: those of nextest, beside them those of `cargo test`, and those
/// that run on other servers too.
fn tests(
    dirs: &Dirs,
    nextest: &OsStr,
    others: &[OtherServer],
    environment: &[(OsString, OsString)],
) -> Result<Vec<Row>> {
    let arguments = [words(TESTS), vec!["--no-run"]].concat();
    let built = cargo_step("build of the tests", &arguments, environment)?;
    let log = dirs.root.join("in-one-process.log");
    let output = File::create(&log)?;
    let others_log = dirs.root.join("other-servers.log");
    let others_output = File::create(&others_log)?;
    // Each thread waits for its own programs, which would be ended with the thread.
    let (shown, logged, on_others) = std::thread::scope(|scope| {
        let on_others = scope.spawn(|| {
            let rows = others
                .iter()
                .map(|other| test_on(other, &words(TESTS), environment, Some(&others_output)));
            rows.collect::<Result<Vec<Row>>>()
        });
        let logged = scope.spawn(|| {
            let name = "suites and forks";
            step(
                name,
                &cargo(),
                &words(IN_ONE_PROCESS),
                environment,
                Some(output),
            )
        });
        let shown = step(
            "all other tests",
            nextest,
            &words(BY_NEXTEST),
            environment,
            None,
        );
        (shown, logged.join(), on_others.join())
    });
    let logged = logged.map_err(|_| anyhow::anyhow!("the lane of the suites panicked"))?;
    let on_others =
        on_others.map_err(|_| anyhow::anyhow!("the lane of the other servers panicked"))?;
    // Said after the other lane's, so that they are not mixed up.
    print!("{}", fs::read_to_string(&log)?);
    print!("{}", fs::read_to_string(&others_log)?);
    let mut rows = vec![built, shown?, logged?];
    rows.extend(on_others?);
    Ok(rows)
}

/// Brings up every store that the backends need.
fn bring_up(dirs: &Dirs, backends: &[&Backend]) -> Result<(Option<Session>, Vec<Row>)> {
    let kinds: BTreeSet<Kind> = backends.iter().filter_map(|b| Kind::of(b)).collect();
    if kinds.is_empty() {
        return Ok((None, Vec::new()));
    }
    eprintln!("\n== stores");
    let name = |kind: Kind| format!("store {}", kind.name());
    let start = Instant::now();
    let session = match session::up(dirs, &kinds, Hold::Held) {
        Ok(session) => session,
        Err(error) => {
            interrupt::check()?;
            eprintln!("{error:#}");
            let rows = kinds
                .iter()
                .map(|kind| failed(name(*kind), "not up, see above"));
            return Ok((None, rows.collect()));
        }
    };
    let up = start.elapsed();
    let state = session.state()?;
    let mut rows = Vec::new();
    for kind in kinds {
        let Some(running) = state.stores.get(&kind) else {
            rows.push(failed(name(kind), "it is gone"));
            continue;
        };
        rows.push(Row {
            name: name(kind),
            outcome: Outcome::Passed(running.describe()),
            took: up,
        });
    }
    Ok((Some(session), rows))
}

/// What the cases of a backend's suites came to, by the log that they have written.
fn conformance(backend: &Backend, state: &State, log: &Path) -> Result<String> {
    let seen = match Kind::of(backend) {
        None => "no server".to_owned(),
        Some(kind) => match state.stores.get(&kind) {
            Some(running) => running.describe(),
            None => anyhow::bail!("{} is not up", kind.name()),
        },
    };
    let log = match fs::read_to_string(log) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let tally = tenure_conformance::tally(&log);
    // Also those that nobody has listed yet.
    let ours = |suite: &str| {
        let rest = suite.strip_prefix(backend.name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let suites: Vec<_> = tally.iter().filter(|(suite, _)| ours(suite)).collect();
    let text: Vec<String> = suites
        .iter()
        .map(|(suite, counts)| format!("{suite}: {counts}"))
        .collect();
    let text = format!("{} ({seen})", text.join("; "));
    let missing: Vec<&str> = backend
        .suites
        .iter()
        .copied()
        .filter(|suite| !tally.contains_key(*suite))
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "no case of {} ran: {text}",
        missing.join(", ")
    );
    let green = suites.iter().all(|(_, counts)| counts.is_green());
    anyhow::ensure!(green, "not every case ran and passed: {text}");
    Ok(text)
}

/// One service on every store: the tests that move it from one to the next, the example whose
/// leader is killed in the middle of its work, the one that is built for each store alone, the
/// binary's commands, what the pages say of each, and the demo, which kills and freezes real
/// processes and checks their terms.
fn across_stores(state: &State) -> Result<Vec<Row>> {
    let variables = state.env();
    let urls: Vec<(&Backend, String)> = BACKENDS
        .iter()
        .filter_map(|backend| Some((backend, backend.url(variables.get(backend.variable?)?))))
        .collect();
    let all: Vec<&str> = urls.iter().map(|(_, url)| url.as_str()).collect();
    let environment = [("TENURE_TEST_STORES".into(), all.join(" ").into())];
    let mut rows = vec![cargo_step(
        "across stores",
        &words(ACROSS_STORES),
        &environment,
    )?];
    // The tests have built it beside this program, with every store.
    let tenure = std::env::current_exe()?.with_file_name("tenure");
    for (backend, url) in urls {
        let name = format!("demo on {}", backend.name);
        let environment = [("TENURE_BACKEND".into(), url.into())];
        let demo = step(&name, tenure.as_os_str(), &["demo"], &environment, None)?;
        rows.push(demo);
    }
    Ok(rows)
}
