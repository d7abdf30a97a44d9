//! Real processes of the binary, and waiting for what they do.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tenure_testkit::process::{self, stat};
pub(crate) use tenure_testkit::wait_until as until;

/// A lease that no test lives to see the end of: what happens anyway does not wait for it.
pub(crate) const ENDLESS: &str = "1h";

/// The binary, without any setting from outside, and no signal ignored.
pub(crate) fn tenure() -> Command {
    let mut command = Command::new("env");
    command
        .arg("--default-signal")
        .arg(env!("CARGO_BIN_EXE_tenure"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("TENURE_") || name_text == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A directory with a store, and files by which the processes of a test tell what they do.
pub(crate) struct Place {
    directory: TempDir,
    /// The store's URL, where it is none in this directory.
    url: Option<String>,
    lock: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            url: None,
            lock: "job".to_owned(),
        }
    }

    /// With another store, and a lock that no earlier run has used there.
    pub(crate) fn on(url: &str) -> Self {
        Self {
            url: Some(url.to_owned()),
            lock: format!("job-{}", std::process::id()),
            ..Self::new()
        }
    }

    pub(crate) fn lock(&self) -> &str {
        &self.lock
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        format!("file://{}", self.path("store").display())
    }

    /// `tenure <command>` on this store and lock.
    pub(crate) fn tenure(&self, command: &str) -> Command {
        let mut tenure = tenure();
        tenure.arg(command);
        match &self.url {
            // It may hold a password, which is warned of in arguments.
            Some(url) => tenure.env("TENURE_BACKEND", url),
            None => tenure.args(["--backend", &self.url()]),
        };
        tenure
            .args(["--lock", &self.lock])
            .current_dir(self.directory.path());
        tenure
    }

    /// `tenure run`, whose command is a shell script that runs in this directory.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Command {
        let mut run = self.tenure("run");
        run.args(options).args(["--", "sh", "-c", script]);
        run
    }

    pub(crate) fn start(&self, options: &[&str], script: &str) -> Running {
        Running::start(&mut self.run(options, script))
    }

    /// Like [`start`](Self::start), with the log in a file of this name.
    pub(crate) fn start_logged(&self, options: &[&str], script: &str, log: &str) -> Running {
        let log = fs::File::create(self.path(log)).unwrap();
        let mut run = self.run(options, script);
        Running::start(run.env("TENURE_LOG", "info").stderr(log))
    }

    /// The content of a file, once it is there with a whole line.
    pub(crate) fn line(&self, name: &str) -> String {
        let mut content = String::new();
        until(&format!("{name} is written"), || {
            content = self.read(name);
            content.ends_with('\n')
        });
        content.trim_end().to_owned()
    }

    /// The process number in a file, once it is there.
    pub(crate) fn pid(&self, name: &str) -> Pid {
        pid(self.line(name).parse().unwrap())
    }

    /// What is in a file so far.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The store, before its first candidate makes it: who looks at one makes nothing.
    pub(crate) fn make_store(&self) {
        use std::os::unix::fs::DirBuilderExt as _;

        // As the first candidate makes it: its owner's alone.
        let mut private = fs::DirBuilder::new();
        let made = private
            .recursive(true)
            .mode(0o700)
            .create(self.path("store"));
        made.unwrap();
    }

    pub(crate) fn status(&self) -> Value {
        self.make_store();
        let output = self.tenure("status").arg("--json").output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn assert_free(&self) {
        assert_eq!(self.status()["state"], "free");
    }

    pub(crate) fn until_led_by(&self, identity: &str) {
        until(&format!("{identity} leads"), || {
            self.status()["leader"] == identity
        });
    }
}

pub(crate) fn pid(number: i32) -> Pid {
    Pid::from_raw(number).unwrap()
}

/// A process that does not outlive the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// The exit code, once it has ended; 128 and the signal when one killed it.
    pub(crate) fn code(&mut self) -> i32 {
        let mut status = None;
        until("the process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .unwrap()
    }

    /// The guard of a `tenure run`, once there is one.
    pub(crate) fn guard(&self) -> Pid {
        self.helper("__guard")
    }

    /// The subreaper of its command, once there is one.
    pub(crate) fn subreaper(&self) -> Pid {
        self.helper("__subreaper")
    }

    fn helper(&self, name: &str) -> Pid {
        helper_of(self.pid(), name)
    }
}

/// A helper of a `tenure run`: one helper may have started the other.
pub(crate) fn helper_of(tenure: Pid, name: &str) -> Pid {
    let is_called = |it: &Pid| command_line(*it).contains(name) && is_alive(*it);
    let mut found = None;
    until(&format!("there is a {name}"), || {
        let below = children(tenure);
        let further: Vec<Pid> = below.iter().flat_map(|it| children(*it)).collect();
        found = below.into_iter().chain(further).find(is_called);
        found.is_some()
    });
    found.unwrap()
}

/// A child whose command line holds this, once there is one.
pub(crate) fn child_called(parent: Pid, name: &str) -> Pid {
    let mut found = None;
    until(&format!("there is a {name}"), || {
        found = children(parent)
            .into_iter()
            .find(|child| command_line(*child).contains(name) && is_alive(*child));
        found.is_some()
    });
    found.unwrap()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The child that has this number where it runs, which may be a PID namespace.
pub(crate) fn child_numbered(parent: Pid, number: &str) -> Pid {
    let has_number = |child: &Pid| {
        let status = fs::read_to_string(folder_of(*child).join("status")).unwrap_or_default();
        let mut lines = status.lines();
        let numbers = lines.find_map(|line| line.strip_prefix("NSpid:"));
        numbers.and_then(|all| all.split_whitespace().last()) == Some(number)
    };
    let found = children(parent).into_iter().find(has_number);
    found.unwrap()
}

fn number(process: Pid) -> u32 {
    process.as_raw_nonzero().get().unsigned_abs()
}

fn folder_of(process: Pid) -> PathBuf {
    Path::new("/proc").join(process.to_string())
}

fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|child| stat(&folder_of(*child)).is_some_and(|(_, of)| of == number(parent)))
        .collect()
}

