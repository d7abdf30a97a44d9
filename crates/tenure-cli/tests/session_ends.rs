//! A store that frees the lock as soon as the leader's connection is closed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};
use support::{Place, Running, cgroup, is_alive, until, until_dead};
use tenure_testkit::postgres;

/// Processes that get no time. A stop would not do: the kernel ends it when their parent dies.
struct Frozen(PathBuf);

impl Frozen {
    fn new(ours: &Path, processes: [Pid; 2]) -> Self {
        let directory = ours.join(format!("frozen-{}", std::process::id()));
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

/// `tenure` is killed, and what is to kill the command has no time: as on a busy host.
#[test]
fn nobody_leads_on_postgres_before_the_killed_leaders_command_is_dead() {
    let (Some(ours), Some(server)) = (cgroup(), postgres::start(&[])) else {
        return;
    };
    let place = Place::on(&server.url());
    let options = ["--policy", "default", "--no-cgroup"];
    let script = "echo $$ > child; ls -l /proc/$$/fd > open; exec sleep 1000";
    let mut leader = place.start(&options, script);
    let child = place.pid("child");
    let frozen = Frozen::new(&ours, [leader.guard(), leader.subreaper()]);
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
    let open = place.read("open");
    assert!(
        !open.contains("socket:"),
        "the command has a connection: {open}"
    );
}
