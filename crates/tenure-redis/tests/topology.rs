//! Replicas, sentinels and clusters, on real servers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use support::{Connects as _, sentinel_config};
use tenure_core::{
    Acquired, Candidate, Election, Error, ErrorKind, Grant, LockBackend as _, LockName, Occupancy,
    Policy, Renewal, Rises, Time, Verdict,
};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{
    Server, join_cluster, master_of, start, start_nodes, start_pair, start_sentinels,
    start_usual_sentinels, text, wait_for_link, wait_for_sentinels,
};
use tenure_testkit::{
    LIMIT, LONG, candidate, held, is_lost, is_taken, lock, renewed, until, within_limit,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long replicas may take: short, because a test waits for it in vain. So a busy one that
/// takes longer is asked again, see [`win`].
const WAIT: Duration = Duration::from_millis(100);

/// Tries until it is held.
async fn win(backend: &RedisBackend, lock: &LockName, who: &Candidate, lease: Duration) -> Grant {
    let trying = async {
        loop {
            if let Ok(Acquired::Held(grant)) = backend.acquire(lock, who, lease).await {
                return grant;
            }
        }
    };
    within_limit("a term that is confirmed", trying).await
}

#[tokio::test]
async fn what_too_few_replicas_confirm_does_not_count() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let config = master.config().wait_for_replicas(1, WAIT);
    let backend = RedisBackend::connect(config).await.unwrap();
    let lock = lock("confirmed");
    let a = candidate("a", 1);
    let grant = win(&backend, &lock, &a, LONG).await;
    assert_eq!(replica.number(&["EXISTS", "tenure:{confirmed}"]), 1);
    until("a heartbeat is confirmed", async || {
        backend.renew(&grant, Time::ZERO).await.is_ok()
    })
    .await;

    replica.freeze();
    let error = backend.renew(&grant, Time::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("only 0 of the 1 replicas"),
        "{error}"
    );
    // Not held, and given back.
    let other = tenure_testkit::lock("unconfirmed");
    let error = backend.acquire(&other, &a, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(backend.holder(&other).await.unwrap(), Occupancy::Free);

    // Many calls share a WAIT: one each would take a hundred times as long as the limit.
    let calls = (0..1000).map(|_| backend.renew(&grant, Time::ZERO));
    let all = futures_util::future::join_all(calls);
    assert!(
        within_limit("all heartbeats", all)
            .await
            .iter()
            .all(Result::is_err)
    );
    replica.thaw();
    until("a heartbeat is confirmed", async || {
        backend.renew(&grant, Time::ZERO).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_failover_that_forgets_a_term_elects_nobody_until_that_term_is_over() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let lock = lock("forgotten");
    let key = "tenure:{forgotten}";
    let old = master.connect().await;
    let first = held(old.acquire(&lock, &candidate("a", 1), LONG).await.unwrap());
    old.release(&first).await.unwrap();
    until("the replica has it all", async || {
        replica
            .text(&["GET", "tenure:{forgotten}:fence"])
            .starts_with(&first.token.to_string())
            && replica.number(&["EXISTS", key]) == 0
    })
    .await;

    // Cut off; then the master grants terms of which the replica never hears.
    replica.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let mut forgotten = first;
    for campaign in 2..6 {
        forgotten = held(
            old.acquire(&lock, &candidate("a", campaign), LONG)
                .await
                .unwrap(),
        );
        if campaign < 5 {
            old.release(&forgotten).await.unwrap();
        }
    }
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    let new = replica.connect().await;
    let b = candidate("b", 9);
    // A plain SET NX would have made a second leader here, with a token given before.
    let Acquired::Taken { free_in, .. } = new.acquire(&lock, &b, LONG).await.unwrap() else {
        panic!("two hold the lock");
    };
    assert!(free_in.unwrap() > LONG);
    assert_eq!(new.incarnation_changes(), 1);
    assert!(is_lost(&new.renew(&forgotten, Time::ZERO).await.unwrap()));
    assert!(is_taken(&new.acquire(&lock, &b, LONG).await.unwrap()));
    assert_eq!(new.incarnation_changes(), 1);

    // As if the lease had passed.
    replica.clock_is_past(forgotten.token).await;
    replica.command(&["DEL", key]);
    let next = held(new.acquire(&lock, &b, LONG).await.unwrap());
    assert!(next.token > forgotten.token, "{next:?} after {forgotten:?}");
    assert!(matches!(
        new.capabilities().fencing.over_failover,
        Rises::If(_)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_survives_the_failover_of_its_master() {
    let Some((mut master, replica)) = start_pair(&[]) else {
        return;
    };
    let sentinels = start_sentinels(&master);
    wait_for_sentinels(&sentinels, 1).await;
    let config = sentinel_config(&sentinels).wait_for_replicas(1, WAIT);
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    // The promoted replica has no replica itself.
    let lone = RedisBackend::connect(sentinel_config(&sentinels))
        .await
        .unwrap();
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .build()
        .unwrap();
    let lock = lock("failover");
    let election = |backend: &RedisBackend| {
        Election::builder(Arc::new(backend.clone()), lock.clone())
            .policy(policy.clone())
            .build()
            .unwrap()
    };
    // Confirmed by the replica, though it is renewed without that later.
    let before = candidate("before", 1);
    let grant = win(&backend, &lock, &before, Duration::from_secs(60)).await;
    backend.release(&grant).await.unwrap();
    let leader = election(&lone).campaign().await.unwrap();
    until("the replica has the term", async || {
        replica
            .text(&["GET", "tenure:{failover}"])
            .contains(&leader.token().to_string())
    })
    .await;
    let waiting = election(&lone);
    let campaign = tokio::spawn(async move { waiting.campaign().await });

    master.kill();
    until("the leader is confirmed by the new master", async || {
        assert!(!campaign.is_finished(), "two leaders");
        assert!(leader.is_valid());
        leader.confirm().await.is_ok()
    })
    .await;
    assert!(replica.text(&["ROLE"]).starts_with("master"));
    // The old master comes back, as a replica.
    master.restart();
    wait_until_replica(&master).await;
    let _permit = leader.confirm().await.unwrap();
    assert!(!campaign.is_finished());
    let token = leader.token();
    leader.resign().await.unwrap();
    // The last term began before the failover, so the lock is kept free for a lease.
    until("the lock is kept", async || lone.incarnation_changes() == 1).await;
    replica.command(&["DEL", "tenure:{failover}"]);
    replica.command(&["PUBLISH", "tenure:{failover}:released", ""]);
    let next = within_limit("the next leader", campaign)
        .await
        .unwrap()
        .unwrap();
    assert!(next.token() > token);
}

/// Sentinels set a former master right only after 8 s or more; it goes on granting until then.
#[tokio::test]
async fn a_former_master_is_left_while_it_still_takes_itself_for_one() {
    let Some((former, replica)) = start_pair(&[]) else {
        return;
    };
    let sentinels = start_usual_sentinels(&former);
    wait_for_sentinels(&sentinels, 1).await;
    // Nothing is asked of it, so that no call finds the master silent.
    let idle = RedisBackend::connect(sentinel_config(&sentinels))
        .await
        .unwrap();
    let mut changes = idle.changes(&lock("former"));
    within_limit("the subscription", changes.next())
        .await
        .unwrap();
    former.freeze();
    until("the sentinels name the other one", async || {
        let named = |sentinel: &Server| master_of(sentinel) == Some(replica.port);
        sentinels.iter().all(named)
    })
    .await;
    until("the backend is connected to it", async || {
        let clients = replica.text(&["CLIENT", "LIST"]);
        // It asks for the role first.
        let ours = |line: &str| line.contains(" name= ") && line.contains(" cmd=info ");
        clients.lines().any(ours)
    })
    .await;
    // So do those who wait: the former one would tell them of nothing.
    let channel = "tenure:{former}:released";
    until("it is subscribed there", async || {
        let listeners = replica.text(&["PUBSUB", "NUMSUB", channel]);
        listeners.ends_with(" 1")
    })
    .await;
    former.thaw();
    let (lock, me) = (lock("former"), candidate("a", 1));
    // There may have been a term that the new one has not heard of: so it is kept for a lease.
    assert!(is_taken(&idle.acquire(&lock, &me, LONG).await.unwrap()));
    assert_eq!(replica.number(&["EXISTS", "tenure:{former}"]), 1);
    assert_eq!(idle.incarnation_changes(), 1);
}

/// The leader may go on on the former master until it has heard of the new one.
#[tokio::test]
async fn with_sentinels_a_new_masters_pause_is_longer_than_a_lease() {
    let Some(master) = start(&[]) else { return };
    let sentinels = start_sentinels(&master);
    let config = sentinel_config(&sentinels).connect_timeout(Duration::from_secs(7));
    let backend = RedisBackend::connect(config).await.unwrap();
    let (lock, me) = (lock("overlap"), candidate("a", 1));
    // As a former master has left it.
    let mark = format!("1 {} 1000", "0".repeat(40));
    master.command(&["SET", "tenure:{overlap}:fence", &mark]);
    let Acquired::Taken { free_in, .. } = backend.acquire(&lock, &me, LONG).await.unwrap() else {
        panic!("two hold the lock");
    };
    // As long as the sentinels' word counts, and a quarter of that.
    let overlap = Duration::from_millis(500 + 2 * 7000) * 5 / 4;
    assert_eq!(free_in, Some(LONG + overlap + Duration::from_millis(1)));
    assert_eq!(backend.incarnation_changes(), 1);
}

/// The former master would go on confirming its leader's heartbeats, for longer than the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_does_not_leave_a_leader_behind() {
    let Some((former, replica)) = start_pair(&[]) else {
        return;
    };
    let sentinels = start_usual_sentinels(&former);
    wait_for_sentinels(&sentinels, 1).await;
    let election = async || {
        let backend = RedisBackend::connect(sentinel_config(&sentinels)).await;
        let election = Election::builder(Arc::new(backend.unwrap()), lock("planned"));
        election.policy(Policy::fast()).build().unwrap()
    };
    let leader = election().await.campaign().await.unwrap();
    until("the replica has the term", async || {
        let value = replica.text(&["GET", "tenure:{planned}"]);
        value.contains(&leader.token().to_string())
    })
    .await;
    sentinels[0].command(&["SENTINEL", "FAILOVER", "main"]);
    until("the sentinels name the other one", async || {
        let named = |sentinel: &Server| master_of(sentinel) == Some(replica.port);
        sentinels.iter().all(named)
    })
    .await;
    // One that knows only the new master.
    let waiting = election().await;
    let campaign = tokio::spawn(async move { waiting.campaign().await.unwrap() });
    let mut next = None;
    let mut campaign = Some(campaign);
    until("the former master is a replica", async || {
        if let Some(finished) = campaign.take_if(|campaign| campaign.is_finished()) {
            next = Some(finished.await.unwrap());
        }
        let two = next.as_ref().is_some_and(|next| next.is_valid()) && leader.is_valid();
        assert!(!two, "two leaders for {:?}", leader.remaining());
        // The sentinels kill all its connections with that, this one perhaps among them.
        let role = former.try_command(&["ROLE"]);
        role.is_ok_and(|role| text(&role).starts_with("slave"))
    })
    .await;
}

/// An address behind which servers are changed: connections end with each change.
struct Behind {
    address: String,
    port: watch::Sender<u16>,
}

impl Behind {
    async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sender = watch::Sender::new(port);
        let changes = sender.subscribe();
        tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let mut changes = changes.clone();
                let port = *changes.borrow_and_update();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ended = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _changed = changes.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            port: sender,
        }
    }
}

/// It has the same id as before, and its mark is of that, so by itself it does not notice that
/// terms may have been granted elsewhere meanwhile.
#[tokio::test]
async fn a_master_that_comes_back_as_it_was_grants_nothing_for_a_while() {
    let (Some(first), Some(second)) = (start(&[]), start(&[])) else {
        return;
    };
    let behind = Behind::start(first.port).await;
    let config = RedisConfig::server(&behind.address).unwrap();
    let backend = RedisBackend::connect(config).await.unwrap();
    let (lock, a, b) = (lock("back"), candidate("a", 1), candidate("b", 2));
    let before = held(backend.acquire(&lock, &a, LONG).await.unwrap());
    backend.release(&before).await.unwrap();

    let reached = async |server: &Server| {
        behind.port.send_replace(server.port);
        until("it is reached", async || {
            let known = backend.holder(&lock).await.is_ok();
            known && server.text(&["CLIENT", "LIST"]).contains(" cmd=info ")
        })
        .await;
    };
    reached(&second).await;
    reached(&first).await;
    let acquired = backend.acquire(&lock, &b, LONG).await.unwrap();
    let Acquired::Taken { free_in, .. } = acquired else {
        panic!("there may be a term on the second one: {acquired:?}");
    };
    assert!(free_in.unwrap() <= LONG + Duration::from_millis(1));
    assert_eq!(backend.incarnation_changes(), 1);
    // As if that had passed: not a second time.
    first.command(&["DEL", "tenure:{back}"]);
    let lease = Duration::from_millis(10);
    let next = win(&backend, &lock, &b, lease).await;
    assert!(next.token > before.token);
}

/// The process has not known the server before. The sentinels have counted the failovers.
#[tokio::test]
async fn who_is_started_after_a_master_came_back_as_it_was_hears_of_it_from_the_sentinels() {
    let Some((master, replica)) = start_pair(&[]) else {
        return;
    };
    let sentinels = start_sentinels(&master);
    wait_for_sentinels(&sentinels, 1).await;
    let config = sentinel_config(&sentinels).connect_timeout(Duration::from_millis(200));
    sentinels[0].command(&["SENTINEL", "FAILOVER", "main"]);
    until("all sentinels name the other one", async || {
        let named = |sentinel: &Server| master_of(sentinel) == Some(replica.port);
        sentinels.iter().all(named)
    })
    .await;
    let lock = lock("as-it-was");
    let (key, number) = ("tenure:{as-it-was}", "tenure:{as-it-was}:failovers");
    let (a, b) = (candidate("a", 1), candidate("b", 2));
    let backend = RedisBackend::connect(config.clone()).await.unwrap();
    let before = win(&backend, &lock, &a, Duration::from_millis(50)).await;
    assert_ne!(replica.text(&["GET", number]), "0");
    replica.command(&["DEL", key]);
    // Nothing has happened since: another process takes it at once.
    let next = RedisBackend::connect(config.clone()).await.unwrap();
    let next = held(next.acquire(&lock, &b, LONG).await.unwrap());
    assert!(next.token > before.token);
    replica.command(&["DEL", key]);
    // As a master has it that was away over the failover.
    replica.command(&["SET", number, "0"]);
    let started_since = RedisBackend::connect(config).await.unwrap();
    let acquired = started_since.acquire(&lock, &a, LONG).await.unwrap();
    assert!(is_taken(&acquired), "{acquired:?}");
    assert_eq!(started_since.incarnation_changes(), 1);
    assert_ne!(replica.text(&["GET", number]), "0");
}

/// A process that is stopped does not ask the sentinels. When it goes on, whatever it does first
/// must not be done on the master that they have replaced meanwhile.
#[test]
fn a_process_that_was_stopped_over_a_failover_does_not_go_on_with_the_former_master() {
    let Some((former, replica)) = start_pair(&[]) else {
        return;
    };
    let sentinels = start_usual_sentinels(&former);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    // Nothing runs on it but while it is waited for.
    let stopped = runtime();
    let backend = stopped.block_on(async {
        wait_for_sentinels(&sentinels, 1).await;
        RedisBackend::connect(sentinel_config(&sentinels))
            .await
            .unwrap()
    });
    let (lock, me) = (lock("stopped"), candidate("a", 1));
    let grant = held(stopped.block_on(backend.acquire(&lock, &me, LONG)).unwrap());
    let stopped_at = Instant::now();

    runtime().block_on(async {
        until("the replica has the term", async || {
            let value = replica.text(&["GET", "tenure:{stopped}"]);
            value.contains(&grant.token.to_string())
        })
        .await;
        former.freeze();
        until("the sentinels name the other one", async || {
            let named = |sentinel: &Server| master_of(sentinel) == Some(replica.port);
            sentinels.iter().all(named)
        })
        .await;
        // By then the lock may be another one's, after a lease and a pause.
        until(
            "their last word to it does not count any more",
            async || stopped_at.elapsed() > Duration::from_millis(500 + 2 * 1000),
        )
        .await;
    });
    // It takes itself for the master for 8 s or more.
    former.thaw();
    replica.command(&["PERSIST", "tenure:{stopped}"]);
    renewed(stopped.block_on(backend.renew(&grant, Time::ZERO)).unwrap());
    // By the one that the sentinels name.
    assert!(replica.number(&["PTTL", "tenure:{stopped}"]) > 0);
}

/// Otherwise a leader that is cut off together with the former master, and from the sentinels,
/// would go on beside the new master's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_term_goes_on_that_the_sentinels_do_not_stand_by() {
    let Some(master) = start(&[]) else { return };
    let sentinels = start_sentinels(&master);
    let backend = RedisBackend::connect(sentinel_config(&sentinels))
        .await
        .unwrap();
    let (lock, me) = (lock("alone"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    sentinels[0].freeze();
    sentinels[1].freeze();
    let mut error = None;
    until("a heartbeat fails", async || {
        error = backend.renew(&grant, Time::ZERO).await.err();
        error.is_some()
    })
    .await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("sentinels"), "{error}");

    // One of three may be down.
    sentinels[1].thaw();
    until("a heartbeat succeeds", async || {
        let renewal = backend.renew(&grant, Time::ZERO).await;
        renewal.is_ok_and(|renewal| matches!(renewal, Renewal::Renewed(_)))
    })
    .await;
}

async fn wait_until_replica(server: &Server) {
    // A sentinel that makes it a replica closes its connections.
    until("it is a replica", async || {
        let role = server.try_command(&["ROLE"]);
        role.is_ok_and(|role| text(&role).starts_with("slave"))
    })
    .await;
    wait_for_link(server);
}

#[tokio::test]
async fn sentinels_that_know_no_such_master_are_an_error() {
    let Some(master) = start(&[]) else { return };
    let sentinels = start_sentinels(&master);
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    let config =
        |master: &str| RedisConfig::sentinel(addresses.iter().map(String::as_str), master).unwrap();
    let error = RedisBackend::connect(config("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("\"other\""), "{error}");
    // One of three may be wrong or down, two may not.
    sentinels[0].command(&["SENTINEL", "REMOVE", "main"]);
    RedisBackend::connect(config("main")).await.unwrap();
    sentinels[1].command(&["SENTINEL", "REMOVE", "main"]);
    let error = RedisBackend::connect(config("main")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("agree"), "{error}");
}

struct Cluster {
    nodes: Vec<Server>,
}

async fn start_cluster(nodes: usize) -> Option<Cluster> {
    let nodes = start_nodes(nodes)?;
    join_cluster(&nodes).await;
    Some(Cluster { nodes })
}

impl Cluster {
    fn config(&self) -> RedisConfig {
        // One of them is enough to find the others.
        RedisConfig::cluster([self.nodes[0].address().as_str()]).unwrap()
    }

    fn holder_of(&self, key: &str) -> usize {
        let holds = |node: &Server| {
            let exists = node.try_command(&["EXISTS", key]);
            matches!(exists, Ok(redis::Value::Int(1)))
        };
        self.nodes.iter().position(holds).unwrap()
    }
}

#[tokio::test]
async fn locks_of_a_cluster_are_on_all_its_nodes() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    let backend = RedisBackend::connect(cluster.config()).await.unwrap();
    let other = RedisBackend::connect(cluster.config()).await.unwrap();
    let mut used = HashSet::new();
    for number in 0..30 {
        let lock = lock(&format!("spread-{number}"));
        let grant = held(
            backend
                .acquire(&lock, &candidate("a", 1), LONG)
                .await
                .unwrap(),
        );
        used.insert(cluster.holder_of(&format!("tenure:{{{lock}}}")));
        let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
        assert!(is_taken(
            &other
                .acquire(&lock, &candidate("b", 2), LONG)
                .await
                .unwrap()
        ));
        let mut changes = other.changes(&lock);
        assert!(
            within_limit("the subscription", changes.next())
                .await
                .is_some()
        );
        backend.release(&grant).await.unwrap();
        assert!(within_limit("the release", changes.next()).await.is_some());
        assert_eq!(other.holder(&lock).await.unwrap(), Occupancy::Free);
    }
    assert_eq!(used.len(), 3);

    let wrong = RedisBackend::lazy(cluster.nodes[0].config()).unwrap();
    let mut kinds = Vec::new();
    for number in 0..30 {
        let name = lock(&format!("spread-{number}"));
        if let Err(error) = wrong.holder(&name).await {
            assert!(error.to_string().contains("redis+cluster://"), "{error}");
            kinds.push(error.kind());
        }
    }
    assert!(!kinds.is_empty());
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Misconfigured));
}

