//! What is done to stores that run: `down`, `status`, and the locks around it all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kind::Kind;
use super::launch::outside;
use super::process::{self, Record};
use super::state::State;
use crate::interrupt;
use crate::paths::{self, Dirs};

pub(super) fn records_of(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<Vec<Record>> {
    let mut records = process::read_records(dirs)?;
    records.retain(|record| kinds.contains(&record.kind));
    Ok(records)
}

pub(super) fn stop_kinds(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<()> {
    process::stop_all(dirs, &records_of(dirs, kinds)?)
}

/// Stops all that was ever started here and removes its data; gives the names of what still ran.
pub fn down(dirs: &Dirs) -> Result<Vec<String>> {
    let _lock = lock(dirs)?;
    let records = process::read_records(dirs)?;
    let alive = records.iter().filter(|record| record.is_alive());
    let names: Vec<String> = alive
        .map(|record| format!("{} ({})", record.name, record.pid))
        .collect();
    process::stop_all(dirs, &records)?;
    paths::remove_file(&dirs.state())?;
    for folder in [dirs.run(), dirs.secrets(), dirs.data(), outside(dirs)] {
        paths::remove_dir(&folder)?;
    }
    Ok(names)
}

/// Prints what is up; gives whether all of it is healthy.
pub fn status(dirs: &Dirs) -> Result<bool> {
    let state = State::load(dirs)?;
    let mut healthy = true;
    if state.stores.is_empty() {
        println!("no store is up");
    }
    for (kind, running) in &state.stores {
        let health = match running.check() {
            Ok(_) => "healthy".to_owned(),
            Err(error) => {
                healthy = false;
                format!("NOT HEALTHY: {error:#}")
            }
        };
        let processes: Vec<String> = running
            .processes
            .iter()
            .map(|process| format!("{} {}", process.name, process.pid))
            .collect();
        println!(
            "{:15} {health}, {}; {}",
            kind.name(),
            running.describe(),
            processes.join(", ")
        );
    }
    for record in process::read_records(dirs)? {
        if record.is_alive() && !state.stores.contains_key(&record.kind) {
            healthy = false;
            println!(
                "{:15} left over by a run that did not finish: {} {}",
                record.kind.name(),
                record.name,
                record.pid
            );
        }
    }
    Ok(healthy)
}

/// One command at a time changes what runs.
pub(super) fn lock(dirs: &Dirs) -> Result<File> {
    let file = open_lock(&dirs.root.join("lock"))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another command that starts or stops the stores");
        while file.try_lock().is_err() {
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // A `down` that was waited for has removed folders.
    Dirs::at(dirs.root.clone())?;
    Ok(file)
}

/// One command at a time holds stores: a second one would lose them when the first ends.
pub(super) fn claim(dirs: &Dirs) -> Result<File> {
    let file = open_lock(&dirs.root.join("held"))?;
    if file.try_lock().is_err() {
        bail!(
            "another command holds the stores (`cargo xtask test` or `stores up --foreground`): \
             let it end first"
        );
    }
    Ok(file)
}

fn open_lock(path: &Path) -> Result<File> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
