//! What is done to stores that run: `down`, `restart`, `status`, and the locks around it all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::launch::outside;
use super::state::State;
use super::{Kind, eventually};
use crate::interrupt;
use crate::paths::{self, Dirs, write_file};
use crate::process::{self, Hold, Record};

pub(super) fn records_of(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<Vec<Record>> {
    let mut records = process::read_records(dirs)?;
    records.retain(|record| kinds.contains(&record.kind));
    Ok(records)
}

pub(super) fn stop_kinds(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<()> {
    process::stop_all(dirs, &records_of(dirs, kinds)?)
}

/// Stops all that was ever started here and removes its data; gives the names of what still ran.
pub(crate) fn down(dirs: &Dirs) -> Result<Vec<String>> {
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

/// How `restart` ends a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// In order.
    Polite,
    /// As a crash does.
    Crash,
}

/// Stops a store's processes and starts them again on their data and ports.
pub(crate) fn restart(dirs: &Dirs, kind: Kind, how: Stop) -> Result<()> {
    let _lock = lock(dirs)?;
    let mut state = State::load(dirs)?;
    let Some(running) = state.stores.get(&kind) else {
        bail!("{} is not up", kind.name());
    };
    let store = running.store.clone();
    let old = records_of(dirs, &BTreeSet::from([kind]))?;
    // A process that a command holds must be that command's child again, or it would outlive it.
    let somebody_holds = claim(dirs).is_err();
    let holder_alive = |record: &Record| record.holder.is_some() && somebody_holds;
    for record in old.iter().filter(|record| holder_alive(record)) {
        write_file(&restart_mark(dirs, &record.name), 0o600, b"")?;
    }
    for record in &old {
        match how {
            Stop::Polite => record.stop(Duration::from_secs(10))?,
            Stop::Crash => record.kill()?,
        }
    }
    let begin = Instant::now();
    for record in &old {
        if holder_alive(record) {
            while restart_mark(dirs, &record.name).exists() {
                interrupt::check()?;
                if begin.elapsed() > Duration::from_secs(30) {
                    paths::remove_file(&restart_mark(dirs, &record.name))?;
                    bail!(
                        "the command that holds {} does not start it again",
                        record.name
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            process::start(
                dirs,
                &process::read_spec(dirs, &record.name)?,
                Hold::Detached,
            )?;
        }
    }
    eventually("it serves again", || store.server().probe().map(|_| ()))
        .with_context(|| format!("{} was restarted", kind.name()))?;
    if let Some(running) = state.stores.get_mut(&kind) {
        running.processes = records_of(dirs, &BTreeSet::from([kind]))?;
    }
    state.save(dirs)
}

pub(super) fn restart_mark(dirs: &Dirs, process: &str) -> PathBuf {
    dirs.run().join(format!("{process}.restart"))
}

/// Prints what is up; gives whether all of it is healthy.
pub(crate) fn status(dirs: &Dirs) -> Result<bool> {
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
