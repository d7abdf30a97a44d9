//! A guard that cannot run, or cannot be replaced.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::Command;

use rustix::process::{Signal, kill_process};
use support::{ENDLESS, Place, is_alive, stderr, until_dead};

/// Runs a program to which the kernel refuses `timerfd_create`, as a sandbox may.
const SANDBOX: &str = r#"
my %numbers = ('x86_64' => [283, 157, 317], 'aarch64' => [85, 167, 277]);
my ($machine) = `uname -m` =~ /(\S+)/;
my ($timerfd, $prctl, $seccomp) = @{$numbers{$machine} or die "unknown: $machine"};
my $filter = pack('SCCL' x 4,
    0x20, 0, 0, 0,             # the number of the system call
    0x15, 0, 1, $timerfd,      # is it this one?
    0x06, 0, 0, 0x00050001,    # EPERM
    0x06, 0, 0, 0x7fff0000);   # allowed
my $program = pack('S x![P] P', 4, $filter);
syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
syscall($seccomp, 1, 0, $program) == 0 or die "seccomp: $!";
exec @ARGV or die;
"#;

fn sandboxed(place: &Place, options: &[&str]) -> Command {
    let run = place.run(options, "echo > made; exit 3");
    let mut sandboxed = Command::new("perl");
    sandboxed
        .args(["-e", SANDBOX])
        .arg(run.get_program())
        .args(run.get_args());
    sandboxed.current_dir(place.path(""));
    for (name, _) in run.get_envs() {
        sandboxed.env_remove(name);
    }
    sandboxed
}

#[test]
fn without_a_guard_the_command_is_not_started() {
    let place = Place::new();
    let output = sandboxed(&place, &["--lease", ENDLESS]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("--allow-unguarded"), "{output:?}");
    assert!(!place.path("made").exists());
    place.assert_free();
}

#[test]
fn without_a_guard_the_command_runs_if_that_is_allowed() {
    let place = Place::new();
    let options = ["--lease", ENDLESS, "--allow-unguarded"];
    let output = sandboxed(&place, &options).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr(&output).contains("without a guard"), "{output:?}");
    assert!(place.path("made").exists());
}

#[test]
fn a_guard_that_cannot_be_replaced_ends_the_term() {
    let place = Place::new();
    let options = ["--policy", "fast", "--exit-on-loss"];
    let script = "trap 'echo got > signal; exit' TERM; echo $$ > child
        while :; do sleep 0.01; done";
    let mut run = place.start_logged(&options, script, "log");
    let child = place.pid("child");
    // It has no file descriptor left for the pipes of another one.
    let limited = Command::new("prlimit")
        .args(["--pid", &run.pid().to_string(), "--nofile=4:4"])
        .status();
    assert!(limited.unwrap().success());
    let guard = run.guard();
    kill_process(guard, Signal::KILL).unwrap();
    until_dead(guard);
    assert_eq!(run.code(), 75, "{}", place.read("log"));
    assert!(!is_alive(child));
    assert_eq!(place.line("signal"), "got");
    assert!(place.read("log").contains("cannot be replaced"));
}
