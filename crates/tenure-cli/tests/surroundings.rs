//! `tenure run` as others start it: `xargs`, cron, `script`, `nohup`, without open descriptors, and
//! on a disk that is full.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use support::{ENDLESS, Place, Running, stderr, until, until_dead};

/// A shell that knows `$RUN`: `tenure run` on this store and lock.
fn shell(place: &Place, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("RUN", run_line(place))
        .current_dir(place.path(""));
    shell
}

fn run_line(place: &Place) -> String {
    format!(
        "env --default-signal {} run --backend {} --lock job",
        env!("CARGO_BIN_EXE_tenure"),
        place.url()
    )
}

#[test]
fn of_many_below_xargs_one_works_at_a_time() {
    let place = Place::new();
    // Whoever works finds no one else at work.
    let work = "mkdir at-work || echo two >> faults; echo >> turns; rmdir at-work";
    let script = format!("seq 6 | xargs -P 6 -I @ $RUN --id candidate-@ -- sh -c '{work}'");
    let output = shell(&place, &script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(place.read("turns").lines().count(), 6, "{output:?}");
    assert_eq!(place.read("faults"), "");
}

/// What cron gives: four variables, /bin/sh, a pipe for both outputs, no terminal, and no HOME that
/// could be written to.
#[test]
fn it_runs_in_crons_bare_environment() {
    let place = Place::new();
    let line = format!(
        "{} run --backend {} --lock job -- env",
        env!("CARGO_BIN_EXE_tenure"),
        place.url()
    );
    let mut cron = Command::new("env");
    cron.args(["-i", "HOME=/", "LOGNAME=root", "SHELL=/bin/sh"])
        .args(["PATH=/usr/bin:/bin", "setsid", "/bin/sh", "-c", &line])
        .current_dir("/");
    let output = cron.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // cron mails whatever is written.
    assert_eq!(stderr(&output), "");
    assert!(support::stdout(&output).contains("TENURE_TOKEN="));
}

#[test]
fn it_runs_without_open_descriptors() {
    let place = Place::new();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("$RUN -- sh -c 'echo > done; exit 5' {closed}");
        let output = shell(&place, &script).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{closed}: {output:?}");
        fs::remove_file(place.path("done")).unwrap();
    }
    place.assert_free();
}

/// A thread's stack takes as much address space as everything else together. So the limit says how
/// many threads there can be.
#[test]
fn without_threads_it_says_why_it_ends() {
    const STACK: u64 = 1 << 30;
    const ELSE: u64 = 700 << 20;
    let mut codes = Vec::new();
    for threads in 0..8 {
        let place = Place::new();
        let limit = (ELSE + threads * STACK) / 1024;
        let script = format!("ulimit -v {limit}; exec $RUN --try -- echo ran");
        let mut run = shell(&place, &script);
        run.env("RUST_MIN_STACK", STACK.to_string());
        let output = run.output().unwrap();
        let told = stderr(&output);
        match output.status.code() {
            Some(0) => assert_eq!(support::stdout(&output), "ran\n", "{threads}"),
            Some(2) => assert!(
                told.starts_with("tenure: ") && told.contains("thread"),
                "{told}"
            ),
            code => panic!("{threads}: {code:?}: {told}"),
        }
        codes.push(output.status.code());
    }
    assert_eq!(codes.first(), Some(&Some(2)), "{codes:?}");
    assert_eq!(codes.last(), Some(&Some(0)), "{codes:?}");
}

#[test]
fn it_runs_with_a_terminal_of_script_and_gives_its_code() {
    let place = Place::new();
    let line = format!("{} -- sh -c 'tty > tty; exit 5'", run_line(&place));
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .current_dir(place.path(""));
    let output = script.output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(place.read("tty").starts_with("/dev/pts/"), "{output:?}");
}

#[test]
fn nohup_protects_it_and_its_command_from_hangups_only() {
    let place = Place::new();
    let work = "echo $$ > child; until [ -e end ]; do sleep 0.01; done; exit 5";
    let line = run_line(&place).replace("env --default-signal ", "");
    let script = format!("exec nohup {line} -- sh -c '{work}' > out 2>&1");
    let mut run = Running::start(&mut shell(&place, &script));
    let child = place.pid("child");
    run.signal(Signal::HUP);
    rustix::process::kill_process(child, Signal::HUP).unwrap();
    fs::write(place.path("end"), "").unwrap();
    assert_eq!(run.code(), 5, "{}", place.read("out"));
    fs::remove_file(place.path("end")).unwrap();
    fs::remove_file(place.path("child")).unwrap();
    let mut run = Running::start(&mut shell(&place, &script));
    let child = place.pid("child");
    run.signal(Signal::TERM);
    assert_eq!(run.code(), 143, "{}", place.read("out"));
    until_dead(child);
}

