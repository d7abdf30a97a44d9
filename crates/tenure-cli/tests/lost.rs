//! No work without the lock: `tenure` is killed, stopped, or loses its lock.

mod support;

use std::fs;

use rustix::process::{Signal, kill_process};
use support::{ENDLESS, Place, Running, is_alive, stop, until, until_dead};

/// Tells its own number and that of a process it has started, and works for ever.
const WORK: &str = "sleep 1000 & echo $! > grandchild-$TENURE_IDENTITY
    echo $$ > child-$TENURE_IDENTITY; wait";

/// On its start, tells in which state the command of alice is.
const LOOK: &str = "for name in child grandchild; do
        stat=/proc/$(cat $name-alice)/stat
        if [ -e $stat ]; then cut -d' ' -f3 $stat; else echo gone; fi
    done > seen.part
    mv seen.part seen; exec sleep 1000";

fn start(place: &Place, id: &str, options: &[&str], script: &str) -> Running {
    let options = [&["--id", id], options].concat();
    place.start_logged(&options, script, &format!("log-{id}"))
}

fn campaigns(place: &Place, id: &str) -> usize {
    place.read(&format!("log-{id}")).matches("waits").count()
}

#[test]
fn killing_tenure_kills_the_command_and_what_it_started_and_another_takes_over() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--lease", ENDLESS], WORK);
    let (child, grandchild) = (place.pid("child-alice"), place.pid("grandchild-alice"));
    let _bob = start(&place, "bob", &["--lease", ENDLESS], WORK);
    let guard = alice.guard();
    alice.signal(Signal::KILL);
    until_dead(child);
    until_dead(grandchild);
    until_dead(guard);
    assert!(is_alive(place.pid("child-bob")));
    assert_eq!(place.status()["leader"], "bob");
}

#[test]
fn the_leader_counts_as_alive_until_everything_it_started_is_dead() {
    let place = Place::new();
    // In a cgroup of its own a tenure of another test would kill what is left.
    let options = ["--lease", ENDLESS, "--no-cgroup"];
    let alice = start(&place, "alice", &options, WORK);
    let (child, grandchild) = (place.pid("child-alice"), place.pid("grandchild-alice"));
    let _bob = start(&place, "bob", &["--lease", ENDLESS], LOOK);
    // With the guard and the subreaper killed as well, nobody kills what the command has started.
    stop(alice.pid());
    for helper in [alice.guard(), alice.subreaper()] {
        kill_process(helper, Signal::KILL).unwrap();
        until_dead(helper);
    }
    alice.signal(Signal::KILL);
    until_dead(alice.pid());
    until_dead(child);
    assert!(is_alive(grandchild));
    let status = place.status();
    assert_eq!(status["leader"], "alice", "{status}");
    kill_process(grandchild, Signal::KILL).unwrap();
    until("bob has looked", || place.path("seen").exists());
    for state in place.read("seen").lines() {
        assert!(matches!(state, "Z" | "X" | "gone"), "{state}");
    }
}

#[test]
fn a_command_whose_tenure_died_before_it_began_is_not_started() {
    let place = Place::new();
    let made = place.path("made");
    // As if the process that started it were somebody else by now.
    let output = support::tenure()
        .args(["__exec", "--parent", "1", "--", "touch"])
        .arg(&made)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!made.exists());
}

#[test]
fn killing_tenure_while_its_command_is_stopped_kills_that_too() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--lease", ENDLESS], WORK);
    let (child, grandchild) = (place.pid("child-alice"), place.pid("grandchild-alice"));
    stop(child);
    stop(grandchild);
    alice.signal(Signal::KILL);
    until_dead(child);
    until_dead(grandchild);
}

#[test]
fn a_tenure_that_is_stopped_alone_has_its_command_killed_before_another_starts() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--policy", "fast"], WORK);
    place.line("child-alice");
    let _bob = start(&place, "bob", &["--policy", "fast"], LOOK);
    stop(alice.pid());
    until("bob has looked", || place.path("seen").exists());
    for state in place.read("seen").lines() {
        assert!(matches!(state, "Z" | "X" | "gone"), "{state}");
    }
    assert_eq!(campaigns(&place, "alice"), 1);
    alice.signal(Signal::CONT);
    until("alice campaigns again", || campaigns(&place, "alice") == 2);
    assert_eq!(place.status()["leader"], "bob");
}

#[test]
fn after_a_freeze_of_everything_the_command_does_not_run_on() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--policy", "fast"], WORK);
    let (child, grandchild) = (place.pid("child-alice"), place.pid("grandchild-alice"));
    let (guard, subreaper) = (alice.guard(), alice.subreaper());
    let _bob = start(&place, "bob", &["--policy", "fast"], LOOK);
    for process in [guard, subreaper, alice.pid(), child, grandchild] {
        stop(process);
    }
    until("bob has looked", || place.path("seen").exists());
    // Frozen like that, it cannot do anything.
    assert_eq!(place.read("seen"), "T\nT\n");
    alice.signal(Signal::CONT);
    until_dead(child);
    until_dead(grandchild);
    until("alice campaigns again", || campaigns(&place, "alice") == 2);
    // It has no group to look after any more, though it never got to run.
    until_dead(guard);
    assert_eq!(place.status()["leader"], "bob");
}

