//! `cargo xtask size`: what each store costs the binary, in bytes and in time to start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tenure_testkit::backends::BACKENDS;
use tenure_testkit::paths;
use tenure_testkit::shell::run_shown;

use crate::steps::{cargo, forget_this_package};

/// How often the binary is started; the median is shown.
const STARTS: usize = 51;

/// Builds the binary with each feature, as a release, and prints a table for the book.
pub(crate) fn size() -> Result<ExitCode> {
    let target = paths::workspace().join("target").join("size");
    println!("| features | binary | start |\n|---|---|---|");
    for features in sets() {
        let binary = build(&target, &features)?;
        let bytes = fs::metadata(&binary)
            .with_context(|| format!("no binary at {}", binary.display()))?
            .len();
        let start = median_start(&binary)?;
        let (megabytes, tenth) = (bytes / 1_000_000, bytes / 100_000 % 10);
        let milliseconds = start.as_secs_f64() * 1e3;
        println!("| `{features}` | {megabytes}.{tenth} MB | {milliseconds:.1} ms |");
    }
    Ok(ExitCode::SUCCESS)
}

/// None, each store alone, one of them without TLS, and all.
fn sets() -> Vec<String> {
    let mut sets = vec!["memory".to_owned(), "tenure/redis".to_owned()];
    let stores = BACKENDS.iter().map(|backend| backend.name.to_owned());
    sets.extend(stores.filter(|name| name != "memory"));
    sets.push("full".to_owned());
    sets
}

fn build(target: &Path, features: &str) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command
        .args(["build", "--quiet", "--release", "--package", "tenure-cli"])
        .args(["--no-default-features", "--features", features])
        .arg("--target-dir")
        .arg(target)
        .current_dir(paths::workspace());
    forget_this_package(&mut command);
    let built = run_shown(&mut command, || {})?;
    ensure!(built.success(), "tenure-cli does not build with {features}");
    Ok(target.join("release").join("tenure"))
}

/// From the start to the end of a command that does nothing: the shortest that a user can wait.
fn median_start(binary: &Path) -> Result<Duration> {
    let mut taken = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        let ended = Command::new(binary)
            .arg("version")
            .stdout(Stdio::null())
            .status()?;
        ensure!(ended.success(), "{} version: {ended}", binary.display());
        taken.push(begin.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[taken.len() / 2])
}
