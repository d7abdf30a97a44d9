//! Processes that campaign, lead and are killed: this very program, started again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tenure_core::{BootClock, Clock as _, ElectionState, LockName, Policy, Time};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{one_thread, ours, variable};

const URL: &str = "TENURE_BENCH_CONTENDER_URL";
const LOCK: &str = "TENURE_BENCH_CONTENDER_LOCK";
const LEASE: &str = "TENURE_BENCH_CONTENDER_LEASE";

/// A process that was elected.
pub struct Elected {
    pub process: u32,
    pub token: u64,
    pub at: Time,
}

/// If this process was started to contend: campaigns, leads, and ends when it is killed, has lost
/// the term or its parent. To be called first in `main`.
pub fn contends() -> bool {
    let Ok(url) = std::env::var(URL) else {
        return false;
    };
    let lock = LockName::new(std::env::var(LOCK).unwrap()).unwrap();
    let lease = Duration::from_secs(variable(LEASE).unwrap());
    one_thread().block_on(async {
        let backend = ours::connect(&url).await;
        let election = ours::election(backend, lock, &policy(lease));
        let leadership = election.campaign().await.unwrap();
        println!("{} {}", leadership.token(), BootClock.now().as_nanos());
        std::io::stdout().flush().unwrap();
        // The parent's end of the pipe is closed when it ends.
        let parent = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().is_none());
        tokio::select! {
            () = leadership.lost() => {}
            _gone = parent => {}
        }
        // The thread that reads would be waited for.
        std::process::exit(0);
    })
}

/// With heartbeats as frequent as two of them within the lease ask for.
pub fn policy(lease: Duration) -> Policy {
    let known = [Policy::default(), Policy::fast()];
    if let Some(policy) = known.into_iter().find(|policy| policy.lease() == lease) {
        return policy;
    }
    let policy = Policy::fast().to_builder().lease(lease);
    let policy = policy.heartbeat(lease / 4).request_timeout(lease / 8);
    policy.build().unwrap()
}

/// How a leader's process ends: killed, so that its system closes its connections, or frozen, so that
/// nothing tells of its end, as when its host or network is gone.
#[derive(Clone, Copy)]
pub enum End {
    Killed,
    Frozen,
}

/// From the end of a leader's process to the next one's valid term, which has waited so long.
pub async fn failover(url: &str, lease: Duration, end: End, wait: Duration) -> Duration {
    let lock = ours::lock("failover");
    let (tell, mut elected) = unbounded_channel();
    let mut leader = Contender::start(url, &lock, lease, &tell);
    elected.recv().await.unwrap();
    let election = ours::election(ours::connect(url).await, lock, &policy(lease));
    let waiting = election.clone();
    let waiting = tokio::spawn(async move {
        let leadership = waiting.campaign().await.unwrap();
        (Instant::now(), leadership)
    });
    while !matches!(&*election.state().borrow(), ElectionState::Candidate { .. }) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(wait).await;
    assert!(!waiting.is_finished(), "there are two leaders");
    let start = Instant::now();
    match end {
        End::Killed => leader.0.kill().unwrap(),
        End::Frozen => kill_process(Pid::from_child(&leader.0), Signal::STOP).unwrap(),
    }
    let (at, leadership) = waiting.await.unwrap();
    assert!(leadership.is_valid());
    drop(leader);
    leadership.resign().await.unwrap();
    at - start
}

/// A process that contends; killed on drop.
pub struct Contender(pub Child);

impl Contender {
    /// It tells when it is elected.
    pub fn start(
        url: &str,
        lock: &LockName,
        lease: Duration,
        tell: &UnboundedSender<Elected>,
    ) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(URL, url)
            .env(LOCK, lock.as_str())
            .env(LEASE, lease.as_secs().to_string())
            .stdin(Stdio::piped())
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
        Self(child)
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
