//! `up`: the stores that a command brings up, and holds if it is to hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::control::{claim, lock, records_of, restart_mark, stop_kinds};
use super::state::{Running, State};
use super::{
    Cluster, Etcd, Kind, Kube, Launch, PgBouncer, Postgres, Redis, Replica, Sentinel, Store,
};
use crate::paths::{self, Dirs};
use crate::process::{self, Hold};
use crate::provision::{self, KubeApiserver, Need};
use crate::{interrupt, shell};

/// What is wanted of `up`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kinds: BTreeSet<Kind>,
    /// None takes what runs, and starts one.
    pub(crate) etcd_members: Option<u8>,
}

impl Request {
    /// The named stores and those they stand on.
    pub(crate) fn new(kinds: impl IntoIterator<Item = Kind>, etcd_members: Option<u8>) -> Self {
        let mut all: BTreeSet<Kind> = kinds.into_iter().collect();
        let below: Vec<Kind> = all.iter().filter_map(|kind| kind.stands_on()).collect();
        all.extend(below);
        Self {
            kinds: all,
            etcd_members,
        }
    }

    fn fits(&self, running: &Running) -> bool {
        match &running.store {
            Store::Etcd(etcd) => {
                let wanted = self.etcd_members.map(usize::from);
                wanted.is_none_or(|wanted| wanted == etcd.ports.len())
            }
            _ => true,
        }
    }
}

/// The stores that a command brought up. When it holds them they end with it.
#[derive(Debug)]
pub(crate) struct Session {
    dirs: Dirs,
    hold: Hold,
    started: BTreeSet<Kind>,
    children: Vec<(String, Child)>,
    /// Says to others that these stores will end with somebody.
    _held: Option<File>,
}

