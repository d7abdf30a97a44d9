//! `up`: the stores that a command brings up, and holds if it is to hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::control::{claim, lock, records_of, stop_kinds};
use super::etcd::Etcd;
use super::kind::Kind;
use super::kube::Kube;
use super::launch::Launch;
use super::postgres::Postgres;
use super::process::Hold;
use super::redis::Redis;
use super::state::{Running, State};
use super::store::Store;
use crate::paths::Dirs;
use crate::provision::kube_apiserver::{self, KubeApiserver};
use crate::provision::{self, Need};
use crate::{interrupt, shell};

/// The stores that a command brought up. When it holds them they end with it.
#[derive(Debug)]
pub struct Session {
    dirs: Dirs,
    hold: Hold,
    started: BTreeSet<Kind>,
    children: Vec<(String, Child)>,
    /// Says to others that these stores will end with somebody.
    _held: Option<File>,
}

/// Brings stores up; those that run and serve are left as they are.
pub fn up(dirs: &Dirs, wanted: &BTreeSet<Kind>, hold: Hold) -> Result<Session> {
    let _lock = lock(dirs)?;
    let mut session = Session {
        dirs: dirs.clone(),
        hold,
        started: BTreeSet::new(),
        children: Vec::new(),
        _held: if hold == Hold::Held {
            Some(claim(dirs)?)
        } else {
            None
        },
    };
    let mut state = State::load(dirs)?;

    let missing = sort_out(wanted, &mut state);
    if missing.is_empty() {
        return Ok(session);
    }
    let needs: Vec<Need> = missing.iter().map(|kind| kind.need()).collect();
    provision::ensure(&needs)?;

    // Before anything is started: a build takes minutes.
    let kube = if missing.contains(&Kind::Kube) {
        let server = kube_apiserver::provide()?;
        let program = server.program.display();
        eprintln!("kube: {} from {program}, {}", server.version, server.origin);
        Some(server)
    } else {
        None
    };
    match session.bring_up(&missing, kube.as_ref(), &mut state) {
        Ok(()) => Ok(session),
        Err(error) => {
            // What this command began it also ends; what ran before it stays.
            session
                .stop()
                .context("and while cleaning up after a failure")?;
            // Whatever an interrupted command said of it is of no interest.
            interrupt::check()?;
            Err(error)
        }
    }
}

/// Reports what runs, and gives what has to be started.
fn sort_out(wanted: &BTreeSet<Kind>, state: &mut State) -> BTreeSet<Kind> {
    let mut missing = BTreeSet::new();
    for kind in wanted {
        let Some(running) = state.stores.get(kind) else {
            missing.insert(*kind);
            continue;
        };
        match running.check() {
            Ok(_) => {
                eprintln!(
                    "{}: running and healthy, {}",
                    kind.name(),
                    running.describe()
                );
            }
            Err(error) => {
                eprintln!("{}: not healthy, starting anew: {error:#}", kind.name());
                missing.insert(*kind);
            }
        }
    }
    for kind in &missing {
        state.stores.remove(kind);
    }
    missing
}

impl Session {
    fn bring_up(
        &mut self,
        missing: &BTreeSet<Kind>,
        kube: Option<&KubeApiserver>,
        state: &mut State,
    ) -> Result<()> {
        // Also what an interrupted run has left of them.
        stop_kinds(&self.dirs, missing)?;
        state.save(&self.dirs)?;
        // All are started before the first is waited for: the API server takes seconds, in which
        // the others get ready.
        let begin = Instant::now();
        let mut pending: BTreeMap<Kind, Store> = BTreeMap::new();
        for kind in missing {
            interrupt::check()?;
            let store = self.start(*kind, kube)?;
            pending.insert(*kind, store);
        }
        // The slowest was started first and is waited for last.
        let quick = missing.iter().filter(|kind| **kind != Kind::Kube);
        for kind in quick.chain(missing.get(&Kind::Kube)) {
            let mut attempts = 1;
            let version = loop {
                let Some(store) = pending.get(kind) else {
                    bail!("{} is lost", kind.name())
                };
                match self.await_ready(*kind, store) {
                    Ok(version) => break version,
                    // Between our look at a port and the server's somebody else may take it.
                    Err(Failure {
                        port_taken: true,
                        error,
                    }) if attempts < 3 => {
                        attempts += 1;
                        eprintln!(
                            "{}: a port was taken, trying others: {error:#}",
                            kind.name()
                        );
                        stop_kinds(&self.dirs, &BTreeSet::from([*kind]))?;
                        let store = self.start(*kind, kube)?;
                        pending.insert(*kind, store);
                    }
                    Err(failure) => return Err(failure.error),
                }
            };
            let Some(store) = pending.get(kind).cloned() else {
                continue;
            };
            store
                .server()
                .settle()
                .with_context(|| format!("setting up {}", kind.name()))?;
            let env = store.server().env()?;
            let running = Running {
                processes: records_of(&self.dirs, &BTreeSet::from([*kind]))?,
                env: env
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
                store,
                version,
            };
            eprintln!(
                "{}: up after {:.1} s, {}",
                kind.name(),
                begin.elapsed().as_secs_f32(),
                running.describe()
            );
            state.stores.insert(*kind, running);
            state.save(&self.dirs)?;
        }
        Ok(())
    }