/// As an observer's is, in a `select!` whose other branch takes its time.
#[tokio::test]
async fn a_caller_that_is_not_polled_keeps_nobody_from_the_map() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    let backend = RedisBackend::lazy(cluster.config()).unwrap();
    let lock = lock("map");
    let mut unpolled = backend.holder(&lock);
    assert!((&mut unpolled).now_or_never().is_none());
    let looking = within_limit("an answer", backend.holder(&lock)).await;
    assert_eq!(looking.unwrap(), Occupancy::Free);
}

#[tokio::test]
async fn a_diagnosis_looks_at_the_node_that_holds_the_lock() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    // By `CLUSTER KEYSLOT`: "bar" is in slot 5061, of the first node, "foo" in 12182, of the third.
    let evicting = &cluster.nodes[2];
    evicting.command(&["CONFIG", "SET", "maxmemory", "100mb"]);
    evicting.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let backend = RedisBackend::connect(cluster.config()).await.unwrap();
    for (name, expected) in [("foo", Verdict::Unusable), ("bar", Verdict::Fine)] {
        let checks = backend.checks(&lock(name), LONG).await;
        let eviction = checks.iter().find(|check| check.name == "eviction");
        assert_eq!(eviction.unwrap().verdict, expected, "{name}: {checks:?}");
    }
}

