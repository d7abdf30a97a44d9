//! A candidate: a process that campaigns, works while it leads, and writes down what it believes.
//!
//! It uses the public API alone, so that it can be built from an older commit and with planted
//! bugs. Each piece of work asks for a permit, takes a moment, and then writes its token to the
//! register: a process that is stopped in that moment is the ex-leader whose write comes late.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use tenure::{Election, Identity, LockName, Policy, Term};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::history::{Nanos, Writer, now};

pub mod starve;

/// The command line of a candidate. The store's URL is `TENURE_CHAOS_URL`, because it can hold a
/// password.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Where it writes its history.
    #[arg(long)]
    pub history: PathBuf,
    /// The register's socket.
    #[arg(long)]
    pub register: PathBuf,
    /// The lock.
    #[arg(long)]
    pub lock: String,
    /// Its identity.
    #[arg(long)]
    pub id: String,
    /// Its number in the fleet.
    #[arg(long)]
    pub number: usize,
    /// Its lease, in milliseconds.
    #[arg(long)]
    pub lease: u64,
    /// What is wrong with it.
    #[arg(long, value_enum, default_value = "nothing")]
    pub broken: Broken,
}

/// What is wrong with a candidate: the suite must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Broken {
    /// Nothing.
    Nothing,
    /// It keeps a flag that its term began, and clears it when its work gets round to it, instead
    /// of asking the term.
    StaleFlag,
}

/// The environment variable with the store's URL.
pub const URL: &str = "TENURE_CHAOS_URL";

/// The time between the permit and the write that it is for.
const WORK: Duration = Duration::from_millis(30);

/// The time between two pieces of work.
const REST: Duration = Duration::from_millis(10);

/// For how long a permit is asked.
const AT_LEAST: Duration = Duration::from_millis(100);

/// How often a thread looks whether its process was stopped.
const LOOK: Duration = Duration::from_millis(1);

/// What counts as a pause, and how often the thread looks at its term without one, in nanoseconds.
const PAUSE: Nanos = 100_000_000;

/// How long a broken candidate goes on after it was told to stop, in nanoseconds.
const STALE: Nanos = 2_000_000_000;

/// The policy with this lease: that of `fast()`, or of the default, in proportion.
pub fn policy(lease: Duration) -> Result<Policy> {
    let base = if lease < Duration::from_secs(15) {
        Policy::fast()
    } else {
        Policy::default()
    };
    let builder = base.to_builder();
    // A longer lease with the same heartbeat.
    Ok(builder.lease(lease).build()?)
}

/// Runs a candidate until it is told to stop by SIGTERM.
pub async fn run(options: Options) -> Result<()> {
    let history = Writer::create(&options.history, &std::process::id().to_string())?;
    history.event(
        "starts",
        0,
        &format!("{} {}", options.number, options.lease),
    )?;
    let second = Writer::create(&options.history, &std::process::id().to_string())?;
    tokio::spawn(watch_the_wall_clock(second));
    starve::on_request(&options.history, &options.register)?;
    let mut candidate = Candidate {
        stop: signal(SignalKind::terminate())?,
        history,
        options,
    };
    let result = candidate.campaign_again_and_again().await;
    if let Err(error) = &result {
        candidate.history.event("fails", 0, &format!("{error:#}"))?;
    }
    candidate.history.event("ends", 0, "")?;
    result
}

/// How far the wall clock is ahead of the boot clock, in seconds.
fn wall_clock() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall = wall.map_or(0, |time| time.as_secs());
    let boot = now() / 1_000_000_000;
    i64::try_from(wall).unwrap_or(i64::MAX) - i64::try_from(boot).unwrap_or(i64::MAX)
}

/// Writes down by how much the wall clock has jumped since the start: the evidence that it has.
async fn watch_the_wall_clock(history: Writer) {
    let first = wall_clock();
    let mut last = first;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ahead = wall_clock();
        if (ahead - last).abs() > 10 {
            last = ahead;
            // A history that cannot be written ends the candidate elsewhere.
            let _told = history.event("wall-clock", 0, &(ahead - first).to_string());
        }
    }
}

struct Candidate {
    history: Writer,
    options: Options,
    stop: Signal,
}