/// Brings stores up; those that run and serve are left as they are.
pub(crate) fn up(dirs: &Dirs, request: &Request, hold: Hold) -> Result<Session> {
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

    let missing = sort_out(request, &mut state);
    if missing.is_empty() {
        return Ok(session);
    }
    let needs: Vec<Need> = missing
        .iter()
        .flat_map(|kind| kind.needs())
        .copied()
        .collect();
    provision::ensure(&needs)?;

    // Before anything is started: a build takes minutes.
    let kube = if missing.contains(&Kind::Kube) {
        let server = provision::kube_apiserver()?;
        let program = server.program.display();
        eprintln!("kube: {} from {program}, {}", server.version, server.origin);
        Some(server)
    } else {
        None
    };
    let plan = Plan {
        request,
        kube: kube.as_ref(),
    };

    match session.bring_up(&missing, &plan, &mut state) {
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

/// What `bring_up` starts from.
struct Plan<'a> {
    request: &'a Request,
    kube: Option<&'a KubeApiserver>,
}

/// Reports what runs, and gives what has to be started.
fn sort_out(request: &Request, state: &mut State) -> BTreeSet<Kind> {
    let mut missing = BTreeSet::new();
    for kind in &request.kinds {
        let Some(running) = state.stores.get(kind) else {
            missing.insert(*kind);
            continue;
        };
        match running.check() {
            Ok(_) if request.fits(running) => {
                eprintln!(
                    "{}: running and healthy, {}",
                    kind.name(),
                    running.describe()
                );
            }
            Ok(_) => {
                eprintln!(
                    "{}: running with another number of members, starting anew",
                    kind.name()
                );
                missing.insert(*kind);
            }
            Err(error) => {
                eprintln!("{}: not healthy, starting anew: {error:#}", kind.name());
                missing.insert(*kind);
            }
        }
    }
    // What stands on a store that starts anew has lost its footing.
    let above = state.stores.keys().filter(|kind| {
        kind.stands_on()
            .is_some_and(|below| missing.contains(&below))
    });
    let above: Vec<Kind> = above.copied().collect();
    missing.extend(above);
    for kind in &missing {
        state.stores.remove(kind);
    }
    missing
}

impl Session {
    fn bring_up(
        &mut self,
        missing: &BTreeSet<Kind>,
        plan: &Plan<'_>,
        state: &mut State,
    ) -> Result<()> {
        // Also what an interrupted run has left of them.
        stop_kinds(&self.dirs, missing)?;
        state.save(&self.dirs)?;
        // All are started before the first is waited for: the API server takes seconds, in which
        // the others get ready. A store that stands on another one finds it in `pending`.
        let begin = Instant::now();
        let mut pending: BTreeMap<Kind, Store> = BTreeMap::new();
        for kind in missing {
            interrupt::check()?;
            let store = self.start(*kind, plan, &pending, state)?;
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
                match self.await_ready(store) {
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
                        let above = |other: &&Kind| other.stands_on() == Some(*kind);
                        let again = [kind].into_iter().chain(missing.iter().filter(above));
                        for kind in again {
                            stop_kinds(&self.dirs, &BTreeSet::from([*kind]))?;
                            let store = self.start(*kind, plan, &pending, state)?;
                            pending.insert(*kind, store);
                        }
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

    fn start(
        &mut self,
        kind: Kind,
        plan: &Plan<'_>,
        pending: &BTreeMap<Kind, Store>,
        state: &State,
    ) -> Result<Store> {
        let below = |kind: Kind| {
            let running = state.stores.get(&kind).map(|running| &running.store);
            pending.get(&kind).or(running)
        };
        self.started.insert(kind);
        let launch = &mut Launch {
            dirs: &self.dirs,
            hold: self.hold,
            kind,
            children: &mut self.children,
        };
        let started = match kind {
            Kind::Kube => match plan.kube {
                Some(server) => Kube::start(launch, server).map(Store::Kube),
                None => bail!("there is no kube-apiserver to run"),
            },
            Kind::Etcd => {
                Etcd::start(launch, "etcd", plan.request.etcd_members.unwrap_or(1)).map(Store::Etcd)
            }
            Kind::Redis => Redis::start(launch).map(Store::Redis),
            Kind::RedisReplica => match below(Kind::Redis) {
                Some(Store::Redis(master)) => {
                    Replica::start(launch, master).map(Store::RedisReplica)
                }
                _ => bail!("there is no Redis to replicate"),
            },
            Kind::RedisCluster => Cluster::start(launch).map(Store::RedisCluster),
            Kind::RedisSentinel => Sentinel::start(launch).map(Store::RedisSentinel),
            Kind::Postgres => Postgres::start(launch).map(Store::Postgres),
            Kind::Pgbouncer => match below(Kind::Postgres) {
                Some(Store::Postgres(server)) => {
                    PgBouncer::start(launch, server).map(Store::Pgbouncer)
                }
                _ => bail!("there is no PostgreSQL to stand in front of"),
            },
        };
        started.with_context(|| format!("{} could not be started", kind.name()))
    }

    /// Asks a store until it answers as it should, or a process of it ends, or too long has passed.
    fn await_ready(&self, store: &Store) -> std::result::Result<String, Failure> {
        const LIMIT: Duration = Duration::from_secs(120);
        let kind = store.server().kind();
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
    pub(crate) fn state(&self) -> Result<State> {
        State::load(&self.dirs)
    }

    /// Starts again what `stores restart` has ended, and tells of what ended by itself. To be called
    /// often by a command that holds stores.
    pub(crate) fn tend(&mut self) {
        for (name, child) in &mut self.children {
            if !matches!(child.try_wait(), Ok(Some(_))) {
                continue;
            }
            let mark = restart_mark(&self.dirs, name);
            if !mark.exists() {
                continue;
            }
            let again = process::read_spec(&self.dirs, name)
                .and_then(|spec| process::start(&self.dirs, &spec, self.hold));
            match again {
                Ok(fresh) => *child = fresh,
                Err(error) => eprintln!("{name} could not be started again: {error:#}"),
            }
            // Removed in any case: whoever waits for the restart sees how it went.
            let _ = paths::remove_file(&mark);
        }
    }

    /// Whether any process of this session still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.children
            .iter_mut()
            .any(|(_, child)| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether this command started anything.
    pub(crate) fn has_started(&self) -> bool {
        !self.started.is_empty()
    }

    /// Stops what this session started.
    pub(crate) fn stop(&mut self) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_stands_on_comes_along_and_before_it() {
        let request = Request::new([Kind::Pgbouncer, Kind::RedisReplica], None);
        let order: Vec<Kind> = request.kinds.into_iter().collect();
        assert_eq!(
            order,
            [
                Kind::Redis,
                Kind::RedisReplica,
                Kind::Postgres,
                Kind::Pgbouncer
            ]
        );
    }
}