/// A node that is cut off together with its leader may go on for longer than it takes the others to
/// promote a replica.
#[tokio::test]
async fn in_a_cluster_a_new_nodes_pause_is_longer_than_a_lease() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    // By `CLUSTER KEYSLOT` in slot 5061, of the first node.
    let node = &cluster.nodes[0];
    let lock = lock("bar");
    let beyond_a_lease = async |config: RedisConfig| {
        // As a former node has left it.
        let mark = format!("1 {} 1000", "0".repeat(40));
        node.command(&["SET", "tenure:{bar}:fence", &mark]);
        node.command(&["DEL", "tenure:{bar}"]);
        let backend = RedisBackend::connect(config).await.unwrap();
        let me = candidate("a", 1);
        let Acquired::Taken { free_in, .. } = backend.acquire(&lock, &me, LONG).await.unwrap()
        else {
            panic!("two hold the lock");
        };
        free_in
            .unwrap()
            .checked_sub(LONG + Duration::from_millis(1))
    };
    let timeout = node.text(&["CONFIG", "GET", "cluster-node-timeout"]);
    assert_eq!(timeout, "cluster-node-timeout 2000");
    // Half of it, and half a second.
    assert_eq!(
        beyond_a_lease(cluster.config()).await,
        Some(Duration::from_millis(1000 + 500))
    );

    // Who may not ask for the setting takes it for the usual one, 15 s.
    for node in &cluster.nodes {
        let rights = ["allkeys", "allchannels", "+@all", "-config"];
        node.command(&[&["ACL", "SETUSER", "app", "on", ">secret"][..], &rights].concat());
    }
    let config = cluster.config().user("app").password("secret");
    assert_eq!(beyond_a_lease(config).await, Some(Duration::from_secs(8)));
}