impl Candidate {
    async fn campaign_again_and_again(&mut self) -> Result<()> {
        let url = std::env::var(URL).with_context(|| format!("{URL} is not set"))?;
        let policy = policy(Duration::from_millis(self.options.lease))?;
        let Some(backend) = self.connect(&url).await? else {
            return Ok(());
        };
        let election = Election::builder(backend, LockName::new(&self.options.lock)?)
            .identity(Identity::new(&self.options.id)?)
            .policy(policy)
            .build()?;
        loop {
            self.history.event("campaigns", 0, "")?;
            let leadership = tokio::select! {
                biased;
                _ = self.stop.recv() => break,
                elected = election.campaign() => elected,
            };
            let leadership = match leadership {
                Ok(leadership) => leadership,
                Err(error) => {
                    // The first answer of the store was a refusal.
                    self.history.event("refused", 0, &error.to_string())?;
                    if self.is_stopped_within(Duration::from_millis(200)).await {
                        break;
                    }
                    continue;
                }
            };
            let term = leadership.term();
            note_validity(&self.history, "elected", &term)?;
            let token = term.token().as_u64();
            self.history.event("works", token, "")?;
            let looks = self.look_at_term(&term)?;
            let asked_to_stop = tokio::select! {
                biased;
                _ = self.stop.recv() => true,
                result = work(&self.history, &self.options, &term) => { result?; false }
            };
            let why = term.cause();
            let why = why.map_or_else(|| "asked".to_owned(), |cause| format!("{cause:?}"));
            drop(looks);
            self.history.event("stops", token, &why)?;
            let resigned = leadership.resign().await;
            let how = resigned.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            self.history.event("released", token, &how)?;
            if asked_to_stop {
                break;
            }
        }
        election.settled().await;
        Ok(())
    }

    /// A thread of its own, as of work that blocks: it asks the term while no task runs, and after
    /// each pause of its process before any task does. It ends when the sender goes.
    fn look_at_term(&self, term: &Term) -> Result<Looks> {
        let history = Writer::create(&self.options.history, &std::process::id().to_string())?;
        let term = term.clone();
        let by_permit = self.options.number % 2 == 1;
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut last = now();
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if now() > last + PAUSE {
                    // A history that cannot be written ends the candidate elsewhere.
                    let _told = note_a_look(&history, &term, by_permit);
                    last = now();
                }
            }
        });
        Ok(Looks {
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// `None` when it was told to stop meanwhile. A store that is down is tried again.
    async fn connect(
        &mut self,
        url: &str,
    ) -> Result<Option<std::sync::Arc<dyn tenure::LockBackend>>> {
        loop {
            let error = tokio::select! {
                biased;
                _ = self.stop.recv() => return Ok(None),
                connected = tenure::connect(url) => match connected {
                    Ok(backend) => return Ok(Some(backend)),
                    Err(error) => error,
                },
            };
            self.history.event("refused", 0, &error.to_string())?;
            if self.is_stopped_within(Duration::from_millis(200)).await {
                return Ok(None);
            }
        }
    }

    async fn is_stopped_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stop.recv()).await.is_ok()
    }
}

/// Waits for its thread when it is dropped: what the thread writes comes before the work's end.
struct Looks {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.end = None;
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

/// Writes that the term was valid, if it says so, or if it gives a permit. It asks one of the two
/// alone: each answer of the one is remembered by the other.
fn note_a_look(history: &Writer, term: &Term, by_permit: bool) -> Result<()> {
    let at = now();
    let believes = if by_permit {
        term.permit(AT_LEAST).is_ok()
    } else {
        term.is_valid()
    };
    if believes {
        history.event_at(at, std::process::id(), "looked", term.token().as_u64(), "")?;
    }
    Ok(())
}

/// Writes until when the term is valid at least: the clock is read before the term is asked.
/// Nothing when it is over, but for its election.
fn note_validity(history: &Writer, event: &str, term: &Term) -> Result<()> {
    let at = now();
    let remaining = u64::try_from(term.remaining().as_nanos())?;
    let until = at + remaining;
    if term.is_valid() || event == "elected" {
        note_belief(history, event, term, at, until)?;
    }
    Ok(())
}

fn note_belief(history: &Writer, event: &str, term: &Term, at: Nanos, until: Nanos) -> Result<()> {
    let token = term.token().as_u64();
    history.event_at(at, std::process::id(), event, token, &until.to_string())?;
    Ok(())
}

/// Works until it is told to stop.
async fn work(history: &Writer, options: &Options, term: &Term) -> Result<()> {
    let stream = UnixStream::connect(&options.register).await;
    let mut register = BufReader::new(stream.context("the register is gone")?);
    let is_broken = options.broken == Broken::StaleFlag;
    let mut told_at = None;
    loop {
        note_validity(history, "valid", term)?;
        let at = now();
        if term.permit(AT_LEAST).is_ok() || is_broken {
            tokio::time::sleep(WORK).await;
            write(&mut register, history, term, at).await?;
        }
        if term.is_cancelled() {
            let told_at = *told_at.get_or_insert(now());
            if !is_broken || now() > told_at + STALE {
                return Ok(());
            }
            // It says what it believes.
            note_belief(history, "valid", term, now(), now() + 1)?;
        }
        tokio::time::sleep(REST).await;
    }
}

/// Writes the token to the register, and what the register said to the history.
async fn write(
    register: &mut BufReader<UnixStream>,
    history: &Writer,
    term: &Term,
    permitted: u64,
) -> Result<()> {
    let token = term.token().as_u64();
    let line = format!("{} {token}\n", std::process::id());
    register.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    register.read_line(&mut answer).await?;
    // The register says when, whether it took the write, and what it has seen.
    let at_least = AT_LEAST.as_nanos();
    history.event(
        "wrote",
        token,
        &format!("{permitted} {at_least} {}", answer.trim()),
    )?;
    Ok(())
}
