//! `retention __lead`: many leaders in one process, each with a backend, a connection and a session
//! of its own. It prints a line for each thing that happens, and ends with its input.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use tenure::{Election, Identity, LockBackend, LockName, Policy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cell::Elector;
use crate::late::Late;

/// The variable with the store's URL, which may hold a password.
pub(crate) const URL: &str = "TENURE_RETENTION_URL";

/// So many connect at a time.
const AT_A_TIME: usize = 16;

/// How often the process says how late it wakes up.
const REPORTS: Duration = Duration::from_millis(500);

/// Many leaders.
#[derive(Debug, Parser)]
pub(crate) struct Lead {
    /// Whose policy.
    #[arg(long)]
    policy: Elector,
    /// How many locks.
    #[arg(long)]
    leaders: usize,
    /// Second candidates for the first so many locks.
    #[arg(long, default_value_t = 0)]
    waiting: usize,
    /// How the locks' names begin.
    #[arg(long)]
    lock: String,
}

#[derive(Clone)]
struct Candidate {
    backend: Arc<dyn LockBackend>,
    lock: LockName,
    identity: Identity,
    policy: Policy,
    number: usize,
}

/// Runs until the input ends.
pub(crate) fn main(options: &Lead) -> Result<()> {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        // An input that cannot be read has ended.
        let _ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all();
    runtime.build()?.block_on(run(options))
}

async fn run(options: &Lead) -> Result<()> {
    let late = Late::watch();
    tokio::spawn(async move {
        loop {
            sleep(REPORTS).await;
            println!("late {}", late.take());
        }
    });
    let policy = options.policy.policy().context("no policy of ours")?;
    let heartbeat = policy.heartbeat();
    let leaders = connect_all(options, "leader", options.leaders, &policy).await?;
    let begin = Instant::now();
    let count = u32::try_from(leaders.len())?;
    for (candidate, number) in leaders.into_iter().zip(0..) {
        let at = begin + heartbeat * number / count;
        tokio::spawn(campaign_again_and_again(candidate, at));
    }
    sleep_until(begin + heartbeat + Duration::from_secs(1)).await;
    let waiting = connect_all(options, "waiting", options.waiting, &policy).await?;
    for candidate in waiting {
        tokio::spawn(campaign_again_and_again(candidate, Instant::now()));
    }
    println!("ready");
    std::future::pending().await
}

async fn connect_all(
    options: &Lead,
    role: &str,
    count: usize,
    policy: &Policy,
) -> Result<Vec<Candidate>> {
    let url = std::env::var(URL).with_context(|| format!("{URL} is not set"))?;
    let mut all = Vec::new();
    let mut connecting = JoinSet::new();
    for number in 0..count {
        if connecting.len() >= AT_A_TIME {
            all.extend(connecting.join_next().await.transpose()?.transpose()?);
        }
        let (url, policy) = (url.clone(), policy.clone());
        let lock = LockName::new(format!("{}-{number}", options.lock))?;
        let identity = Identity::new(format!("{role}-{number}"))?;
        connecting.spawn(async move {
            let backend = tenure::connect(&url).await?;
            anyhow::Ok(Candidate {
                backend,
                lock,
                identity,
                policy,
                number,
            })
        });
    }
    while let Some(connected) = connecting.join_next().await {
        all.push(connected??);
    }
    all.sort_by_key(|candidate| candidate.number);
    Ok(all)
}

/// A term counts as lost when its work is told to stop: work does not start again in a term.
async fn campaign_again_and_again(candidate: Candidate, at: Instant) -> Result<()> {
    let Candidate {
        backend,
        lock,
        identity,
        policy,
        number,
    } = candidate;
    let election = Election::builder(backend, lock)
        .identity(identity)
        .policy(policy);
    let election = election.build()?;
    sleep_until(at).await;
    loop {
        match election.campaign().await {
            Ok(leadership) => {
                println!("leads {number}");
                let term = leadership.term();
                term.cancelled().await;
                let cause = term.cause().map_or("unknown", tenure::Cause::name);
                println!("stopped {number} {cause}");
                // The store may be unreachable.
                let _given_back = leadership.resign().await;
            }
            Err(error) => {
                eprintln!("{number}: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
