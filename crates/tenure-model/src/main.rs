//! Searches all that can happen, and shows that it notices broken rules.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tenure_model::{Fault, Invariant, Options, PLANTED, Planted, Report, StoreKind, search};

/// Tries everything that can happen to three candidates, on each kind of store, and then again
/// with one rule broken at a time, which it has to notice.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this store: records, keys or sessions.
    #[arg(long)]
    store: Option<String>,
    /// How many faults may happen.
    #[arg(long, default_value_t = 1)]
    faults: u8,
    /// How many leaders may give their term back, or be told to stop, without a fault.
    #[arg(long, default_value_t = 0)]
    resigns: u8,
    /// How many steps a way may have; without a limit by default.
    #[arg(long)]
    depth: Option<usize>,
    /// After how many states a search ends.
    #[arg(long, default_value_t = 12_000_000)]
    states: usize,
    /// Only this broken rule; without it all of them.
    #[arg(long)]
    mutant: Option<String>,
    /// After how many seconds without a fault somebody must lead.
    #[arg(long)]
    vacancy: Option<u8>,
    /// Check only this invariant, such as I1, exclusive or reelection; may be repeated.
    #[arg(long)]
    check: Vec<Invariant>,
    /// Only this fault, such as freeze; may be repeated.
    #[arg(long)]
    fault: Vec<Fault>,
    /// Only the search without broken rules.
    #[arg(long)]
    clean: bool,
    /// Only the searches with broken rules.
    #[arg(long)]
    planted: bool,
    /// Print the way to what was found.
    #[arg(long)]
    trace: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut good = true;
    if arguments.mutant.is_none() && !arguments.planted {
        good &= clean(&arguments)?;
    }
    if !arguments.clean {
        good &= planted(&arguments)?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn clean(arguments: &Arguments) -> Result<bool> {
    let mut good = true;
    for store in StoreKind::ALL {
        if arguments
            .store
            .as_deref()
            .is_some_and(|only| only != store.name())
        {
            continue;
        }
        let options = arguments.limits(Options::new(store, arguments.faults));
        print!("{:10} faults {}: ", store.name(), arguments.faults);
        std::io::stdout().flush()?;
        let report = search(&options)?;
        println!("{}", summary(&report));
        if let Some((violation, way)) = &report.found {
            println!("FAILED {}: {}", violation.invariant, violation.text);
            arguments.show(way);
            good = false;
        }
    }
    Ok(good)
}

fn planted(arguments: &Arguments) -> Result<bool> {
    let chosen: Vec<&Planted> = match &arguments.mutant {
        None => PLANTED.iter().collect(),
        Some(name) => {
            let one = PLANTED.iter().find(|planted| planted.name == name);
            vec![one.with_context(|| format!("there is no mutant {name:?}"))?]
        }
    };
    let mut good = true;
    println!("| broken rule | store | must break | found | steps | states | time |");
    println!("|---|---|---|---|---|---|---|");
    for planted in chosen {
        for &invariant in planted.breaks {
            good &= plant(arguments, planted, invariant)?;
        }
    }
    Ok(good)
}

fn plant(arguments: &Arguments, planted: &Planted, invariant: Invariant) -> Result<bool> {
    let mut options = Options::planted(planted, invariant);
    options.states = arguments.states;
    let report = search(&options)?;
    if let Some((violation, way)) = &report.found {
        println!(
            "| {} | {} | {invariant} | {} | {} | {} | {:.1?} |",
            planted.name,
            planted.store.name(),
            violation.text,
            way.len(),
            report.states,
            report.took
        );
        std::io::stdout().flush()?;
        arguments.show(way);
        return Ok(true);
    }
    println!(
        "| {} | {} | {invariant} | SURVIVES | | {} | |",
        planted.name,
        planted.store.name(),
        report.states
    );
    Ok(false)
}

impl Arguments {
    fn limits(&self, options: Options) -> Options {
        Options {
            resigns: self.resigns,
            depth: self.depth.unwrap_or(usize::MAX),
            states: self.states,
            vacancy: self.vacancy.unwrap_or(options.vacancy),
            may: if self.fault.is_empty() {
                options.may
            } else {
                self.fault.clone()
            },
            checked: if self.check.is_empty() {
                options.checked
            } else {
                self.check.clone()
            },
            ..options
        }
    }

    fn show(&self, way: &[String]) {
        if self.trace {
            for (number, step) in way.iter().enumerate() {
                println!("{:4} {step}", number + 1);
            }
        }
    }
}

fn summary(report: &Report) -> String {
    let reach = if report.complete {
        "every state"
    } else {
        "not every state"
    };
    format!(
        "{} states, {} steps, {reach}, up to {} steps deep, {:.1?}",
        report.states, report.steps, report.depth, report.took
    )
}
