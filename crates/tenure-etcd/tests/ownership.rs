//! Whose a key is, and who leads by it: on real etcd clusters.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{
    Acquired, Check, Election, ErrorKind, Event, Identity, LockBackend, Occupancy, Policy,
    PublishedValue, Renewal, Time, Verdict,
};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{Cluster, start};
use tenure_testkit::{
    LIMIT, LONG, candidate, held, is_lost, is_taken, lock, renewed, until, within_limit,
};

/// The check with this name.
fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let found = checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check is named {name}: {checks:?}"))
}

/// The cluster's id, as `etcdctl` knows it.
fn id_of(cluster: &Cluster) -> String {
    let text = cluster.ctl(&["endpoint", "status", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = status[0]["Status"]["header"]["cluster_id"].as_u64();
    format!("{:x}", id.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_candidates_with_one_number_never_lead_together() {
    let Some(cluster) = start() else { return };
    let backend = cluster.connect().await;
    let (ann, bob) = (candidate("ann", 7), candidate("bob", 7));
    let job = lock("job");
    let grant = held(backend.acquire(&job, &ann, LONG).await.unwrap());
    let second = backend.acquire(&job, &bob, LONG).await.unwrap();
    assert!(is_taken(&second), "bob leads beside ann: {second:?}");
    // Nor is one's term renewed, given back or withdrawn for the other.
    let mut forged = grant.clone();
    forged.candidate = bob.clone();
    let renewal = backend.renew(&forged, Time::ZERO).await.unwrap();
    assert!(is_lost(&renewal), "{renewal:?}");
    backend.release(&forged).await.unwrap();
    backend.withdraw(&job, &bob).await.unwrap();
    let now = backend.clock().now();
    let grant = renewed(backend.renew(&grant, now).await.unwrap());
    assert_eq!(cluster.queue("job").len(), 1);

    let third = backend.acquire(&job, &bob, LONG).await.unwrap();
    assert!(is_taken(&third), "{third:?}");
    assert_eq!(backend.queue_position(&job, &ann).await.unwrap(), Some(0));
    assert_eq!(backend.queue_position(&job, &bob).await.unwrap(), Some(1));
    backend.release(&grant).await.unwrap();
    let next = held(backend.acquire(&job, &bob, LONG).await.unwrap());
    assert!(next.token > grant.token);
}

/// A URL with members of two clusters.
fn url_of_both(one: &Cluster, other: &Cluster) -> String {
    let (one, other) = (one.members[0].address(), other.members[0].address());
    format!("etcd://{one},{other}?connect_timeout=1s&request_timeout=500ms")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leads_on_the_endpoints_of_two_clusters() {
    let (Some(one), Some(other)) = (start(), start()) else {
        return;
    };
    let (url, ids) = (url_of_both(&one, &other), [id_of(&one), id_of(&other)]);
    assert_ne!(ids[0], ids[1]);
    let names_both = |text: &str| ids.iter().all(|id| text.contains(id));
    let config = || EtcdConfig::from_url(&url).unwrap();

    let error = EtcdBackend::connect(config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(names_both(error.message()), "{error}");
    // Each begins with one of the two, as it comes.
    for number in 0..8 {
        let backend = EtcdBackend::lazy(config()).unwrap();
        let me = candidate(&format!("candidate-{number}"), number);
        let error = backend.acquire(&lock("job"), &me, LONG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(names_both(error.message()), "{error}");
    }
    for cluster in [&one, &other] {
        assert!(cluster.queue("job").is_empty());
    }
    let doubtful = EtcdBackend::lazy(config()).unwrap();
    let checks = doubtful.checks(&lock("job"), LONG).await;
    let found = check(&checks, "cluster");
    assert_eq!(found.verdict, Verdict::Unusable);
    assert!(names_both(&found.reason), "{found:?}");
    let checks = one.connect().await.checks(&lock("job"), LONG).await;
    assert!(
        checks.iter().all(|check| check.verdict == Verdict::Fine),
        "{checks:?}"
    );
    assert!(check(&checks, "cluster").reason.contains(&ids[0]));
}

/// The other cluster's member does not answer at first, so that nobody can know; then the first
/// one dies, and the backend goes on to the next endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_ends_when_an_endpoint_turns_out_to_be_of_another_cluster() {
    let (Some(mut one), Some(other)) = (start(), start()) else {
        return;
    };
    let (url, ids) = (url_of_both(&one, &other), [id_of(&one), id_of(&other)]);
    other.members[0].freeze();
    let backend = EtcdBackend::connect(EtcdConfig::from_url(&url).unwrap()).await;
    let backend = Arc::new(backend.unwrap());
    let (me, job) = (candidate("me", 1), lock("job"));
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    let policy = Policy::builder()
        .lease(LIMIT)
        .heartbeat(Duration::from_secs(1))
        .build()
        .unwrap();
    let election = Election::builder(backend.clone(), lock("other-job"))
        .policy(policy)
        .build()
        .unwrap();
    let leadership = within_limit("a term", election.campaign()).await.unwrap();

    other.members[0].thaw();
    other.wait();
    one.members[0].kill();
    within_limit("the end", backend.loss(&grant).unwrap()).await;
    within_limit("the end of the election's term", leadership.term().lost()).await;
    let now = backend.clock().now();
    let error = backend.renew(&grant, now).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(ids.iter().all(|id| error.message().contains(id)), "{error}");
    assert!(error.message().contains("restart"), "{error}");
    let error = backend.acquire(&job, &me, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(other.queue("job").is_empty());
    // Not even when the first one is back: only a human knows which of the two is the right one.
    one.members[0].restart();
    one.wait();
    let error = backend.acquire(&job, &me, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
}

/// Runs the command that a message gives in backquotes, or that a remedy ends with.
fn run_command(cluster: &Cluster, text: &str) {
    let command = text.split("etcdctl ").nth(1).unwrap();
    let command = command.split('`').next().unwrap();
    let endpoint = cluster.members[0].address();
    let script = format!("etcdctl --endpoints={endpoint} --command-timeout=60s {command}");
    let mut shell = Command::new("bash");
    let status = shell.args(["-c", &script]).env("ETCDCTL_API", "3").output();
    assert!(status.unwrap().status.success(), "{script}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_without_a_lease_is_named_with_the_command_that_deletes_it() {
    let Some(cluster) = start() else { return };
    let backend = Arc::new(cluster.connect().await);
    for (key, shown) in [
        ("job/by-hand", "job/by-hand"),
        ("job/it's \u{1b}odd", "$'job/it\\'s \\x1bodd'"),
    ] {
        cluster.ctl(&["put", key, "somebody"]);
        let names_it = |text: &str| text.contains(&format!("etcdctl del {shown}"));
        let error = backend.holder(&lock("job")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
        assert!(names_it(error.message()), "{error}");
        let checks = backend.checks(&lock("job"), LONG).await;
        let found = check(&checks, "queue");
        assert_eq!(found.verdict, Verdict::Unusable);
        assert!(found.reason.contains(shown), "{found:?}");
        assert!(names_it(found.remedy.as_ref().unwrap()), "{found:?}");

        let election = Election::builder(backend.clone(), lock("job"))
            .build()
            .unwrap();
        let mut events = election.events();
        let campaigning = election.clone();
        let campaign = tokio::spawn(async move { campaigning.campaign().await });
        let told = within_limit("an event", async {
            loop {
                if let Event::StoreFailed(error) = events.recv().await.unwrap() {
                    return error;
                }
            }
        })
        .await;
        assert_eq!(told.kind(), ErrorKind::Corrupted, "{told}");
        assert!(names_it(told.message()), "{told}");
        assert!(!campaign.is_finished(), "it led past a foreign key");
        run_command(&cluster, told.message());
        let leadership = within_limit("its turn", campaign).await.unwrap().unwrap();
        leadership.resign().await.unwrap();
        drop(election);
        until("the lock is free", async || {
            backend.holder(&lock("job")).await.unwrap() == Occupancy::Free
        })
        .await;
    }
}

/// It blocks the next election, and who looks in time can prevent that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_without_a_lease_is_seen_behind_the_leader() {
    let Some(cluster) = start() else { return };
    let backend = cluster.connect().await;
    let job = lock("job");
    let grant = held(
        backend
            .acquire(&job, &candidate("me", 1), LONG)
            .await
            .unwrap(),
    );
    cluster.ctl(&["put", "job/by-hand", "somebody"]);
    assert!(matches!(
        backend.holder(&job).await.unwrap(),
        Occupancy::Led(holder) if holder.identity == "me"
    ));
    let next = candidate("next", 2);
    assert!(is_taken(&backend.acquire(&job, &next, LONG).await.unwrap()));
    let checks = backend.checks(&job, LONG).await;
    let remedy = check(&checks, "queue").remedy.as_ref().unwrap();
    assert!(remedy.contains("etcdctl del job/by-hand"), "{remedy}");
    backend.release(&grant).await.unwrap();
    let error = backend.acquire(&job, &next, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
    run_command(&cluster, remedy);
    let checks = backend.checks(&job, LONG).await;
    assert_ne!(check(&checks, "queue").verdict, Verdict::Unusable);
    held(backend.acquire(&job, &next, LONG).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_not_shown_as_the_leader_before_it_has_confirmed_its_term() {
    let Some(cluster) = start() else { return };
    let (first, second) = (cluster.connect().await, cluster.connect().await);
    let job = lock("job");
    let (ann, bob) = (candidate("ann", 1), candidate("bob", 2));
    let grant = held(first.acquire(&job, &ann, LONG).await.unwrap());
    let taken = second.acquire(&job, &bob, LONG).await.unwrap();
    assert!(
        matches!(&taken, Acquired::Taken { holder: Some(holder), .. } if holder.identity == "ann"),
        "{taken:?}"
    );
    first.release(&grant).await.unwrap();
    for _ in 0..3 {
        let seen = first.holder(&job).await.unwrap();
        assert_eq!(seen, Occupancy::Free, "bob has not asked yet");
    }
    let third = candidate("cid", 3);
    let taken = first.acquire(&job, &third, LONG).await.unwrap();
    assert!(
        matches!(&taken, Acquired::Taken { holder: None, .. }),
        "{taken:?}"
    );
    let checks = first.checks(&job, LONG).await;
    let queue = check(&checks, "queue");
    assert_eq!(queue.verdict, Verdict::Warning);
    assert!(queue.reason.contains("bob"), "{queue:?}");
    assert!(
        queue
            .remedy
            .as_ref()
            .unwrap()
            .contains(&cluster.queue("job")[0])
    );
    let grant = held(second.acquire(&job, &bob, LONG).await.unwrap());
    let checks = first.checks(&job, LONG).await;
    assert_eq!(check(&checks, "queue").verdict, Verdict::Fine);
    match first.holder(&job).await.unwrap() {
        Occupancy::Led(holder) => {
            assert_eq!(
                (holder.identity.as_str(), holder.token),
                ("bob", Some(grant.token))
            );
        }
        other => panic!("bob leads, and the lock is said to be {other:?}"),
    }
}

/// Who leads by being the first, as others do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_lead_by_being_first() {
    let Some(cluster) = start() else { return };
    let backend = cluster.connect().await;
    let granted = cluster.ctl(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
    cluster.ctl(&["put", "--lease", &lease, &format!("job/{lease}"), "theirs"]);
    let seen = backend.holder(&lock("job")).await.unwrap();
    assert!(
        matches!(&seen, Occupancy::Led(holder) if holder.identity == "theirs"),
        "{seen:?}"
    );
}

const URL: &str = "TENURE_TEST_WAITER_URL";

/// A lease that is over within the test, and long enough to look meanwhile.
const LEASE: Duration = Duration::from_secs(15);

fn policy() -> Policy {
    let policy = Policy::builder()
        .lease(LEASE)
        .heartbeat(Duration::from_secs(2));
    policy.build().unwrap()
}

/// A candidate in a process of its own; does nothing when it is run among the other tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_waiter() {
    let Ok(url) = std::env::var(URL) else { return };
    let backend = EtcdBackend::connect(EtcdConfig::from_url(&url).unwrap()).await;
    let election = Election::builder(Arc::new(backend.unwrap()), lock("job"))
        .identity(Identity::new("dead").unwrap())
        .policy(policy())
        .build()
        .unwrap();
    let leadership = election.campaign().await.unwrap();
    leadership.term().lost().await;
}

struct Waiter(Child);

impl Drop for Waiter {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A waiter that is dead holds up a hand-over by no more than what is left of its own lease, which
/// `docs/reference/policy.md` says; and it is never shown as the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_waiter_holds_up_a_hand_over_until_its_lease_ends() {
    let Some(cluster) = start() else { return };
    let backend = Arc::new(cluster.connect().await);
    let election = |backend: &Arc<EtcdBackend>| {
        let builder = Election::builder(backend.clone(), lock("job")).policy(policy());
        builder.build().unwrap()
    };
    let leader = election(&backend).campaign().await.unwrap();
    let mut waiter = Command::new(std::env::current_exe().unwrap());
    waiter.args(["the_waiter", "--exact", "--nocapture"]);
    waiter.env(URL, cluster.url()).stdout(Stdio::null());
    let mut waiter = Waiter(waiter.spawn().unwrap());
    until("it waits", async || cluster.queue("job").len() == 2).await;
    let dead = cluster.queue("job")[1].clone();
    let live = election(&Arc::new(cluster.connect().await));
    let campaign = tokio::spawn(async move { live.campaign().await.unwrap() });
    until("another one waits", async || {
        cluster.queue("job").len() == 3
    })
    .await;

    waiter.0.kill().unwrap();
    waiter.0.wait().unwrap();
    let observer = cluster.connect().await;
    leader.resign().await.unwrap();
    let (_, lease) = dead.rsplit_once('/').unwrap();
    let left = cluster.ctl(&["lease", "timetolive", lease, "-w", "json"]);
    let left: serde_json::Value = serde_json::from_str(&left).unwrap();
    let granted = left["granted-ttl"].as_i64();
    let bound = backend.capabilities().hand_over_delay(LEASE);
    // What the others wait for at most is what the capabilities say.
    assert!(granted.is_none_or(|granted| granted <= i64::try_from(bound.as_secs()).unwrap()));
    while !campaign.is_finished() {
        let seen = observer.holder(&lock("job")).await.unwrap();
        assert!(
            !matches!(&seen, Occupancy::Led(holder) if holder.identity.starts_with("dead")),
            "a dead waiter is shown as the leader: {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let leadership = within_limit("its turn", campaign).await.unwrap();
    assert!(!cluster.queue("job").contains(&dead), "it was passed by");
    assert!(leadership.is_valid());
}

/// More terms than one request reads, and one of them deleted and put again with the same lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_put_again_is_no_longer_the_terms() {
    let Some(cluster) = start() else { return };
    let backend = cluster.connect().await;
    let mut grants = Vec::new();
    for number in 0..130 {
        let (name, me) = (lock(&format!("job-{number}")), candidate("me", number));
        grants.push(held(backend.acquire(&name, &me, LONG).await.unwrap()));
    }
    assert_eq!(backend.traffic().leases, 1);
    let put_again = grants[117].lock.clone();
    let key = cluster.queue(put_again.as_str())[0].clone();
    let (_, lease) = key.rsplit_once('/').unwrap();
    cluster.ctl(&["del", &key]);
    cluster.ctl(&["put", "--lease", lease, &key, "me"]);
    let lost = backend.loss(&grants[117]).unwrap();
    for grant in &grants {
        let now = backend.clock().now();
        let renewal = backend.renew(grant, now).await.unwrap();
        let is_renewed = matches!(renewal, Renewal::Renewed(_));
        assert_eq!(is_renewed, grant.lock != put_again, "{grant:?}");
    }
    within_limit("the loss", lost).await;
    // The key is there, and its candidate may lead by it: in a new term.
    let old = &grants[117];
    let new = backend.acquire(&old.lock, &old.candidate, LONG).await;
    assert!(held(new.unwrap()).token > old.token);
}

/// A request that was given up, since its connection stood still, arrives after later ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_request_does_not_undo_what_was_published_since() {
    let Some(cluster) = start() else { return };
    let member = cluster.members[0].address().parse().unwrap();
    for round in 0..20 {
        let ways = [(); 2].map(|()| FaultProxy::start(member).unwrap());
        let url = format!("etcd://{},{}", ways[0].address(), ways[1].address());
        let config = EtcdConfig::from_url(&url).unwrap();
        let config = config.request_timeout(Duration::from_millis(500));
        let backend = EtcdBackend::connect(config).await.unwrap();
        let (job, me) = (lock(&format!("job-{round}")), candidate("me", round));
        let mut grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
        let seen = || ways.each_ref().map(|way| way.seen(Way::Requests));
        let before = seen();
        grant = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
        // The one that is in use.
        let after = seen();
        let way = usize::from(after[1] - before[1] > after[0] - before[0]);
        ways[way].hold(Way::Requests);
        for text in ["early", "late"] {
            grant.candidate.value = Some(PublishedValue::new(text).unwrap());
            grant = renewed(
                within_limit("a renewal", async {
                    loop {
                        match backend.renew(&grant, Time::ZERO).await {
                            Ok(renewal) => break renewal,
                            Err(error) => assert!(error.is_retryable(), "{error}"),
                        }
                    }
                })
                .await,
            );
        }
        ways[way].restore();
        let answered = ways[way].seen(Way::Answers);
        // Whatever was held has arrived when the server says so, or has closed the connection.
        let waiting = until("the held requests arrive", async || {
            ways[way].seen(Way::Answers) > answered
        });
        let _closed = tokio::time::timeout(Duration::from_secs(2), waiting).await;
        let Occupancy::Led(holder) = backend.holder(&job).await.unwrap() else {
            panic!("it is led");
        };
        assert_eq!(holder.value.as_deref(), Some("late"), "in round {round}");
        backend.release(&grant).await.unwrap();
    }
}
