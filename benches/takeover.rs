//! How long nobody leads after the leader was killed with -9: three processes on the file backend
//! at the default policy, 300 rounds (`TENURE_BENCH_ROUNDS`).
//!
//! It also checks what it sees, and fails if two terms overlapped, if a token did not rise, or if
//! a round had no new leader.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::time::Duration;

use tenure::{BootClock, Clock as _, Policy, Time};
use tenure_benches::contenders::{Contender, contends};
use tenure_benches::{is_asked, one_thread, ours, record, variable};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PROCESSES: usize = 3;

const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    if contends() || !is_asked() {
        return;
    }
    let rounds = variable("TENURE_BENCH_ROUNDS").unwrap_or(300);
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let takeovers = one_thread().block_on(kill_leaders(&url, rounds));
    let table = "takeover, the leader of three processes killed";
    record::series(table, "file", &takeovers);
    println!("  no two terms overlapped, every token rose, every round had a new leader");
}

async fn kill_leaders(url: &str, rounds: u64) -> Vec<Duration> {
    let lock = ours::lock("takeover");
    let (tell, mut elected) = mpsc::unbounded_channel();
    let start = || Contender::start(url, &lock, Policy::default().lease(), &tell);
    let mut processes: Vec<Contender> = (0..PROCESSES).map(|_| start()).collect();
    let mut takeovers = Vec::new();
    let mut killed_at: Option<Time> = None;
    let mut last_token = 0;
    for _ in 0..=rounds {
        let leader = timeout(LIMIT, elected.recv()).await;
        let leader = leader.expect("every round has a new leader").unwrap();
        assert!(
            leader.token > last_token,
            "token {} after {last_token}",
            leader.token
        );
        last_token = leader.token;
        if let Some(killed_at) = killed_at {
            assert!(
                leader.at > killed_at,
                "a term began before the last one ended"
            );
            takeovers.push(leader.at.since(killed_at));
        }
        let mut ids = processes.iter().map(|process| process.0.id());
        let leading = ids.position(|id| id == leader.process);
        let mut process = processes.swap_remove(leading.expect("only the living are elected"));
        // Read before the kill: nobody else may lead before this moment.
        killed_at = Some(BootClock.now());
        process.kill();
        processes.push(start());
    }
    takeovers
}
