//! `tenure bench`: what the calls of a lock take on a user's own store.

mod measurement;
mod run;

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::{Value, json};
use tenure::{Error, LockName, Operation, Reach, Registry, Store, random_u64};

use self::measurement::Measurement;
use self::run::{BenchRun, CALLS, HAND_OVERS, LIMIT};
use crate::failure::{Failure, signalled};
use crate::options::{self, BenchArgs};
use crate::output::print;
use crate::supervisor::signals::Signals;

pub(crate) fn bench(args: &BenchArgs, registry: &Registry) -> Result<u8, Failure> {
    let lock = options::lock(&format!("tenure-bench-{:016x}", random_u64()?))?;
    let url = args.backend.url()?;
    if is_shared(registry, &url) && !args.yes && !consent(&url, &lock)? {
        return Err(Failure::new("nothing was measured"));
    }
    let store = registry.store_of(&url)?;
    options::runtime()?.block_on(async {
        let mut signals = Signals::handle()?;
        let connecting = BenchRun::connect(registry, &url, lock);
        let connected = tokio::select! {
            biased;
            received = signals.ending() => return Ok(signalled(received.signal)),
            connected = tokio::time::timeout(LIMIT, connecting) => connected,
        };
        let mut bench = connected.map_err(|_| Error::timeout(Operation::Connect, LIMIT))??;
        let outcome = tokio::select! {
            biased;
            received = signals.ending() => Err(received.signal),
            outcome = bench.measure() => Ok(outcome),
        };
        bench.progress.finish_and_clear();
        bench.clean_up().await;
        match outcome {
            Err(signal) => Ok(signalled(signal)),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) => tell(&bench, store, args.json).map(|()| 0),
        }
    })
}

/// Whether others may use the store too. A URL that names no store is refused later, and says why.
fn is_shared(registry: &Registry, url: &str) -> bool {
    let store = registry.store_of(url);
    store.is_ok_and(|store| store.reach() == Reach::Network)
}

/// Asks before a shared store is loaded.
fn consent(url: &str, lock: &LockName) -> Result<bool, Failure> {
    let url = tenure::redact(url);
    let requests = CALLS * 6 + HAND_OVERS * 6;
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(format!(
            "this would load a store that others may use with up to {requests} requests; add \
             --yes where that does no harm"
        )));
    }
    let mut terminal = io::stderr();
    let question = format!(
        "This makes up to {requests} requests on {} within a minute, one after the other, for the \
         lock {lock}, which nobody else has.\nOthers who use that store may notice. Go on? [y/N] ",
        url.escape_debug()
    );
    let asked = terminal
        .write_all(question.as_bytes())
        .and_then(|()| terminal.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::new(format!("cannot ask: {error}; add --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn tell(bench: &BenchRun, store: &Store, json: bool) -> Result<(), Failure> {
    let left = store.left_behind(&bench.lock);
    if json {
        let measurements: Vec<Value> = bench.measurements.iter().map(Measurement::json).collect();
        let told = json!({
            "store": store.name(),
            "lock": bench.lock.as_str(),
            "measures": measurements,
            "left_behind": left,
        });
        return print(&told.to_string()).map(drop);
    }
    print(&format!(
        "{:<24} {:>10} {:>10} {:>10} {:>10} {:>8}",
        store.name(),
        "median",
        "p10",
        "p90",
        "max",
        "samples"
    ))?;
    for measurement in &bench.measurements {
        print(&measurement.text())?;
    }
    if let Some(left) = left {
        print(&format!("left behind: {left}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stores_of_others_are_asked_about() {
        let registry = Registry::new();
        for url in ["memory:", "file:///tmp/x", "nonsense", ""] {
            assert!(!is_shared(&registry, url), "{url}");
        }
        for store in Store::all() {
            let is_own = matches!(store.name(), "memory" | "file");
            for url in store.examples() {
                assert_eq!(is_shared(&registry, url), !is_own, "{url}");
            }
        }
    }
}
