//! `cargo xtask fuzz`: runs the fuzz targets under libFuzzer, on the stable compiler.
//!
//! The compiler's own pass counts the code that was reached (`sancov-module`); a memory checker would
//! need another compiler, and finds nothing in code without `unsafe`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tenure_testkit::{interrupt, paths};

use crate::steps::{cargo, forget_this_package};

/// What the dependencies and the targets are built with.
const FLAGS: [&str; 7] = [
    "--cfg=tenure_fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Two cores are enough for two targets.
const AT_ONCE: usize = 2;

/// In this time a planted panic has to be found.
const PLANTED: Duration = Duration::from_secs(60);

/// Which targets run, and how long.
pub(crate) struct Plan {
    pub(crate) targets: Vec<String>,
    pub(crate) minutes: u64,
    /// Each has to find a panic that is planted in it.
    pub(crate) planted: bool,
}

/// What a run has shown.
struct Shown {
    target: String,
    executions: u64,
    coverage: u64,
    corpus: usize,
    finding: Option<String>,
    took: Duration,
}

/// Builds and runs them, and prints a table. Fails when one has found something, or with `planted`
/// when one has found nothing.
pub(crate) fn fuzz(plan: &Plan) -> Result<ExitCode> {
    let program = build()?;
    let targets = targets(&plan.targets)?;
    let mut shown = Vec::new();
    for some in targets.chunks(AT_ONCE) {
        let running: Vec<_> = some
            .iter()
            .map(|target| Run::start(&program, target, plan))
            .collect::<Result<_>>()?;
        // Each is waited for by itself: one that ends early has taken a short time.
        let waiting: Vec<_> = running
            .into_iter()
            .map(|run| thread::spawn(|| run.end()))
            .collect();
        for run in waiting {
            let ended = run.join();
            shown.push(ended.map_err(|_| anyhow!("the wait for a target panicked"))??);
        }
        interrupt::check()?;
    }
    print(&shown);
    let missed = shown
        .iter()
        .filter(|shown| is_planted_panic(shown) != plan.planted || shown.is_unexpected())
        .count();
    if missed > 0 {
        eprintln!("{missed} of {} targets failed", shown.len());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn is_planted_panic(shown: &Shown) -> bool {
    let finding = shown.finding.as_deref();
    finding.is_some_and(|finding| finding.contains("the planted panic"))
}

impl Shown {
    fn is_unexpected(&self) -> bool {
        self.finding.is_some() && !is_planted_panic(self)
    }
}

fn folder() -> PathBuf {
    paths::workspace().join("target").join("fuzz")
}

fn build() -> Result<PathBuf> {
    let host = host()?;
    let mut command = Command::new(cargo());
    command
        .args(["build", "-p", "tenure-fuzz", "--bin", "tenure-fuzz"])
        .args(["--profile", "fuzz", "--target", &host, "--target-dir"])
        .arg(folder())
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .current_dir(paths::workspace());
    forget_this_package(&mut command);
    ensure!(command.status()?.success(), "the targets do not build");
    Ok(folder().join(host).join("fuzz").join("tenure-fuzz"))
}

/// With a named target the flags do not reach build scripts.
fn host() -> Result<String> {
    let told = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&told.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}

/// Those that were asked for, or every one that has a corpus: a test checks that each has one.
fn targets(asked: &[String]) -> Result<Vec<String>> {
    let mut all: Vec<String> = fs::read_dir(corpus())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    all.sort();
    if let Some(unknown) = asked.iter().find(|name| !all.contains(name)) {
        bail!("no target is called \"{unknown}\"; use {}", all.join(", "));
    }
    Ok(if asked.is_empty() {
        all
    } else {
        asked.to_vec()
    })
}

fn corpus() -> PathBuf {
    paths::workspace().join("fuzz").join("corpus")
}

struct Run {
    target: String,
    child: std::process::Child,
    log: PathBuf,
    found: PathBuf,
    start: Instant,
}

impl Run {
    /// It adds what it finds to a folder below `target/`, and what fails to another one.
    fn start(program: &Path, target: &str, plan: &Plan) -> Result<Self> {
        let kind = if plan.planted { "planted" } else { "found" };
        let found = folder().join(kind).join(target);
        if plan.planted && found.exists() {
            fs::remove_dir_all(&found)?;
        }
        let failures = folder().join("failures");
        fs::create_dir_all(&found)?;
        fs::create_dir_all(&failures)?;
        let log = folder().join(format!("{kind}-{target}.log"));
        let seconds = if plan.planted {
            PLANTED.as_secs()
        } else {
            plan.minutes * 60
        };
        let mut command = Command::new("nice");
        command
            .args(["-n", "19"])
            .arg(program)
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .args(["-max_len=4096", "-len_control=50"])
            .arg(format!("-artifact_prefix={}/{target}-", failures.display()))
            .arg(&found)
            .arg(corpus().join(target))
            .env("TENURE_FUZZ_TARGET", target)
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        if plan.planted {
            command.env("TENURE_FUZZ_PLANT", "1");
        }
        eprintln!("{target}: {seconds} s, {}", log.display());
        Ok(Self {
            target: target.to_owned(),
            child: command.spawn().context("nice cannot be started")?,
            log,
            found,
            start: Instant::now(),
        })
    }

    fn end(mut self) -> Result<Shown> {
        let status = self.child.wait()?;
        let took = self.start.elapsed();
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let after = |words: &str| {
            let (_, rest) = log.rsplit_once(words)?;
            rest.split_ascii_whitespace().next()?.parse().ok()
        };
        Ok(Shown {
            target: self.target,
            executions: after("stat::number_of_executed_units:").unwrap_or(0),
            coverage: after(" cov: ").unwrap_or(0),
            corpus: fs::read_dir(&self.found)?.count(),
            finding: (!status.success()).then(|| finding(&log)),
            took,
        })
    }
}

/// The line after `panicked at`, or libFuzzer's own word.
fn finding(log: &str) -> String {
    let panicked = log.lines().skip_while(|line| !line.contains("panicked at"));
    let text: Vec<&str> = panicked.take(2).collect();
    if !text.is_empty() {
        return text.join(" ");
    }
    let said = log.lines().find(|line| line.contains("ERROR: libFuzzer"));
    said.unwrap_or("it ended without a word").to_owned()
}

fn print(shown: &[Shown]) {
    println!("| target | seconds | executions | edges reached | inputs kept | finding |");
    println!("|---|---|---|---|---|---|");
    for shown in shown {
        println!(
            "| `{}` | {} | {} | {} | {} | {} |",
            shown.target,
            shown.took.as_secs(),
            shown.executions,
            shown.coverage,
            shown.corpus,
            shown.finding.as_deref().unwrap_or("none")
        );
    }
}
