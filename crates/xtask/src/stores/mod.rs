//! The real stores that the tests run against: started, asked, described, stopped.
//!
//! Everything lives under `target/stores/`: each process has a record (see [`crate::process`]) from
//! before it begins, and `state.json` describes the stores that were seen ready. Data begin empty at
//! each start and go with `down`; logs stay.

mod etcd;
mod kube;
mod pgbouncer;
mod postgres;
mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths::{self, Dirs, write_file};
use crate::process::{self, Ending, Hold, Record, Spec, User};
use crate::provision::{self, Need};
use crate::{interrupt, shell};

use etcd::Etcd;
use kube::Kube;
use pgbouncer::PgBouncer;
use postgres::Postgres;
use redis::{Cluster, Redis, Replica, Sentinel};

/// Variables for the tests, in the order they are shown.
pub(crate) type Env = Vec<(&'static str, String)>;

/// The stores, each after those it needs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// kube-apiserver with an etcd of its own
    Kube,
    /// etcd: one node, or more by --etcd-members
    Etcd,
    /// one Redis server
    Redis,
    /// a replica of the one Redis server
    RedisReplica,
    /// a Redis Cluster of three masters
    RedisCluster,
    /// a Redis master and a replica under three sentinels
    RedisSentinel,
    /// one Postgres server
    Postgres,
    /// pgbouncer in transaction mode in front of Postgres
    Pgbouncer,
}

impl Kind {
    /// What `up` starts when nothing is named.
    pub(crate) const DEFAULT: [Self; 4] = [Self::Kube, Self::Etcd, Self::Redis, Self::Postgres];

    /// The name on the command line, in files and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::RedisReplica => "redis-replica",
            Self::RedisCluster => "redis-cluster",
            Self::RedisSentinel => "redis-sentinel",
            Self::Postgres => "postgres",
            Self::Pgbouncer => "pgbouncer",
        }
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Self::Kube | Self::Etcd => &[Need::Etcd],
            Self::Redis | Self::RedisReplica | Self::RedisCluster | Self::RedisSentinel => {
                &[Need::Redis]
            }
            Self::Postgres => &[Need::Postgres],
            Self::Pgbouncer => &[Need::Postgres, Need::PgBouncer],
        }
    }

    /// The store that this one stands on.
    fn stands_on(self) -> Option<Self> {
        match self {
            Self::RedisReplica => Some(Self::Redis),
            Self::Pgbouncer => Some(Self::Postgres),
            _ => None,
        }
    }
}

/// What every store can do once it is started.
trait Server {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Asks it once whether it serves; the answer is its version.
    fn probe(&self) -> Result<String>;

    /// What remains to be set up, once, when it serves.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Writes and reads back, and says what it did.
    fn round_trip(&self) -> Result<String>;

    /// What the tests need to know.
    fn env(&self) -> Result<Env>;
}

/// A store that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Kube(Kube),
    Etcd(Etcd),
    Redis(Redis),
    RedisReplica(Replica),
    RedisCluster(Cluster),
    RedisSentinel(Sentinel),
    Postgres(Postgres),
    Pgbouncer(PgBouncer),
}

impl Store {
    fn server(&self) -> &dyn Server {
        match self {
            Self::Kube(server) => server,
            Self::Etcd(server) => server,
            Self::Redis(server) => server,
            Self::RedisReplica(server) => server,
            Self::RedisCluster(server) => server,
            Self::RedisSentinel(server) => server,
            Self::Postgres(server) => server,
            Self::Pgbouncer(server) => server,
        }
    }
}

/// A store that was seen ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) version: String,
    processes: Vec<Record>,
    env: BTreeMap<String, String>,
}

impl Running {
    /// Asks the store whether it still serves.
    fn check(&self) -> Result<String> {
        if let Some(dead) = self.processes.iter().find(|process| !process.is_alive()) {
            bail!("{} (process {}) is gone", dead.name, dead.pid);
        }
        self.store.server().probe()
    }

    /// Writes and reads back through the store's own tools.
    pub(crate) fn round_trip(&self) -> Result<String> {
        self.store.server().round_trip()
    }

    /// The version, and for what was built its origin.
    pub(crate) fn describe(&self) -> String {
        match &self.store {
            Store::Kube(kube) => format!("{} ({})", self.version, kube.origin),
            _ => self.version.clone(),
        }
    }
}

/// `state.json`
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    pub(crate) stores: BTreeMap<Kind, Running>,
}

impl State {
    const FORMAT: u32 = 1;

    /// What was last seen ready; nothing when there is no file.
    pub(crate) fn load(dirs: &Dirs) -> Result<Self> {
        let path = dirs.state();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is not of this version: run `cargo xtask stores down`",
                path.display()
            )
        })
    }

    /// It holds URLs with passwords, so it is for its owner only.
    fn save(&mut self, dirs: &Dirs) -> Result<()> {
        self.format = Self::FORMAT;
        write_file(&dirs.state(), 0o600, &serde_json::to_vec_pretty(self)?)
    }

    /// All variables of all stores.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        self.stores
            .values()
            .flat_map(|running| running.env.clone())
            .collect()
    }
}

