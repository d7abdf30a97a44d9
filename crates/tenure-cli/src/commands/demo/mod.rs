//! `tenure demo`: three real candidates, a hand-over, a `kill -9` and a freeze, and a check of
//! what happened by what the commands themselves recorded.

mod candidate;
pub(crate) mod records;
mod timeline;

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tenure::{BootClock, Clock as _, Reach, Registry, Time, random_u64};

use self::candidate::{CandidateProcess, DemoSettings, NAMES, is_dead, signal_process};
use self::records::{RecordReader, RecordedTerm, RecordedTerms};
use self::timeline::Timeline;
use crate::backend_file;
use crate::failure::{Failure, signalled};
use crate::options::{self, DemoArgs};
use crate::supervisor::signals::Signals;

/// The lease, where the store can grant so short a one.
const LEASE: Duration = Duration::from_secs(2);

/// How long a leader is left alone between two events.
const CALM: Duration = Duration::from_millis(1500);

/// How often the records are read.
const PACE: Duration = Duration::from_millis(5);

/// How long anything may take beyond the leases it takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The exit code when the terms were not as they must be.
const BROKEN_PROMISE: u8 = 1;

/// `tenure demo`.
pub(crate) fn demo(args: DemoArgs, registry: &Registry) -> Result<u8, Failure> {
    options::runtime()?.block_on(async {
        let mut signals = Signals::handle()?;
        // The candidates are dropped, and so ended, whichever comes first.
        tokio::select! {
            outcome = play(registry, args.backend) => outcome,
            received = signals.ending() => Ok(signalled(received.signal)),
        }
    })
}

async fn play(registry: &Registry, backend: Option<String>) -> Result<u8, Failure> {
    let temporary = TempDir::with_prefix("tenure-demo-").map_err(|error| {
        Failure::new(format!(
            "cannot make a temporary directory: {error}; point TMPDIR at one that can be written"
        ))
    })?;
    let settings = set_up(registry, &temporary, backend).await?;
    let mut demo = Demo::start(settings)?;
    demo.say_what_comes()?;
    let played = demo.play().await;
    demo.stop_all().await?;
    if let Err(failure) = played {
        demo.show_logs()?;
        return Err(failure);
    }
    let kept = demo.timeline.verdict(&demo.terms).map_err(unprintable)?;
    if !kept {
        demo.show_logs()?;
    }
    Ok(if kept { 0 } else { BROKEN_PROMISE })
}

async fn set_up(
    registry: &Registry,
    temporary: &TempDir,
    backend: Option<String>,
) -> Result<DemoSettings, Failure> {
    let directory = temporary.path().to_owned();
    let url = match backend {
        Some(url) => url,
        None => file_url(&directory.join("store"))?,
    };
    backend_file::warn_of_password_in_arguments(&url);
    // Told here, once, rather than by three candidates.
    let capabilities = registry.connect(&url).await?.capabilities();
    let store = registry.store_of(&url)?;
    if store.reach() == Reach::Process {
        return Err(Failure::new(format!(
            "{}: is no store for several processes; leave --backend out, or name another one",
            store.name()
        )));
    }
    let lease = LEASE.max(capabilities.min_lease);
    let granule = capabilities.lease_granularity.as_millis().max(1);
    let lease = lease.as_millis().div_ceil(granule) * granule;
    Ok(DemoSettings {
        url,
        lock: format!("tenure-demo-{:016x}", random_u64()?),
        lease: Duration::from_millis(u64::try_from(lease).unwrap_or(u64::MAX)),
        directory,
    })
}

fn file_url(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::new(format!("cannot tell the current directory: {error}")))?;
    let encoded = path.as_os_str().as_encoded_bytes().iter().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            char::from(*byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    Ok(format!("file://{}", encoded.collect::<String>()))
}

struct Demo {
    // Before the settings's directory goes, the candidates do.
    candidates: Vec<CandidateProcess>,
    readers: Vec<RecordReader>,
    terms: RecordedTerms,
    /// How many terms were told of.
    told: usize,
    timeline: Timeline,
    settings: DemoSettings,
}

