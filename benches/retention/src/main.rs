//! `cargo xtask retention`: how many leaders keep their terms through an outage of a store, and
//! through its restart. Needs root, for network namespaces of its own, and iproute2.

mod cell;
mod electors;
mod late;
mod lead;
mod measure;
mod namespaces;
mod report;
mod restart;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rustix::process::Resource;
use tenure_testkit::kube::client_go;

use crate::cell::{Cell, Elector};
use crate::late::Late;
use crate::namespaces::{Namespaces, inside};
use crate::report::Circumstances;
use crate::store::{Kind, Setup, Store};

/// So often a cell is measured again that the machine has spoiled.
const AGAIN: usize = 2;

/// How many leaders keep their terms through an outage of a store; as root
#[derive(Debug, Parser)]
#[command(name = "cargo xtask retention", bin_name = "cargo xtask retention")]
struct Options {
    /// The store
    #[arg(long, required_unless_present = "table")]
    store: Option<Kind>,
    /// Only these, such as silent:7s:default,cut:45s:patient [default: all of the store]
    #[arg(long, value_delimiter = ',')]
    cells: Vec<Cell>,
    /// Leaders in each cell
    #[arg(long, default_value_t = 200)]
    leaders: usize,
    /// Restart the servers under 100 leaders and 100 waiting candidates, instead of outages
    #[arg(long, conflicts_with = "cells")]
    restart: bool,
    /// Write docs/benchmarks/retention.md from all results, and measure nothing
    #[arg(long, conflicts_with_all = ["store", "cells", "restart"])]
    table: bool,
    /// The folder of the files that results are appended to
    #[arg(long, default_value = "docs/benchmarks")]
    append: PathBuf,
    /// The namespaces that this process is in
    #[arg(long, hide = true)]
    inside: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "__lead") {
        lead::main(&lead::Lead::parse_from(&arguments))?;
        return Ok(true);
    }
    let options = Options::parse();
    let cells = options.append.join("retention.tsv");
    let restarts = options.append.join("restarts.tsv");
    if options.table {
        let text = report::tables(&cells, &restarts)?;
        std::fs::write(options.append.join("retention.md"), text)?;
        return Ok(true);
    }
    let store = options.store.context("--store is missing")?;
    let Some(namespaces) = &options.inside else {
        return outside(store, &options, &arguments);
    };
    let shown = arguments.iter().filter(|text| !text.contains("--inside"));
    let around = Circumstances::now(&shown.cloned().collect::<Vec<_>>())?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let folder = std::env::temp_dir();
    runtime.block_on(async {
        if options.restart {
            return restart_all(store, namespaces, &folder, &around, &restarts).await;
        }
        let mut plan = options.cells.clone();
        if plan.is_empty() {
            plan = Cell::all(store);
        }
        let own = Store::start(store, Setup::default(), &folder).await?;
        let run = Run {
            store,
            own: &own,
            namespaces,
            leaders: options.leaders,
        };
        all_cells(&run, &plan, &around, &cells).await
    })
}

/// Makes the namespaces, runs this program inside them, and removes them.
fn outside(store: Kind, options: &Options, arguments: &[String]) -> Result<bool> {
    ensure!(
        tenure_testkit::process::is_root(),
        "network namespaces need root: run it as root"
    );
    let mut environment: Vec<(&str, PathBuf)> = Vec::new();
    let needs_client_go = options.cells.is_empty() && store == Kind::KubeLease
        || options
            .cells
            .iter()
            .any(|cell| cell.elector == Elector::ClientGo);
    if needs_client_go && !options.restart {
        let program = client_go::program().context("no Go to build client-go's electors")?;
        environment.push((electors::CLIENT_GO, program));
    }
    // The proxy alone has two descriptors for each connection of 200 leaders.
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    let namespaces = Namespaces::create()?;
    let words = inside(&namespaces.name, "servers");
    let status = Command::new(&words[0])
        .args(&words[1..])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .arg(format!("--inside={}", namespaces.name))
        .envs(environment)
        // What a killed server leaves behind goes with the namespaces.
        .env("TMPDIR", &namespaces.folder)
        .status();
    namespaces.remove()?;
    Ok(status.context("ip cannot be run")?.success())
}

struct Run<'a> {
    store: Kind,
    own: &'a Store,
    namespaces: &'a str,
    leaders: usize,
}

async fn all_cells(
    run: &Run<'_>,
    plan: &[Cell],
    around: &Circumstances,
    file: &Path,
) -> Result<bool> {
    let late = Late::watch();
    let mut good = true;
    let mut lost = BTreeMap::new();
    for (number, cell) in plan.iter().enumerate() {
        for attempt in 0..=AGAIN {
            let start = SystemTime::now();
            let lock = format!("cell-{number}-{attempt}");
            let (own, leaders) = (run.own, run.leaders);
            let outcome =
                measure::measure(own, run.namespaces, *cell, leaders, lock, &late).await?;
            println!("{}", report::line(run.store, *cell, &outcome));
            let spoiled = outcome.spoiled().is_some();
            if !spoiled {
                let times = [start, SystemTime::now()];
                report::append_cell(file, times, around, (run.store, *cell, &outcome))?;
                good &= !report::is_red(run.store, *cell, &outcome);
                lost.insert(*cell, outcome.lost);
                break;
            }
            good &= attempt < AGAIN;
        }
    }
    Ok(beside_client_go(&lost) && good)
}

/// Whether our policy of client-go's times has lost no more terms than client-go itself.
fn beside_client_go(lost: &BTreeMap<Cell, usize>) -> bool {
    let mut good = true;
    for (cell, theirs) in lost {
        let elector = Elector::OurClientGo;
        let Some(ours) = lost.get(&Cell { elector, ..*cell }) else {
            continue;
        };
        if cell.elector == Elector::ClientGo {
            let verdict = if ours > theirs { "RED" } else { "green" };
            println!("{cell}: {theirs} terms lost, with our client_go {ours}: {verdict}");
            good &= ours <= theirs;
        }
    }
    good
}

async fn restart_all(
    kind: Kind,
    namespaces: &str,
    folder: &Path,
    around: &Circumstances,
    file: &Path,
) -> Result<bool> {
    let late = Late::watch();
    let usual = Setup {
        quarantine: true,
        members: 3,
        durable: false,
    };
    let mut plan = vec![(cell::name(&kind), usual)];
    if kind == Kind::Redis {
        plan.push((
            "redis, appendfsync always".into(),
            Setup {
                durable: true,
                ..usual
            },
        ));
    }
    for (number, (what, setup)) in plan.into_iter().enumerate() {
        let mut store = Store::start(kind, setup, folder).await?;
        let start = SystemTime::now();
        let lock = format!("restart-{number}");
        let restart = restart::restart(&mut store, namespaces, [100, 100], lock, &late).await?;
        println!("{}", report::restart_line(&what, &restart));
        let times = [start, SystemTime::now()];
        report::append_restart(file, times, around, (&what, &restart))?;
    }
    Ok(true)
}
