//! What depends on the host's real clock and threads.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tenure_core::{
    BootClock, Clock as _, Election, HeartbeatThread, Identity, LockName, MemoryBackend, Policy,
};

/// Hazard 24: the application's only worker is blocked for longer than a lease.
#[tokio::test(flavor = "current_thread")]
async fn a_heartbeat_thread_keeps_the_lease_while_the_workers_are_blocked() {
    let backend = Arc::new(MemoryBackend::private());
    let lock = LockName::new("busy").unwrap();
    let policy = Policy::fast();
    let elect = |name: &str, heartbeats: &HeartbeatThread| {
        Election::builder(backend.clone(), lock.clone())
            .identity(Identity::new(name).unwrap())
            .policy(policy.clone())
            .spawn_on(heartbeats.clone())
            .build()
            .unwrap()
    };
    let heartbeats = HeartbeatThread::start().unwrap();
    let leadership = elect("busy", &heartbeats).campaign().await.unwrap();
    let rival = elect("rival", &HeartbeatThread::start().unwrap());
    let mut campaign = std::pin::pin!(rival.campaign());
    let first = futures_util::poll!(campaign.as_mut());
    assert!(first.is_pending());

    let blocked = Instant::now();
    while blocked.elapsed() < policy.lease() + Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(leadership.is_valid(), "its heartbeats went on");
    let token = leadership.token();
    leadership.resign().await.unwrap();
    assert!(campaign.await.unwrap().token() > token);
}

/// Hazard 3: the clock must go on during suspend. A time namespace whose boot clock is ahead
/// tells the two clocks apart without suspending the machine.
#[test]
fn the_clock_is_the_boot_clock() {
    const AHEAD: u64 = 100_000;
    const CHILD: &str = "TENURE_TEST_PRINT_CLOCK";
    if std::env::var_os(CHILD).is_some() {
        println!("clock={}", BootClock.now().as_nanos());
        return;
    }
    // Without a user namespace root alone may; within one everybody, where the system lets them.
    let ways: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    let outputs = ways.map(|way| {
        Command::new("unshare")
            .args(way)
            .args(["--time", "--boottime", &AHEAD.to_string()])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "the_clock_is_the_boot_clock", "--nocapture"])
            .env(CHILD, "1")
            .output()
    });
    let ahead = outputs.iter().flatten().find_map(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        let clock = |line: &str| line.split_once("clock=")?.1.trim().parse::<u64>().ok();
        text.lines().find_map(clock)
    });
    let Some(ahead) = ahead else {
        // Containers and other systems may not allow it; where everything is to be shown, it must.
        let strict = std::env::var_os("TENURE_TEST_STRICT").is_some();
        assert!(!strict, "time namespaces are needed here: {outputs:?}");
        println!("LEFT OUT: no time namespaces here, so the clocks cannot be told apart");
        return;
    };
    let here = BootClock.now().as_nanos();
    let difference = Duration::from_nanos(ahead.saturating_sub(here));
    assert!(
        difference > Duration::from_secs(AHEAD - 1000),
        "{difference:?}"
    );
}