#[tokio::test]
async fn a_term_survives_the_move_of_its_slot() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    let backend = RedisBackend::connect(cluster.config()).await.unwrap();
    let lock = lock("moving");
    let (key, mark) = ("tenure:{moving}", "tenure:{moving}:fence");
    let grant = held(
        backend
            .acquire(&lock, &candidate("a", 1), LONG)
            .await
            .unwrap(),
    );
    let from = cluster.holder_of(key);
    let to = (from + 1) % 3;
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
    let slot = source.number(&["CLUSTER", "KEYSLOT", key]).to_string();
    let (source_id, target_id) = (
        source.text(&["CLUSTER", "MYID"]),
        target.text(&["CLUSTER", "MYID"]),
    );
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    // Half way: the lock has moved, its mark has not.
    let port = target.port.to_string();
    source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert!(matches!(
        backend.holder(&lock).await.unwrap(),
        Occupancy::Led(_)
    ));
    let busy = backend
        .acquire(&lock, &candidate("b", 2), LONG)
        .await
        .unwrap_err();
    assert!(busy.is_retryable(), "{busy}");
    source.command(&["MIGRATE", "127.0.0.1", &port, mark, "0", "5000"]);
    assert!(is_taken(
        &backend
            .acquire(&lock, &candidate("b", 2), LONG)
            .await
            .unwrap()
    ));
    // For a moment the nodes name each other.
    source.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    let error = backend.renew(&grant, Time::ZERO).await;
    assert!(
        error.as_ref().map_or_else(Error::is_retryable, |_| true),
        "{error:?}"
    );
    target.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    assert_eq!(cluster.holder_of(key), to);
    backend.release(&grant).await.unwrap();
}

