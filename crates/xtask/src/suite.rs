//! `cargo xtask test`: everything, with the real stores up, and one table at the end.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::features;
use crate::other_servers::{self, OtherServer};
use crate::paths::{self, Dirs};
use crate::process::{self, Hold};
use crate::provision::{self, Need};
use crate::shell::{capture, run_shown};
use crate::stores::{self, Kind, Request, Session, State};

/// The backends, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Backend {
    /// inside one process
    Memory,
    /// a directory on one host
    File,
    /// a Kubernetes Lease
    KubeLease,
    /// an annotation on a Kubernetes config map
    KubeConfigmap,
    /// etcd
    Etcd,
    /// Redis
    Redis,
    /// Postgres
    Postgres,
}

impl Backend {
    const ALL: [Self; 7] = [
        Self::Memory,
        Self::File,
        Self::KubeLease,
        Self::KubeConfigmap,
        Self::Etcd,
        Self::Redis,
        Self::Postgres,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::KubeLease => "kube-lease",
            Self::KubeConfigmap => "kube-configmap",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// How cargo is told to test it.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Memory => &["-p", "tenure-core", "-p", "tenure-conformance"],
            Self::File => &["-p", "tenure-file"],
            Self::Redis => &["-p", "tenure-redis"],
            Self::Postgres => &["-p", "tenure-postgres"],
            Self::KubeLease => &["-p", "tenure-kube", "-p", "tenure-kube-lease"],
            Self::KubeConfigmap => &["-p", "tenure-kube-configmap"],
            Self::Etcd => &["-p", "tenure-etcd"],
        }
    }

    /// The runs of the conformance suite that judge it, one for each topology of its store; if one
    /// of them is missing, the test has failed.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Memory => &["memory"],
            Self::File => &["file"],
            Self::Redis => &[
                "redis",
                "redis_sentinel",
                "redis_cluster",
                "redis_valkey",
                "redis_valkey_sentinel",
                "redis_valkey_cluster",
            ],
            Self::Postgres => &["postgres", "postgres_newest"],
            Self::KubeLease => &["kube-lease"],
            Self::KubeConfigmap => &["kube-configmap"],
            Self::Etcd => &["etcd", "etcd_cluster"],
        }
    }

    /// The URL by which an application opens it on the server that runs.
    fn url(self, state: &State) -> Option<String> {
        let variable = match self {
            Self::Redis => "TENURE_TEST_REDIS_URL",
            Self::Postgres => "TENURE_TEST_POSTGRES_URL",
            Self::KubeLease | Self::KubeConfigmap => "TENURE_TEST_KUBECONFIG",
            Self::Etcd => "TENURE_TEST_ETCD_URL",
            Self::Memory | Self::File => return None,
        };
        let found = state.env().remove(variable)?;
        Some(match self {
            Self::KubeLease | Self::KubeConfigmap => {
                format!("{}://default?kubeconfig={found}", self.name())
            }
            _ => found,
        })
    }

    /// The server it runs on, if it needs one.
    fn store(self) -> Option<Kind> {
        match self {
            Self::Memory | Self::File => None,
            Self::KubeLease | Self::KubeConfigmap => Some(Kind::Kube),
            Self::Etcd => Some(Kind::Etcd),
            Self::Redis => Some(Kind::Redis),
            Self::Postgres => Some(Kind::Postgres),
        }
    }
}

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