#[test]
fn a_full_disk_below_the_log_ends_nothing() {
    let place = Place::new();
    let script = "echo > ready; until [ -e end ]; do sleep 0.01; done; exit 5";
    let mut run = place.run(&["--id", "alice", "--policy", "fast"], script);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    run.env("TENURE_LOG", "trace")
        .stdout(full.try_clone().unwrap())
        .stderr(full);
    let mut run = Running::start(&mut run);
    place.line("ready");
    let left = || place.status()["expires_in_ms"].as_u64();
    let mut before = left();
    until("the lease is renewed", || {
        let now = left();
        let is_renewed = now > before;
        before = now;
        is_renewed
    });
    fs::write(place.path("end"), "").unwrap();
    assert_eq!(run.code(), 5);
}

/// No file may grow: as on a full disk, no record can be written.
#[test]
fn a_full_disk_below_the_store_stops_the_command_in_time() {
    let place = Place::new();
    let script = "trap 'echo got; exit' TERM; echo $$ > child; while :; do sleep 0.01; done";
    let mut command = place.run(&["--policy", "fast", "--exit-on-loss"], script);
    // A pipe, which no limit of files stops.
    let (mut said, writer) = std::io::pipe().unwrap();
    let log = writer.try_clone().unwrap();
    let mut run = Running::start(command.stdout(writer).stderr(log));
    drop(command);
    let child = place.pid("child");
    let limited = Command::new("prlimit")
        .args(["--pid", &run.pid().to_string(), "--fsize=0:0"])
        .status();
    assert!(limited.unwrap().success());
    assert_eq!(run.code(), 75);
    until_dead(child);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut said, &mut text).unwrap();
    assert!(text.lines().any(|line| line == "got"), "{text}");
    // There is room again.
    let mut next = place.start(&["--lease", ENDLESS], "exit 5");
    assert_eq!(next.code(), 5);
}

/// A file system of its own, of 64 KiB, below the store.
#[test]
fn a_full_file_system_is_waited_for_and_stops_the_command() {
    let place = Place::new();
    fs::create_dir(place.path("store")).unwrap();
    let script = r"mount -t tmpfs -o size=64k,mode=700 none store || exit 200
        fill() { dd if=/dev/zero of=store/filled bs=4k 2> /dev/null; }
        fill
        $RUN --policy fast -- sh -c 'echo $$ >> terms; until [ -e end ]; do sleep 0.01; done' 2> log &
        until grep -q 'No space left' log; do sleep 0.01; done
        [ -e terms ] && exit 201
        rm store/filled
        until [ -s terms ]; do sleep 0.01; done
        fill; while kill -0 $(head -1 terms) 2> /dev/null; do sleep 0.01; done
        rm store/filled
        until [ $(wc -l < terms) = 2 ]; do sleep 0.01; done
        touch end; wait %1";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c", script])
        .env("RUN", run_line(&place))
        .current_dir(place.path(""));
    let output = unshare.output().unwrap();
    if stderr(&output).contains("unshare failed") || output.status.code() == Some(200) {
        tenure_testkit::environment::left_out("no file system can be mounted here");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A real cron daemon, where the package is installed.
#[test]
#[ignore = "takes a minute, which is the shortest time that cron waits: run it by name"]
fn it_runs_below_a_cron_daemon() {
    let place = Place::new();
    let cron = std::env::var("TENURE_TEST_CRON").unwrap_or_else(|_| "/usr/sbin/cron".to_owned());
    if !std::path::Path::new(&cron).exists() {
        tenure_testkit::environment::left_out(&format!(
            "there is no {cron}; install the package cron"
        ));
        return;
    }
    let directory = place.path("");
    let work = format!(
        "cd {}; env > env.part; mv env.part env",
        directory.display()
    );
    fs::write(
        place.path("crontab"),
        format!(
            "* * * * * {} run --backend {} --lock job -- sh -c '{work}'\n",
            env!("CARGO_BIN_EXE_tenure"),
            place.url()
        ),
    )
    .unwrap();
    // Its tables and its lock file are its own, and it dies with the test.
    let script = "mount -t tmpfs none /var/spool && mount -t tmpfs none /run || exit 200
        mkdir -p /var/spool/cron/crontabs; cp crontab /var/spool/cron/crontabs/root
        chmod 600 /var/spool/cron/crontabs/root; exec \"$CRON\" -f";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", script])
        .env("CRON", cron)
        .current_dir(&directory);
    let _cron = Running::start(&mut unshare);
    until("cron has run it", || place.path("env").exists());
    assert!(place.read("env").contains("TENURE_TOKEN="));
    println!("{}", place.read("env"));
}