    fn start(&mut self, kind: Kind, kube: Option<&KubeApiserver>) -> Result<Store> {
        self.started.insert(kind);
        let launch = &mut Launch {
            dirs: &self.dirs,
            hold: self.hold,
            kind,
            children: &mut self.children,
        };
        let started = match (kind, kube) {
            (Kind::Kube, Some(server)) => Kube::start(launch, server).map(Store::Kube),
            (Kind::Kube, None) => bail!("there is no kube-apiserver to run"),
            (Kind::Etcd, _) => Etcd::start(launch, "etcd").map(Store::Etcd),
            (Kind::Redis, _) => Redis::start(launch).map(Store::Redis),
            (Kind::Postgres, _) => Postgres::start(launch).map(Store::Postgres),
        };
        started.with_context(|| format!("{} could not be started", kind.name()))
    }

    /// Asks a store until it answers as it should, or a process of it ends, or too long has passed.
    fn await_ready(&self, kind: Kind, store: &Store) -> std::result::Result<String, Failure> {
        const LIMIT: Duration = Duration::from_secs(120);
        let begin = Instant::now();
        loop {
            interrupt::check()?;
            let records = records_of(&self.dirs, &BTreeSet::from([kind]))?;
            if let Some(dead) = records.iter().find(|record| !record.is_alive()) {
                return Err(self.failure(kind, &format!("{} has ended", dead.name)));
            }
            match store.server().probe() {
                Ok(version) => return Ok(version),
                Err(error) if begin.elapsed() > LIMIT => {
                    let text = format!("not ready after {} s: {error:#}", LIMIT.as_secs());
                    return Err(self.failure(kind, &text));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// An error that shows the ends of the logs.
    fn failure(&self, kind: Kind, what: &str) -> Failure {
        let mut text = format!("{}: {what}", kind.name());
        let mut port_taken = false;
        for record in records_of(&self.dirs, &BTreeSet::from([kind])).unwrap_or_default() {
            let log = self.dirs.log(&record.name);
            let tail = shell::tail(&log, 25);
            port_taken |= tail.to_lowercase().contains("address already in use");
            text.extend(["\nThe end of ", &log.to_string_lossy(), ":\n", &tail]);
        }
        Failure {
            port_taken,
            error: anyhow::anyhow!(text),
        }
    }

    /// The variables for the tests.
    pub fn state(&self) -> Result<State> {
        State::load(&self.dirs)
    }

    /// Whether any process of this session still runs.
    pub fn is_alive(&mut self) -> bool {
        self.children
            .iter_mut()
            .any(|(_, child)| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether this command started anything.
    pub fn has_started(&self) -> bool {
        !self.started.is_empty()
    }

    /// Stops what this session started.
    pub fn stop(&mut self) -> Result<()> {
        let started = std::mem::take(&mut self.started);
        let stopped = stop_kinds(&self.dirs, &started);
        for (_, child) in &mut self.children {
            // Each is gone by now, and only waits to be noticed.
            let _ = child.try_wait();
        }
        self.children.clear();
        let mut state = State::load(&self.dirs)?;
        state.stores.retain(|kind, _| !started.contains(kind));
        state.save(&self.dirs)?;
        stopped
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.hold == Hold::Held
            && self.has_started()
            && let Err(error) = self.stop()
        {
            eprintln!("not everything could be stopped: {error:#}");
        }
    }
}

struct Failure {
    port_taken: bool,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            port_taken: false,
            error,
        }
    }
}