/// `cargo xtask test`
pub(crate) fn test(only: &[Backend]) -> Result<ExitCode> {
    let begin = Instant::now();
    let backends: BTreeSet<Backend> = if only.is_empty() {
        Backend::ALL.into_iter().collect()
    } else {
        only.iter().copied().collect()
    };
    let mut rows = Vec::new();
    let dirs = Dirs::open()?;
    let log = dirs.root.join("conformance.log");
    // Each case appends a line; what an earlier run left must not count.
    paths::remove_file(&log)?;
    // Before anything is built or run: tests start servers of their own too.
    provision::ensure(&[
        Need::Protoc,
        Need::Etcd,
        Need::Redis,
        Need::Postgres,
        Need::PgBouncer,
        Need::Strace,
    ])?;
    let mut others = Vec::new();
    if backends.contains(&Backend::Redis) {
        others.push(other_servers::valkey()?);
    }
    if backends.contains(&Backend::Postgres) {
        others.push(other_servers::newest_postgres()?);
    }
    if only.is_empty() {
        for (name, arguments) in CHECKS {
            rows.push(cargo_step(name, arguments, &[])?);
        }
        rows.push(documentation()?);
        rows.push(feature_trees()?);
    }
    let (session, store_rows) = bring_up(&dirs, &backends)?;
    let state = State::load(&dirs)?;
    let environment = strict(&log, &state);
    if only.is_empty() {
        rows.extend(tests(&dirs, &others, &environment)?);
        rows.push(cargo_step("doc tests", &DOC_TESTS, &environment)?);
    } else {
        for backend in &backends {
            let test: &[&str] = &["test", "--all-features", "--no-fail-fast"];
            let arguments = [test, backend.packages()].concat();
            let name = format!("tests of {}", backend.name());
            rows.push(cargo_step(&name, &arguments, &environment)?);
            for other in others.iter().filter(|other| other.is_of(*backend)) {
                rows.push(other.test(&arguments, &environment, None)?);
            }
        }
    }
    rows.extend(store_rows);
    for backend in &backends {
        let start = Instant::now();
        let outcome = conformance(*backend, &state, &log)?;
        rows.push(Row {
            name: format!("backend {}", backend.name()),
            outcome,
            took: start.elapsed(),
        });
    }
    if only.is_empty() {
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
        &["doc", "--workspace", "--all-features", "--no-deps"],
        &[("RUSTDOCFLAGS".into(), "-D warnings".into())],
    )
}

/// The environment of tests that have to show everything: what they would leave out on a lesser
/// machine is a failure here, each conformance case says how it ended, and those that cannot
/// start their store find the one that runs.
fn strict(log: &Path, state: &State) -> Vec<(OsString, OsString)> {
    let stores = state.env();
    let stores = stores
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let mut all: Vec<_> = stores.collect();
    all.push(("TENURE_TEST_STRICT".into(), "1".into()));
    all.push((tenure_conformance::LOG.into(), log.into()));
    all
}

