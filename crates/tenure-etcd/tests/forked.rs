//! What a forked child can do with what it has inherited: nothing, neither to the server nor to its
//! parent.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

use fork::{Fork, fork, waitpid};
use futures_util::{FutureExt as _, StreamExt as _};
use support::Connects as _;
use tenure_core::{Changes, Error, ErrorKind, Grant, LockBackend as _, LockName, Time, Verdict};
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::{Cluster, start};
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

/// No connection is given up because the machine is slow.
fn config(cluster: &Cluster) -> EtcdConfig {
    let config = cluster.config().connect_timeout(LIMIT);
    config.request_timeout(LIMIT)
}

/// What a process has when it is forked.
struct Inherited {
    backend: EtcdBackend,
    lock: LockName,
    grant: Grant,
    changes: Changes,
}

async fn in_mid_term(config: EtcdConfig) -> Inherited {
    let backend = EtcdBackend::connect(config).await.unwrap();
    let lock = lock("forked");
    let parent = candidate("parent", 1);
    let grant = held(backend.acquire(&lock, &parent, LONG).await.unwrap());
    // A stream of keepalives, and one of watches, for a second candidate.
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    let waiter = candidate("waiter", 2);
    let taken = backend.acquire(&lock, &waiter, LONG).await.unwrap();
    assert!(is_taken(&taken));
    let changes = backend.changes(&lock);
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
    is_refused("queue_position", backend.queue_position(lock, me));
    is_refused("guard", async { backend.guard(lock, grant.token) });
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

/// What the server has heard, and from how many connections, as it counts itself.
fn heard(cluster: &Cluster) -> Vec<String> {
    let mut stream = TcpStream::connect(cluster.members[0].address()).unwrap();
    let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let counts = text.lines().filter(|line| {
        line.starts_with("grpc_server_msg_received_total")
            || line.starts_with("etcd_network_client_grpc_received_bytes_total")
            || line.starts_with("etcd_debugging_mvcc_watch")
    });
    counts.map(str::to_owned).collect()
}

/// The client's end of each connection that stands; etcd has one to itself.
fn connections(cluster: &Cluster) -> Vec<String> {
    let port = cluster.members[0].port;
    let remote = format!("{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, to, state) = (fields[1], fields[2], fields[3]);
        if to.ends_with(&format!(":{remote}")) && state == "01" {
            found.push(local.to_owned());
        }
    }
    found.sort();
    found
}

/// Forks in mid-term, with a call and tasks under way. The child tries everything, goes on with
/// the runtime for a while, and drops all that it has. Then the parent goes on as if there had
/// been no child.
#[test]
fn a_child_does_nothing() {
    let Some(cluster) = start() else { return };
    let parent = runtime();
    let inherited = parent.block_on(in_mid_term(config(&cluster)));
    let backend = inherited.backend.clone();
    // Sent, and not yet answered.
    cluster.members[0].freeze();
    let mut under_way = Box::pin({
        let (backend, grant) = (backend.clone(), inherited.grant.clone());
        let now = backend.clock().now();
        async move { backend.renew(&grant, now).await }
    });
    parent.block_on(poll_fn(|cx| {
        assert!(under_way.poll_unpin(cx).is_pending());
        Poll::Ready(())
    }));
    parent.block_on(async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    });
    cluster.members[0].thaw();
    cluster.wait();
    let before = connections(&cluster);
    assert!(!before.is_empty());

    let mut parents = Some((parent, inherited, backend, under_way));
    let heard_before = heard(&cluster);
    in_a_fork(|| {
        let (runtime, mut inherited, backend, under_way) = parents.take().unwrap();
        try_all(&mut inherited);
        // Its copies of the background tasks get their turns.
        runtime.block_on(async {
            for _ in 0..50 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        drop((under_way, inherited, backend));
        drop(runtime);
    });
    assert_eq!(
        heard(&cluster),
        heard_before,
        "the child has said something"
    );
    assert_eq!(connections(&cluster), before);
    // It can have its own.
    in_a_fork(|| {
        runtime().block_on(async {
            let backend = EtcdBackend::connect(config(&cluster)).await.unwrap();
            let (child, lock) = (candidate("child", 1), lock("forked"));
            let acquired = backend.acquire(&lock, &child, LONG).await.unwrap();
            assert!(is_taken(&acquired), "two leaders");
            backend.withdraw(&lock, &child).await.unwrap();
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
        let now = backend.clock().now();
        renewed(backend.renew(&grant, now).await.unwrap());
        backend.release(&grant).await.unwrap();
        let heard = within_limit("the release", changes.next()).await;
        assert!(heard.is_some());
        let waiter = candidate("waiter", 2);
        until("the waiter's turn", async || {
            let acquired = backend.acquire(&lock, &waiter, LONG).await.unwrap();
            !is_taken(&acquired)
        })
        .await;
        let guarded = backend.traffic();
        assert_eq!(guarded.leases, 2);
    });
    assert_eq!(connections(&cluster), before, "the parent had to reconnect");
}

/// Before it has connected, a backend is its maker's all the same.
#[test]
fn a_child_does_not_connect_what_its_parent_has_made() {
    let Some(cluster) = start() else { return };
    let parent = runtime();
    let backend = parent.block_on(async { EtcdBackend::lazy(config(&cluster)).unwrap() });
    let before = connections(&cluster);
    in_a_fork(|| is_refused("holder", backend.holder(&lock("lazy"))));
    assert_eq!(connections(&cluster), before);
    parent.block_on(backend.holder(&lock("lazy"))).unwrap();
}
