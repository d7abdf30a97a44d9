//! The service is built for one store after the other, from the same source, and elects on the
//! real one: a directory, and the servers whose URLs `TENURE_TEST_STORES` lists, as
//! `cargo xtask test` sets it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

const FEATURES: [&str; 6] = [
    "file",
    "etcd",
    "redis",
    "postgres",
    "kube-lease",
    "kube-configmap",
];

#[test]
fn the_source_names_no_store() {
    let source = include_str!("../src/main.rs");
    for feature in FEATURES {
        assert!(!source.contains(feature), "{feature}");
    }
    assert!(!source.contains("cfg"));
}

#[test]
fn one_source_elects_hands_over_and_fails_over_on_each_store() {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = vec![format!(
        "file://{}",
        directory.path().join("store").display()
    )];
    match std::env::var("TENURE_TEST_STORES") {
        Ok(servers) => urls.extend(servers.split_whitespace().map(str::to_owned)),
        Err(_) => println!("LEFT OUT: TENURE_TEST_STORES is not set, so no server takes part"),
    }
    // Built one after the other, because they share a target folder; run all at once.
    let stores = urls.into_iter().map(|url| {
        let (feature, _) = url.split_once(':').unwrap();
        let program = directory.path().join(feature);
        build(feature, &program);
        let url = patient(feature, &url);
        thread::spawn(move || elect(&program, &url))
    });
    for store in stores.collect::<Vec<_>>() {
        store.join().unwrap();
    }
}

/// A busy machine is no reason to give up connecting.
fn patient(feature: &str, url: &str) -> String {
    if !matches!(feature, "etcd" | "redis" | "postgres") {
        return url.to_owned();
    }
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}connect_timeout=60s")
}

/// Builds the service with this feature alone.
fn build(feature: &str, program: &Path) {
    assert!(FEATURES.contains(&feature), "{feature}");
    let built = PathBuf::from(env!("CARGO_BIN_EXE_swap"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--no-default-features",
            "--features",
            feature,
        ])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .arg("--target-dir")
        .arg(built.ancestors().nth(2).unwrap());
    // Those of the package under test would confuse the build scripts of others.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    assert!(cargo.status().unwrap().success(), "not built for {feature}");
    // The next build puts another one there.
    std::fs::copy(&built, program).unwrap();
}

fn elect(program: &Path, url: &str) {
    let feature = program.file_name().unwrap().to_string_lossy();
    let lock = format!("swap-{}", std::process::id());
    let start = |name| Instance::start(program, url, &lock, name);

    let mut alice = start("alice");
    let first = alice.leads();
    let mut bob = start("bob");
    assert!(bob.said_no_more(), "{feature}: a second one leads");

    // A hand-over: the work has stopped before the other one's begins.
    alice.signal(Signal::TERM);
    assert_eq!(alice.line(), "has stopped", "{feature}");
    let second = bob.leads();
    assert_eq!(alice.line(), "leaves", "{feature}");
    assert!(alice.child.wait().unwrap().success(), "{feature}");
    assert!(second > first, "{feature}: {second} after {first}");

    // A failover: it says nothing more.
    let carol = start("carol");
    assert!(carol.said_no_more(), "{feature}: a second one leads");
    bob.signal(Signal::KILL);
    let third = carol.leads();
    assert!(bob.ended_in_silence(), "{feature}");
    assert!(third > second, "{feature}: {third} after {second}");
    println!("{feature}: tokens {first}, {second} after a hand-over, {third} after a kill -9");
}

/// A process of the service; killed when the test ends, also when it fails.
struct Instance {
    child: Child,
    lines: Receiver<String>,
}

impl Instance {
    /// One that campaigns.
    fn start(program: &Path, url: &str, lock: &str, name: &str) -> Self {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("TENURE_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .env("TENURE_BACKEND", url)
            .env("TENURE_LOCK", lock)
            .env("TENURE_IDENTITY", name)
            .env("TENURE_POLICY", "fast")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test may not want to know any more.
                let _ = sender.send(line);
            }
        });
        let instance = Self { child, lines };
        assert_eq!(instance.line(), "campaigns");
        instance
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    /// Its token, once it leads.
    fn leads(&self) -> u64 {
        let line = self.line();
        let token = line.strip_prefix("leads under token ");
        token.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    }

    fn said_no_more(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended_in_silence(&mut self) -> bool {
        self.child.wait().unwrap();
        self.lines.recv_timeout(LIMIT).is_err()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have ended before.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
