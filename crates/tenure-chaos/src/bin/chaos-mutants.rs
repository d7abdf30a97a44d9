//! `cargo run -p tenure-chaos --bin chaos-mutants`: the suite must fail with each planted bug, and
//! pass without it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use tenure_chaos::judge::Minimums;
use tenure_chaos::mutants::{Copy, PLANTED, Planted};
use tenure_chaos::run::{Plan, run};

/// What the candidate without a bug is called.
const CLEAN: &str = "clean";

/// So long a run may take, if nobody leads any more.
const TIME: Duration = Duration::from_secs(60);

/// The faults of one run.
const FAULTS: usize = 5;

/// Builds candidates with planted bugs, and runs the suite with each
#[derive(Debug, Parser)]
struct Options {
    /// Only this mutant, or "clean" with --build-only; may be repeated
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
    let build = |planted: Option<&Planted>| match &copy {
        Some(copy) => copy.build(planted),
        None => Ok(Copy::built(planted.map(|planted| planted.name))),
    };
    let is_wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let clean = if options.build_only && !is_wanted(CLEAN) {
        Copy::built(None)
    } else {
        build(None)?
    };
    let mut wrong = Vec::new();
    println!("| planted bug | store | what the run showed | without the bug | time |");
    println!("|---|---|---|---|---|");
    for planted in PLANTED.iter().filter(|planted| is_wanted(planted.name)) {
        let program = build(Some(planted))?;
        if options.build_only {
            continue;
        }
        let begin = Instant::now();
        let noticed = notice(&options, planted, &program).await?;
        let (name, backend) = (planted.name, planted.backend);
        let Some((seed, what)) = noticed else {
            println!(
                "| `{name}` | {backend} | SURVIVES | | {:.0?} |",
                begin.elapsed()
            );
            wrong.push(name);
            continue;
        };
        // The control: the same faults do nothing to a candidate without the bug.
        let control = what_shows(&plan(planted, &clean, seed)).await?;
        let control = match control {
            None => "nothing".to_owned(),
            Some(found) => {
                wrong.push(name);
                format!("FAILS TOO: {found}")
            }
        };
        let took = begin.elapsed();
        println!("| `{name}` | {backend} | seed {seed}: {what} | {control} | {took:.0?} |");
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The seed of the first run that shows the bug, and what it has shown.
async fn notice(
    options: &Options,
    planted: &Planted,
    program: &Path,
) -> Result<Option<(u64, String)>> {
    // Short runs, so that a mutant that is noticed early ends early.
    for round in 0..options.faults.div_ceil(FAULTS) {
        let seed = options.seed + u64::try_from(round)?;
        if let Some(what) = what_shows(&plan(planted, program, seed)).await? {
            return Ok(Some((seed, what)));
        }
    }
    Ok(None)
}

fn plan(planted: &Planted, program: &Path, seed: u64) -> Plan {
    Plan {
        seed,
        faults: FAULTS,
        only: planted.faults.to_vec(),
        time: TIME,
        identity: planted.namesakes.then(|| "namesake".to_owned()),
        lease: Duration::from_secs(2),
        minimums: Minimums {
            terms: 1,
            led_percent: 0,
            at_leader_percent: 0,
            leaders_killed: 0,
        },
        ..Plan::new(planted.backend, program.to_owned())
    }
}

/// What a run has noticed. An error when it proves nothing: a fault without evidence, say.
async fn what_shows(plan: &Plan) -> Result<Option<String>> {
    let outcome = run(plan).await?;
    let verdict = match &outcome {
        Some(outcome) => &outcome.verdict,
        None => bail!("this machine has no server for {}", plan.backend),
    };
    if let Some(violation) = verdict.violations.first() {
        return Ok(Some(violation.to_string()));
    }
    if let Some(write) = verdict.stale_writes.first() {
        return Ok(Some(format!("a late write stands: {write:?}")));
    }
    let missed = verdict.shortfalls.join("; ");
    let seed = plan.seed;
    ensure!(missed.is_empty(), "seed {seed} proves nothing: {missed}");
    Ok(None)
}
