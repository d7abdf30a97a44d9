//! Private etcd clusters on loopback ports.

mod in_between;
pub mod metrics;
pub mod programs;
mod restore;

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use self::programs::Programs;
use crate::port::free_ports;
use crate::process::Process;
use crate::wait::wait_until;

/// A member; killed on drop.
#[derive(Debug)]
pub struct Member {
    /// Where clients connect.
    pub port: u16,
    arguments: Vec<String>,
    programs: Programs,
    process: Process,
}

impl Member {
    fn spawn(programs: &Programs, arguments: &[String]) -> Process {
        Process::start(programs.command("etcd").args(arguments))
    }

    /// The value of one of its arguments.
    fn argument(&self, name: &str) -> String {
        let flag = format!("--{name}=");
        let mut values = self
            .arguments
            .iter()
            .filter_map(|argument| argument.strip_prefix(&flag));
        values.next().unwrap().to_owned()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its data.
    pub fn restart(&mut self) {
        self.process = Self::spawn(&self.programs, &self.arguments);
    }

    /// Stops the process: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `127.0.0.1:12345`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A cluster of one member or more.
#[derive(Debug)]
pub struct Cluster {
    /// All of them.
    pub members: Vec<Member>,
    /// For `etcdctl`, beside the endpoint.
    pub flags: Vec<String>,
    /// What the members' data are in.
    pub dir: TempDir,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The release that the members run.
    pub programs: Programs,
}

/// One member. `None`: left out.
pub fn start() -> Option<Cluster> {
    start_with(1, &[])
}

/// So many members with more arguments, where `{port}` is the member's own. `None`: left out.
pub fn start_with(members: usize, more: &[&str]) -> Option<Cluster> {
    launch(members, more, "http", &[], tempfile::tempdir().unwrap())
}

/// One member of the newer release. `None`: left out.
pub fn start_newer() -> Option<Cluster> {
    start_newer_with(1, &[])
}

/// So many members of the newer release with more arguments. `None`: left out.
pub fn start_newer_with(members: usize, more: &[&str]) -> Option<Cluster> {
    let (programs, dir) = (Programs::newer()?, tempfile::tempdir().unwrap());
    Some(launch_of(programs, members, more, "http", &[], dir))
}

/// One member of the newer release whose revisions begin above this one: each later revision is
/// larger by one. `None`: left out.
pub fn start_newer_at(revision: u64) -> Option<Cluster> {
    let mut cluster = start_newer()?;
    cluster.ctl(&["put", "begin", ""]);
    cluster.restore_with_revisions_above(revision);
    Some(cluster)
}

/// The arguments of a member that listens for clients and peers on these URLs.
pub fn arguments(name: &str, data: &Path, client: &str, peer: &str, initial: &str) -> Vec<String> {
    let data = data.to_string_lossy();
    let flags = [
        ("name", name),
        ("data-dir", &data),
        ("listen-client-urls", client),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", initial),
    ];
    let flags = flags
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"));
    flags.collect()
}

const QUIET: [&str; 2] = ["--logger=zap", "--log-level=error"];

/// The members listen on `scheme`; `flags` are what `etcdctl` needs to talk to them.
pub fn launch(
    count: usize,
    more: &[&str],
    scheme: &'static str,
    flags: &[String],
    dir: TempDir,
) -> Option<Cluster> {
    let programs = Programs::of_environment()?;
    Some(launch_of(programs, count, more, scheme, flags, dir))
}

fn launch_of(
    programs: Programs,
    count: usize,
    more: &[&str],
    scheme: &'static str,
    flags: &[String],
    dir: TempDir,
) -> Cluster {
    let ports: Vec<[u16; 2]> = (0..count).map(|_| free_ports()).collect();
    let initial: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, [_, peer])| format!("m{number}=http://127.0.0.1:{peer}"))
        .collect();
    let initial = initial.join(",");
    let mut members = Vec::new();
    for (number, [port, peer]) in ports.into_iter().enumerate() {
        let name = format!("m{number}");
        let client = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut arguments = arguments(&name, &dir.path().join(&name), &client, &peer, &initial);
        arguments.extend(QUIET.map(str::to_owned));
        let own = port.to_string();
        arguments.extend(more.iter().map(|text| text.replace("{port}", &own)));
        members.push(Member {
            port,
            process: Member::spawn(&programs, &arguments),
            programs: programs.clone(),
            arguments,
        });
    }
    let cluster = Cluster {
        members,
        flags: flags.to_vec(),
        dir,
        scheme,
        programs,
    };
    cluster.wait();
    cluster
}

impl Cluster {
    /// Waits until each member answers.
    pub fn wait(&self) {
        for number in 0..self.members.len() {
            self.wait_for(number);
        }
    }

    /// Waits until a member answers a linearizable read, so that there is a leader.
    pub fn wait_for(&self, number: usize) {
        wait_until(&format!("member {number} answers"), || {
            self.try_ctl_at(number, &["get", "-"]).status.success()
        });
    }

    /// `etcd://127.0.0.1:12345,127.0.0.1:12346`
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(Member::address).collect();
        format!("etcd://{}", hosts.join(","))
    }

    /// `etcdctl` at a member.
    pub fn ctl_command(&self, number: usize) -> Command {
        let mut command = self.programs.command("etcdctl");
        let address = self.members[number].address();
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}://{address}", self.scheme))
            .args(&self.flags)
            .stdin(std::process::Stdio::null());
        command
    }

    /// What `etcdctl` says at a member, with or without success.
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
        let mut leader = None;
        wait_until("there is a raft leader", || {
            leader = (0..self.members.len()).find(|number| self.is_raft_leader(*number));
            leader.is_some()
        });
        leader.unwrap()
    }

    fn is_raft_leader(&self, number: usize) -> bool {
        let output = self.try_ctl_at(number, &["endpoint", "status", "-w", "json"]);
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return false;
        };
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
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
