//! `tenure run`: what the command gets, what its end means, and how signals reach it.

mod support;

use std::process::Command;

use rustix::process::Signal;
use support::{ENDLESS, Place, Running, is_alive, stderr, stdout, until};

#[test]
fn the_command_knows_its_term_and_its_exit_code_is_passed_on() {
    let place = Place::new();
    let script = "echo $TENURE_LOCK $TENURE_IDENTITY $TENURE_TOKEN; exit 7";
    let mut tokens = Vec::new();
    for _ in 0..2 {
        // The second one does not wait for the first one's lease to end.
        let output = place
            .run(&["--id", "alice", "--lease", ENDLESS], script)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(stderr(&output), "");
        let line = stdout(&output);
        let token = line.strip_prefix("job alice ").unwrap().trim();
        tokens.push(token.parse::<u64>().unwrap());
        place.assert_free();
    }
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[test]
fn a_command_killed_by_a_signal_gives_128_and_the_signal() {
    let place = Place::new();
    let output = place.run(&[], "kill -KILL $$").output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    place.assert_free();
}

#[test]
fn a_command_that_cannot_be_started_is_told_and_gives_the_lock_back() {
    let place = Place::new();
    std::fs::write(place.path("text"), "no program").unwrap();
    for (command, code, expected) in [
        ("no-such-command", 127, "was not found"),
        ("./text", 126, "cannot be executed"),
    ] {
        let mut run = place.tenure("run");
        let output = run.args(["--lease", ENDLESS, "--", command]);
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(expected), "{output:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
        place.assert_free();
    }
}

#[test]
fn one_command_runs_at_a_time_and_the_next_when_it_has_exited() {
    let place = Place::new();
    let options = ["--lease", ENDLESS];
    // Exits when it is told to by a file, and fails if it ever sees the other one at work.
    let script = "mkdir working || exit 99
        echo $TENURE_TOKEN > token-$NAME
        until [ -e exit-$NAME ]; do sleep 0.01; done
        rmdir working";
    let mut alice = Running::start(place.run(&options, script).env("NAME", "alice"));
    let first: u64 = place.line("token-alice").parse().unwrap();
    let mut bob = Running::start(place.run(&options, script).env("NAME", "bob"));
    std::fs::write(place.path("exit-alice"), "").unwrap();
    assert_eq!(alice.code(), 0);
    let second: u64 = place.line("token-bob").parse().unwrap();
    assert!(first < second);
    std::fs::write(place.path("exit-bob"), "").unwrap();
    assert_eq!(bob.code(), 0);
    place.assert_free();
}

#[test]
fn sigterm_and_sigint_are_passed_on_and_the_lock_is_released() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let place = Place::new();
        let script = format!(
            "trap 'echo got > signal; exit 5' {name}; echo > ready; while :; do sleep 0.01; done"
        );
        let mut run = place.start(&["--lease", ENDLESS], &script);
        place.line("ready");
        run.signal(signal);
        assert_eq!(run.code(), 5);
        assert_eq!(place.line("signal"), "got");
        place.assert_free();
    }
}

#[test]
fn a_command_that_dies_of_the_signal_that_was_passed_on_gives_128_and_the_signal() {
    let place = Place::new();
    let mut run = place.start(&["--lease", ENDLESS], "echo > ready; exec sleep 1000");
    place.line("ready");
    run.signal(Signal::INT);
    assert_eq!(run.code(), 130);
    place.assert_free();
}

#[test]
fn the_signal_reaches_the_whole_process_group() {
    let place = Place::new();
    let script = "sh -c 'trap \"echo got > signal; exit\" TERM; echo > ready
        while :; do sleep 0.01; done' & wait; wait";
    let script = format!("trap : TERM; {script}");
    let mut run = place.start(&[], &script);
    place.line("ready");
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 0);
    assert_eq!(place.line("signal"), "got");
}

#[test]
fn a_candidate_that_waits_leaves_on_sigterm_and_sigint() {
    let place = Place::new();
    let mut leader = place.start(&["--id", "alice", "--lease", ENDLESS], "exec sleep 1000");
    place.until_led_by("alice");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut run = place.start_logged(&["--lease", ENDLESS], "echo > never", "log");
        until("it campaigns", || place.read("log").contains("waits"));
        // These mean nothing to it without a command.
        run.signal(Signal::USR1);
        run.signal(signal);
        assert_eq!(run.code(), code);
    }
    assert_eq!(place.status()["leader"], "alice");
    assert!(!place.path("never").exists());
    leader.signal(Signal::TERM);
    assert_eq!(leader.code(), 143);
}

