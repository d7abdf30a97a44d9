//! Real replicas, and a leader that is killed in the middle of a round: on a directory, and on
//! the servers whose URLs `TENURE_TEST_STORES` lists, as `cargo xtask test` sets it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tenure::{LockName, Occupancy};
use tokio::time::{Instant, sleep};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Killed when the test ends, also when it fails.
struct Process {
    child: Child,
    _out: BufReader<ChildStdout>,
    line: String,
}

impl Process {
    /// A process that has printed a line.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        Self {
            child,
            _out: out,
            line: line.trim().to_owned(),
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed before.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn config_sync() -> Command {
    Command::new(env!("CARGO_BIN_EXE_config-sync"))
}

struct Fleet {
    http: Client,
    central: Process,
    replicas: Vec<Process>,
    directory: TempDir,
    backend: String,
    lock: LockName,
}

impl Fleet {
    fn start(backend: &str) -> Self {
        let lock = format!("config-sync-{}", std::process::id());
        let mut fleet = Self {
            http: Client::new(),
            central: Process::start(config_sync().args(["central", "--listen", "127.0.0.1:0"])),
            replicas: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
            backend: backend.to_owned(),
            lock: LockName::new(lock).unwrap(),
        };
        fleet.replicas = NAMES.iter().map(|name| fleet.replica(name)).collect();
        fleet
    }

    fn replica(&self, name: &str) -> Process {
        Process::start(
            config_sync()
                .args(["replica", "--listen", "127.0.0.1:0", "--name", name])
                .args(["--central", &self.central()])
                .arg("--directory")
                .arg(self.directory(name))
                .args(["--backend", &self.backend, "--lock", self.lock.as_str()]),
        )
    }

    fn central(&self) -> String {
        format!("http://{}", self.central.line)
    }

    fn directory(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    async fn publish(&self, content: &str) -> Value {
        let url = format!("{}/config", self.central());
        let answer = self.http.put(url).body(content.to_owned()).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// What a replica has applied; `None` while it is down.
    async fn applied(&self, index: usize) -> Option<Value> {
        let url = format!("http://{}/config", self.replicas[index].line);
        let answer = self.http.get(url).send().await.ok()?;
        answer.json().await.ok()
    }

    async fn have(&self, newest: &Value) -> Vec<bool> {
        let mut have = Vec::new();
        for index in 0..NAMES.len() {
            let applied = self.applied(index).await;
            have.push(applied.is_some_and(|applied| applied["config"] == *newest));
        }
        have
    }

    async fn until(&self, what: &str, newest: &Value, enough: impl Fn(&[bool]) -> bool) {
        let start = Instant::now();
        loop {
            let have = self.have(newest).await;
            if enough(&have) {
                return;
            }
            assert!(
                start.elapsed() < LIMIT,
                "{}: waited in vain until {what}: {have:?}",
                self.backend
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Which replica leads.
    async fn leader(&self) -> usize {
        let store = tenure::connect(&self.backend).await.unwrap();
        let start = Instant::now();
        loop {
            let occupancy = store.holder(&self.lock).await.unwrap();
            let (Occupancy::Led(holder) | Occupancy::Unknown(holder)) = occupancy else {
                assert!(start.elapsed() < LIMIT, "nobody leads");
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            return NAMES.iter().position(|n| *n == holder.identity).unwrap();
        }
    }
}

/// A replica that cannot connect ends, and a busy machine may need more than two seconds for it.
fn with_time_to_connect(url: &str) -> String {
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}connect_timeout=60s")
}

/// What a replica has on disk: whole, whenever it was killed.
fn on_disk(directory: &Path) -> Value {
    let text = std::fs::read(directory.join("config.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_midway_leaves_nothing_inconsistent() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = vec![format!("file://{}", directory.path().display())];
    match std::env::var("TENURE_TEST_STORES") {
        Ok(servers) => stores.extend(servers.split_whitespace().map(with_time_to_connect)),
        Err(_) => println!("LEFT OUT: TENURE_TEST_STORES is not set, so no server takes part"),
    }
    let fleets = stores
        .into_iter()
        .map(|store| tokio::spawn(kill_one(store)));
    for fleet in fleets.collect::<Vec<_>>() {
        fleet.await.unwrap();
    }
}

async fn kill_one(backend: String) {
    let mut fleet = Fleet::start(&backend);
    let first = fleet.publish("timeout = 5").await;
    fleet
        .until("all have the first", &first, |have| !have.contains(&false))
        .await;

    // Killed when some have the second and some have not.
    let leader = fleet.leader().await;
    let second = fleet.publish("timeout = 7").await;
    fleet
        .until("one has the second", &second, |have| have.contains(&true))
        .await;
    fleet.replicas[leader].kill();
    let config = &on_disk(&fleet.directory(NAMES[leader]))["config"];
    assert!(*config == first || *config == second, "{config}");
    let others = |have: &[bool]| (0..NAMES.len()).all(|i| i == leader || have[i]);
    fleet
        .until("the others have the second", &second, others)
        .await;

    // It comes back, and catches up.
    let again = fleet.replica(NAMES[leader]);
    fleet.replicas[leader] = again;
    let third = fleet.publish("timeout = 9").await;
    fleet
        .until("all have the third", &third, |have| !have.contains(&false))
        .await;

    // What a leader of before sends late is refused, and changes nothing.
    for (index, name) in NAMES.iter().enumerate() {
        let applied = fleet.applied(index).await.unwrap();
        let token = applied["token"].as_u64().unwrap();
        let late = json!({ "token": token - 1, "config": first });
        let url = format!("http://{}/config", fleet.replicas[index].line);
        let answer = fleet.http.put(url).json(&late).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        assert_eq!(fleet.applied(index).await.unwrap(), applied);
        assert_eq!(on_disk(&fleet.directory(name)), applied);
    }
}
