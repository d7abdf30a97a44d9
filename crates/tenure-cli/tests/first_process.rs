//! `tenure run` as the first process of a PID namespace, as in a container.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::Command;

use support::{Place, stderr};

/// `script` as the first process of a PID namespace; `None` where none can be made.
fn first(place: &Place, script: &str) -> Option<Command> {
    const NAMESPACE: [&str; 5] = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];
    let unshare = |script: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(NAMESPACE).args(["sh", "-c", script]);
        unshare
    };
    if !unshare("true").output().is_ok_and(|it| it.status.success()) {
        tenure_testkit::environment::left_out("no PID namespace can be made here");
        return None;
    }
    let mut first = unshare(script);
    first
        .env(
            "RUN",
            format!("{} run --lock job", env!("CARGO_BIN_EXE_tenure")),
        )
        .env("TENURE_BACKEND", place.url())
        .current_dir(place.path(""));
    Some(first)
}

#[test]
fn it_reaps_what_has_lost_its_parent_whoever_started_it() {
    let place = Place::new();
    // 150 of another program, and 150 of the command; then none is left, neither alive nor dead.
    let script = r#"for i in $(seq 150); do (sleep 0.3 & ); done
        exec $RUN -- sh -c '
            for i in $(seq 150); do (sleep 0.3 & ); done
            while grep -qs "^Name:.sleep" /proc/[0-9]*/status; do :; done'"#;
    let Some(mut first) = first(&place, script) else {
        return;
    };
    let output = first.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn it_kills_what_the_command_started_and_nothing_else() {
    let place = Place::new();
    let script = r"(setsid sleep 1000 & echo $! > other)
        $RUN -- sh -c 'setsid sleep 1000 & echo $! > own; sleep 0.1'
        kill -0 $(cat other) || exit 3
        kill -0 $(cat own) 2> /dev/null && exit 4
        exec $RUN -- sh -c 'kill -0 $(cat other)'";
    let Some(mut first) = first(&place, script) else {
        return;
    };
    let output = first.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn without_proc_nobody_campaigns() {
    let place = Place::new();
    // Below the one of this namespace is that of the other, where this process has another number.
    for hide in ["mount -t tmpfs none /proc", "umount /proc"] {
        let Some(mut first) = first(&place, &format!("{hide}; exec $RUN -- touch made")) else {
            return;
        };
        let output = first.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{hide}: {output:?}");
        assert!(stderr(&output).contains("mount -t proc"), "{output:?}");
        assert!(!place.path("made").exists());
        assert!(!place.path("store").exists(), "{hide}: it campaigned");
    }
}
