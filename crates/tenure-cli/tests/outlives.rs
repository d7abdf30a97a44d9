//! Nothing that a command starts works on when the next leader's command has started, however it
//! was started and however the term ends.
//!
//! Each process of a command appends the boot clock to one file every few milliseconds, and so does
//! the next leader's command: the times in that file are compared, and nothing else.
//!
//! All pairs, on the host and in a PID namespace: `cargo test -p tenure-cli --test outlives --
//! --ignored`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Place, Running, child_called, child_numbered, helper_of, is_alive, stop, until, until_dead,
};
use tenure::{BootClock, Clock as _};

/// Time enough for a kill on a busy machine: the command is killed half a second before the end.
const OPTIONS: [&str; 8] = [
    "--lease",
    "5s",
    "--heartbeat",
    "500ms",
    "--stop-grace",
    "2s",
    "--drain-limit",
    "500ms",
];

/// Says what a process of these tests is to be called in the record.
const ROLE: &str = "OUTLIVES_ROLE";
const RECORD: &str = "OUTLIVES_RECORD";

/// How the command starts its work; `$W` works on whatever signal it gets.
const WAYS: [(&str, &str); 10] = [
    ("plain", "$W"),
    ("timeout", "timeout 600 $W; timeout 600 $W"),
    ("job control", "bash -c 'set -m; $W & $W & wait'"),
    ("setsid", "setsid $W & wait"),
    ("double fork", "( $W & ) ; (setsid $W & ) ; sleep 600"),
    ("own group", "perl -e 'setpgrp(0, 0); exec @ARGV' $W & wait"),
    ("nohup", "nohup $W > /dev/null 2>&1 & wait"),
    (
        "three shells",
        "sh -c 'sh -c \"sh -c \\\"$W & wait\\\" & wait\" & wait' & wait",
    ),
    ("daemon", "./daemon $W; sleep 600"),
    // It starts the next one and ends, all the time.
    ("chain", "setsid ./chain; sleep 600"),
];

/// Ends up with no parent, session, directory or open file of the one that started it.
const DAEMON: &str = "#!/usr/bin/perl
use POSIX ();
exit 0 if fork; POSIX::setsid(); exit 0 if fork;
chdir '/';
POSIX::close($_) for 0 .. 63;
open(STDIN, '<', '/dev/null'); open(STDOUT, '>', '/dev/null'); open(STDERR, '>', '/dev/null');
exec @ARGV;
";

const CHAIN: &str = "#!/usr/bin/perl
while (-e $ENV{OUTLIVES_RECORD}) {
    open(my $record, '>>', $ENV{OUTLIVES_RECORD});
    open(my $clock, '<', '/proc/uptime'); my ($now) = split(' ', <$clock>);
    syswrite($record, sprintf(\"old %.0f\\n\", $now * 1e9));
    select(undef, undef, undef, 0.002);
    exit 0 if fork;
}
";

/// How a term ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Terminated,
    TenureKilled,
    TenureAndGuardKilled,
    /// And the subreaper. It holds only where the kernel ends the rest, or the next leader can.
    AllKilled,
    TenureStopped,
    LockDeleted,
    StoreGone,
    CommandExits,
}

/// Those that hold everywhere.
const ENDS: [End; 7] = [
    End::Terminated,
    End::TenureKilled,
    End::TenureAndGuardKilled,
    End::TenureStopped,
    End::LockDeleted,
    End::StoreGone,
    End::CommandExits,
];

/// Not a test by itself: what the commands run.
#[test]
fn role_of_a_command() {
    let (Ok(role), Ok(record)) = (std::env::var(ROLE), std::env::var(RECORD)) else {
        return;
    };
    let mut file = OpenOptions::new().append(true).open(&record).unwrap();
    // Should it outlive its test after all, it ends with the test's directory.
    while Path::new(&record).exists() {
        let line = format!("{role} {}\n", BootClock.now().as_nanos());
        file.write_all(line.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(3));
    }
}

/// Where the command that is judged runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Host,
    /// `tenure` is its first process, as in a container.
    PidNamespace,
}

const NAMESPACE: [&str; 5] = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];

impl Where {
    fn can_be_had(self) -> bool {
        let mut unshare = Command::new("unshare");
        let has = self == Self::Host
            || unshare
                .args(NAMESPACE)
                .arg("true")
                .output()
                .is_ok_and(|it| it.status.success());
        if !has {
            tenure_testkit::environment::left_out("no PID namespace can be made here");
        }
        has
    }
}

/// The `tenure run` that is judged.
struct Old {
    process: Running,
    /// Not `process` where that only waits for it.
    tenure: Pid,
}