/// What is wanted of `up`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) etcd_members: u8,
}

impl Request {
    /// The named stores and those they stand on.
    pub(crate) fn new(kinds: impl IntoIterator<Item = Kind>, etcd_members: u8) -> Self {
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
            Store::Etcd(etcd) => etcd.ports.len() == usize::from(self.etcd_members),
            _ => true,
        }
    }
}

// ---- up -------------------------------------------------------------------------------------

/// What a store's `start` works with.
struct Launch<'a> {
    dirs: &'a Dirs,
    hold: Hold,
    kind: Kind,
    children: &'a mut Vec<(String, Child)>,
}

impl Launch<'_> {
    /// An empty folder for a process, owned by the user it runs as.
    fn folder(&self, process: &str, user: Option<&User>) -> Result<PathBuf> {
        let mut parent = self.dirs.data();
        if user.is_some_and(|user| !postgres::can_reach(user, &parent)) {
            // A checkout inside somebody's private home, say.
            parent = outside(self.dirs);
            if !parent.is_dir() {
                fs::create_dir(&parent)
                    .with_context(|| format!("cannot create {}", parent.display()))?;
            }
            paths::make_dir(&parent, 0o711)?;
        }
        let folder = parent.join(process);
        paths::remove_dir(&folder)?;
        paths::make_dir(&folder, 0o700)?;
        postgres::give(&folder, user)?;
        Ok(folder)
    }

    fn spec(&self, name: &str, program: PathBuf, folder: PathBuf, ending: Ending) -> Spec {
        Spec {
            name: name.to_owned(),
            kind: self.kind,
            program,
            args: Vec::new(),
            env: BTreeMap::new(),
            folder,
            log: self.dirs.log(name),
            user: None,
            ending,
        }
    }

    fn run(&mut self, spec: &Spec) -> Result<()> {
        let child = process::start(self.dirs, spec, self.hold)?;
        self.children.push((spec.name.clone(), child));
        Ok(())
    }
}

/// Where data go whose server's user may not enter the work tree: one folder for each checkout.
fn outside(dirs: &Dirs) -> PathBuf {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in dirs.root.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Path::new("/var/tmp").join(format!("tenure-stores-{hash:016x}"))
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

    match session.bring_up(&missing, request, &mut state) {
        Ok(()) => Ok(session),
        Err(error) => {
            // What this command began it also ends; what ran before it stays.
            session
                .stop()
                .context("and while cleaning up after a failure")?;
            Err(error)
        }
    }
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
        request: &Request,
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
            let store = self.start(*kind, request, &pending, state)?;
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
                            let store = self.start(*kind, request, &pending, state)?;
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
        request: &Request,
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
            Kind::Kube => provision::kube_apiserver()
                .and_then(|server| {
                    eprintln!(
                        "kube: {} {}, {}",
                        server.program.display(),
                        server.version,
                        server.origin
                    );
                    Kube::start(launch, &server)
                })
                .map(Store::Kube),
            Kind::Etcd => Etcd::start(launch, "etcd", request.etcd_members).map(Store::Etcd),
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

// ---- down, restart, status --------------------------------------------------------------------

fn records_of(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<Vec<Record>> {
    let mut records = process::read_records(dirs)?;
    records.retain(|record| kinds.contains(&record.kind));
    Ok(records)
}

fn stop_kinds(dirs: &Dirs, kinds: &BTreeSet<Kind>) -> Result<()> {
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

fn restart_mark(dirs: &Dirs, process: &str) -> PathBuf {
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
fn lock(dirs: &Dirs) -> Result<File> {
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
fn claim(dirs: &Dirs) -> Result<File> {
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

// ---- small helpers of the stores --------------------------------------------------------------

/// Tries until it works; gives up with the last error after a generous while.
fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error)
                    .with_context(|| format!("waited {} s until {what}", LIMIT.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Secrets and names that nobody else has, from the system's own source.
fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .context("no random bytes from the system")?;
    let digits = buffer.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_stands_on_comes_along_and_before_it() {
        let request = Request::new([Kind::Pgbouncer, Kind::RedisReplica], 1);
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

    #[test]
    fn no_state_is_an_empty_state() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::at(folder.path().join("stores")).unwrap();
        assert!(State::load(&dirs).unwrap().stores.is_empty());
        assert!(State::load(&dirs).unwrap().env().is_empty());
        assert!(down(&dirs).unwrap().is_empty());
    }

    #[test]
    fn random_names_differ() {
        let one = random_hex(16).unwrap();
        assert_eq!(one.len(), 32);
        assert_ne!(one, random_hex(16).unwrap());
    }
}
