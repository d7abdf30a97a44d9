//! `cargo xtask chaos`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use clap::Parser;
use tenure_chaos::candidate::Broken;
use tenure_chaos::fault::Fault;
use tenure_chaos::nemesis::candidate_program;
use tenure_chaos::older;
use tenure_chaos::report::{Circumstances, append, row, text};
use tenure_chaos::run::{Outcome, Plan, run};
use tenure_chaos::stores;
use tenure_chaos::tables;
use tenure_sim::mutants::root;

/// Brings faults about on a real store, and judges what the candidates believed
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos")]
struct Options {
    /// The topology; may be repeated
    #[arg(
        long, required_unless_present_any = ["all", "tables"],
        value_parser = clap::builder::PossibleValuesParser::new(stores::NAMES)
    )]
    backend: Vec<String>,
    /// Every topology, one after the other
    #[arg(long, conflicts_with = "backend")]
    all: bool,
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
    /// `kill -9` for so many processes, each as soon as it leads, and no other fault
    #[arg(long, conflicts_with_all = ["minutes", "faults", "only", "beyond"])]
    kills: Option<usize>,
    /// The faults beyond the promise, instead of those within
    #[arg(long)]
    beyond: bool,
    /// The candidates' lease: of `fast()`, or from 15s of the default policy, which has 20s
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
    /// Append each result to this file
    #[arg(long)]
    append: Option<PathBuf>,
    /// Append each result to docs/contributing/chaos-runs.tsv, and make the tables of
    /// reliability.md from it
    #[arg(long, conflicts_with = "append")]
    record: bool,
    /// Make the tables of reliability.md from chaos-runs.tsv, and run nothing
    #[arg(long, conflicts_with_all = ["backend", "all"])]
    tables: bool,
    /// Keep the histories and logs
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.tables {
        make_tables()?;
        return Ok(ExitCode::SUCCESS);
    }
    let program = match &options.candidate {
        Some(program) => program.clone(),
        None => candidate_program()?,
    };
    let other_program = match &options.older {
        Some(commit) => Some(older::build(commit)?),
        None => options.other_candidate.clone(),
    };
    let all = stores::NAMES.map(ToOwned::to_owned).to_vec();
    let backends = if options.all {
        all
    } else {
        options.backend.clone()
    };
    let mut failed = Vec::new();
    for backend in &backends {
        let plan = Plan {
            other_program: other_program.clone(),
            ..plan(&options, backend, &program)
        };
        // The other topologies have their turn all the same.
        let green = one(&options, &plan).await.unwrap_or_else(|error| {
            println!("{backend}: {error:#}");
            false
        });
        if !green {
            failed.push(backend.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn plan(options: &Options, backend: &str, program: &Path) -> Plan {
    let plan = Plan {
        time: Duration::from_secs_f64(options.minutes * 60.0),
        seed: options.seed,
        faults: options.faults.unwrap_or(usize::MAX),
        only: options.only.clone(),
        beyond: options.beyond,
        lease: options.lease,
        other_lease: options.other_lease,
        broken: options.broken,
        fenced: !options.unfenced,
        ..Plan::new(backend, program.to_owned())
    };
    match options.kills {
        Some(kills) => plan.of_kills(kills),
        None => plan,
    }
}

/// One run. Whether nothing is broken and nothing is missing.
async fn one(options: &Options, plan: &Plan) -> Result<bool> {
    let start = SystemTime::now();
    let commit = commit()?;
    let Some(mut outcome) = run(plan).await? else {
        anyhow::bail!("LEFT OUT: this machine has no server for it");
    };
    print!("{}", text(plan, &outcome));
    let around = Circumstances {
        start: time(start),
        end: time(SystemTime::now()),
        commit,
        command: command(&plan.backend),
    };
    record(options, plan, &outcome, &around)?;
    let green = outcome.verdict.is_green();
    if options.keep || !green {
        outcome.directory.disable_cleanup(true);
        println!("histories and logs: {}", outcome.directory.path().display());
    }
    Ok(green)
}

fn record(options: &Options, plan: &Plan, outcome: &Outcome, around: &Circumstances) -> Result<()> {
    let row = row(plan, outcome, around);
    if options.record {
        append(&list(), &row)?;
        make_tables()?;
    }
    let file = options.append.as_deref();
    file.map_or(Ok(()), |file| append(file, &row))
}

fn list() -> PathBuf {
    root().join("docs/contributing/chaos-runs.tsv")
}

fn make_tables() -> Result<()> {
    let page = root().join("docs/contributing/reliability.md");
    let list = fs::read_to_string(list()).context("chaos-runs.tsv")?;
    let filled = tables::fill(&fs::read_to_string(&page)?, &list)?;
    Ok(fs::write(page, filled)?)
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The commit that the product's sources are of, with a plus where they differ from it.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new("git");
        let output = command.args(arguments).current_dir(root()).output();
        let output = output.context("git")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        "crates",
        "Cargo.toml",
        "Cargo.lock",
    ])?;
    let plus = if changed.is_empty() { "" } else { "+" };
    Ok(commit + plus)
}

/// The command for this run alone, as it is typed.
fn command(backend: &str) -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut typed = vec![format!("cargo xtask chaos --backend {backend}")];
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--backend" => {
                words.next();
            }
            "--all" => {}
            word if word.starts_with("--backend=") => {}
            word => typed.push(word.to_owned()),
        }
    }
    typed.join(" ")
}
