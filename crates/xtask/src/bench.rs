//! `cargo xtask bench`: everything that is measured, on the real stores, and the report of it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use tenure_testkit::paths::{self, Dirs};
use tenure_testkit::provision::{self, Need};
use tenure_testkit::stores::kind::Kind;
use tenure_testkit::stores::process::Hold;
use tenure_testkit::stores::session;
use tenure_testkit::stores::state::State;

use crate::report::{Outcome, report};
use crate::steps::{Environment, cargo_step, words};

/// Where the benchmarks say what they have measured (`benches/record.rs`).
const OUT: &str = "TENURE_BENCH_OUT";

/// How often the peers' benchmarks and the killed leaders make their rounds.
const ROUNDS: &str = "TENURE_BENCH_ROUNDS";

/// Few enough for a run that is waited for.
const QUICK_ROUNDS: &str = "50";

/// Runs all and writes the report, also when a part has failed: the table says which.
pub(crate) fn bench(quick: bool, kubernetes: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let dirs = Dirs::open()?;
    let folder = paths::workspace().join("target").join("bench");
    paths::make_dir(&folder, 0o755)?;
    let lines = folder.join("figures.jsonl");
    paths::remove_file(&lines)?;
    // The build of the etcd client; the stores see to the rest.
    provision::ensure(&[Need::Protoc])?;

    let mut session = session::up(&dirs, &Kind::ALL.into(), Hold::Held)?;
    let state = session.state()?;
    let environment = environment(quick, &lines, &state);
    let mut rows = Vec::new();
    let mut steps = vec![
        ("benchmarks of this workspace", WORKSPACE),
        ("benchmarks beside peers", PEERS),
    ];
    if kubernetes {
        steps.push(("Kubernetes beside peers", KUBERNETES));
    }
    for (name, arguments) in steps {
        rows.push(cargo_step(name, &words(arguments), &environment)?);
    }
    session.stop()?;

    facts(&lines, quick, &state, begin)?;
    let docs = paths::workspace().join("docs");
    let lines = lines.to_string_lossy().into_owned();
    let docs = docs.to_string_lossy().into_owned();
    let mut arguments = words("run --release --package tenure-bench-report --");
    arguments.extend([&*lines, &*docs]);
    let written = cargo_step("report", &arguments, &environment)?;
    let is_written = matches!(written.outcome, Outcome::Passed(_));
    rows.push(written);
    let code = report(&rows, begin.elapsed());
    if is_written {
        println!(
            "the report: docs/benchmarks/all.md; criterion's: target/criterion/report/index.html"
        );
    }
    Ok(code)
}

/// One that fails must not hide what the others say.
const WORKSPACE: &str = "bench --package tenure-benches --no-fail-fast";

// The target folder is shared, so that what both workspaces need is built once.
const PEERS: &str =
    "bench --manifest-path=benches/peers/Cargo.toml --target-dir=target --no-fail-fast";

/// Three more clients to build, and minutes of waiting for leases to end.
const KUBERNETES: &str = "bench --manifest-path=benches/kubernetes/Cargo.toml --target-dir=target";

fn environment(quick: bool, lines: &Path, state: &State) -> Environment {
    let mut all = state.variables();
    all.push((OUT.into(), lines.into()));
    // The same for every workspace, or nothing of what they share could be shared.
    all.push(("CARGO_PROFILE_RELEASE_DEBUG".into(), "false".into()));
    if quick {
        all.push(("TENURE_BENCH_QUICK".into(), "1".into()));
        // Not the killed leaders and the 10,000 elections on etcd, which wait for minutes.
        all.push(("TENURE_BENCH_ONLY".into(), "calls,handovers".into()));
        // Half of the time goes into the build, and none of what is measured computes.
        all.push(("CARGO_PROFILE_RELEASE_OPT_LEVEL".into(), "2".into()));
        all.push(("CARGO_PROFILE_RELEASE_LTO".into(), "off".into()));
        if std::env::var_os(ROUNDS).is_none() {
            all.push((ROUNDS.into(), QUICK_ROUNDS.into()));
        }
    }
    all
}

/// Appends what the figures are worth: where and on what they were taken.
fn facts(lines: &Path, quick: bool, state: &State, begin: Instant) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let memory = memory.and_then(|kib| kib.parse::<u64>().ok());
    let memory = memory.map_or_else(
        || "unknown".to_owned(),
        |kib| format!("{} GiB", kib.div_ceil(1 << 20)),
    );
    let rounds = std::env::var(ROUNDS).unwrap_or_else(|_| QUICK_ROUNDS.to_owned());
    let mode = if quick {
        format!(
            "quick ({rounds} rounds beside peers, 100 of what takes milliseconds; 10 samples of a call)"
        )
    } else {
        "full".to_owned()
    };
    let took = begin.elapsed().as_secs();
    let mut all = vec![
        ("mode", mode),
        ("cores", cores.to_string()),
        ("memory", memory),
        (
            "system",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        (
            "took",
            format!("{} min {} s, builds included", took / 60, took % 60),
        ),
    ];
    for (kind, running) in &state.stores {
        all.push((kind.name(), running.version.clone()));
    }
    let mut text = fs::read_to_string(lines).unwrap_or_default();
    for (name, value) in all {
        text.push_str(&json!({ "kind": "fact", "name": name, "value": value }).to_string());
        text.push('\n');
    }
    fs::write(lines, text).with_context(|| format!("cannot write {}", lines.display()))
}