/// Somebody has begun to move it, and gone home.
#[tokio::test]
async fn a_slot_that_is_left_migrating_is_told_and_keeps_the_fence() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    let backend = RedisBackend::connect(cluster.config()).await.unwrap();
    let lock = lock("left");
    let (key, fence) = ("tenure:{left}", "tenure:{left}:fence");
    let me = candidate("a", 1);
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    let from = cluster.holder_of(key);
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[(from + 1) % 3]);
    let slot = source.number(&["CLUSTER", "KEYSLOT", key]).to_string();
    let [source_id, target_id] = [source, target].map(|node| node.text(&["CLUSTER", "MYID"]));
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    // The fence stays behind, without the lock.
    backend.release(&grant).await.unwrap();
    let is_told = |text: &str| {
        for part in [&slot, &source.address(), &target.address()] {
            assert!(text.contains(part.as_str()), "{part}: {text}");
        }
    };
    let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    is_told(error.message());
    let checks = backend.checks(&lock, LONG).await;
    let check = checks.iter().find(|check| check.name == "slot").unwrap();
    assert_eq!(check.verdict, Verdict::Unusable);
    is_told(&check.reason);
    // Now the fence alone is at the other node.
    let port = target.port.to_string();
    source.command(&["MIGRATE", "127.0.0.1", &port, fence, "0", "5000"]);
    let error = backend.acquire(&lock, &me, LONG).await.unwrap_err();
    is_told(error.message());

    for node in [source, target] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    }
    // It has come to another node: so it is kept for a lease first.
    let short = Duration::from_millis(50);
    until("it is in quarantine", async || {
        backend.acquire(&lock, &me, short).await.is_ok()
    })
    .await;
    target.command(&["PEXPIRE", key, "1"]);
    let next = win(&backend, &lock, &me, LONG).await;
    assert!(next.token > grant.token);
}

