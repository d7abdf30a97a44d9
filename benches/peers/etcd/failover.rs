//! How soon another candidate leads when the leader's process is killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tenure_core::Policy;
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_peers::{Series, rounds, table};

use crate::election;
use crate::support::Cluster;

const VICTIM: &str = "TENURE_BENCH_ETCD_VICTIM";

/// Processes that are killed, for each lease: 20, or fewer in a short run.
fn kills() -> u64 {
    rounds().div_ceil(5).clamp(AT_A_TIME, 20)
}

/// So many are killed side by side, each at another moment of its lease.
const AT_A_TIME: u64 = 5;

pub fn is_victim() -> bool {
    std::env::var_os(VICTIM).is_some()
}

/// Leads the lock it is told until it is killed, or the benchmark is gone.
pub fn victim() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let text = std::env::var(VICTIM).unwrap();
        let mut words = text.split(' ');
        let config = EtcdConfig::from_url(words.next().unwrap()).unwrap();
        let lock = words.next().unwrap();
        let lease = words.next().unwrap().parse().unwrap();
        let backend = EtcdBackend::connect(config).await.unwrap();
        let leadership = election(&backend, lock, &policy(lease)).campaign().await;
        let leadership = leadership.unwrap();
        println!("{}", leadership.token());
        tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]))
            .await
            .unwrap()
            .unwrap();
    });
}

/// With heartbeats as frequent as two of them within the lease ask for.
fn policy(lease: u64) -> Policy {
    let lease = Duration::from_secs(lease);
    Policy::fast()
        .to_builder()
        .lease(lease)
        .heartbeat(lease / 4)
        .request_timeout(lease / 8)
        .build()
        .unwrap()
}

struct Victim(Child);

impl Victim {
    fn start(server: &Cluster, lock: &str, lease: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(VICTIM, format!("{} {lock} {lease}", server.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it ended without having led");
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub async fn run(server: &Cluster) {
    table("From kill -9 of the leader's process to the next leader");
    for (lease, name) in [(2, "a lease of 2 s"), (3, "of 3 s"), (5, "of 5 s")] {
        let backend = server.connect().await;
        let mut series = Series::new(name);
        let mut all = Vec::new();
        for round in 0..kills() / AT_A_TIME {
            let rivals: Vec<_> = (0..AT_A_TIME)
                .map(|number| {
                    let lock = format!("failover-{lease}-{round}-{number}");
                    let mut victim = Victim::start(server, &lock, lease);
                    let election = election(&backend, &lock, &policy(lease));
                    tokio::spawn(async move {
                        let waiting = tokio::spawn(async move {
                            let leadership = election.campaign().await.unwrap();
                            (Instant::now(), leadership)
                        });
                        // Any moment between two heartbeats.
                        let led = Duration::from_secs(lease)
                            + Duration::from_millis(fastrand::u64(..1000));
                        tokio::time::sleep(led).await;
                        assert!(!waiting.is_finished(), "there are two leaders");
                        let killed = Instant::now();
                        tokio::task::spawn_blocking(move || victim.kill())
                            .await
                            .unwrap();
                        let (elected, leadership) = waiting.await.unwrap();
                        assert!(leadership.is_valid());
                        leadership.resign().await.unwrap();
                        elected - killed
                    })
                })
                .collect();
            for rival in rivals {
                let taken = rival.await.unwrap();
                series.add(taken);
                all.push(taken);
            }
        }
        series.print(None);
        all.sort();
        let bound = Duration::from_secs(lease + 1);
        let within = all.iter().filter(|taken| **taken <= bound).count();
        println!("    each: {all:.2?}");
        println!(
            "    {within} of {} within the granted lease and 1 s",
            all.len()
        );
    }
}
