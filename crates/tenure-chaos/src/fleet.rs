//! The candidates' processes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use tenure_testkit::process::Process;
use tenure_testkit::wall_clock::WallClock;

use crate::candidate::{Broken, URL, starve};
use crate::history::{Line, Nanos, parse};
use crate::links::Links;
use crate::stores::LOCK;

/// How long a candidate may take to end.
const LIMIT: Duration = Duration::from_secs(30);

/// What candidates are started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The candidates' program, for each of them.
    pub programs: Vec<PathBuf>,
    /// The lease of each of them.
    pub leases: Vec<Duration>,
    /// Where they write their histories.
    pub history: PathBuf,
    /// Where they write what they have to say beside that.
    pub logs: PathBuf,
    /// The register's socket.
    pub register: PathBuf,
    /// The identity of all; each has one of its own if `None`.
    pub identity: Option<String>,
    /// What is wrong with them.
    pub broken: Broken,
    /// Whether each has a wall clock of its own.
    pub clocks: bool,
    /// The network namespace of each of them, if they have one.
    pub links: Option<Arc<Links>>,
}

/// All candidates.
#[derive(Debug)]
pub struct Fleet {
    setup: Setup,
    urls: Vec<String>,
    /// None, or one for each.
    clocks: Vec<WallClock>,
    processes: Vec<Process>,
}

impl Fleet {
    /// Starts a candidate for each of these URLs.
    pub fn start(setup: Setup, urls: Vec<String>) -> Result<Self> {
        let clocks = urls.iter().map_while(|_| WallClock::new());
        let mut fleet = Self {
            clocks: clocks
                .take(if setup.clocks { urls.len() } else { 0 })
                .collect(),
            setup,
            urls,
            processes: Vec::new(),
        };
        for number in 0..fleet.urls.len() {
            let process = fleet.spawn(number)?;
            fleet.processes.push(process);
        }
        Ok(fleet)
    }

    fn spawn(&self, number: usize) -> Result<Process> {
        let setup = &self.setup;
        let program = setup.programs.get(number).context("no program")?;
        let lease = setup.leases.get(number).context("no lease")?;
        let log = setup.logs.join(format!("candidate-{number}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let broken = setup.broken.to_possible_value();
        let own = || format!("candidate-{number}");
        let id = setup.identity.clone().unwrap_or_else(own);
        let mut command = match &setup.links {
            Some(links) => links.command(number, program),
            None => Command::new(program),
        };
        command
            .env(URL, &self.urls[number])
            .arg("--history")
            .arg(&setup.history)
            .arg("--register")
            .arg(&setup.register)
            .args(["--lock", LOCK, "--id", &id])
            .args(["--number", &number.to_string()])
            .args(["--lease", &lease.as_millis().to_string()])
            .args([
                "--broken",
                broken.as_ref().map_or("nothing", |b| b.get_name()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(clock) = self.clocks.get(number) {
            // A process that is started again begins with the right time.
            clock.set_ahead(0);
            command.envs(clock.environment());
        }
        Ok(Process::of(&mut command))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    /// Which candidate runs as this process.
    pub fn number_of(&self, pid: u32) -> Option<usize> {
        let mut pids = self.processes.iter().map(Process::pid);
        pids.position(|one| one == pid)
    }

    /// Sets a candidate's wall clock ahead.
    pub fn set_ahead(&self, number: usize, seconds: i64) -> Result<()> {
        let clock = self
            .clocks
            .get(number)
            .context("no wall clock of its own")?;
        clock.set_ahead(seconds);
        Ok(())
    }

    /// By how much the wall clock of a process has jumped, as it wrote down.
    pub fn jumps_of(&self, pid: u32) -> Result<Vec<i64>> {
        let lines = self.lines_of(pid)?;
        let jumps = lines.iter().filter(|line| line.event == "wall-clock");
        Ok(jumps.filter_map(|line| line.rest.parse().ok()).collect())
    }

    /// What a process has written down until now.
    fn lines_of(&self, pid: u32) -> Result<Vec<Line>> {
        let bytes = fs::read(self.setup.history.join(pid.to_string()))?;
        parse(&String::from_utf8_lossy(&bytes))
    }

    /// Asks a candidate to block its runtime for so long.
    pub fn starve(&self, number: usize, time: Duration) -> Result<()> {
        let file = starve::request(&self.setup.register, self.processes[number].pid());
        // It is whole when the candidate sees it.
        let part = file.with_extension("part");
        fs::write(&part, time.as_millis().to_string())?;
        Ok(fs::rename(part, file)?)
    }

    /// Whether a process has written down that something happened to it since then.
    pub fn has_written(&self, pid: u32, event: &str, since: Nanos) -> Result<bool> {
        let mut lines = self.lines_of(pid)?.into_iter();
        Ok(lines.any(|line| line.event == event && line.at >= since))
    }

    /// A candidate's process.
    pub fn process(&mut self, number: usize) -> &mut Process {
        &mut self.processes[number]
    }

    /// Starts a candidate again whose process has ended.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.processes[number] = self.spawn(number)?;
        Ok(())
    }

    /// Starts those again that have ended by themselves; returns which.
    pub fn restart_ended(&mut self) -> Result<Vec<usize>> {
        let all = 0..self.processes.len();
        let ended: Vec<usize> = all.filter(|n| self.processes[*n].has_ended()).collect();
        for number in &ended {
            self.restart(*number)?;
        }
        Ok(ended)
    }

    /// Asks all to end and waits until they have. One with a planted bug may not: it is killed.
    pub fn stop(&mut self) {
        let running = self.processes.iter_mut();
        for process in running.filter_map(|p| (!p.has_ended()).then_some(p)) {
            process.signal("TERM");
        }
        for process in &mut self.processes {
            if !ends_within(process, LIMIT) {
                process.kill();
            }
        }
    }
}

/// Waits until a process has ended; false when it takes longer.
pub fn ends_within(process: &mut Process, limit: Duration) -> bool {
    let start = Instant::now();
    while !process.has_ended() {
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