/// It may run on, and tell of nothing.
#[tokio::test]
async fn waiters_leave_a_node_that_was_replaced() {
    let Some(cluster) = start_cluster(3).await else {
        return;
    };
    let backend = RedisBackend::connect(cluster.config()).await.unwrap();
    let lock = lock("replaced");
    let key = "tenure:{replaced}";
    let me = candidate("a", 1);
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    let mut changes = backend.changes(&lock);
    within_limit("the subscription", changes.next())
        .await
        .unwrap();
    let from = cluster.holder_of(key);
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[(from + 1) % 3]);
    let channel = "tenure:{replaced}:released";
    let listens = |node: &Server| node.text(&["PUBSUB", "NUMSUB", channel]).ends_with(" 1");
    assert!(listens(source));
    // All its slots go to another one.
    let slot = source.number(&["CLUSTER", "KEYSLOT", key]).to_string();
    let [source_id, target_id] = [source, target].map(|node| node.text(&["CLUSTER", "MYID"]));
    target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    let port = target.port.to_string();
    for key in [key, "tenure:{replaced}:fence"] {
        source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }
    for node in [target, source] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    }
    let grant = renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    until("it is subscribed at the other node", async || {
        listens(target)
    })
    .await;
    within_limit("the new subscription", changes.next())
        .await
        .unwrap();
    backend.release(&grant).await.unwrap();
    within_limit("the release", changes.next()).await.unwrap();
}

