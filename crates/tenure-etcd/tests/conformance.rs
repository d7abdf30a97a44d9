//! The conformance suite on real etcd: one node, and a cluster of three.
//!
//! One cluster serves all cases of a suite, so each suite is one test; see `report.log()`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_conformance::proxy::FaultProxy;
use tenure_conformance::{Answers, Hook, Proxied, Target, async_trait, reexec, run_all};
use tenure_core::{Error, LockBackend, LockName};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::LIMIT;
use tenure_testkit::etcd::{Cluster, start_with};

const URL: &str = "TENURE_TEST_ETCD_URL";

struct Etcd {
    cluster: Mutex<Cluster>,
    proxies: Vec<FaultProxy>,
    url: String,
}

const USER: &str = "root";
const PASSWORD: &str = "correct-horse-battery";

impl Etcd {
    fn start(members: usize) -> Option<Self> {
        // Its default makes every connection of the suite cost a tenth of a second of a core.
        let mut cluster = start_with(members, &["--bcrypt-cost", "4"])?;
        cluster.ctl(&["user", "add", &format!("{USER}:{PASSWORD}")]);
        cluster.ctl(&["user", "grant-role", USER, "root"]);
        cluster.ctl(&["auth", "enable"]);
        cluster.flags = vec![format!("--user={USER}:{PASSWORD}")];
        let proxies = proxies_of(&cluster);
        Some(Self {
            cluster: Mutex::new(cluster),
            url: url_by(&proxies),
            proxies,
        })
    }

    fn keys(&self, lock: &LockName) -> Vec<String> {
        self.cluster.lock().unwrap().queue(&format!("suite/{lock}"))
    }
}

/// One in front of each member.
fn proxies_of(cluster: &Cluster) -> Vec<FaultProxy> {
    let members = cluster.members.iter();
    members
        .map(|member| FaultProxy::start(member.address().parse().unwrap()).unwrap())
        .collect()
}

fn url_by(proxies: &[FaultProxy]) -> String {
    let hosts = proxies.iter().map(|proxy| proxy.address().to_string());
    let hosts: Vec<_> = hosts.collect();
    format!("etcd://{USER}:{PASSWORD}@{}/suite", hosts.join(","))
}

async fn connect(url: &str) -> Result<Arc<dyn LockBackend>, Error> {
    let backend = EtcdBackend::connect(EtcdConfig::from_url(url)?).await?;
    Ok(Arc::new(backend))
}

#[async_trait]
impl Target for Etcd {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        connect(&self.url).await
    }

    fn patience(&self) -> Duration {
        LIMIT
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        let cluster = self.cluster.lock().unwrap();
        cluster.ctl(&["del", "--prefix", &format!("suite/{lock}/")]);
        Hook::Done
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        for key in self.keys(lock) {
            let cluster = self.cluster.lock().unwrap();
            // Without a lease, and with a value that is no identity.
            cluster.ctl(&["put", &key, "\u{1}\u{2} \u{3}"]);
        }
        Hook::Done
    }

    async fn restart_store(&self) -> Hook {
        let mut cluster = self.cluster.lock().unwrap();
        for member in &mut cluster.members {
            member.kill();
        }
        for member in &mut cluster.members {
            member.restart();
        }
        cluster.wait();
        Hook::Done
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through(&self.proxies)
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let proxies = proxies_of(&self.cluster.lock().unwrap());
        let connected = connect(&url_by(&proxies)).await;
        Some(connected.map(|backend| Proxied::new(backend, proxies)))
    }

    /// All that its holder's process leads on the lease ends with it.
    async fn end_session(&self, lock: &LockName) -> Hook {
        let key = self.keys(lock)[0].clone();
        let (_, lease) = key.rsplit_once('/').unwrap();
        let cluster = self.cluster.lock().unwrap();
        cluster.ctl(&["lease", "revoke", lease]);
        Hook::Done
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        let config = EtcdConfig::from_url(&format!("etcd://u:{PASSWORD}@127.0.0.1:1")).unwrap();
        Some(EtcdBackend::lazy(config).map(|backend| Arc::new(backend) as Arc<dyn LockBackend>))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = reexec("contestant");
        command.env(URL, &self.url);
        Some(command)
    }
}

/// What a process of its own needs of the subject.
struct Remote(String);

#[async_trait]
impl Target for Remote {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        connect(&self.0).await
    }
}

/// Does nothing when it is run among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || Remote(std::env::var(URL).unwrap()));
}

async fn judge(suite: &str, members: usize) {
    let Some(subject) = Etcd::start(members) else {
        return;
    };
    let report = run_all(suite, &subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_node() {
    judge("etcd", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes() {
    judge("etcd_cluster", 3).await;
}