#[test]
fn a_stopped_command_is_no_reason_to_keep_the_lock_for_ever() {
    let place = Place::new();
    let mut alice = start(&place, "alice", &["--lease", ENDLESS], WORK);
    let child = place.pid("child-alice");
    stop(child);
    // It is continued, so that it gets to handle the signal.
    alice.signal(Signal::TERM);
    assert_eq!(alice.code(), 143);
    assert!(!is_alive(child));
    place.assert_free();
}

#[test]
fn a_guard_that_dies_is_replaced() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--policy", "fast"], WORK);
    let grandchild = place.pid("grandchild-alice");
    let guard = alice.guard();
    kill_process(guard, Signal::KILL).unwrap();
    until_dead(guard);
    assert_ne!(alice.guard(), guard);
    assert!(is_alive(grandchild));
    alice.signal(Signal::KILL);
    until_dead(grandchild);
}

#[test]
fn a_lost_lock_stops_the_command_and_tenure_campaigns_again() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--policy", "fast"], WORK);
    let (child, grandchild) = (place.pid("child-alice"), place.pid("grandchild-alice"));
    fs::remove_file(place.path("child-alice")).unwrap();
    fs::remove_dir_all(place.path("store/job")).unwrap();
    until_dead(child);
    until_dead(grandchild);
    assert_ne!(place.pid("child-alice"), child);
    assert_eq!(campaigns(&place, "alice"), 2);
    assert!(is_alive(alice.pid()));
}

#[test]
fn exit_on_loss_gives_75() {
    let place = Place::new();
    let options = ["--policy", "fast", "--exit-on-loss"];
    let mut alice = start(&place, "alice", &options, WORK);
    let child = place.pid("child-alice");
    fs::remove_dir_all(place.path("store/job")).unwrap();
    assert_eq!(alice.code(), 75);
    assert!(!is_alive(child));
}

#[test]
fn a_store_that_fails_gives_the_command_its_time_to_stop() {
    let place = Place::new();
    // The first one stops when asked, the second one has to be killed.
    for (handler, expected) in [
        ("echo got > signal; exit 0", "got"),
        ("echo no > signal", "no"),
    ] {
        let script = format!(
            "trap '{handler}' TERM; echo $$ > child-alice.part; mv child-alice.part child-alice
             while :; do sleep 0.01; done"
        );
        let options = ["--policy", "fast", "--stop-grace", "1s", "--exit-on-loss"];
        let mut alice = start(&place, "alice", &options, &script);
        let child = place.pid("child-alice");
        fs::rename(place.path("store/job"), place.path("away")).unwrap();
        fs::write(place.path("store/job"), "a file in the way").unwrap();
        assert_eq!(place.line("signal"), expected);
        assert_eq!(alice.code(), 75);
        assert!(!is_alive(child));
        fs::remove_file(place.path("store/job")).unwrap();
        fs::remove_dir_all(place.path("away")).unwrap();
        fs::remove_file(place.path("signal")).unwrap();
        fs::remove_file(place.path("child-alice")).unwrap();
    }
}

/// However little time that leaves for the command, leadership was lost: tenure did not end by
/// the command's own will.
#[test]
fn a_command_killed_with_hardly_any_time_to_stop_is_a_loss_too() {
    for (heartbeat, grace) in [
        ("500ms", "10ms"),
        ("500ms", "0s"),
        // So tight that there is no room to tell the command before it has to be killed.
        ("1650ms", "10ms"),
    ] {
        let place = Place::new();
        let options = ["--lease", "2s", "--heartbeat", heartbeat];
        let options = [&options[..], &["--stop-grace", grace, "--exit-on-loss"]].concat();
        let script = "trap '' TERM; echo $$ > child; while :; do sleep 0.01; done";
        let mut alice = start(&place, "alice", &options, script);
        let child = place.pid("child");
        fs::rename(place.path("store/job"), place.path("away")).unwrap();
        fs::write(place.path("store/job"), "a file in the way").unwrap();
        assert_eq!(alice.code(), 75, "{options:?}: {}", place.read("log-alice"));
        assert!(!is_alive(child));
    }
}

#[test]
fn a_store_that_was_out_of_order_is_waited_for() {
    let place = Place::new();
    let alice = start(&place, "alice", &["--policy", "fast"], WORK);
    let child = place.pid("child-alice");
    fs::rename(place.path("store/job"), place.path("away")).unwrap();
    fs::write(place.path("store/job"), "a file in the way").unwrap();
    until_dead(child);
    fs::remove_file(place.path("child-alice")).unwrap();
    until("alice has met what is in the way", || {
        place.read("log-alice").contains("store failed, will retry")
    });
    fs::remove_file(place.path("store/job")).unwrap();
    assert_ne!(place.pid("child-alice"), child);
    assert!(is_alive(alice.pid()));
}

#[test]
fn a_store_that_is_out_of_order_at_the_start_is_an_error() {
    let place = Place::new();
    place.make_store();
    fs::write(place.path("store/job"), "a file in the way").unwrap();
    let output = place.run(&[], "echo > never").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(support::stderr(&output).contains("use another directory"));
    assert!(!place.path("never").exists());
}
