//! Processes that do not outlive a test.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::wait::{LIMIT, wait_until};

/// A process; killed on drop.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it without input and without output.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::of(command.stderr(Stdio::null()))
    }

    /// Starts it with the input and output that the command says.
    pub fn of(command: &mut Command) -> Self {
        let started = command.spawn();
        Self(started.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself or by a signal.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) {
        self.0.wait().unwrap();
    }

    /// Kills it as a crash would, and waits until none of its threads does anything.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Sends a signal by its name: `TERM`.
    pub fn signal(&self, name: &str) {
        signal(name, self.pid());
    }

    /// Stops it as SIGSTOP does, and waits until it stands still: connections stay open, and
    /// nothing answers.
    pub fn freeze(&self) {
        freeze(self.pid());
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal("CONT");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The test may have killed it.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Sends a signal by its name: `TERM`.
pub fn signal(name: &str, pid: u32) {
    let mut kill = Command::new("kill");
    let status = kill.args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.unwrap().success(), "{kill:?}");
}

/// Stops a process, and waits until it stands still. The signal goes to one of its threads; until
/// that one has run, the others go on: on a busy machine for long enough to win a lock.
pub fn freeze(pid: u32) {
    signal("STOP", pid);
    until_stopped(pid);
}

/// Waits until all threads of a process are stopped.
pub fn until_stopped(pid: u32) {
    wait_until("the process is stopped", || {
        threads(pid).iter().all(|state| *state == 'T')
    });
}

/// Whether a process can still do anything; one that waits to be reaped cannot.
pub fn is_alive(pid: u32) -> bool {
    threads(pid).iter().any(|state| !matches!(state, 'Z' | 'X'))
}

/// Waits until a process can do nothing more.
pub fn until_dead(pid: u32) {
    wait_until("the process is dead", || !is_alive(pid));
}

/// The states of its threads; those that are gone have none.
fn threads(pid: u32) -> BTreeSet<char> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| Some(stat(&task.path())?.0))
        .collect()
}

/// The state and the parent of the process or thread in this folder of `/proc`.
pub fn stat(folder: &Path) -> Option<(char, u32)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // Behind the program's name, which may hold anything.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether this process is root: some servers refuse to run as it.
pub fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim() == "0"
}

/// Runs a command to its end. Panics with what it said when it fails.
pub fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {errors}");
}

/// This test binary again, as another process that runs one of its tests; killed on drop.
#[derive(Debug)]
pub struct Again {
    process: Process,
    lines: mpsc::Receiver<String>,
}

impl Again {
    /// Runs the test `role` with more in its environment.
    pub fn start(role: &str, environment: &[(&str, String)]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([role, "--exact", "--nocapture", "--test-threads=1"])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped());
        let mut process = Process::of(&mut command);
        let said = BufReader::new(process.0.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            for said in said.lines().map_while(Result::ok) {
                // The test has ended when there is no receiver.
                let _unheard = line.send(said);
            }
        });
        Self { process, lines }
    }

    /// Waits until the process says `word`; what follows it in its line.
    pub fn says(&mut self, word: &str) -> String {
        let start = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                // The harness may have begun the line with the test's name.
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(word) {
                        return rest.trim().to_owned();
                    }
                }
                Err(error) => panic!("the process does not say {word}: {error}"),
            }
        }
    }

    /// Stops it, and waits until it stands still.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Kills it, and waits until none of it is left that could do anything.
    pub fn kill(&self) {
        self.signal("KILL");
        until_dead(self.process.pid());
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}