impl Demo {
    fn start(settings: DemoSettings) -> Result<Self, Failure> {
        let timeline = Timeline::new(BootClock.now());
        let indices = 0..NAMES.len();
        let readers = indices
            .clone()
            .map(|index| RecordReader::new(index, settings.record(index)))
            .collect();
        let candidates = indices
            .map(|index| CandidateProcess::start(&settings, index))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            candidates,
            readers,
            terms: RecordedTerms::default(),
            told: 0,
            timeline,
            settings,
        })
    }

    fn say_what_comes(&self) -> Result<(), Failure> {
        let store = tenure::redact(&self.settings.url);
        let lease = humantime::format_duration(self.settings.lease);
        timeline::say(&format!(
            "Three candidates, each a `tenure run` with a command that records its work,\n\
                 compete for one lock on {store}, with a lease of {lease}.\n"
        ))
        .map_err(unprintable)
    }

    async fn play(&mut self) -> Result<(), Failure> {
        let first = self.next_leader().await?;
        self.calm().await?;
        let second = self.hand_over(&first).await?;
        self.calm().await?;
        let third = self.kill(&second).await?;
        self.calm().await?;
        self.freeze(&third).await?;
        self.calm().await
    }

    /// The leader is told to stop.
    async fn hand_over(&mut self, leader: &RecordedTerm) -> Result<RecordedTerm, Failure> {
        let index = leader.candidate;
        self.event(index, "gets SIGTERM: it stops its command, then hands over")?;
        self.candidates[index].signal(Signal::TERM)?;
        let next = self.next_leader().await?;
        self.restart(index).await?;
        Ok(next)
    }

    /// The leader is killed, and its command with it.
    async fn kill(&mut self, leader: &RecordedTerm) -> Result<RecordedTerm, Failure> {
        let index = leader.candidate;
        self.event(index, "gets kill -9: its command dies with it")?;
        self.candidates[index].signal(Signal::KILL)?;
        let next = self.next_leader().await?;
        self.restart(index).await?;
        Ok(next)
    }

    /// The leader and its command are stopped for longer than the lease, and continued.
    async fn freeze(&mut self, leader: &RecordedTerm) -> Result<(), Failure> {
        let index = leader.candidate;
        let campaigns = self.candidates[index].campaigns();
        let command = Pid::from_raw(leader.pid)
            .ok_or_else(|| Failure::new("the command's record holds no process"))?;
        self.event(index, "is frozen with SIGSTOP, and its command too")?;
        self.candidates[index].signal(Signal::STOP)?;
        signal_process(command, Signal::STOP)?;
        self.until("the guard kills the frozen command", |_| {
            is_dead(leader.pid)
        })
        .await?;
        self.event(index, "cannot renew: its guard kills the frozen command")?;
        self.next_leader().await?;
        self.calm().await?;
        self.event(index, "is continued with SIGCONT")?;
        self.candidates[index].signal(Signal::CONT)?;
        self.until("the candidate campaigns again", |demo| {
            demo.candidates[index].campaigns() > campaigns
        })
        .await?;
        self.event(
            index,
            "knows that its term is over, and waits like the others",
        )
    }

    async fn restart(&mut self, index: usize) -> Result<(), Failure> {
        self.until("the candidate ends", |demo| {
            !matches!(demo.candidates[index].ended(), Ok(None))
        })
        .await?;
        self.candidates[index] = CandidateProcess::start(&self.settings, index)?;
        self.event(index, "is started again, and waits")
    }

    /// Waits until the next one leads.
    async fn next_leader(&mut self) -> Result<RecordedTerm, Failure> {
        let known = self.terms.all().len();
        self.until("a candidate leads", |demo| demo.terms.all().len() > known)
            .await?;
        let leader = self.terms.latest().cloned();
        leader.ok_or_else(|| Failure::new("nobody leads"))
    }

    /// Lets the leader lead for a while.
    async fn calm(&mut self) -> Result<(), Failure> {
        let until = BootClock.now() + CALM;
        self.until("the time passes", |_| BootClock.now() >= until)
            .await
    }

    /// Tells what happens until `done`.
    async fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Failure> {
        let limit = LIMIT + self.settings.lease * 4;
        let deadline = BootClock.now() + limit;
        loop {
            self.follow()?;
            if done(self) {
                return Ok(());
            }
            if BootClock.now() >= deadline {
                return Err(Failure::new(format!(
                    "the demo waited {} until {what}, and gave up; see the candidates' logs above",
                    humantime::format_duration(limit)
                )));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Reads the records and tells what is new in them.
    fn follow(&mut self) -> Result<(), Failure> {
        for reader in &mut self.readers {
            reader
                .read_into(&mut self.terms)
                .map_err(|error| Failure::new(format!("cannot read a record: {error}")))?;
        }
        let terms = self.terms.all();
        for (index, term) in terms.iter().enumerate().skip(self.told) {
            let before = index.checked_sub(1).and_then(|before| terms.get(before));
            if let Some(before) = before.filter(|before| before.stopped) {
                self.timeline
                    .event(before.last, before.candidate, "its command has stopped")
                    .map_err(unprintable)?;
            }
            let gap = self.terms.leaderless_before(index);
            self.timeline
                .leads(term.first, term.candidate, term.token, gap)
                .map_err(unprintable)?;
        }
        self.told = terms.len();
        Ok(())
    }

    /// Ends the candidates as a service manager would, and reads what they recorded last.
    async fn stop_all(&mut self) -> Result<(), Failure> {
        // Those that wait go first, so that nobody takes over any more.
        let leader = self.terms.latest().map(|term| term.candidate);
        let mut order: Vec<usize> = (0..NAMES.len()).collect();
        order.sort_by_key(|index| Some(*index) == leader);
        for index in order {
            // One that has ended has nobody to tell.
            let _ended = self.candidates[index].signal(Signal::CONT);
            let _ended = self.candidates[index].signal(Signal::TERM);
            let stopped = self
                .until("the candidates end", |demo| {
                    !matches!(demo.candidates[index].ended(), Ok(None))
                })
                .await;
            if stopped.is_err() {
                break;
            }
        }
        self.candidates.drain(..).for_each(drop);
        self.follow()
    }

    fn event(&self, index: usize, text: &str) -> Result<(), Failure> {
        let now: Time = BootClock.now();
        self.timeline.event(now, index, text).map_err(unprintable)
    }

    /// For a demo that went wrong.
    fn show_logs(&self) -> Result<(), Failure> {
        for (index, name) in NAMES.iter().enumerate() {
            let log = self.settings.log_text(index);
            timeline::say(&format!("\n{name}'s log:\n{}", log.trim_end())).map_err(unprintable)?;
        }
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn unprintable(error: io::Error) -> Failure {
    Failure::new(format!("cannot write to standard output: {error}"))
}
