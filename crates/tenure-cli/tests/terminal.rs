//! A terminal: who is in its foreground, Ctrl-Z, and commands that are stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Place, Running, is_alive, until, until_dead};
use tenure_testkit::process::stat;

/// Runs `command` with a terminal of its own, and what types there.
fn in_terminal(place: &Place, command: &str) -> (Running, ChildStdin) {
    let mut script = Command::new("script");
    script
        .args(["-qec", command, "/dev/null"])
        .env("TENURE", env!("CARGO_BIN_EXE_tenure"))
        .env("URL", place.url())
        .current_dir(place.path(""))
        .stdin(Stdio::piped())
        .stdout(fs::File::create(place.path("screen")).unwrap());
    let mut script = Running::start(&mut script);
    let keys = script.0.stdin.take().unwrap();
    (script, keys)
}

const RUN: &str = "$TENURE run --backend $URL --lock job --policy fast --";

fn is_stopped(process: Pid) -> bool {
    let stat = stat(&Path::new("/proc").join(process.to_string()));
    stat.is_some_and(|(state, _)| state == 'T')
}

#[test]
fn a_command_in_the_foreground_reads_from_the_terminal_and_sets_it_up() {
    let place = Place::new();
    let command = format!(
        "{RUN} sh -c 'stty -echo; echo > ready; read line < /dev/tty; read more; stty echo
            echo \"$line $more\" > got'"
    );
    let (mut run, mut keys) = in_terminal(&place, &command);
    place.line("ready");
    keys.write_all(b"first\nsecond\n").unwrap();
    assert_eq!(run.code(), 0, "{}", place.read("screen"));
    assert_eq!(place.line("got"), "first second");
}

#[test]
fn on_ctrl_z_both_stop_and_on_fg_both_go_on() {
    let place = Place::new();
    let (mut shell, mut keys) = in_terminal(&place, "bash --norc -i");
    let run = RUN.replace("fast", "default");
    // It starts nothing while it works. A shell that just starts a program stops only after that,
    // and the program may stop before it has begun: then both wait for each other (vfork).
    let work = "mkfifo pause; exec 3<>pause; echo $PPID > subreaper; echo $$ > child
        while :; do echo >> ticks; read -t 0.05 -u 3; done";
    keys.write_all(format!("{run} bash -c '{work}'; echo $? > code\n").as_bytes())
        .unwrap();
    let child = place.pid("child");
    let subreaper = Path::new("/proc").join(place.line("subreaper"));
    let guard = Path::new("/proc").join(stat(&subreaper).unwrap().1.to_string());
    let tenure = Pid::from_raw(i32::try_from(stat(&guard).unwrap().1).unwrap()).unwrap();
    keys.write_all(b"\x1a").unwrap();
    until("both are stopped", || {
        is_stopped(child) && is_stopped(tenure)
    });
    let ticks = place.read("ticks").len();
    keys.write_all(b"fg\n").unwrap();
    until("the command works again", || {
        place.read("ticks").len() > ticks
    });
    assert!(!is_stopped(tenure));
    // The command is in the foreground again.
    keys.write_all(b"\x03").unwrap();
    until_dead(child);
    keys.write_all(b"exit\n").unwrap();
    shell.code();
}

/// As in a container: there is no shell that could continue it.
#[test]
fn ctrl_z_without_a_shell_does_not_hold_the_lock_for_nothing() {
    let place = Place::new();
    // Nor does this start anything.
    let work = "trap 'echo > stopped' CONT; echo > ready; until [ -e stopped ]; do :; done";
    let (mut run, mut keys) = in_terminal(&place, &format!("exec {RUN} sh -c \"{work}\""));
    place.line("ready");
    keys.write_all(b"\x1a").unwrap();
    assert_eq!(run.code(), 0, "{}", place.read("screen"));
}

#[test]
fn a_command_that_somebody_stops_is_killed_after_the_stop_grace() {
    let place = Place::new();
    let options = ["--policy", "fast", "--exit-on-loss"];
    let script = "echo $$ > child; while :; do sleep 0.01; done";
    let mut run = place.start_logged(&options, script, "log");
    let child = place.pid("child");
    kill_process(child, Signal::STOP).unwrap();
    assert_eq!(run.code(), 75, "{}", place.read("log"));
    assert!(!is_alive(child));
    let log = place.read("log");
    assert_eq!(log.matches("was stopped by signal").count(), 1, "{log}");
}

/// A program of Perl that starts another one as `vfork` does, and stops it before it has begun.
fn stopped_start(then: &str) -> String {
    let clone = if cfg!(target_arch = "x86_64") {
        56
    } else {
        220
    };
    format!(
        "my $child = syscall({clone}, 0x4000 | 17, 0, 0, 0, 0);
        if ($child == 0) {{ kill \"STOP\", $$; exit 0 }} {then}"
    )
}

/// Its parent waits in the kernel, so that nobody is told that something was stopped.
#[test]
fn a_program_that_is_stopped_before_it_has_begun_does_not_hold_the_lock() {
    let place = Place::new();
    let options = ["--policy", "fast", "--exit-on-loss"];
    let script = format!("exec perl -e '{}'", stopped_start(""));
    let mut run = place.start_logged(&options, &script, "log");
    assert_eq!(run.code(), 75, "{}", place.read("log"));
    let log = place.read("log");
    assert_eq!(log.matches("was stopped by signal").count(), 1, "{log}");
}

#[test]
fn ctrl_z_in_that_moment_does_not_hold_the_lock_either() {
    let place = Place::new();
    fs::write(place.path("work.pl"), stopped_start("exit 7;")).unwrap();
    let (mut run, _keys) = in_terminal(&place, &format!("exec {RUN} perl work.pl"));
    assert_eq!(run.code(), 7, "{}", place.read("screen"));
}
