//! One election with `etcdctl elect` and `etcdctl lock`, on a real etcd.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use tenure_core::{Election, ErrorKind, Identity, LockBackend as _, Occupancy, Policy};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::process::signal;
use tenure_testkit::{lock, until, within_limit};

const ELECTION: &str = "interop/job";

/// `etcdctl elect` or `etcdctl lock`; killed on drop.
struct Ctl {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Ctl {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = cluster.ctl_command(0);
        command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            out: Some(out),
        }
    }

    /// The next line it prints, which it does when it is elected.
    async fn line(&mut self) -> String {
        let mut out = self.out.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            (out, line)
        });
        let (out, line) = within_limit("a line of etcdctl", reading).await.unwrap();
        self.out = Some(out);
        line.trim().to_owned()
    }

    /// Resigns, as on Ctrl-C.
    fn interrupt(&mut self) {
        signal("INT", self.child.id());
        self.child.wait().unwrap();
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

async fn ours(cluster: &Cluster, identity: &str) -> Election {
    let config = EtcdConfig::from_url(&format!("{}/interop", cluster.url())).unwrap();
    let backend = Arc::new(EtcdBackend::connect(config).await.unwrap());
    Election::builder(backend, lock("job"))
        .identity(Identity::new(identity).unwrap())
        .policy(Policy::default())
        .build()
        .unwrap()
}

async fn until_queue_is(cluster: &Cluster, length: usize) {
    until(&format!("{length} are in the queue"), async || {
        cluster.queue(ELECTION).len() == length
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hand_overs_to_and_from_etcdctl_elect() {
    let Some(cluster) = start() else { return };
    let election = ours(&cluster, "ours").await;
    let mut last = None;
    let mut leadership = election.campaign().await.unwrap();
    for round in 0..25 {
        assert!(last.is_none_or(|last| leadership.token() > last));
        last = Some(leadership.token());
        let mut listing = Ctl::start(&cluster, &["elect", "-l", ELECTION]);
        assert!(listing.line().await.starts_with(ELECTION));
        assert_eq!(listing.line().await, "ours");
        drop(listing);

        let name = format!("theirs-{round}");
        let mut theirs = Ctl::start(&cluster, &["elect", ELECTION, &name]);
        until_queue_is(&cluster, 2).await;
        let term = leadership.term();
        assert!(term.is_valid());
        leadership.resign().await.unwrap();
        assert!(!term.is_valid());
        let key = theirs.line().await;
        assert_eq!(theirs.line().await, name);
        assert_eq!(cluster.queue(ELECTION)[0], key);

        let waiting = election.clone();
        let campaign = tokio::spawn(async move { waiting.campaign().await });
        until_queue_is(&cluster, 2).await;
        assert!(!campaign.is_finished(), "etcdctl leads");
        theirs.interrupt();
        leadership = within_limit("our turn", campaign).await.unwrap().unwrap();
    }
    leadership.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_lock_takes_its_turn() {
    let Some(cluster) = start() else { return };
    let election = ours(&cluster, "ours").await;
    let mut theirs = Ctl::start(&cluster, &["lock", ELECTION]);
    let key = theirs.line().await;
    assert!(key.starts_with(ELECTION), "{key}");
    let waiting = election.clone();
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    until_queue_is(&cluster, 2).await;
    assert!(!campaign.is_finished(), "etcdctl has the lock");
    theirs.interrupt();
    let leadership = within_limit("our turn", campaign).await.unwrap().unwrap();

    let mut theirs = Ctl::start(&cluster, &["lock", ELECTION]);
    until_queue_is(&cluster, 2).await;
    leadership.resign().await.unwrap();
    assert!(theirs.line().await.starts_with(ELECTION));
}

/// Peers believe in a queue that they have left without knowing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_candidate_whose_lease_is_revoked_enters_the_queue_again() {
    let Some(cluster) = start() else { return };
    let leader = ours(&cluster, "leader").await.campaign().await.unwrap();
    let phantom = ours(&cluster, "phantom").await;
    let campaign = tokio::spawn(async move { phantom.campaign().await });
    until_queue_is(&cluster, 2).await;
    let key = cluster.queue(ELECTION)[1].clone();
    let (_, lease) = key.rsplit_once('/').unwrap();
    cluster.ctl(&["lease", "revoke", lease]);
    // It is back in the queue by another lease, behind the leader.
    until("it is back", async || {
        let queue = cluster.queue(ELECTION);
        queue.len() == 2 && queue[1] != key
    })
    .await;
    assert!(!campaign.is_finished(), "it never leads as it was");
    assert!(leader.is_valid());
    leader.resign().await.unwrap();
    let elected = within_limit("its turn", campaign).await.unwrap().unwrap();
    let queue = cluster.queue(ELECTION);
    assert_eq!(queue.len(), 1);
    assert_ne!(queue[0], key);
    assert!(elected.is_valid());
}

/// The same without anybody to notice: the lease goes while its process is not looking, and the
/// leader goes right after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_candidate_does_not_lead_when_the_leader_goes_at_the_same_moment() {
    let Some(cluster) = start() else { return };
    for _ in 0..10 {
        let leader = ours(&cluster, "leader").await.campaign().await.unwrap();
        let phantom = ours(&cluster, "phantom").await;
        let campaign = tokio::spawn(async move { phantom.campaign().await });
        until_queue_is(&cluster, 2).await;
        let key = cluster.queue(ELECTION)[1].clone();
        let (_, lease) = key.rsplit_once('/').unwrap();
        let (_revoked, resigned) = tokio::join!(
            async { cluster.ctl(&["lease", "revoke", lease]) },
            leader.resign()
        );
        resigned.unwrap();
        let elected = within_limit("its turn", campaign).await.unwrap().unwrap();
        // It leads by a key that is there, or knows by its next heartbeat that it does not.
        let queue = cluster.queue(ELECTION);
        if queue.is_empty() || queue[0] == key {
            within_limit("the loss", elected.lost()).await;
        } else {
            assert!(elected.confirm().await.is_ok());
        }
        drop(elected);
        until_queue_is(&cluster, 0).await;
    }
}

/// Names that are no lock names here: each election is joined by its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_with_names_of_others_are_joined_by_their_keys() {
    let Some(cluster) = start() else { return };
    for (number, key) in ["WantNumberOne", "my_leader", "a/b"].iter().enumerate() {
        let url = format!("{}/prefix?lock_key=leader:{key}", cluster.url());
        let config = EtcdConfig::from_url(&url).unwrap();
        let backend = Arc::new(EtcdBackend::connect(config).await.unwrap());
        let mut theirs = Ctl::start(&cluster, &["elect", key, "theirs"]);
        assert!(theirs.line().await.starts_with(&format!("{key}/")));
        let Occupancy::Led(holder) = backend.holder(&lock("leader")).await.unwrap() else {
            panic!("theirs leads");
        };
        assert_eq!(holder.identity, "theirs");

        let election = Election::builder(backend.clone(), lock("leader"))
            .identity(Identity::new(format!("ours-{number}")).unwrap())
            .build()
            .unwrap();
        let waiting = election.clone();
        let campaign = tokio::spawn(async move { waiting.campaign().await });
        until("both are in the queue", async || {
            cluster.queue(key).len() == 2
        })
        .await;
        theirs.interrupt();
        let leadership = within_limit("our turn", campaign).await.unwrap().unwrap();
        // Heartbeats find the key where it is, and leave nothing when the term is given back.
        let _permit = leadership.confirm().await.unwrap();
        leadership.resign().await.unwrap();
        assert!(cluster.queue(key).is_empty());
        assert!(cluster.queue("prefix").is_empty());
    }
    let twice = format!("{}/a?lock_key=leader:a/b", cluster.url());
    let backend = EtcdBackend::connect(EtcdConfig::from_url(&twice).unwrap());
    let refused = backend.await.unwrap().holder(&lock("b")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
}
