//! What a forked child can do with what it has inherited: nothing, neither to the server nor to its
//! parent.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::future::poll_fn;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

use fork::{Fork, fork, waitpid};
use futures_util::{FutureExt as _, StreamExt as _};
use support::{Connects as _, sentinel_config};
use tenure_core::{
    Acquired, Changes, Error, ErrorKind, Grant, LockBackend as _, LockName, Time, Verdict,
};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::redis::{
    Server, start, start_nodes, start_sentinels, wait_for_cluster, wait_for_sentinels,
};
use tenure_testkit::{LIMIT, LONG, candidate, held, is_taken, lock, renewed, until, within_limit};
use tokio::runtime::Runtime;

/// Runs `child` in a fork of this process, and waits for it.
fn in_a_fork(child: impl FnOnce()) {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    match fork().unwrap() {
        Fork::Child => {
            // Its output is that of a test that runs elsewhere, so it tells by a file.
            let outcome = catch_unwind(AssertUnwindSafe(child));
            let message = outcome.err().map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into()));
                text.unwrap_or_default()
            });
            fs::write(&told, message.as_deref().unwrap_or("fine")).unwrap();
            std::process::exit(message.map_or(0, |_| 1));
        }
        Fork::Parent(pid) => {
            let status = ExitStatus::from_raw(waitpid(pid).unwrap());
            let told = fs::read_to_string(told).unwrap_or_default();
            assert!(status.success() && told == "fine", "{status}: {told}");
        }
    }
}

/// One whose tasks run, and whose poller is asked, in whatever thread blocks on it: also in that of
/// a child that goes on with it.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What a process has when it is forked.
struct Inherited {
    backend: RedisBackend,
    lock: LockName,
    grant: Grant,
    changes: Changes,
}

async fn in_mid_term(config: RedisConfig) -> Inherited {
    let backend = RedisBackend::connect(config).await.unwrap();
    let lock = lock("forked");
    let parent = candidate("parent", 1);
    let grant = held(backend.acquire(&lock, &parent, LONG).await.unwrap());
    let mut changes = backend.changes(&lock);
    let subscribed = within_limit("the subscription", changes.next()).await;
    assert!(subscribed.is_some());
    Inherited {
        backend,
        lock,
        grant,
        changes,
    }
}

/// At once, so without I/O.
fn is_refused<T>(what: &str, call: impl Future<Output = Result<T, Error>>) {
    let answer = call.now_or_never();
    let error = answer
        .unwrap_or_else(|| panic!("{what} does I/O"))
        .err()
        .unwrap_or_else(|| panic!("{what} is done"));
    assert_eq!(error.kind(), ErrorKind::Forked, "{what}: {error}");
    assert!(
        error.to_string().contains("after the fork"),
        "{what}: {error}"
    );
}

/// Tries all that a backend can do.
fn try_all(inherited: &mut Inherited) {
    let Inherited {
        backend,
        lock,
        grant,
        changes,
    } = inherited;
    let me = &grant.candidate;
    is_refused("acquire", backend.acquire(lock, me, LONG));
    is_refused("renew", backend.renew(grant, Time::ZERO));
    is_refused("release", backend.release(grant));
    is_refused("withdraw", backend.withdraw(lock, me));
    is_refused("holder", backend.holder(lock));
    assert!(backend.loss(grant).is_none());
    let ended = Some(None);
    assert_eq!(changes.next().now_or_never(), ended, "the inherited hints");
    let more = backend.changes(lock).next().now_or_never();
    assert_eq!(more, ended, "hints of its own");
    let checks = backend.checks(lock, LONG).now_or_never();
    let checks = checks.unwrap_or_else(|| panic!("a diagnosis does I/O"));
    assert_eq!(checks.len(), 1, "{checks:?}");
    assert_eq!(checks[0].name, "process");
    assert_eq!(checks[0].verdict, Verdict::Unusable);
}

/// The connections of others than this test's own, by their numbers: a new one has another.
fn connections(server: &Server) -> Vec<String> {
    let list = server.text(&["CLIENT", "LIST"]);
    // The one that asks, and replicas and sentinels.
    let others = |line: &&str| !line.contains("cmd=client") && line.contains(" name= ");
    let number = |line: &str| line.split(' ').next().unwrap().to_owned();
    list.lines().filter(others).map(number).collect()
}