impl Old {
    fn helpers(&self) -> [Pid; 2] {
        ["__guard", "__subreaper"].map(|name| helper_of(self.tenure, name))
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.tenure, signal).unwrap();
    }
}

struct Cell {
    place: Place,
}

impl Cell {
    fn new() -> Self {
        let place = Place::new();
        let this = std::env::current_exe().unwrap();
        let work = format!(
            "#!/bin/sh\ntrap '' TERM INT HUP QUIT\nexec '{}' role_of_a_command --exact --nocapture\n",
            this.display()
        );
        for (name, text) in [
            ("work", work.as_str()),
            ("daemon", DAEMON),
            ("chain", CHAIN),
        ] {
            fs::write(place.path(name), text).unwrap();
            fs::set_permissions(place.path(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        fs::write(place.path("record"), "").unwrap();
        Self { place }
    }

    fn command(&self, role: &str, more: &[&str], script: &str) -> Command {
        let options = [&["--id", role], &OPTIONS[..], more].concat();
        self.place.run(&options, script)
    }

    fn start(&self, role: &str, mut run: Command) -> Running {
        let log = fs::File::create(self.place.path(&format!("log-{role}"))).unwrap();
        run.env("TENURE_LOG", "info")
            .env("W", self.place.path("work"))
            .env(ROLE, role)
            .env(RECORD, self.place.path("record"));
        Running::start(run.stdout(log.try_clone().unwrap()).stderr(log))
    }

    fn old(&self, place: Where, script: &str) -> Old {
        self.old_with(place, &["--exit-on-loss"], script)
    }

    fn old_with(&self, place: Where, options: &[&str], script: &str) -> Old {
        let script = format!("echo $$ > command\n{script}");
        let run = self.command("old", options, &script);
        if place == Where::Host {
            let process = self.start("old", run);
            let tenure = process.pid();
            return Old { process, tenure };
        }
        let mut unshare = Command::new("unshare");
        unshare
            .args(NAMESPACE)
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir(self.place.path(""));
        let process = self.start("old", unshare);
        let tenure = child_called(process.pid(), "run --backend");
        Old { process, tenure }
    }

    /// The times at which a role worked.
    fn times(&self, role: &str) -> Vec<u64> {
        let record = self.place.read("record");
        let (whole, _partial) = record.rsplit_once('\n').unwrap_or_default();
        let of_role = |line: &str| line.strip_prefix(role)?.trim().parse().ok();
        whole.lines().filter_map(of_role).collect()
    }

    fn until_works(&self, role: &str) {
        until(&format!("{role} works"), || self.times(role).len() >= 20);
    }

    fn next(&self) -> Running {
        let next = self.start("new", self.command("new", &[], "exec $W"));
        // Unless the lock is free: then it needs not wait.
        until("the next one waits or works", || {
            self.place
                .read("log-new")
                .contains("another candidate leads")
                || !self.times("new").is_empty()
        });
        next
    }

    /// Puts what is away in the lock's place, at one instant: a lock that is gone is free.
    fn exchange_lock(&self) {
        let (lock, away) = (self.place.path("store/job"), self.place.path("away"));
        rustix::fs::renameat_with(CWD, lock, CWD, away, RenameFlags::EXCHANGE).unwrap();
    }

    /// Ends the term of `old`, and returns when the next one works.
    fn end(&self, end: End, old: &mut Old) -> Running {
        if end == End::LockDeleted {
            // Its leader writes there meanwhile.
            until("the lock is deleted", || {
                let lock = self.place.path("store/job");
                fs::remove_dir_all(&lock).is_ok() || !lock.exists()
            });
            // A lock that is deleted is free at once, whatever its leader does.
            assert_eq!(old.process.code(), 75);
            return self.next();
        }
        let next = self.next();
        let [guard, subreaper] = old.helpers();
        match end {
            End::LockDeleted => {}
            End::Terminated => old.signal(Signal::TERM),
            End::TenureKilled => old.signal(Signal::KILL),
            End::TenureAndGuardKilled => kill_all(&[old.tenure, guard]),
            End::AllKilled => kill_all(&[old.tenure, guard, subreaper]),
            End::TenureStopped => stop(old.tenure),
            End::StoreGone => {
                fs::write(self.place.path("away"), "a file in the way").unwrap();
                self.exchange_lock();
                assert_eq!(old.process.code(), 75);
                self.exchange_lock();
            }
            End::CommandExits => {
                let command = child_numbered(subreaper, &self.place.line("command"));
                kill_process(command, Signal::KILL).unwrap();
            }
        }
        next
    }
}

/// Those that are dead already, with the first one, are fine.
fn kill_all(processes: &[Pid]) {
    for process in processes {
        let _dead = kill_process(*process, Signal::KILL);
    }
}

/// What is wrong, if anything.
fn fault(place: Where, way: &str, script: &str, end: End) -> Option<String> {
    let cell = Cell::new();
    let mut old = cell.old(place, script);
    cell.until_works("old");
    let next = cell.end(end, &mut old);
    cell.until_works("new");
    let first = cell.times("new")[0];
    let late = cell.times("old").into_iter().filter(|at| *at > first);
    let late: Vec<u64> = late.map(|at| at - first).collect();
    drop(next);
    (!late.is_empty()).then(|| {
        format!(
            "{place:?}, {way}, {end:?}: worked {} times after the next leader, at last {} us \
             later:\n{}\n{}",
            late.len(),
            late.iter().max().unwrap() / 1000,
            cell.place.read("log-old"),
            cell.place.read("log-new")
        )
    })
}

/// A way, its script, and an end.
type Pair = (&'static str, &'static str, End);

/// So many at a time, each with a store of its own.
fn assert_nothing_outlives(place: Where, pairs: Vec<Pair>, at_a_time: usize) {
    if !place.can_be_had() {
        return;
    }
    println!("{place:?}: {} pairs", pairs.len());
    let pairs = Mutex::new(pairs.into_iter());
    let faults = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let pair = pairs.lock().unwrap().next();
                    let Some((way, script, end)) = pair else {
                        return;
                    };
                    // A cell that is stuck says so, and the others go on.
                    let found = catch_unwind(|| fault(place, way, script, end));
                    let stuck = || Some(format!("{way}, {end:?}: see the panic above"));
                    let found = found.unwrap_or_else(|_| stuck());
                    faults.lock().unwrap().extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each way, with one of the ends.
fn each_way(ends: &[End]) -> Vec<Pair> {
    let ends = ends.iter().cycle();
    let ways = WAYS.iter().zip(ends);
    ways.map(|((way, script), end)| (*way, *script, *end))
        .collect()
}

fn each_pair(ends: &[End]) -> Vec<Pair> {
    let of_way = |(way, script): &(&'static str, &'static str)| {
        let (way, script) = (*way, *script);
        ends.iter().map(move |end| (way, script, *end))
    };
    WAYS.iter().flat_map(of_way).collect()
}

#[test]
fn nothing_works_on_after_the_next_leader_has_started() {
    // Each way and each end at least once.
    assert_nothing_outlives(Where::Host, each_way(&ENDS), 4);
}

#[test]
fn nothing_works_on_in_a_container_whose_first_process_was_killed() {
    let ways = each_way(&[End::AllKilled, End::TenureStopped]);
    // The chain, the daemon and a shell's jobs.
    let some = ways.into_iter().skip(7).collect();
    assert_nothing_outlives(Where::PidNamespace, some, 4);
}

#[test]
#[ignore = "takes minutes: run it by name"]
fn nothing_works_on_after_the_next_leader_has_started_in_any_pair() {
    assert_nothing_outlives(Where::Host, each_pair(&ENDS), 6);
}

#[test]
#[ignore = "takes minutes: run it by name"]
fn nothing_works_on_in_any_pair_in_a_pid_namespace() {
    let ends = [&ENDS[..], &[End::AllKilled]].concat();
    assert_nothing_outlives(Where::PidNamespace, each_pair(&ends), 6);
}

/// A subreaper that is killed takes the command with it, and `tenure` finds the rest.
#[test]
fn a_subreaper_that_is_killed_leaves_nothing_behind() {
    let cell = Cell::new();
    let (_, script) = WAYS[8];
    let mut old = cell.old(Where::Host, script);
    cell.until_works("old");
    let next = cell.next();
    let [_, subreaper] = old.helpers();
    kill_process(subreaper, Signal::KILL).unwrap();
    assert_eq!(old.process.code(), 75);
    cell.until_works("new");
    let first = cell.times("new")[0];
    assert!(cell.times("old").into_iter().all(|at| at < first));
    drop(next);
}

/// Where the next leader of the host can find it.
#[test]
fn what_is_left_when_all_are_killed_at_once_is_killed_by_the_next_leader() {
    if !support::has_cgroups() {
        return;
    }
    let ways = each_way(&[End::AllKilled]);
    // What leaves its process group and has no open file of the leader.
    let some = ways.into_iter().skip(8).collect();
    assert_nothing_outlives(Where::Host, some, 2);
}

/// Nor does anything die that the command did not start.
#[test]
fn what_the_command_did_not_start_lives_on() {
    let place = Place::new();
    // Two children of tenure that are not its command's: one is started before it, and one falls
    // to it when its parent dies.
    let script = format!(
        "sleep 1000 & echo $! > before\n(sleep 1000 & echo $! > orphan)\nexec '{}' run --backend '{}' --lock job -- true",
        env!("CARGO_BIN_EXE_tenure"),
        place.url()
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(place.path(""));
    let mut run = Running::start(&mut shell);
    assert_eq!(run.code(), 0);
    for name in ["before", "orphan"] {
        let process = place.pid(name);
        assert!(is_alive(process), "{name}");
        kill_process(process, Signal::KILL).unwrap();
        until_dead(process);
    }
}

/// Two of the three processes of `tenure run` are killed or stopped.
mod two_of_three {
    use std::thread;

    use rustix::process::{Signal, kill_process};

    use super::{Cell, RECORD, ROLE, WAYS, Where, kill_all};
    use crate::support::stop;

    /// What is done to the processes of a `tenure run`.
    #[derive(Clone, Copy, Debug)]
    enum Deed {
        Kill,
        Stop,
    }

    /// To which of them.
    #[derive(Clone, Copy, Debug)]
    enum Whom {
        Tenure,
        Guard,
        Subreaper,
    }

    /// Whatever happens to two of the three processes, the third one kills what the command started.
    const DEEDS: [&[(Deed, Whom)]; 6] = [
        &[(Deed::Kill, Whom::Tenure), (Deed::Kill, Whom::Subreaper)],
        &[(Deed::Kill, Whom::Subreaper), (Deed::Kill, Whom::Tenure)],
        &[(Deed::Stop, Whom::Tenure), (Deed::Kill, Whom::Subreaper)],
        &[(Deed::Stop, Whom::Tenure), (Deed::Kill, Whom::Guard)],
        &[(Deed::Stop, Whom::Guard), (Deed::Stop, Whom::Tenure)],
        &[(Deed::Stop, Whom::Guard), (Deed::Kill, Whom::Subreaper)],
    ];

    fn fault_of_deeds(deeds: &[(Deed, Whom)]) -> Option<String> {
        let cell = Cell::new();
        let (_, script) = WAYS[8];
        let script = format!("setsid $W & {script}");
        let old = cell.old_with(Where::Host, &["--no-cgroup", "--exit-on-loss"], &script);
        cell.until_works("old");
        let next = cell.next();
        let [guard, subreaper] = old.helpers();
        for (deed, whom) in deeds {
            let process = match whom {
                Whom::Tenure => old.tenure,
                Whom::Guard => guard,
                Whom::Subreaper => subreaper,
            };
            match deed {
                Deed::Kill => kill_all(&[process]),
                Deed::Stop => stop(process),
            }
        }
        let late = late(&cell);
        drop(next);
        kill_all(&[guard, subreaper]);
        (late > 0).then(|| format!("{deeds:?}: worked {late} times after the next leader"))
    }

    /// How often something of the old leader worked after the next one.
    fn late(cell: &Cell) -> usize {
        cell.until_works("new");
        let first = cell.times("new")[0];
        let old = cell.times("old").into_iter();
        old.filter(|at| *at > first).count()
    }

    /// Its orphans do not fall to the first process, which cannot tell them from other programs'.
    #[test]
    fn a_subreaper_that_is_killed_in_a_container_leaves_no_daemon_without_its_environment() {
        if !Where::PidNamespace.can_be_had() {
            return;
        }
        let cell = Cell::new();
        // It is elected again, so the container does not end.
        let script = format!(
            "test -e again && exec env {ROLE}=new $W
            touch again; env -i PATH=$PATH {ROLE}=old {RECORD}=${RECORD} ./daemon $W; sleep 600"
        );
        let old = cell.old_with(Where::PidNamespace, &["--no-cgroup"], &script);
        cell.until_works("old");
        let [_, subreaper] = old.helpers();
        kill_process(subreaper, Signal::KILL).unwrap();
        assert_eq!(late(&cell), 0);
    }

    #[test]
    fn any_one_of_the_three_processes_is_enough_to_leave_nothing_behind() {
        let faults: Vec<String> = thread::scope(|scope| {
            let judged: Vec<_> = DEEDS
                .iter()
                .map(|deeds| scope.spawn(|| fault_of_deeds(deeds)))
                .collect();
            judged
                .into_iter()
                .filter_map(|it| it.join().unwrap())
                .collect()
        });
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
