//! One run: a store, its candidates, faults from a seed, and the verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tenure::Capabilities;

use crate::candidate::{Broken, policy};
use crate::fault::{Fault, Promise};
use crate::fleet::{Fleet, Setup};
use crate::history::{Writer, now, read_all};
use crate::judge::{Minimums, Rules, Verdict, judge};
use crate::links::Links;
use crate::nemesis::Nemesis;
use crate::register::Register;
use crate::stores::{self, Applies, CANDIDATES, Store};

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topology.
    pub backend: String,
    /// How long faults are brought about.
    pub time: Duration,
    /// At most so many faults.
    pub faults: usize,
    /// What everything is drawn from.
    pub seed: u64,
    /// These faults only; all that apply if empty.
    pub only: Vec<Fault>,
    /// Faults beyond the promise instead of those within.
    pub beyond: bool,
    /// A process is hit as soon as it leads, and nothing waits in between.
    pub hurried: bool,
    /// How many candidates compete.
    pub candidates: usize,
    /// Their lease.
    pub lease: Duration,
    /// A second lease for every other candidate.
    pub other_lease: Option<Duration>,
    /// The candidates' program.
    pub program: PathBuf,
    /// Another program for every other candidate.
    pub other_program: Option<PathBuf>,
    /// The identity of all candidates; each has one of its own if `None`.
    pub identity: Option<String>,
    /// What is wrong with the candidates.
    pub broken: Broken,
    /// Whether the register refuses lower tokens.
    pub fenced: bool,
    /// What it must show at least.
    pub minimums: Minimums,
}

/// How long a leader may take to come and be killed, on the average.
const A_KILL: Duration = Duration::from_secs(60);

impl Plan {
    /// The same, but so many processes get `kill -9`, each as soon as it leads.
    #[must_use]
    pub fn of_kills(self, kills: usize) -> Self {
        // One that ends its term in the moment in which it is killed does not count.
        let faults = kills + kills / 50 + 1;
        Self {
            time: A_KILL * u32::try_from(faults).unwrap_or(u32::MAX),
            faults,
            only: vec![Fault::Kill],
            hurried: true,
            minimums: Minimums {
                terms: kills,
                led_percent: 0,
                at_leader_percent: 90,
                leaders_killed: kills,
            },
            ..self
        }
    }