/// One field of `INFO replication` that is a number.
fn offset(server: &Server, field: &str) -> u64 {
    let info = server.text(&["INFO", "replication"]);
    let found = info.lines().find_map(|line| line.strip_prefix(field));
    found.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_survives_the_failover_of_its_node() {
    let Some(mut cluster) = start_cluster(6).await else {
        return;
    };
    let addresses: Vec<String> = cluster.nodes.iter().map(Server::address).collect();
    let config = RedisConfig::cluster(addresses.iter().map(String::as_str)).unwrap();
    let policy = Policy::builder()
        .lease(Duration::from_secs(60))
        .build()
        .unwrap();
    let key = "tenure:{node}";
    let [of_leader, of_other] = [config.clone(), config].map(RedisBackend::connect);
    let (of_leader, of_other) = (of_leader.await.unwrap(), of_other.await.unwrap());
    let election = |backend: &RedisBackend| {
        Election::builder(Arc::new(backend.clone()), lock("node"))
            .policy(policy.clone())
            .build()
            .unwrap()
    };
    let leader = election(&of_leader).campaign().await.unwrap();
    let index = cluster.holder_of(key);
    let written = offset(&cluster.nodes[index], "master_repl_offset:");
    until("the replica has the term", async || {
        offset(&cluster.nodes[3 + index], "slave_repl_offset:") >= written
    })
    .await;
    until("all nodes know the replicas", async || {
        let replicas = |node: &Server| node.text(&["CLUSTER", "NODES"]).matches("slave").count();
        cluster.nodes.iter().all(|node| replicas(node) == 3)
    })
    .await;
    let waiting = election(&of_other);
    let campaign = tokio::spawn(async move { waiting.campaign().await });

    cluster.nodes[index].kill();
    until("the leader is confirmed by the new master", async || {
        assert!(!campaign.is_finished(), "two leaders");
        assert!(leader.is_valid());
        leader.confirm().await.is_ok()
    })
    .await;
    let promoted = 3 + index;
    assert!(
        cluster.nodes[promoted]
            .text(&["ROLE"])
            .starts_with("master")
    );
    // The old master comes back, as a replica.
    cluster.nodes[index].restart();
    wait_until_replica(&cluster.nodes[index]).await;
    let _permit = leader.confirm().await.unwrap();
    assert!(!campaign.is_finished(), "two leaders");
    let token = leader.token();
    leader.resign().await.unwrap();
    // The last term began before the failover, so the lock is kept free for a lease.
    until("the lock is kept", async || {
        of_other.incarnation_changes() == 1
    })
    .await;
    cluster.nodes[promoted].command(&["DEL", key]);
    cluster.nodes[promoted].command(&["PUBLISH", "tenure:{node}:released", ""]);
    let next = within_limit("the next leader", campaign)
        .await
        .unwrap()
        .unwrap();
    assert!(next.token() > token);
}

/// The names of two locks whose slots the same node of the first three has, and which that is.
fn two_locks_of_one_node(node: &Server) -> (LockName, LockName, usize) {
    let holder = |name: &str| {
        let slot = node.number(&["CLUSTER", "KEYSLOT", &format!("tenure:{{{name}}}")]);
        [5460, 10922, 16383]
            .iter()
            .position(|last| slot <= *last)
            .unwrap()
    };
    let index = holder("known");
    let mut names = (0..).map(|number| format!("first-{number}"));
    let other = names.find(|name| holder(name) == index).unwrap();
    (lock("known"), lock(&other), index)
}

/// What `acquire` says once the cluster has got over the loss of a node.
async fn acquire_in_the_end(
    backend: &RedisBackend,
    lock: &LockName,
    who: &Candidate,
    lease: Duration,
) -> Acquired {
    let trying = async {
        loop {
            match backend.acquire(lock, who, lease).await {
                Ok(acquired) => return acquired,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_limit("an answer", trying).await
}

/// The replica that is promoted has no mark to tell by that there was a term.
#[tokio::test]
async fn the_first_term_of_a_lock_that_a_node_forgets_is_waited_for() {
    let Some(mut cluster) = start_cluster(6).await else {
        return;
    };
    let (known, forgotten, index) = two_locks_of_one_node(&cluster.nodes[0]);
    let others = cluster.nodes.iter().enumerate();
    let others = others.filter(|(other, _)| *other != index);
    let addresses: Vec<String> = others.map(|(_, node)| node.address()).collect();
    let config = RedisConfig::cluster(addresses.iter().map(String::as_str)).unwrap();
    let leader = RedisBackend::connect(config.clone()).await.unwrap();
    let waiting = RedisBackend::connect(config).await.unwrap();
    let (a, b) = (candidate("a", 1), candidate("b", 2));
    let _connected = held(waiting.acquire(&known, &b, LONG).await.unwrap());

    // Frozen, so that it does not link itself to its master again.
    let replica = &cluster.nodes[3 + index];
    replica.freeze();
    cluster.nodes[index].command(&["CLIENT", "KILL", "TYPE", "replica"]);
    let grant = held(leader.acquire(&forgotten, &a, LONG).await.unwrap());
    cluster.nodes[index].kill();
    let promoted = &cluster.nodes[3 + index];
    promoted.thaw();
    promoted.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    let key = format!("tenure:{{{forgotten}}}");
    until("it has the slots", async || {
        promoted.try_command(&["EXISTS", &key]).is_ok()
    })
    .await;
    assert_eq!(promoted.number(&["EXISTS", &key]), 0, "it has the term");

    let acquired = acquire_in_the_end(&waiting, &forgotten, &b, LONG).await;
    assert!(is_taken(&acquired), "two leaders: {acquired:?}");
    assert_eq!(waiting.incarnation_changes(), 1);
    let seen_at = Instant::now();
    // Half a node timeout, and half a second.
    let overlap = Duration::from_millis(1000 + 500);
    let longest = (LONG + overlap).as_millis().cast_signed();
    let left = promoted.number(&["PTTL", &key]);
    assert!(left > 0 && i128::from(left) <= longest, "{left}");
    let renewal = leader.renew(&grant, Time::ZERO).await;
    assert!(renewal.as_ref().map_or(true, is_lost), "{renewal:?}");

    // Not a second time.
    promoted.command(&["DEL", &key]);
    let next = held(waiting.acquire(&forgotten, &b, LONG).await.unwrap());
    assert!(next.token > grant.token);
    assert_eq!(waiting.incarnation_changes(), 1);
    // Nor once that is over.
    waiting.release(&next).await.unwrap();
    promoted.command(&["DEL", &key, &format!("{key}:fence")]);
    let short = Duration::from_millis(1);
    until("that is over", async || seen_at.elapsed() > short + overlap).await;
    held(waiting.acquire(&forgotten, &b, short).await.unwrap());
}

/// A seed that is in no cluster any more, or still in one of its own, besides the right one, which
/// answers later: it is frozen. And the lock's slot.
async fn start_with_a_stray_seed(lock: &LockName) -> Option<(Server, Cluster, RedisConfig, i64)> {
    let cluster = start_cluster(3).await?;
    let stray = start_nodes(1)?.pop()?;
    let slot = stray.number(&["CLUSTER", "KEYSLOT", &format!("tenure:{{{lock}}}")]);
    let seeds = [stray.address(), cluster.nodes[0].address()];
    let config = RedisConfig::cluster(seeds.iter().map(String::as_str)).unwrap();
    stray.command(&["CONFIG", "RESETSTAT"]);
    cluster.nodes[0].freeze();
    Some((stray, cluster, config.connect_timeout(LIMIT), slot))
}

#[tokio::test]
async fn a_node_without_slots_does_not_speak_for_the_cluster() {
    let lock = lock("astray");
    let Some((stray, cluster, config, _)) = start_with_a_stray_seed(&lock).await else {
        return;
    };
    let backend = RedisBackend::lazy(config).unwrap();
    let looking = tokio::spawn(async move { backend.holder(&lock).await });
    until("the stray one has answered", async || {
        let asked = stray.text(&["INFO", "commandstats"]);
        asked.contains("cmdstat_cluster")
    })
    .await;
    cluster.nodes[0].thaw();
    let found = within_limit("an answer", looking).await.unwrap();
    assert_eq!(found.unwrap(), Occupancy::Free);
}

/// As a former master does that the others have replaced and that cannot reach them.
#[tokio::test]
async fn a_node_that_claims_slots_and_does_not_serve_them_is_left() {
    let lock = lock("claimed");
    let Some((mut stray, cluster, config, slot)) = start_with_a_stray_seed(&lock).await else {
        return;
    };
    // It knows the others by addresses at which nobody answers.
    let ids = [&stray, &cluster.nodes[1]].map(|node| node.text(&["CLUSTER", "MYID"]));
    let conf = format!(
        "{} 127.0.0.1:{}@{} myself,master - 0 0 1 connected {slot}\n\
         {} 127.0.0.1:1@10001 master - 0 0 2 disconnected\n\
         vars currentEpoch 2 lastVoteEpoch 0\n",
        ids[0],
        stray.port,
        stray.port + 10_000,
        ids[1]
    );
    stray.kill();
    std::fs::write(stray.dir.path().join("nodes.conf"), conf).unwrap();
    stray.restart();
    // A seed that is silent is waited for no longer than that.
    let backend = RedisBackend::lazy(config.connect_timeout(Duration::from_millis(500))).unwrap();
    until("the stray one has been asked for the lock", async || {
        let error = backend.holder(&lock).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        let errors = stray.text(&["INFO", "errorstats"]);
        errors.contains("errorstat_CLUSTERDOWN")
    })
    .await;
    cluster.nodes[0].thaw();
    until("the right one is found", async || {
        let found = backend.holder(&lock).await;
        found.is_ok_and(|found| found == Occupancy::Free)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_told() {
    let Some(server) = start(&[]) else { return };
    let config = RedisConfig::cluster([server.address().as_str()]).unwrap();
    let error = RedisBackend::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
}
