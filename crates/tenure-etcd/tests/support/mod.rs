//! Private etcd clusters on loopback ports, for one test each.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part; a failed unwrap is a failed test"
)]

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tenure_core::{Acquired, CampaignId, Candidate, Grant, Identity, LockName, Renewal};
use tenure_etcd::etcd_client::Client;
use tenure_etcd::{EtcdBackend, EtcdConfig};

/// How long anything may take before the test has failed.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// Where the programs are; `None`, and a line that says so, where there are none.
pub fn program(name: &str) -> Option<PathBuf> {
    let found = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|file| file.is_file())
    });
    if found.is_none() {
        let left_out = format!("LEFT OUT: no {name} on PATH");
        assert!(env::var_os("TENURE_TEST_STRICT").is_none(), "{left_out}");
        eprintln!("{left_out}");
    }
    found
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A member; killed on drop.
pub struct Member {
    pub port: u16,
    arguments: Vec<String>,
    child: Child,
}

impl Member {
    fn spawn(arguments: &[String]) -> Child {
        Command::new(program("etcd").unwrap())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its data.
    pub fn restart(&mut self) {
        self.child = Self::spawn(&self.arguments);
    }

    /// Stops the process: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        signal("-STOP", self.child.id());
    }

    pub fn thaw(&self) {
        signal("-CONT", self.child.id());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

pub fn signal(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

impl Drop for Member {
    fn drop(&mut self) {
        // May have been killed by the test.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A cluster of one member or more.
pub struct Cluster {
    pub members: Vec<Member>,
    /// For `etcdctl`, beside the endpoint.
    pub flags: Vec<String>,
    pub dir: TempDir,
    pub scheme: &'static str,
}

/// One member. `None`: left out.
pub fn start() -> Option<Cluster> {
    start_with(1, &[])
}

/// So many members with more arguments. `None`: left out.
pub fn start_with(members: usize, more: &[&str]) -> Option<Cluster> {
    let cluster = launch(members, more, "http", &[], tempfile::tempdir().unwrap())?;
    Some(cluster)
}

/// The members listen on `scheme`; `flags` are what `etcdctl` needs to talk to them.
pub fn launch(
    count: usize,
    more: &[&str],
    scheme: &'static str,
    flags: &[String],
    dir: TempDir,
) -> Option<Cluster> {
    program("etcd")?;
    program("etcdctl")?;
    let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
    let initial: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("m{number}=http://127.0.0.1:{peer}"))
        .collect();
    let initial = initial.join(",");
    let mut members = Vec::new();
    for (number, (port, peer)) in ports.iter().enumerate() {
        let client = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer}");
        let data = dir.path().join(format!("m{number}"));
        let mut arguments: Vec<String> = [
            "--name",
            &format!("m{number}"),
            "--data-dir",
            data.to_str().unwrap(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &initial,
            "--logger",
            "zap",
            "--log-level",
            "error",
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        members.push(Member {
            port: *port,
            child: Member::spawn(&arguments),
            arguments,
        });
    }
    let cluster = Cluster {
        members,
        flags: flags.to_vec(),
        dir,
        scheme,
    };
    cluster.wait();
    Some(cluster)
}

impl Cluster {
    /// Waits until each member answers.
    pub fn wait(&self) {
        for number in 0..self.members.len() {
            self.wait_for(number);
        }
    }

    pub fn wait_for(&self, number: usize) {
        let start = Instant::now();
        // A linearizable read, so that there is a leader.
        while !self.try_ctl_at(number, &["get", "-"]).status.success() {
            assert!(start.elapsed() < LIMIT, "member {number} does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(Member::address).collect();
        format!("etcd://{}", hosts.join(","))
    }

    pub fn config(&self) -> EtcdConfig {
        EtcdConfig::from_url(&self.url()).unwrap()
    }

    pub async fn connect(&self) -> EtcdBackend {
        EtcdBackend::connect(self.config()).await.unwrap()
    }

    /// The client library itself, for what no backend would do.
    pub async fn client(&self) -> Client {
        Client::connect([self.members[0].address()], None)
            .await
            .unwrap()
    }

    pub fn ctl_command(&self, number: usize) -> Command {
        let mut command = Command::new(program("etcdctl").unwrap());
        command.env("ETCDCTL_API", "3").arg(format!(
            "--endpoints={}://{}",
            self.scheme,
            self.members[number].address()
        ));
        command.args(&self.flags).stdin(Stdio::null());
        command
    }

    pub fn try_ctl_at(&self, number: usize, arguments: &[&str]) -> Output {
        let mut command = self.ctl_command(number);
        command.args(arguments).output().unwrap()
    }

    /// What `etcdctl` prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.ctl_command(0);
        // On a busy machine its own 2 and 5 s can be too short.
        command.args(["--dial-timeout=60s", "--command-timeout=60s"]);
        let output = command.args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The number of the member that is raft's leader.
    pub fn raft_leader(&self) -> usize {
        let start = Instant::now();
        loop {
            for number in 0..self.members.len() {
                let output = self.try_ctl_at(number, &["endpoint", "status", "-w", "json"]);
                let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
                    continue;
                };
                let status = &status[0]["Status"];
                if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                    return number;
                }
            }
            assert!(start.elapsed() < LIMIT, "there is no raft leader");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The keys of an election, in the order of their creation.
    pub fn queue(&self, election: &str) -> Vec<String> {
        let text = self.ctl(&[
            "get",
            "--prefix",
            "--keys-only",
            "--sort-by=CREATE",
            &format!("{election}/"),
        ]);
        let keys = text.lines().filter(|line| !line.is_empty());
        keys.map(str::to_owned).collect()
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(LIMIT, future).await;
    outcome.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

pub fn candidate(identity: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(identity).unwrap(), CampaignId::new(campaign))
}

pub fn held(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Held(grant) => grant,
        Acquired::Taken { holder, free_in } => panic!("taken by {holder:?} for {free_in:?}"),
    }
}

pub fn is_taken(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Taken { .. })
}

pub fn renewed(renewal: Renewal) -> Grant {
    match renewal {
        Renewal::Renewed(grant) => grant,
        Renewal::Lost { holder } => panic!("lost to {holder:?}"),
    }
}

pub fn is_lost(renewal: &Renewal) -> bool {
    matches!(renewal, Renewal::Lost { .. })
}