    /// Ten minutes with five candidates of this program.
    pub fn new(backend: &str, program: PathBuf) -> Self {
        Self {
            backend: backend.to_owned(),
            time: Duration::from_secs(600),
            faults: usize::MAX,
            seed: 1,
            only: Vec::new(),
            beyond: false,
            hurried: false,
            candidates: CANDIDATES,
            lease: Duration::from_secs(3),
            other_lease: None,
            program,
            other_program: None,
            identity: None,
            broken: Broken::Nothing,
            fenced: true,
            minimums: Minimums::default(),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// How long the next leader may take after a crash.
    pub formula: Duration,
    /// Its files.
    pub directory: TempDir,
}

/// The folder of the histories.
const HISTORY: &str = "history";

/// Runs a plan. `None`: this machine has no program for its store.
pub async fn run(plan: &Plan) -> Result<Option<Outcome>> {
    ensure!(
        plan.candidates <= CANDIDATES,
        "at most {CANDIDATES} candidates"
    );
    let directory = tempfile::Builder::new().prefix("tenure-chaos-").tempdir()?;
    let history = directory.path().join(HISTORY);
    fs::create_dir(&history)?;
    let links = links(plan);
    let store = stores::start(&plan.backend, directory.path(), links.as_deref()).await?;
    let Some(store) = store else {
        return Ok(None);
    };
    let applies = applying(&*store, links.is_some(), plan);
    ensure!(!applies.is_empty(), "no fault applies to {}", store.name());
    let longest = plan.lease.max(plan.other_lease.unwrap_or_default());
    let capabilities = tenure::connect(&store.url(0)).await?.capabilities();
    let formula = formula(&capabilities, longest)?;
    let forgetting = applies.iter().map(|applies| applies.fault);
    let rules = Rules {
        forgetting: forgetting
            .filter(|fault| store.forgets_tokens(*fault))
            .collect(),
        faults: applies,
        formula,
        lease: longest,
        minimums: plan.minimums,
    };
    let mut nemesis = nemesis(plan, store, links, &rules, directory.path())?;
    let result = nemesis.run(Instant::now() + plan.time, plan.faults).await;
    nemesis.history.event("over", 0, "")?;
    tokio::task::block_in_place(|| nemesis.fleet.stop());
    drop(nemesis);
    result.with_context(|| format!("see {}", directory.path().display()))?;
    let verdict = judge(&read_all(&history)?, &rules)?;
    Ok(Some(Outcome {
        verdict,
        formula,
        directory,
    }))
}

/// A link for each candidate, if one may be taken down. `None`, and a line that says why, where this
/// user may not make them: the run has no such fault then.
fn links(plan: &Plan) -> Option<Arc<Links>> {
    let is_behind_proxies = stores::BEHIND_PROXIES.contains(&plan.backend.as_str());
    let is_wanted = plan.only.is_empty() || plan.only.contains(&Fault::LinkDown);
    if !is_behind_proxies || !is_wanted || plan.beyond {
        return None;
    }
    let made = tokio::task::block_in_place(|| Links::make(CANDIDATES));
    made.map(Arc::new)
        .inspect_err(|error| println!("LEFT OUT {}: {error:#}", Fault::LinkDown))
        .ok()
}

/// The faults of a run: those of processes, those of networks where there is one, and the store's.
fn applying(store: &dyn Store, has_links: bool, plan: &Plan) -> Vec<Applies> {
    let usual = |fault: Fault| Applies {
        fault,
        promise: Promise::Within,
        more_leases: 0,
    };
    let mut all: Vec<Applies> = Fault::OF_PROCESSES.into_iter().map(usual).collect();
    if !store.proxies(0).is_empty() {
        all.extend(Fault::OF_NETWORKS.into_iter().map(usual));
    }
    if has_links {
        all.push(usual(Fault::LinkDown));
    }
    all.extend(store.faults());
    let wanted = |applies: &Applies| {
        let chosen = plan.only.is_empty() || plan.only.contains(&applies.fault);
        // Beside those beyond the promise a few others, so that leaders change.
        let side = match applies.promise {
            Promise::Within => !plan.beyond || Fault::OF_PROCESSES.contains(&applies.fault),
            Promise::Beyond(_) => plan.beyond,
        };
        chosen && side
    };
    all.retain(wanted);
    all
}

/// What machines that are busy may add: a process is started and gets its turn.
const SCHEDULING: Duration = Duration::from_secs(2);

/// How long the next leader may take after a crash, from the last heartbeat: the lease on a fast
/// clock, the store's sweep, one place in the queue of a candidate that died as well, two requests,
/// and a look.
fn formula(capabilities: &Capabilities, lease: Duration) -> Result<Duration> {
    let policy = policy(lease)?;
    Ok(lease
        + lease / 1_000
        + capabilities.expiry_lag
        + capabilities.hand_over_delay(lease)
        + policy.request_timeout() * 2
        + policy.retry_interval()
        + SCHEDULING)
}

fn nemesis(
    plan: &Plan,
    store: Box<dyn Store>,
    links: Option<Arc<Links>>,
    rules: &Rules,
    directory: &Path,
) -> Result<Nemesis> {
    let history = directory.join(HISTORY);
    let register = Register::start(directory, &history, plan.fenced)?;
    let own = Writer::create(&history, "nemesis")?;
    own.event("seed", 0, &format!("{} {}", plan.seed, now()))?;
    let other = |number: usize| number % 2 == 1;
    let numbers = 0..plan.candidates;
    let urls = numbers.clone().map(|number| store.url(number)).collect();
    let program = |number: usize| match &plan.other_program {
        Some(program) if other(number) => program.clone(),
        _ => plan.program.clone(),
    };
    let lease = |number: usize| match plan.other_lease {
        Some(lease) if other(number) => lease,
        _ => plan.lease,
    };
    let setup = Setup {
        programs: numbers.clone().map(program).collect(),
        leases: numbers.map(lease).collect(),
        history,
        logs: directory.to_owned(),
        register: register.path().to_owned(),
        identity: plan.identity.clone(),
        broken: plan.broken,
        clocks: rules
            .faults
            .iter()
            .any(|applies| applies.fault == Fault::WallClock),
        links: links.clone(),
    };
    Ok(Nemesis {
        random: fastrand::Rng::with_seed(plan.seed),
        fleet: Fleet::start(setup, urls)?,
        store,
        links,
        register,
        history: own,
        faults: rules.faults.iter().map(|applies| applies.fault).collect(),
        lease: rules.lease,
        hurried: plan.hurried,
    })
}
