//! A store that frees the lock as soon as the leader's connection is closed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};
use support::{Place, Running, cgroup, is_alive, until, until_dead};
use tenure_testkit::line::Line;
use tenure_testkit::postgres;

/// Processes that get no time. A stop would not do: the kernel ends it when their parent dies.
struct Frozen(PathBuf);

impl Frozen {
    fn new(ours: &Path, processes: [Pid; 2]) -> Self {
        let directory = ours.join(format!("frozen-{}", processes[0]));
        fs::create_dir(&directory).unwrap();
        let frozen = Self(directory);
        for process in processes {
            fs::write(frozen.0.join("cgroup.procs"), process.to_string()).unwrap();
        }
        frozen.set("1");
        frozen
    }

    fn set(&self, frozen: &str) {
        fs::write(self.0.join("cgroup.freeze"), frozen).unwrap();
        until("the processes are frozen, or not", || {
            let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap();
            events.contains(&format!("frozen {frozen}"))
        });
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _thawed = fs::write(self.0.join("cgroup.freeze"), "0");
        until("the cgroup is removed", || fs::remove_dir(&self.0).is_ok());
    }
}

/// Kills `tenure` while what is to kill the command has no time, as on a busy host, and looks
/// whether another leads beside the command.
fn kill_on_a_busy_host(place: &Place, leader: &mut Running, ours: &Path) {
    let child = place.pid("child");
    let frozen = Frozen::new(ours, [leader.guard(), leader.subreaper()]);
    leader.signal(Signal::KILL);
    leader.code();
    // Far less than the lease, and far more than the server takes to see a closed connection.
    let mut next = Running::start(&mut place.run(&["--policy", "default", "--wait", "3s"], ":"));
    assert_eq!(next.code(), 69, "it was elected beside the command");
    assert!(is_alive(child));
    frozen.set("0");
    until_dead(child);
    let mut next = Running::start(&mut place.run(&["--policy", "default"], ":"));
    assert_eq!(next.code(), 0);
}

/// The TCP connections that a process holds, some of them more than once.
fn connections(process: Pid) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let inodes = all
        .lines()
        .filter_map(|line| line.split_whitespace().nth(9));
    let all: HashSet<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = open
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok());
    links
        .filter_map(|link| link.to_str().map(str::to_owned))
        .filter(|link| all.contains(link))
        .collect()
}

/// The sessions that hold an advisory lock.
fn holders(server: &postgres::Server) -> HashSet<i32> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let admin = server.admin().await;
        let held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";
        let rows = admin.query(held, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    })
}

#[test]
fn nobody_leads_on_postgres_before_the_killed_leaders_command_is_dead() {
    let (Some(ours), Some(server)) = (cgroup(), postgres::start(&[])) else {
        return;
    };
    let place = Place::on(&server.url());
    let options = ["--policy", "default", "--no-cgroup"];
    let script = "echo $$ > child; ls -l /proc/$$/fd > open; exec sleep 1000";
    let mut leader = place.start(&options, script);
    place.pid("child");
    kill_on_a_busy_host(&place, &mut leader, &ours);
    let open = place.read("open");
    assert!(
        !open.contains("socket:"),
        "the command has a connection: {open}"
    );
}

/// The leader's session has moved to another connection, because its own had fallen silent.
#[test]
fn nobody_leads_on_postgres_beside_the_command_of_a_killed_leader_whose_session_has_moved() {
    let (Some(ours), Some(server)) = (cgroup(), postgres::start(&[])) else {
        return;
    };
    let place = Place::on(&server.url());
    let line = Line::start(server.address());
    let options = ["--lease", "60s", "--heartbeat", "2s", "--no-cgroup"];
    let mut run = place.run(&options, "echo $$ > child; exec sleep 1000");
    let by_line = postgres::url_at(line.address().port());
    let mut leader = Running::start(run.env("TENURE_BACKEND", by_line));
    place.pid("child");
    let (before, first) = (holders(&server), connections(leader.pid()));
    line.silence();
    until("a heartbeat is lost", || line.lost() > 0);
    line.restore();
    until("the session has moved", || {
        let holders = holders(&server);
        !holders.is_empty() && holders.is_disjoint(&before)
    });
    let helpers = [leader.guard(), leader.subreaper()];
    // And none that the engine has closed: its other end would not hear of that.
    until("the helpers hold its connections of now, each once", || {
        let all: HashSet<String> = connections(leader.pid()).into_iter().collect();
        let hold_all = |it: &Pid| {
            let held = connections(*it);
            held.len() == all.len() && held.iter().all(|it| all.contains(it))
        };
        !first.iter().all(|it| all.contains(it)) && helpers.iter().all(hold_all)
    });
    kill_on_a_busy_host(&place, &mut leader, &ours);
}