/// How many scripts the server has run.
fn scripts(server: &Server) -> u64 {
    let stats = server.text(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls
        .and_then(|calls| calls.split(',').next())
        .unwrap()
        .parse()
        .unwrap()
}

/// Forks in mid-term, with a call and tasks under way. The child tries everything, goes on with
/// the runtime for a while, and drops all that it has. Then the parent goes on as if there had
/// been no child.
fn a_child_does_nothing(server: &Server, config: &RedisConfig) {
    // No connection is given up because the machine is slow.
    let config = config.clone().connect_timeout(LIMIT).request_timeout(LIMIT);
    let parent = runtime();
    let inherited = parent.block_on(in_mid_term(config.clone()));
    let backend = inherited.backend.clone();
    // By its hash from now on.
    renewed(
        parent
            .block_on(backend.renew(&inherited.grant, Time::ZERO))
            .unwrap(),
    );
    let before = (connections(server), scripts(server));
    // Sent, and answered when the child is gone: one that goes on with its parent's runtime takes
    // the poller's events away from it.
    server.freeze();
    let mut under_way = Box::pin({
        let (backend, grant) = (backend.clone(), inherited.grant.clone());
        async move { backend.renew(&grant, Time::ZERO).await }
    });
    parent.block_on(async {
        poll_fn(|cx| {
            assert!(under_way.poll_unpin(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // The connection's task has its turns to write it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    let mut parents = Some((parent, inherited, backend, under_way));
    in_a_fork(|| {
        let (runtime, mut inherited, backend, under_way) = parents.take().unwrap();
        try_all(&mut inherited);
        // Its copies of the background tasks get their turns.
        runtime.block_on(async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        drop((under_way, inherited, backend));
        drop(runtime);
    });
    server.thaw();
    // It can have its own.
    in_a_fork(|| {
        runtime().block_on(async {
            let backend = RedisBackend::connect(config.clone()).await.unwrap();
            let (child, lock) = (candidate("child", 1), lock("forked"));
            let acquired = backend.acquire(&lock, &child, LONG).await.unwrap();
            assert!(is_taken(&acquired), "two leaders");
        });
    });

    let (parent, inherited, backend, under_way) = parents.unwrap();
    let Inherited {
        lock,
        grant,
        mut changes,
        ..
    } = inherited;
    parent.block_on(async {
        renewed(within_limit("its answer", under_way).await.unwrap());
        // This one, and of the child with a connection of its own the probe and the attempt.
        assert_eq!(scripts(server), before.1 + 3);
        renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
        backend.release(&grant).await.unwrap();
        let heard = within_limit("the release", changes.next()).await;
        assert!(heard.is_some());
        until("the parent alone is connected, as before", async || {
            connections(server) == before.0
        })
        .await;
        let next = backend.acquire(&lock, &candidate("parent", 2), LONG).await;
        assert!(held(next.unwrap()).token > grant.token);
    });
}

#[test]
fn a_child_does_nothing_on_one_server() {
    let Some(server) = start(&[]) else { return };
    a_child_does_nothing(&server, &server.config());
}

#[test]
fn a_child_does_nothing_with_sentinels() {
    let Some(server) = start(&[]) else { return };
    let sentinels = start_sentinels(&server);
    runtime().block_on(wait_for_sentinels(&sentinels, 0));
    a_child_does_nothing(&server, &sentinel_config(&sentinels));
}

#[test]
fn a_child_does_nothing_on_a_cluster() {
    let Some(nodes) = start_nodes(1) else { return };
    let node = &nodes[0];
    node.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    runtime().block_on(wait_for_cluster(&nodes));
    let config = RedisConfig::cluster([node.address().as_str()]).unwrap();
    a_child_does_nothing(node, &config);
}

/// Workers that were forked before they connect, with identities of their own and one campaign's
/// number, as a generator in memory gives them.
#[test]
fn of_workers_forked_before_they_connect_one_leads() {
    let Some(server) = start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    for worker in ["a", "b", "c"] {
        in_a_fork(|| {
            runtime().block_on(async {
                let backend = server.connect().await;
                let (lock, me) = (lock("workers"), candidate(worker, 1));
                if let Acquired::Held(grant) = backend.acquire(&lock, &me, LONG).await.unwrap() {
                    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
                    let token = grant.token.to_string();
                    fs::write(dir.path().join(worker), token).unwrap();
                }
            });
        });
    }
    let leads = |worker: &str| dir.path().join(worker).exists();
    let leaders = ["a", "b", "c"].map(leads);
    assert_eq!(leaders, [true, false, false], "one leader, the first");
}

/// Before it has connected, a backend is its maker's all the same.
#[test]
fn a_child_does_not_connect_what_its_parent_has_made() {
    let Some(server) = start(&[]) else { return };
    let parent = runtime();
    let backend = parent.block_on(async { RedisBackend::lazy(server.config()).unwrap() });
    let before = connections(&server);
    in_a_fork(|| is_refused("holder", backend.holder(&lock("lazy"))));
    assert_eq!(connections(&server), before);
    parent.block_on(backend.holder(&lock("lazy"))).unwrap();
}
