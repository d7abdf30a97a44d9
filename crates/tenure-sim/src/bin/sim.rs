//! Runs seeds of the simulator and reports what they break.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tenure_sim::invariant::Invariant;
use tenure_sim::run::{Report, quiet_livelocks, run};

/// Runs seeds of the deterministic simulator.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Print everything that happens; with --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How long each seed is simulated, in hours.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// How many threads; by default one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Stop at the first seed that breaks this invariant, and report no others.
    #[arg(long, conflicts_with_all = ["fail_fast", "seed"])]
    until: Option<Invariant>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    quiet_livelocks();
    let length = Duration::from_secs_f64(options.hours * 3600.0);
    if let Some(seed) = options.seed {
        return one(seed, length, options.trace);
    }
    many(&options, length)
}

fn one(seed: u64, length: Duration, trace: bool) -> ExitCode {
    let report = run(seed, length, trace);
    if trace {
        print!("{}", report.trace());
    }
    for violation in &report.violations {
        println!("BROKEN {violation}");
    }
    println!(
        "seed {seed}: {} terms, {} events, history {:016x}, {} violations",
        report.history.terms.len(),
        report.history.events.len(),
        report.history.hash(),
        report.violations.len()
    );
    code(report.violations.is_empty())
}

/// What all seeds together came to.
#[derive(Default)]
struct Totals {
    terms: usize,
    events: usize,
    failed: BTreeMap<u64, String>,
    /// With --until: how many seeds broke another invariant.
    others: BTreeMap<Invariant, usize>,
}

fn many(options: &Options, length: Duration) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(options.first);
    let end = options.first.saturating_add(options.seeds);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.unwrap_or(cores) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let mut report = run(seed, length, false);
                    let others = options
                        .until
                        .map(|invariant| keep_only(invariant, &mut report));
                    if !report.violations.is_empty()
                        && (options.fail_fast || options.until.is_some())
                    {
                        stop.store(true, Ordering::Relaxed);
                    }
                    if let Ok(mut totals) = totals.lock() {
                        add(&mut totals, &report);
                        for other in others.into_iter().flatten() {
                            *totals.others.entry(other).or_default() += 1;
                        }
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_default();
    println!(
        "{} seeds of {} h simulated in {:.1?}: {} terms, {} events, {} seeds failed",
        options.seeds,
        options.hours,
        started.elapsed(),
        totals.terms,
        totals.events,
        totals.failed.len()
    );
    for (invariant, seeds) in &totals.others {
        println!("OTHERS {invariant:?} in {seeds} seeds");
    }
    code(totals.failed.is_empty())
}

/// Takes out the violations of other invariants, and returns what those were.
fn keep_only(only: Invariant, report: &mut Report) -> BTreeSet<Invariant> {
    let others = report.violations.iter().map(|broken| broken.invariant);
    let others = others.filter(|invariant| *invariant != only).collect();
    report.violations.retain(|broken| broken.invariant == only);
    others
}

fn add(totals: &mut Totals, report: &Report) {
    totals.terms += report.history.terms.len();
    totals.events += report.history.events.len();
    if let Some(first) = report.violations.first() {
        let seed = report.plan.seed;
        println!("FAILED seed {seed}: {first}\n       {}", report.replay());
        totals.failed.insert(seed, first.to_string());
    }
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