#[test]
fn a_second_signal_kills_a_command_that_does_not_stop() {
    let place = Place::new();
    let script = "trap 'echo got > signal' TERM; echo > ready; while :; do sleep 0.01; done";
    let mut run = place.start(&["--lease", ENDLESS], script);
    place.line("ready");
    run.signal(Signal::TERM);
    place.line("signal");
    assert!(is_alive(run.pid()));
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 137);
    place.assert_free();
}

#[test]
fn the_drain_limit_kills_a_command_that_does_not_stop() {
    let place = Place::new();
    let script = "trap '' TERM; echo > ready; while :; do sleep 0.01; done";
    let mut run = place.start(&["--lease", ENDLESS, "--drain-limit", "200ms"], script);
    place.line("ready");
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 137);
    place.assert_free();
}

#[test]
fn the_lock_is_kept_while_the_command_drains() {
    let place = Place::new();
    let script =
        "trap 'echo got > signal' TERM; echo > ready; until [ -e end ]; do sleep 0.01; done";
    let mut run = place.start(&["--id", "alice", "--policy", "fast"], script);
    place.line("ready");
    run.signal(Signal::TERM);
    place.line("signal");
    // Two heartbeats later it still leads.
    let left = || place.status()["expires_in_ms"].as_u64();
    for _ in 0..2 {
        let mut before = left();
        until("the lease is renewed", || {
            let now = left();
            assert!(now.is_some(), "the lock was given up");
            let renewed = now > before;
            before = now;
            renewed
        });
    }
    assert_eq!(place.status()["leader"], "alice");
    std::fs::write(place.path("end"), "").unwrap();
    assert_eq!(run.code(), 0);
    place.assert_free();
}

#[test]
fn other_signals_are_passed_on_too() {
    let place = Place::new();
    let script = "for s in HUP QUIT USR1 USR2; do trap \"echo $s >> signals\" $s; done
        echo > ready; until [ -e end ]; do sleep 0.01; done";
    let mut run = place.start(&[], script);
    place.line("ready");
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ];
    for (signal, name) in signals {
        run.signal(signal);
        until("the signal has come", || {
            place.read("signals").contains(name)
        });
    }
    std::fs::write(place.path("end"), "").unwrap();
    assert_eq!(run.code(), 0);
}

#[test]
fn what_the_command_leaves_behind_is_killed_before_the_lock_is_released() {
    let place = Place::new();
    let mut run = place.start(&[], "sleep 1000 & echo $! > left; exit 3");
    assert_eq!(run.code(), 3);
    assert!(!is_alive(place.pid("left")));
    place.assert_free();
}

#[test]
fn the_command_starts_with_the_signals_of_a_shell() {
    let ignored = |command: &mut Command| {
        let output = command.output().unwrap();
        let text = stdout(&output);
        let mask = text.strip_prefix("SigIgn:").unwrap().trim();
        // Of the real-time signals two are the C library's own.
        u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff
    };
    let place = Place::new();
    let script = "grep SigIgn /proc/self/status";
    assert_eq!(ignored(&mut place.run(&[], script)), 0);
    // Under nohup the hang-up signal stays ignored, and a script's `&` ignores two more.
    for (name, bit) in [("HUP", 0), ("INT", 1), ("QUIT", 2)] {
        let mut command = Command::new("env");
        command
            .args(["--default-signal", &format!("--ignore-signal={name}")])
            .arg(env!("CARGO_BIN_EXE_tenure"))
            .args(["run", "--backend", &place.url(), "--lock", "job"])
            .args(["--", "sh", "-c", script]);
        assert_eq!(ignored(&mut command), 1 << bit, "{name}");
    }
}

#[test]
fn standard_streams_are_the_commands_own() {
    use std::io::Write as _;
    use std::process::Stdio;
    let place = Place::new();
    let mut run = place.run(&[], "cat; echo problem >&2");
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = run.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "input");
    assert_eq!(stderr(&output), "problem\n");
}

/// Whoever read the log has gone: that is no reason to stop working.
#[test]
fn a_closed_standard_error_ends_neither_the_term_nor_the_command() {
    // The second one is complained about before anything else.
    for log in ["info", "info,tenure=loud"] {
        let place = Place::new();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // The shell itself would complain about the end of what it waits for.
        let script = "exec 2> /dev/null
            trap 'exit 5' TERM; echo > ready; while :; do sleep 0.01; done";
        let mut run = place.run(&["--lease", ENDLESS], script);
        let mut run = Running::start(run.env("TENURE_LOG", log).stderr(writer));
        let mut ended = None;
        until("the command runs, or tenure has ended", || {
            ended = run.0.try_wait().unwrap();
            ended.is_some() || place.path("ready").exists()
        });
        assert_eq!(ended, None);
        // What it logs while it leads has been logged once it has passed this on.
        run.signal(Signal::TERM);
        assert_eq!(run.code(), 5, "{log}");
        place.assert_free();
    }
}
