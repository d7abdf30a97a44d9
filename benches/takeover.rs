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

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tenure::{BootClock, Clock as _, Election, Identity, LockName, Time};

const CONTENDER: &str = "TENURE_BENCH_CONTENDER";
const PROCESSES: usize = 3;

struct Elected {
    process: u32,
    token: u64,
    at: Time,
}

fn main() {
    if let Ok(url) = std::env::var(CONTENDER) {
        return contend(&url);
    }
    // `cargo test --benches` only builds it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = std::env::var("TENURE_BENCH_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(300);
    let directory = tempfile::tempdir().unwrap();
    let mut takeovers = kill_leaders(directory.path(), rounds);
    takeovers.sort_unstable();
    let at = |percent: usize| takeovers[(takeovers.len() - 1) * percent / 100];
    println!("{rounds} leaders killed with -9, {PROCESSES} processes, file backend");
    println!(
        "  new leader after  median {:?}, p90 {:?}, max {:?}",
        at(50),
        at(90),
        at(100)
    );
    tenure_benches::record::series(
        "takeover, the leader of three processes killed",
        "file",
        None,
        &takeovers,
    );
    println!("  no two terms overlapped, every token rose, every round had a new leader");
}

/// Campaigns, tells when it leads, and leads until it is killed.
fn contend(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = tenure::connect(url).await.unwrap();
        let identity = Identity::new(format!("process-{}", std::process::id())).unwrap();
        let election = Election::builder(backend, LockName::new("takeover").unwrap());
        let election = election.identity(identity).build().unwrap();
        let leadership = election.campaign().await.unwrap();
        println!("{} {}", leadership.token(), BootClock.now().as_nanos());
        std::io::stdout().flush().unwrap();
        leadership.lost().await;
    });
}

fn kill_leaders(directory: &Path, rounds: usize) -> Vec<Duration> {
    let url = format!("file://{}", directory.display());
    let (tell, elected) = mpsc::channel();
    let mut processes: Vec<Child> = (0..PROCESSES).map(|_| start(&url, &tell)).collect();
    let mut takeovers = Vec::new();
    let mut killed_at: Option<Time> = None;
    let mut last_token = 0;
    while takeovers.len() < rounds {
        let leader: Elected = elected
            .recv_timeout(Duration::from_secs(120))
            .expect("every round has a new leader");
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
        let leading = processes
            .iter()
            .position(|process| process.id() == leader.process);
        let mut process = processes.swap_remove(leading.expect("only the living are elected"));
        // Read before the kill: nobody else may lead before this moment.
        killed_at = Some(BootClock.now());
        process.kill().unwrap();
        process.wait().unwrap();
        processes.push(start(&url, &tell));
    }
    for mut process in processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    takeovers
}

fn start(url: &str, tell: &mpsc::Sender<Elected>) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CONTENDER, url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (process, stdout, tell) = (child.id(), child.stdout.take().unwrap(), tell.clone());
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let (token, at) = line.split_once(' ').unwrap();
            let at = Time::from_nanos(at.parse().unwrap());
            let token = token.parse().unwrap();
            // The receiver has gone when the last round is over.
            let _unheard = tell.send(Elected { process, token, at });
        }
    });
    child
}
