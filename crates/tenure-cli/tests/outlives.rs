//! Nothing that a command starts works on when the next leader's command has started, however it
//! was started and however the term ends.
//!
//! Each process of a command appends the boot clock to one file every few milliseconds, and so does
//! the next leader's command: the times in that file are compared, and nothing else.
//!
//! All pairs: `cargo test -p tenure-cli --test outlives -- --ignored`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use support::{Place, Running, is_alive, pid, stop, until, until_dead};
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
    TenureStopped,
    LockDeleted,
    StoreGone,
    CommandExits,
}

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

    fn start(&self, role: &str, more: &[&str], script: &str) -> Running {
        let log = fs::File::create(self.place.path(&format!("log-{role}"))).unwrap();
        let options = [&["--id", role], &OPTIONS[..], more].concat();
        let mut run = self.place.run(&options, script);
        run.env("TENURE_LOG", "info")
            .env("W", self.place.path("work"))
            .env(ROLE, role)
            .env(RECORD, self.place.path("record"));
        Running::start(run.stdout(log.try_clone().unwrap()).stderr(log))
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
        let next = self.start("new", &[], "exec $W");
        // Unless the lock is free: then it needs not wait.
        until("the next one waits or works", || {
            self.place
                .read("log-new")
                .contains("another candidate leads")
                || !self.times("new").is_empty()
        });
        next
    }

    /// Ends the term of `old`, and returns when the next one works.
    fn end(&self, end: End, old: &mut Running) -> Running {
        match end {
            End::Terminated => {
                let next = self.next();
                old.signal(Signal::TERM);
                next
            }
            End::TenureKilled => {
                let next = self.next();
                old.signal(Signal::KILL);
                next
            }
            End::TenureAndGuardKilled => {
                let next = self.next();
                let guard = old.guard();
                old.signal(Signal::KILL);
                kill_process(guard, Signal::KILL).unwrap();
                next
            }
            End::TenureStopped => {
                let next = self.next();
                stop(old.pid());
                next
            }
            End::LockDeleted => {
                // Its leader writes there meanwhile.
                until("the lock is deleted", || {
                    let lock = self.place.path("store/job");
                    fs::remove_dir_all(&lock).is_ok() || !lock.exists()
                });
                // A lock that is deleted is free at once, whatever its leader does.
                assert_eq!(old.code(), 75);
                self.next()
            }
            End::StoreGone => {
                let next = self.next();
                fs::rename(self.place.path("store/job"), self.place.path("away")).unwrap();
                fs::write(self.place.path("store/job"), "a file in the way").unwrap();
                assert_eq!(old.code(), 75);
                fs::remove_file(self.place.path("store/job")).unwrap();
                fs::rename(self.place.path("away"), self.place.path("store/job")).unwrap();
                next
            }
            End::CommandExits => {
                let next = self.next();
                let command: i32 = self.place.line("command").parse().unwrap();
                kill_process(pid(command), Signal::KILL).unwrap();
                next
            }
        }
    }
}

/// What is wrong, if anything.
fn fault(way: &str, script: &str, end: End) -> Option<String> {
    let cell = Cell::new();
    let script = format!("echo $$ > command\n{script}");
    let mut old = cell.start("old", &["--exit-on-loss"], &script);
    cell.until_works("old");
    let next = cell.end(end, &mut old);
    cell.until_works("new");
    let first = cell.times("new")[0];
    let late = cell.times("old").into_iter().filter(|at| *at > first);
    let late: Vec<u64> = late.map(|at| at - first).collect();
    drop(next);
    (!late.is_empty()).then(|| {
        format!(
            "{way}, {end:?}: worked {} times after the next leader, at last {} us later:\n{}\n{}",
            late.len(),
            late.iter().max().unwrap() / 1000,
            cell.place.read("log-old"),
            cell.place.read("log-new")
        )
    })
}

/// So many at a time, each with a store of its own.
fn assert_nothing_outlives(pairs: Vec<(&'static str, &'static str, End)>, at_a_time: usize) {
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
                    let found = catch_unwind(|| fault(way, script, end));
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

#[test]
fn nothing_works_on_after_the_next_leader_has_started() {
    // Each way and each end at least once.
    let pairs = WAYS
        .iter()
        .enumerate()
        .map(|(index, (way, script))| (*way, *script, ENDS[index % ENDS.len()]));
    assert_nothing_outlives(pairs.collect(), 4);
}

#[test]
#[ignore = "takes minutes: run it by name"]
fn nothing_works_on_after_the_next_leader_has_started_in_any_pair() {
    let pairs = WAYS
        .iter()
        .flat_map(|(way, script)| ENDS.map(|end| (*way, *script, end)));
    assert_nothing_outlives(pairs.collect(), 6);
}

/// A subreaper that is killed takes the command with it, and `tenure` finds the rest.
#[test]
fn a_subreaper_that_is_killed_leaves_nothing_behind() {
    let cell = Cell::new();
    let (_, script) = WAYS[8];
    let mut old = cell.start("old", &["--exit-on-loss"], script);
    cell.until_works("old");
    let next = cell.next();
    kill_process(old.subreaper(), Signal::KILL).unwrap();
    assert_eq!(old.code(), 75);
    cell.until_works("new");
    let first = cell.times("new")[0];
    assert!(cell.times("old").into_iter().all(|at| at < first));
    drop(next);
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
