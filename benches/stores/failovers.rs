//! From the moment at which a leader's process is gone to the next one's valid term, at
//! `Policy::fast()`: killed, so that its system closes its connections, and frozen, so that nothing
//! tells of its end, as when its host or network is gone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tenure::{Election, ElectionState, LockName, Policy};
use tokio::runtime::Runtime;

use crate::place::{self, Place};
use tenure_benches::is_quick;

/// The URL and the lock, in the process that is to be killed.
const URL: &str = "TENURE_BENCH_LEADER_URL";
const LOCK: &str = "TENURE_BENCH_LEADER_LOCK";

pub(crate) fn is_leader_to_be_killed() -> bool {
    std::env::var_os(URL).is_some()
}

/// Leads until this process is killed, or has lost its parent.
pub(crate) fn lead() {
    let (url, lock) = (std::env::var(URL).unwrap(), std::env::var(LOCK).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = tenure::connect(&url).await.unwrap();
        let election = Election::builder(backend, LockName::new(lock).unwrap())
            .policy(Policy::fast())
            .build()
            .unwrap();
        let leadership = election.campaign().await.unwrap();
        println!("leading");
        std::io::stdout().flush().unwrap();
        // The parent's end of the pipe is closed when it ends.
        let parent = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().is_none());
        tokio::select! {
            () = leadership.lost() => {}
            _gone = parent => {}
        }
    });
}

#[derive(Clone, Copy)]
enum End {
    Killed,
    Frozen,
}

/// All stores at once: what is measured takes seconds, on most of them.
pub(crate) fn measure(runtime: &Runtime, places: &[Place]) {
    let rounds = if is_quick() { 3 } else { 20 };
    for (end, title) in [
        (End::Killed, "failover, leader killed"),
        (End::Frozen, "failover, leader frozen"),
    ] {
        println!("{title}, lease {:?}", Policy::fast().lease());
        let places = places.iter().filter(|place| !place.is_of_one_process());
        let running: Vec<_> = places
            .map(|place| {
                let name = place.name;
                (name, runtime.spawn(failovers(place.clone(), end, rounds)))
            })
            .collect();
        for (name, task) in running {
            let taken = runtime.block_on(task).unwrap();
            tenure_benches::report(title, name, &taken);
        }
    }
}

async fn failovers(place: Place, end: End, rounds: usize) -> Vec<Duration> {
    let mut taken = Vec::new();
    for _ in 0..rounds {
        taken.push(failover(&place, end).await);
    }
    taken
}

async fn failover(place: &Place, end: End) -> Duration {
    let lock = place::lock("failover");
    let mut leader = Leader::start(place, &lock).await;
    let election = Election::builder(place.connect().await, lock)
        .policy(Policy::fast())
        .build()
        .unwrap();
    let waiting = election.clone();
    let waiting = tokio::spawn(async move {
        let leadership = waiting.campaign().await.unwrap();
        (Instant::now(), leadership)
    });
    while !matches!(&*election.state().borrow(), ElectionState::Candidate { .. }) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // At any moment between two heartbeats, after the other one has had a look.
    let moment = fastrand::u64(1_000..2_000);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    let start = Instant::now();
    leader.end(end);
    let (at, leadership) = waiting.await.unwrap();
    drop(leader);
    leadership.resign().await.unwrap();
    at - start
}

/// The process that leads; killed on drop.
struct Leader(Child);

impl Leader {
    async fn start(place: &Place, lock: &LockName) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(URL, &place.url)
            .env(LOCK, lock.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let leader = Self(child);
        let line = tokio::task::spawn_blocking(|| BufReader::new(stdout).lines().next());
        line.await.unwrap().unwrap().unwrap();
        leader
    }

    fn end(&mut self, end: End) {
        match end {
            End::Killed => self.0.kill().unwrap(),
            End::Frozen => kill_process(Pid::from_child(&self.0), Signal::STOP).unwrap(),
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
