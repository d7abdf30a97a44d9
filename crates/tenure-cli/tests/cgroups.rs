//! The command's own cgroup, where one can be made.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, kill_process};
use support::{ENDLESS, Place, Running, cgroup, is_alive, until_dead};

static MADE: AtomicU32 = AtomicU32::new(0);

/// Nobody's number.
const NOBODY: u32 = 65534;

/// A cgroup that an unprivileged user may use, as `systemd-run --user` makes it.
struct Delegated(PathBuf);

impl Delegated {
    fn new(ours: &Path) -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let directory = ours.join(format!("delegated-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn give_to_nobody(&self) {
        chown(&self.0, Some(NOBODY), Some(NOBODY)).unwrap();
        for entry in fs::read_dir(&self.0).unwrap() {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn made_in_it(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let directories = entries.filter(|it| it.file_type().unwrap().is_dir());
        directories.map(|it| it.path()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _empty = fs::write(self.0.join("cgroup.kill"), "1");
        support::until("the cgroup is removed", || {
            for inner in self.made_in_it() {
                let _made = fs::remove_dir(inner);
            }
            fs::remove_dir(&self.0).is_ok()
        });
    }
}

/// `run`, started in this cgroup.
fn within(cgroup: &Delegated, run: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "echo 0 > \"$0\"/cgroup.procs; exec \"$@\""])
        .arg(&cgroup.0)
        .arg(run.get_program())
        .args(run.get_args());
    shell
}

#[test]
fn the_command_has_a_cgroup_of_its_own_that_is_removed_with_the_term() {
    let Some(ours) = cgroup() else {
        return;
    };
    let place = Place::new();
    let delegated = Delegated::new(&ours);
    let script = "grep ^0:: /proc/self/cgroup > at; mkdir -p \"$C\"$(cut -d: -f3 at)/inner
        echo $$ > child; exec sleep 1000";
    let mut command = within(&delegated, &place.run(&["--lease", ENDLESS], script));
    let root = if Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/unified"
    };
    let mut run = Running::start(command.env("C", root).current_dir(place.path("")));
    let child = place.pid("child");
    let made = delegated.made_in_it();
    let [made] = &made[..] else {
        panic!("{made:?}");
    };
    let at = place.line("at");
    assert!(
        at.ends_with(made.file_name().unwrap().to_str().unwrap()),
        "{at}"
    );
    // Its helpers are not in it.
    let inside = fs::read_to_string(made.join("cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), child.to_string());
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 143);
    assert!(delegated.made_in_it().is_empty());
}

/// Whoever is killed, somebody is left to kill what the command has started, and to remove it.
#[test]
fn what_has_become_another_user_is_killed_too() {
    let Some(ours) = cgroup() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        tenure_testkit::environment::left_out("only root can make a program that becomes root");
        return;
    }
    for end in [Signal::TERM, Signal::KILL] {
        let place = Place::new();
        let delegated = Delegated::new(&ours);
        delegated.give_to_nobody();
        chown(place.path(""), Some(NOBODY), None).unwrap();
        fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        // It may become root, and then nobody may kill it.
        let perl = fs::read_link("/usr/bin/perl").unwrap_or_else(|_| "/usr/bin/perl".into());
        fs::copy(perl, place.path("become")).unwrap();
        fs::set_permissions(place.path("become"), PermissionsExt::from_mode(0o4755)).unwrap();
        let script = "./become -e '$< = $>; %ENV = (); exec \"/bin/sleep\", \"1000\"' &
            echo $! > root; wait";
        let run = place.run(&["--lease", ENDLESS], script);
        let mut as_nobody = Command::new("setpriv");
        as_nobody
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(run.get_program())
            .args(run.get_args());
        let mut command = within(&delegated, &as_nobody);
        let mut run = Running::start(command.current_dir(place.path("")));
        let root = place.pid("root");
        let owner = || fs::metadata(format!("/proc/{root}")).map_or(NOBODY, |it| it.uid());
        support::until("it is root", || {
            owner() == 0 && support::command_line(root).contains("sleep")
        });
        run.signal(end);
        run.code();
        until_dead(root);
        assert!(!is_alive(root));
        support::until("nothing is left of the cgroup", || {
            delegated.made_in_it().is_empty()
        });
        let _dead = kill_process(root, Signal::KILL);
    }
}

/// Each kills what it finds left of an earlier term before its command starts, and nothing else.
#[test]
fn two_runs_in_one_cgroup_leave_each_others_commands_alone() {
    let Some(ours) = cgroup() else {
        return;
    };
    let delegated = Delegated::new(&ours);
    let [ends, stays] = [Place::new(), Place::new()];
    let start = |place: &Place| {
        let script = "echo $$ > child; exec sleep 1000";
        let mut command = within(&delegated, &place.run(&["--lease", ENDLESS], script));
        let run = Running::start(command.current_dir(place.path("")));
        (run, place.pid("child"))
    };
    let (mut run, mut child) = start(&ends);
    let (mut other, others) = start(&stays);
    assert_eq!(delegated.made_in_it().len(), 2);
    for end in [Signal::TERM, Signal::KILL] {
        assert!(is_alive(child) && is_alive(others));
        run.signal(end);
        run.code();
        until_dead(child);
        assert!(is_alive(others));
        fs::remove_file(ends.path("child")).unwrap();
        (run, child) = start(&ends);
        assert!(is_alive(others));
    }
    other.signal(Signal::TERM);
    assert_eq!(other.code(), 143);
    assert!(is_alive(child));
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 143);
    assert!(delegated.made_in_it().is_empty());
}
