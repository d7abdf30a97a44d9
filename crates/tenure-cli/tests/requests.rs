//! Signals and logs that come in awkward ways: two in a row, of every kind, to nobody.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{ENDLESS, Place, Running, until};

/// GNU `timeout` and others send a signal to the process, and then to its group.
#[test]
fn two_signals_in_a_row_are_one_request_to_stop() {
    let place = Place::new();
    let script = "trap 'echo got >> signal; sleep 0.3; echo > cleaned; exit 5' TERM INT HUP
        echo > ready; while :; do sleep 0.01; done";
    for second in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut run = place.start(&["--lease", ENDLESS], script);
        place.line("ready");
        run.signal(Signal::TERM);
        run.signal(second);
        assert_eq!(run.code(), 5, "{second:?}");
        assert_eq!(place.line("signal"), "got", "{second:?}");
        for name in ["cleaned", "signal", "ready"] {
            std::fs::remove_file(place.path(name)).unwrap();
        }
    }
}

/// Whether a command that needs 0.3 s for it has cleaned up under GNU `timeout`.
fn cleans_up_under_timeout() -> bool {
    let place = Place::new();
    let script = "trap 'sleep 0.3; echo > cleaned; exit 5' TERM
        echo > ready; while :; do sleep 0.01; done";
    let run = place.run(&["--lease", ENDLESS], script);
    let mut timeout = Command::new("timeout");
    timeout
        .args(["1000"])
        .arg(run.get_program())
        .args(run.get_args());
    let mut timeout = Running::start(timeout.current_dir(place.path("")));
    place.line("ready");
    // As if the time had come: it passes the signal on twice.
    timeout.signal(Signal::ALARM);
    assert_eq!(timeout.code(), 124);
    // `timeout` does not wait for the command of its command: the lock is free when that is gone.
    until("the command is gone", || place.status()["state"] == "free");
    place.path("cleaned").exists()
}

#[test]
fn a_clean_up_survives_gnu_timeout() {
    assert!(cleans_up_under_timeout());
}

#[test]
#[ignore = "takes half a minute: run it by name"]
fn a_clean_up_survives_gnu_timeout_50_times_of_50() {
    let cleaned = (0..50).filter(|_| cleans_up_under_timeout()).count();
    println!("{cleaned} of 50 cleaned up under GNU timeout");
    assert_eq!(cleaned, 50);
}

/// A leader whose standard error nobody reads, at a level of the log, for so many renewals and so
/// long at least.
fn assert_stalled_reader_harms_nothing(log: &str, renewals: usize, at_least: Duration) {
    let place = Place::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let script = "exec 2> /dev/null
        trap 'exit 5' TERM; echo > ready; while :; do sleep 0.01; done";
    let options = ["--id", "alice", "--policy", "fast"];
    let mut run = place.run(&options, script);
    let mut run = Running::start(run.env("TENURE_LOG", log).stderr(writer));
    place.line("ready");
    let token = place.status()["token"].clone();
    // It renews, although what it logs goes nowhere.
    let left = || place.status()["expires_in_ms"].as_u64();
    let (start, mut seen) = (Instant::now(), 0);
    while seen < renewals || start.elapsed() < at_least {
        let mut before = left();
        until("the lease is renewed", || {
            let now = left();
            assert!(now.is_some(), "the lock was given up");
            let renewed = now > before;
            before = now;
            renewed
        });
        seen += 1;
    }
    assert_eq!(place.status()["token"], token, "it is the same term");
    println!(
        "{log}: {seen} renewals in {:?} without a reader",
        start.elapsed()
    );
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 5, "{log}");
    place.assert_free();
    drop(reader);
}

#[test]
fn a_log_that_nobody_reads_ends_neither_the_term_nor_the_command() {
    for log in ["error", "info", "trace"] {
        assert_stalled_reader_harms_nothing(log, 3, Duration::ZERO);
    }
}

#[test]
#[ignore = "takes three minutes: run it by name"]
fn a_reader_that_stalls_for_30_seconds_harms_nothing_at_any_level() {
    for log in ["off", "error", "warn", "info", "debug", "trace"] {
        assert_stalled_reader_harms_nothing(log, 3, Duration::from_secs(30));
    }
}

#[test]
fn every_signal_that_can_be_passed_on_is() {
    let place = Place::new();
    let names = [
        "ALRM", "WINCH", "IO", "PWR", "XCPU", "XFSZ", "VTALRM", "PROF", "URG", "STKFLT",
    ];
    let names = names
        .map(str::to_owned)
        .into_iter()
        .chain(["34", "50", "64"].map(str::to_owned));
    let names: Vec<String> = names.collect();
    let script = format!(
        "for s in {}; do trap \"echo $s >> signals\" $s; done
        echo > ready; until [ -e end ]; do sleep 0.01; done",
        names.join(" ")
    );
    let run = place.run(&[], "");
    // Not every sh has traps for real-time signals.
    let arguments: Vec<_> = run.get_args().map(ToOwned::to_owned).collect();
    let mut bash = Command::new(run.get_program());
    bash.args(&arguments[..arguments.len() - 3])
        .args(["bash", "-c", &script]);
    let mut run = Running::start(bash.current_dir(place.path("")));
    place.line("ready");
    for name in &names {
        let mut kill = Command::new("kill");
        let sent = kill
            .args([&format!("-{name}"), &run.pid().to_string()])
            .status();
        assert!(sent.unwrap().success());
        until(&format!("SIG{name} has come"), || {
            place.read("signals").lines().any(|line| line == name)
        });
    }
    std::fs::write(place.path("end"), "").unwrap();
    assert_eq!(run.code(), 0);
}