type CargoStep = (&'static str, &'static [&'static str]);

const CHECKS: [CargoStep; 3] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // With each backend alone the swap example is built, with all of them the tests are.
    (
        "no backend",
        &["check", "-p", "tenure", "--no-default-features"],
    ),
];

/// All tests but those in the documentation. A failure must not hide what the tests after it would
/// have said.
const TESTS: [&str; 4] = ["test", "--workspace", "--all-features", "--no-fail-fast"];

const DOC_TESTS: [&str; 5] = [
    "test",
    "--workspace",
    "--all-features",
    "--doc",
    "--no-fail-fast",
];

/// The integration tests that run beside the others: all that use the session's API server, whose
/// requests one of them counts, and the suites. They wait for stores most of the time. What is not
/// named here runs in the other lane, so no test can be forgotten.
const SECOND_LANE: [&str; 15] = [
    "client_go",
    "config_map",
    "conformance",
    "controller",
    "doctor",
    "fork",
    "lease",
    "manifests",
    "migration",
    "pods",
    "rbac",
    "requests",
    "restart",
    "rights",
    "wire_faults",
];

/// With the same features as [`TESTS`], so that nothing is built again.
const ACROSS_STORES: [&str; 13] = [
    "test",
    "--workspace",
    "--all-features",
    "--test",
    "across_stores",
    "--test",
    "documented",
    "--test",
    "leader_killed",
    "--test",
    "stores",
    "--test",
    "swap",
];

/// The unit and integration tests, in two lanes, and beside them those that run on other servers
/// too.
fn tests(
    dirs: &Dirs,
    others: &[OtherServer],
    environment: &[(OsString, OsString)],
) -> Result<Vec<Row>> {
    let (second, first): (Vec<String>, Vec<String>) = integration_tests()?
        .into_iter()
        .partition(|name| SECOND_LANE.contains(&name.as_str()));
    anyhow::ensure!(
        second.len() == SECOND_LANE.len(),
        "of the tests of the second lane there are only {second:?}"
    );
    let lane = |others: &[&'static str], names: &[String]| -> Vec<String> {
        let all = TESTS.iter().chain(others).map(|&text| text.to_owned());
        let names = names
            .iter()
            .flat_map(|name| ["--test".to_owned(), name.clone()]);
        all.chain(names).collect()
    };
    let all = [&TESTS[..], &["--lib", "--bins", "--tests", "--examples"]].concat();
    let built = cargo_step(
        "build of the tests",
        &[&all[..], &["--no-run"]].concat(),
        environment,
    )?;
    let first = lane(&["--lib", "--bins", "--examples"], &first);
    let second = lane(&[], &second);
    let log = dirs.root.join("second-lane.log");
    let output = File::create(&log)?;
    let others_log = dirs.root.join("other-servers.log");
    let others_output = File::create(&others_log)?;
    // Each thread waits for its own programs, which would be ended with the thread.
    let (shown, logged, on_others) = std::thread::scope(|scope| {
        let on_others = scope.spawn(|| {
            let rows = others
                .iter()
                .map(|other| other.test(&all, environment, Some(&others_output)));
            rows.collect::<Result<Vec<Row>>>()
        });
        let logged = scope.spawn(|| {
            step(
                "tests that wait for stores",
                &cargo(),
                &second,
                environment,
                Some(output),
            )
        });
        let shown = step("all other tests", &cargo(), &first, environment, None);
        (shown, logged.join(), on_others.join())
    });
    let logged = logged.map_err(|_| anyhow::anyhow!("the second lane panicked"))?;
    let on_others =
        on_others.map_err(|_| anyhow::anyhow!("the lane of the other servers panicked"))?;
    // Said after the other lane's, so that they are not mixed up.
    print!("{}", fs::read_to_string(&log)?);
    print!("{}", fs::read_to_string(&others_log)?);
    let mut rows = vec![built, shown?, logged?];
    rows.extend(on_others?);
    Ok(rows)
}

/// The names of the workspace's integration tests.
fn integration_tests() -> Result<BTreeSet<String>> {
    let mut command = Command::new(cargo());
    command
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(paths::workspace());
    let metadata: serde_json::Value = serde_json::from_str(&capture(&mut command)?)?;
    let all = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let targets = all(&metadata["packages"])
        .into_iter()
        .flat_map(|package| all(&package["targets"]));
    let tests = targets.filter(|target| all(&target["kind"]).iter().any(|kind| kind == "test"));
    Ok(tests
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .collect())
}

pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
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
    arguments: &[impl AsRef<str>],
    environment: &[(OsString, OsString)],
    output: Option<File>,
) -> Result<Row> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let file_name = Path::new(program).file_name().unwrap_or(program);
    let shown = format!("{} {}", file_name.to_string_lossy(), arguments.join(" "));
    eprintln!("\n== {name}: {shown}");
    let start = Instant::now();
    let mut command = process::watched(program)?;
    command
        .args(&arguments)
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

/// Removes the variables that name this package: they were set for this program, and another build
/// that sees them builds crates anew which look at them.
pub(crate) fn forget_this_package(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("CARGO_PKG_")
            || variable.to_string_lossy().starts_with("CARGO_MANIFEST_")
        {
            command.env_remove(variable);
        }
    }
}

/// What each feature of the facade pulls; its failure is a row of the table too.
fn feature_trees() -> Result<Row> {
    eprintln!("\n== features: cargo tree");
    let start = Instant::now();
    let outcome = match features::assert_trees() {
        Ok(looked_at) => Outcome::Passed(format!("cargo tree of {looked_at}")),
        Err(error) => {
            crate::interrupt::check()?;
            Outcome::Failed(format!("{error:#}"))
        }
    };
    Ok(Row {
        name: "features' crates".to_owned(),
        outcome,
        took: start.elapsed(),
    })
}