pub(crate) fn command_line(process: Pid) -> String {
    let bytes = fs::read(folder_of(process).join("cmdline"));
    String::from_utf8_lossy(&bytes.unwrap_or_default()).replace('\0', " ")
}

pub(crate) fn is_alive(process: Pid) -> bool {
    process::is_alive(number(process))
}

pub(crate) fn until_dead(process: Pid) {
    process::until_dead(number(process));
}

pub(crate) fn stop(process: Pid) {
    process::freeze(number(process));
}

/// Where the kernel shows the cgroups of this process, if one can be made there.
pub(crate) fn cgroup() -> Option<PathBuf> {
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = ours.lines().find_map(|line| line.strip_prefix("0::/"));
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let found = path.and_then(|path| {
        let below = |mount: &&str| Path::new(mount).join("cgroup.procs").exists();
        Some(Path::new(mounts.iter().find(|mount| below(mount))?).join(path))
    });
    let trial = found
        .as_ref()
        // Tests of one process look at the same moment.
        .map(|it| it.join(format!("try-{}-{}", std::process::id(), free_number())));
    let works = trial.is_some_and(|trial| {
        let works = fs::create_dir(&trial).is_ok() && trial.join("cgroup.kill").exists();
        let _made = fs::remove_dir(&trial);
        works
    });
    if !works {
        tenure_testkit::environment::left_out("no cgroup can be made here");
        return None;
    }
    found
}

/// Which no other call has.
fn free_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn has_cgroups() -> bool {
    cgroup().is_some()
}

/// Without what is told of commands that tests beside this one have left behind.
pub(crate) fn stderr(output: &Output) -> String {
    let all = String::from_utf8(output.stderr.clone()).unwrap();
    let own = all
        .split_inclusive('\n')
        .filter(|line| !line.contains("left behind"));
    own.collect()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
