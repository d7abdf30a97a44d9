use std::time::Instant;

use super::*;
use crate::support::{LIMIT, Server, start, start_pair};

/// What this library makes of the real server's answer to a command.
fn answer(server: &Server, command: &[&str]) -> StoreError {
    let error = server.try_command(command).unwrap_err();
    let address = Address::parse(&server.address(), 6379).unwrap();
    answered(&address, "tenure", error)
}

#[test]
fn keys_in_two_slots() {
    let Some(server) = start(&["--cluster-enabled", "yes"]) else {
        return;
    };
    let down = answer(&server, &["GET", "a"]);
    assert_eq!(
        (down.kind, down.recovery),
        (ErrorKind::Unavailable, Recovery::Reconnect)
    );
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let script = ["EVAL", "return 1", "2", "a", "b"];
    let crossed = answer(&server, &script);
    assert_eq!(crossed.kind, ErrorKind::Misconfigured);
    assert!(crossed.to_string().contains("CROSSSLOT"), "{crossed}");
}

#[test]
fn a_replica_that_has_lost_its_master() {
    let Some((mut master, replica)) = start_pair(&["--replica-serve-stale-data", "no"]) else {
        return;
    };
    let read_only = answer(&replica, &["SET", "a", "b"]);
    assert_eq!(
        (read_only.kind, read_only.recovery),
        (ErrorKind::Unavailable, Recovery::Reconnect)
    );
    master.kill();
    // Its link is seen to be down when the master's connection closes.
    let start = Instant::now();
    while replica.try_command(&["GET", "a"]).is_ok() {
        assert!(start.elapsed() < LIMIT);
    }
    let down = answer(&replica, &["GET", "a"]);
    assert_eq!(
        (down.kind, down.recovery.clone()),
        (ErrorKind::Unavailable, Recovery::Reconnect)
    );
    assert!(down.to_string().contains("MASTERDOWN"), "{down}");
}

#[test]
fn answers_of_a_server_in_use() {
    let Some(server) = start(&[]) else { return };
    let hash = "0000000000000000000000000000000000000000";
    let forgotten = answer(&server, &["EVALSHA", hash, "0"]);
    assert_eq!(forgotten.recovery, Recovery::Store(NextStep::SendScript));
    let unknown = answer(&server, &["NO-SUCH-COMMAND"]);
    assert_eq!(unknown.kind, ErrorKind::Unsupported);
    server.command(&["LPUSH", "list", "x"]);
    for command in [
        &["GET", "list"][..],
        &["EVAL", "return redis.call('GET', 'list')", "0"],
    ] {
        assert_eq!(answer(&server, command).kind, ErrorKind::Corrupted);
    }
    let other = answer(&server, &["SET"]);
    assert_eq!(
        (other.kind, other.recovery),
        (ErrorKind::Unavailable, Recovery::None)
    );
}