/// Brings up every store that the backends need, and writes and reads back on each.
fn bring_up(dirs: &Dirs, backends: &BTreeSet<Backend>) -> Result<(Option<Session>, Vec<Row>)> {
    let kinds: BTreeSet<Kind> = backends
        .iter()
        .filter_map(|backend| backend.store())
        .collect();
    if kinds.is_empty() {
        return Ok((None, Vec::new()));
    }
    eprintln!("\n== stores");
    let start = Instant::now();
    let session = match stores::up(dirs, &Request::new(kinds.iter().copied(), None), Hold::Held) {
        Ok(session) => session,
        Err(error) => {
            crate::interrupt::check()?;
            eprintln!("{error:#}");
            let rows = kinds.iter().map(|kind| Row {
                name: format!("store {}", kind.name()),
                outcome: Outcome::Failed("not up, see above".to_owned()),
                took: start.elapsed(),
            });
            return Ok((None, rows.collect()));
        }
    };
    let up = start.elapsed();
    let state = session.state()?;
    let mut rows = Vec::new();
    for kind in kinds {
        let start = Instant::now();
        let outcome = match state.stores.get(&kind) {
            None => Outcome::Failed("it is gone".to_owned()),
            Some(running) => match running.round_trip() {
                Ok(done) => Outcome::Passed(format!("{}: {done}", running.describe())),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            },
        };
        rows.push(Row {
            name: format!("store {}", kind.name()),
            outcome,
            took: up + start.elapsed(),
        });
    }
    Ok((Some(session), rows))
}

/// What the conformance suite said of one backend while the tests ran: every case has to be
/// accounted for, so that none can vanish.
fn conformance(backend: Backend, state: &State, log: &Path) -> Result<Outcome> {
    let seen = match backend.store() {
        None => "no server".to_owned(),
        Some(kind) => match state.stores.get(&kind) {
            Some(running) => running.describe(),
            None => return Ok(Outcome::Failed(format!("{} is not up", kind.name()))),
        },
    };
    let log = match std::fs::read_to_string(log) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let tally = tenure_conformance::tally(&log);
    let suites: Vec<_> = tally
        .iter()
        .filter(|(suite, _)| {
            // Also those that nobody has listed yet.
            suite
                .strip_prefix(backend.name())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
        .collect();
    let text: Vec<String> = suites
        .iter()
        .map(|(suite, counts)| format!("{suite}: {counts}"))
        .collect();
    let text = format!("{} ({seen})", text.join("; "));
    let missing: Vec<&str> = backend
        .suites()
        .iter()
        .copied()
        .filter(|suite| !tally.contains_key(*suite))
        .collect();
    if !missing.is_empty() {
        return Ok(Outcome::Failed(format!(
            "no case of {} ran: {text}",
            missing.join(", ")
        )));
    }
    Ok(if suites.iter().all(|(_, counts)| counts.is_green()) {
        Outcome::Passed(text)
    } else {
        Outcome::Failed(format!("not every case ran and passed: {text}"))
    })
}

/// One service on every store: the tests that move it from one to the next, the example whose
/// leader is killed in the middle of its work, the one that is built for each store alone, the
/// binary's commands, what the pages say of each, and the demo, which kills and freezes real
/// processes and checks their terms.
fn across_stores(state: &State) -> Result<Vec<Row>> {
    let urls: Vec<(Backend, String)> = Backend::ALL
        .into_iter()
        .filter_map(|backend| Some((backend, backend.url(state)?)))
        .collect();
    let all: Vec<&str> = urls.iter().map(|(_, url)| url.as_str()).collect();
    let environment = [("TENURE_TEST_STORES".into(), all.join(" ").into())];
    let mut rows = vec![cargo_step("across stores", &ACROSS_STORES, &environment)?];
    // The tests have built it beside this program, with every store.
    let tenure = std::env::current_exe()?.with_file_name("tenure");
    for (backend, url) in urls {
        let name = format!("demo on {}", backend.name());
        let environment = [("TENURE_BACKEND".into(), url.into())];
        rows.push(step(
            &name,
            tenure.as_os_str(),
            &["demo"],
            &environment,
            None,
        )?);
    }
    Ok(rows)
}

/// Prints the table; the exit code says whether all is well.
pub(crate) fn report(rows: &[Row], took: Duration) -> ExitCode {
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or_default();
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
