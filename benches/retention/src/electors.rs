//! A process with many electors, ours or a peer's, and what it says.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout};

use crate::cell::{Elector, name};
use crate::lead::URL;
use crate::namespaces::inside;
use crate::store::Store;

/// The variables with the programs of the peers.
pub(crate) const CLIENT_GO: &str = "TENURE_RETENTION_CLIENT_GO";
pub(crate) const KUBERT: &str = "TENURE_RETENTION_KUBERT";

/// For the elections at the start, on a server that has just begun.
const ELECTIONS: Duration = Duration::from_secs(180);

/// What a process says, and when it was read.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A lock has a leader.
    Leads(usize),
    /// The work of a leader was told to stop.
    Stopped(usize, String),
    /// A task woke up so many milliseconds late.
    Late(u64),
    /// All candidates are there.
    Ready,
}

/// The process; killed when it is dropped.
pub(crate) struct Electors {
    _process: Child,
    _input: ChildStdin,
    events: UnboundedReceiver<(Instant, Event)>,
    /// What it says of errors.
    log: PathBuf,
    /// How many lead on each lock.
    pub(crate) leading: Vec<usize>,
    /// The longest delay of a task.
    pub(crate) late: u64,
}

/// Where and how many.
pub(crate) struct Plan<'a> {
    /// The namespaces.
    pub(crate) namespaces: &'a str,
    /// `clients` or `servers`.
    pub(crate) part: &'a str,
    pub(crate) elector: Elector,
    pub(crate) leaders: usize,
    pub(crate) waiting: usize,
    /// How the locks' names begin.
    pub(crate) lock: String,
}

impl Electors {
    /// Starts them.
    pub(crate) fn start(store: &Store, plan: &Plan<'_>) -> Result<Self> {
        let address = match plan.part {
            "clients" => store.address(),
            _ => store.proxied(),
        };
        let mut words: Vec<String> = inside(plan.namespaces, plan.part).into();
        let ours = std::env::current_exe()?.to_string_lossy().into_owned();
        let peer =
            |variable| std::env::var(variable).with_context(|| format!("{variable} is not set"));
        let leaders = plan.leaders.to_string();
        match plan.elector {
            Elector::ClientGo => words.extend([peer(CLIENT_GO)?, "--many".into(), leaders]),
            Elector::Kubert => words.extend([peer(KUBERT)?, "--many".into(), leaders]),
            elector => {
                words.extend([ours, "__lead".into(), "--leaders".into(), leaders]);
                words.extend(["--waiting".into(), plan.waiting.to_string()]);
                words.extend(["--policy".into(), name(&elector)]);
            }
        }
        words.extend(["--lock".into(), plan.lock.clone()]);
        if plan.elector.policy().is_none() {
            let file = store.kubeconfig(address)?.to_string_lossy().into_owned();
            words.extend(["--kubeconfig".into(), file]);
        }
        let log = std::env::temp_dir().join("electors.log");
        let mut process = Command::new(&words[0])
            .args(&words[1..])
            .env(URL, store.url(address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be run", words[0]))?;
        let input = process.stdin.take().context("no input")?;
        let output = process.stdout.take().context("no output")?;
        let (tell, events) = unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let told = parsed(&line).map(|event| tell.send((Instant::now(), event)));
                if told.is_some_and(|told| told.is_err()) {
                    return;
                }
            }
        });
        Ok(Self {
            _process: process,
            _input: input,
            events,
            log,
            leading: vec![0; plan.leaders],
            late: 0,
        })
    }

    /// Waits until every lock has a leader and all candidates are there.
    pub(crate) async fn all_lead(&mut self) -> Result<()> {
        let mut ready = false;
        let waiting = async {
            while !ready || !self.is_led() {
                match self.events.recv().await {
                    Some((_, event)) => ready |= self.note(&event),
                    None => return Err(self.ended()),
                }
            }
            Ok(())
        };
        let waited = timeout(ELECTIONS, waiting).await;
        waited.context("not all locks have a leader after 180 s")?
    }

    /// Whether every lock has a leader.
    pub(crate) fn is_led(&self) -> bool {
        self.leading.iter().all(|leaders| *leaders > 0)
    }

    /// The next event until then; `None` when there is none.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Option<(Instant, Event)>> {
        match tokio::time::timeout_at(until, self.events.recv()).await {
            Err(_) => Ok(None),
            Ok(None) => Err(self.ended()),
            Ok(Some((at, event))) => {
                self.note(&event);
                Ok(Some((at, event)))
            }
        }
    }

    fn ended(&self) -> anyhow::Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(5).collect();
        anyhow!(
            "the process with the electors has ended: {}",
            lines.join("; ")
        )
    }

    fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Leads(number) => self.leading[*number] += 1,
            Event::Stopped(number, _) => {
                self.leading[*number] = self.leading[*number].saturating_sub(1);
            }
            Event::Late(late) => self.late = self.late.max(*late),
            Event::Ready => return true,
        }
        false
    }
}

fn parsed(line: &str) -> Option<Event> {
    let mut words = line.split(' ');
    let (what, number) = (words.next()?, words.next());
    let number = || number?.parse::<usize>().ok();
    Some(match what {
        "leads" => Event::Leads(number()?),
        "stopped" => Event::Stopped(number()?, words.next().unwrap_or("?").to_owned()),
        "late" => Event::Late(u64::try_from(number()?).ok()?),
        "ready" => Event::Ready,
        _ => return None,
    })
}
