//! The candidates' processes.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use tenure_testkit::process::Process;
use tenure_testkit::wall_clock::WallClock;

use crate::candidate::{Broken, URL};
use crate::stores::LOCK;

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
    /// What is wrong with them.
    pub broken: Broken,
    /// Whether each has a wall clock of its own.
    pub clocks: bool,
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
        let mut command = Command::new(program);
        command
            .env(URL, &self.urls[number])
            .arg("--history")
            .arg(&setup.history)
            .arg("--register")
            .arg(&setup.register)
            .args(["--lock", LOCK, "--id", &format!("candidate-{number}")])
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
        let bytes = std::fs::read(self.setup.history.join(pid.to_string()))?;
        let lines = crate::history::parse(&String::from_utf8_lossy(&bytes))?;
        let jumps = lines.iter().filter(|line| line.event == "wall-clock");
        Ok(jumps.filter_map(|line| line.rest.parse().ok()).collect())
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

    /// Asks all to end and waits until they have.
    pub fn stop(&mut self) {
        let running = self.processes.iter_mut();
        for process in running.filter_map(|p| (!p.has_ended()).then_some(p)) {
            process.signal("TERM");
        }
        self.processes.iter_mut().for_each(Process::wait);
    }
}
