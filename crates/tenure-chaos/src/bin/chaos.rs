//! `cargo xtask chaos`

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::Parser;
use tenure_chaos::candidate::Broken;
use tenure_chaos::fault::Fault;
use tenure_chaos::nemesis::candidate_program;
use tenure_chaos::older;
use tenure_chaos::report::{Circumstances, append, row, text};
use tenure_chaos::run::{Plan, run};
use tenure_chaos::stores;

/// Brings faults about on a real store, and judges what the candidates believed
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos")]
struct Options {
    /// The topology
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(stores::NAMES))]
    backend: String,
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// At most so many faults
    #[arg(long)]
    faults: Option<usize>,
    /// Only these faults
    #[arg(long, value_enum)]
    only: Vec<Fault>,
    /// The faults beyond the promise, instead of those within
    #[arg(long)]
    beyond: bool,
    /// The candidates' lease
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    lease: Duration,
    /// The lease of every other candidate
    #[arg(long, value_parser = humantime::parse_duration)]
    other_lease: Option<Duration>,
    /// The candidates' program
    #[arg(long)]
    candidate: Option<PathBuf>,
    /// The program of every other candidate
    #[arg(long)]
    other_candidate: Option<PathBuf>,
    /// Every other candidate on the library of this commit; for `file` and `redis`
    #[arg(long, conflicts_with = "other_candidate", value_name = "COMMIT")]
    older: Option<String>,
    /// What is wrong with the candidates: the run has to fail
    #[arg(long, value_enum, default_value = "nothing")]
    broken: Broken,
    /// The register takes every write: the run has to fail
    #[arg(long)]
    unfenced: bool,
    /// Append the result to this file
    #[arg(long)]
    append: Option<PathBuf>,
    /// Keep the histories and logs
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let program = match &options.candidate {
        Some(program) => program.clone(),
        None => candidate_program()?,
    };
    let other_program = match &options.older {
        Some(commit) => Some(older::build(commit)?),
        None => options.other_candidate.clone(),
    };
    let plan = Plan {
        time: Duration::from_secs_f64(options.minutes * 60.0),
        seed: options.seed,
        faults: options.faults.unwrap_or(usize::MAX),
        only: options.only.clone(),
        beyond: options.beyond,
        lease: options.lease,
        other_lease: options.other_lease,
        other_program,
        broken: options.broken,
        fenced: !options.unfenced,
        ..Plan::new(&options.backend, program)
    };
    let start = SystemTime::now();
    let Some(mut outcome) = run(&plan).await? else {
        anyhow::bail!("this machine has no server for {}", plan.backend);
    };
    print!("{}", text(&plan, &outcome));
    if let Some(file) = &options.append {
        let around = Circumstances {
            start: time(start),
            end: time(SystemTime::now()),
            commit: commit()?,
            command: command(),
        };
        append(file, &row(&plan, &outcome, &around))?;
    }
    let green = outcome.verdict.is_green();
    if options.keep || !green {
        outcome.directory.disable_cleanup(true);
        println!("histories and logs: {}", outcome.directory.path().display());
    }
    Ok(if green {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The commit of the sources, with a plus where they differ from it.
fn commit() -> Result<String> {
    let output = Command::new("git")
        .args([
            "describe",
            "--always",
            "--abbrev=12",
            "--dirty=+",
            "--exclude=*",
        ])
        .output()
        .context("git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command as it is typed.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask chaos {}", arguments.join(" "))
}
