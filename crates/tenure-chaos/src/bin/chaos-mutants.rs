//! `cargo run -p tenure-chaos --bin chaos-mutants`: the suite must fail with each planted bug.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use tenure_chaos::judge::Minimums;
use tenure_chaos::mutants::{Copy, PLANTED, Planted};
use tenure_chaos::run::{Outcome, Plan, run};

/// Builds candidates with planted bugs, and runs the suite with each
#[derive(Debug, Parser)]
struct Options {
    /// Only this mutant; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// How many faults a mutant may survive
    #[arg(long, default_value_t = 30)]
    faults: usize,
    /// Build the candidates and run nothing
    #[arg(long, conflicts_with = "run_only")]
    build_only: bool,
    /// Run candidates that were built before
    #[arg(long)]
    run_only: bool,
    /// What the runs are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let copy = (!options.run_only).then(Copy::make).transpose()?;
    let mut survivors = Vec::new();
    let wanted = |planted: &&Planted| {
        options.only.is_empty() || options.only.iter().any(|name| name == planted.name)
    };
    for planted in PLANTED.iter().filter(wanted) {
        let program = match &copy {
            Some(copy) => copy.build(Some(planted.name))?,
            None => Copy::built(planted.name),
        };
        if options.build_only {
            continue;
        }
        let mut noticed = None;
        let begin = Instant::now();
        // Short runs, so that a mutant that is noticed early ends early.
        for round in 0..options.faults.div_ceil(5) {
            let plan = Plan {
                seed: options.seed + u64::try_from(round)?,
                faults: 5,
                only: planted.faults.to_vec(),
                lease: Duration::from_secs(2),
                minimums: Minimums {
                    terms: 1,
                    led_percent: 0,
                    at_leader_percent: 0,
                },
                ..Plan::new(planted.backend, program.clone())
            };
            let outcome = run(&plan).await?;
            ensure!(outcome.is_some(), "no server for {}", planted.backend);
            noticed = match outcome {
                Some(outcome) => what(&plan, &outcome)?,
                None => None,
            };
            if noticed.is_some() {
                break;
            }
        }
        let name = planted.name;
        let took = begin.elapsed();
        if let Some(what) = noticed {
            println!("| {name} | {what} | {took:.0?} |");
        } else {
            println!("| {name} | SURVIVES | {took:.0?} |");
            survivors.push(name);
        }
    }
    Ok(if survivors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a run has noticed. An error when it proves nothing: a fault without evidence, say.
fn what(plan: &Plan, outcome: &Outcome) -> Result<Option<String>> {
    let verdict = &outcome.verdict;
    let seed = plan.seed;
    if let Some(violation) = verdict.violations.first() {
        return Ok(Some(format!("seed {seed}: {violation}")));
    }
    if let Some(write) = verdict.stale_writes.first() {
        return Ok(Some(format!("seed {seed}: a late write stands: {write:?}")));
    }
    let missed = verdict.shortfalls.join("; ");
    ensure!(missed.is_empty(), "seed {seed} proves nothing: {missed}");
    Ok(None)
}
