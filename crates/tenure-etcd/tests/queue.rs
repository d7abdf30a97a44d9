//! Places in the queue of a real etcd: who gives one up, and who finds its own again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, Both, Candidate, Capabilities, Changes, Election, Error, Grant, Identity,
    LockBackend, LockName, Loss, MemoryBackend, Occupancy, Policy, Renewal, SharedClock, Time,
};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::start;
use tenure_testkit::{LONG, candidate, held, is_taken, lock, until, within_limit};

/// The healthy candidate behind an unhealthy one must not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_candidate_gives_up_its_place_and_queues_again_at_the_end() {
    let Some(cluster) = start() else { return };
    let policy = Policy::builder()
        .lease(LONG)
        .heartbeat(Duration::from_secs(2))
        .retry_interval(Duration::from_millis(250))
        .build()
        .unwrap();
    let healthy = Arc::new(AtomicBool::new(true));
    let campaign = async |name: &str, healthy: Arc<AtomicBool>| {
        Election::builder(Arc::new(cluster.connect().await), lock("job"))
            .identity(Identity::new(name).unwrap())
            .policy(policy.clone())
            .health(move || healthy.load(Ordering::Relaxed))
            .build()
            .unwrap()
    };
    let well = Arc::new(AtomicBool::new(true));
    let queue_of = async |length: usize| {
        until(&format!("{length} are in the queue"), async || {
            cluster.queue("job").len() == length
        })
        .await;
        cluster.queue("job")
    };

    let first = campaign("first", well.clone()).await;
    let first = first.campaign().await.unwrap();
    let second = campaign("second", healthy.clone()).await;
    let second = tokio::spawn(async move { second.campaign().await });
    queue_of(2).await;
    let third = campaign("third", well).await;
    let third = tokio::spawn(async move { third.campaign().await });
    let places = queue_of(3).await;

    healthy.store(false, Ordering::Relaxed);
    assert_eq!(queue_of(2).await, [&*places[0], &*places[2]]);
    healthy.store(true, Ordering::Relaxed);
    assert_eq!(queue_of(3).await[..2], [&*places[0], &*places[2]]);
    first.resign().await.unwrap();
    let third = within_limit("the third", third).await.unwrap().unwrap();
    assert!(!second.is_finished(), "it came back at the end");
    third.resign().await.unwrap();
    let second = within_limit("the second", second).await.unwrap().unwrap();
    second.resign().await.unwrap();
}

/// `doctor` says how to delete such a key when its candidate does not take its turn: so it must not
/// lead on the word of its watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_whose_key_says_waiting_does_not_lead() {
    let Some(cluster) = start() else { return };
    let (direct, job) = (cluster.connect().await, lock("job"));
    let first = direct.acquire(&job, &candidate("first", 1), LONG).await;
    let first = held(first.unwrap());
    let network = FaultProxy::start(cluster.members[0].address().parse().unwrap()).unwrap();
    let config = EtcdConfig::from_url(&format!("etcd://{}", network.address())).unwrap();
    let behind = EtcdBackend::connect(config).await.unwrap();
    let behind = Election::builder(Arc::new(behind), job.clone());
    let behind = behind.build().unwrap();
    let behind = tokio::spawn(async move { behind.campaign().await });
    until("it waits", async || cluster.queue("job").len() == 2).await;
    let values = cluster.ctl(&["get", "--prefix", "--print-value-only", "job/"]);
    assert!(values.contains("\twaiting"), "{values}");

    // It hears of its turn, and cannot ask.
    network.hold(Way::Requests);
    let heard = network.seen(Way::Answers);
    direct.release(&first).await.unwrap();
    until("it hears", async || network.seen(Way::Answers) > heard).await;
    let key = cluster.queue("job").remove(0);
    cluster.ctl(&["del", &key]);
    let third = direct.acquire(&job, &candidate("third", 3), LONG).await;
    let third = held(third.unwrap());
    assert!(!behind.is_finished(), "two lead");

    network.restore();
    direct.release(&third).await.unwrap();
    let behind = within_limit("its next turn", behind).await.unwrap();
    assert!(behind.unwrap().token() > third.token);
}

/// A store whose next attempt to acquire comes a moment after a rival's.
#[derive(Debug)]
struct Overtaken {
    inner: Arc<dyn LockBackend>,
    rival: Mutex<Option<Candidate>>,
    rivals: Mutex<Option<Grant>>,
}

#[async_trait]
impl LockBackend for Overtaken {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.inner.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let rival = self.rival.lock().unwrap().take();
        if let Some(rival) = rival {
            let grant = held(self.inner.acquire(lock, &rival, lease).await?);
            *self.rivals.lock().unwrap() = Some(grant);
        }
        self.inner.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        self.inner.renew(grant, not_before).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.inner.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.inner.withdraw(lock, candidate).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.inner.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.inner.changes(lock)
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.inner.loss(grant)
    }
}

/// The place in the second store's queue becomes the lock by itself: it must not be taken for a
/// stranger's then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_of_two_stores_does_not_wait_for_its_own_place_in_the_second() {
    let Some(cluster) = start() else { return };
    let etcd: Arc<dyn LockBackend> = Arc::new(cluster.connect().await);
    let overtaken = Arc::new(Overtaken {
        inner: etcd.clone(),
        rival: Mutex::new(Some(candidate("rival", 1))),
        rivals: Mutex::new(None),
    });
    let both = Both::new(Arc::new(MemoryBackend::private()), overtaken.clone()).unwrap();
    let ours = candidate("ours", 2);
    let attempt = async || both.acquire(&lock("job"), &ours, LONG).await.unwrap();
    assert!(is_taken(&attempt().await), "the rival came first");
    assert_eq!(cluster.queue("job").len(), 2);
    let rivals = overtaken.rivals.lock().unwrap().take().unwrap();
    etcd.release(&rivals).await.unwrap();
    let grant = held(attempt().await);
    both.release(&grant).await.unwrap();
    assert!(cluster.queue("job").is_empty());
}
