//! Servers that do not end their answers, or send others than an API server does, and connections
//! that swallow what is sent: time and memory are bounded, and the next attempt has a connection of
//! its own.
//!
//! `cargo test -p tenure-kube-lease --test hostile -- --nocapture` prints the figures as a table.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use support::Connects as _;
use tenure_conformance::proxy::{FaultProxy, Way};
use tenure_core::{Error, LockBackend as _};
use tenure_kube::KubeConfig;
use tenure_kube_lease::{KubeLeaseBackend, connect, lazy};
use tenure_testkit::kube::Server;
use tenure_testkit::memory::Memory;
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How a server answers what it is asked about an object.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// 200 MiB, as it says before.
    Large,
    /// A byte every 40 ms.
    Drip,
    /// Without an end, and without saying how long.
    Stream,
    /// A header without an end.
    Header,
    /// Headers without an end.
    Headers,
    Garbage,
    Never,
}

/// More than any of these may take.
const MOST_KIB: u64 = 40 * 1024;

/// A server that tells its version, and answers all else like that. Counts its connections.
async fn serve(answer: Answer) -> (KubeConfig, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(stream, answer));
        }
    });
    let config = KubeConfig::server(url).request_timeout(Duration::from_secs(1));
    (config, connections)
}

async fn converse(mut stream: TcpStream, answer: Answer) -> Option<()> {
    let mut request = vec![0; 4096];
    loop {
        let read = stream.read(&mut request).await.ok();
        let read = read.filter(|read| *read > 0)?;
        if !request[..read].starts_with(b"GET /version") {
            break;
        }
        let version = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(version).await.ok()?;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let body: String = match answer {
        Answer::Large => format!("{head}content-length: 209715200\r\n\r\n"),
        Answer::Drip => format!("{head}content-length: 100000\r\n\r\n"),
        Answer::Stream => format!("{head}\r\n"),
        Answer::Header | Answer::Headers => head.to_owned(),
        Answer::Garbage | Answer::Never => String::new(),
    };
    stream.write_all(body.as_bytes()).await.ok()?;
    let (piece, pause) = match answer {
        Answer::Large | Answer::Stream | Answer::Header => (vec![b'x'; 64 * 1024], Duration::ZERO),
        Answer::Headers => (b"x: y\r\n".repeat(1024), Duration::ZERO),
        Answer::Drip => (b"x".to_vec(), Duration::from_millis(40)),
        Answer::Garbage => {
            let noise = (0..10_000_u32).flat_map(u32::to_le_bytes);
            (noise.collect(), Duration::from_millis(40))
        }
        Answer::Never => std::future::pending().await,
    };
    let mut left: usize = 200 * 1024 * 1024;
    while left >= piece.len() || !matches!(answer, Answer::Large) {
        stream.write_all(&piece).await.ok()?;
        left = left.saturating_sub(piece.len());
        tokio::time::sleep(pause).await;
    }
    Some(())
}

fn row(name: &str, outcome: &str, took: Duration, kib: u64) {
    println!(
        "| {name} | {outcome} | {} ms | {kib} KiB |",
        took.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers_are_bounded_in_time_and_memory() {
    println!("| answer | outcome | time | memory |\n|---|---|---|---|");
    for answer in [
        Answer::Large,
        Answer::Drip,
        Answer::Stream,
        Answer::Header,
        Answer::Headers,
        Answer::Garbage,
        Answer::Never,
    ] {
        let (config, connections) = serve(answer).await;
        let backend = lazy(config).unwrap();
        let lock = lock("hostile");
        let (memory, start) = (Memory::watch(), Instant::now());
        let us = candidate("a", 1);
        let acquiring = backend.acquire(&lock, &us, LONG);
        let error = within_limit("an error", acquiring).await.unwrap_err();
        let name = format!("{answer:?}");
        row(&name, error.message(), start.elapsed(), memory.grown());
        assert!(memory.grown() < MOST_KIB, "{name}: {} KiB", memory.grown());

        // The same where a watch is asked for: a line without an end is given up.
        let (memory, start) = (Memory::watch(), Instant::now());
        let before = connections.load(Ordering::SeqCst);
        let mut changes = backend.changes(&lock);
        let watching = tokio::spawn(async move { while changes.next().await.is_some() {} });
        // A look belongs to each watch.
        let goes_on = matches!(answer, Answer::Drip | Answer::Never);
        let wanted = before + if goes_on { 1 } else { 5 };
        until("it has been watched", async || {
            connections.load(Ordering::SeqCst) >= wanted
        })
        .await;
        let name = format!("{answer:?}, of a watch");
        let outcome = if goes_on {
            "it waits"
        } else {
            "given up and begun again"
        };
        row(&name, outcome, start.elapsed(), memory.grown());
        assert!(memory.grown() < MOST_KIB, "{name}: {} KiB", memory.grown());
        watching.abort();
    }
}

/// Some calls at one time, so that there are as many connections.
async fn fill(backend: &KubeLeaseBackend) {
    let looks = (0..4).map(async |_| backend.holder(&lock("silent")).await);
    let looks: Result<Vec<_>, Error> = join_all(looks).await.into_iter().collect();
    looks.unwrap();
}

/// A network that loses packets closes no connection. The first attempt cannot know it; the next
/// ones must not wait on other connections that are as dead.
#[tokio::test]
async fn after_an_attempt_without_an_answer_the_next_has_a_connection_of_its_own() {
    let Some(server) = Server::start().await else {
        return;
    };
    let proxy = FaultProxy::start(server.address()).unwrap();
    let backend = connect(server.config_at(proxy.address())).await.unwrap();
    let us = candidate("us", 1);
    let grant = backend.acquire(&lock("silent"), &us, LONG).await;
    let grant = held(grant.unwrap());
    fill(&backend).await;
    let before = proxy.accepted();
    assert!(before >= 4, "{before} connections");

    proxy.lose(Way::Both);
    let mut made = before;
    for attempt in 0..4 {
        let renewing = backend.renew(&grant, backend.clock().now());
        let answer = tokio::time::timeout(Duration::from_millis(500), renewing).await;
        assert!(answer.is_err(), "{answer:?}");
        // The first is sent on a connection that there is. Beside a slow write a read may be sent.
        let so_far = std::mem::replace(&mut made, proxy.accepted());
        assert_eq!(made > so_far, attempt > 0, "attempt {attempt}: {made}");
    }
    proxy.restore();
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}

/// An attempt without an answer goes on, and is answered when the network carries on; the next one
/// has not waited for that.
#[tokio::test]
async fn beside_a_heartbeat_that_goes_on_the_next_has_a_connection_of_its_own() {
    let Some(server) = Server::start().await else {
        return;
    };
    let proxy = FaultProxy::start(server.address()).unwrap();
    let backend = Arc::new(connect(server.config_at(proxy.address())).await.unwrap());
    let us = candidate("us", 1);
    let grant = backend.acquire(&lock("overdue"), &us, LONG).await;
    let grant = held(grant.unwrap());
    let renewing = || {
        let (backend, grant) = (backend.clone(), grant.clone());
        tokio::spawn(async move { backend.renew(&grant, backend.clock().now()).await })
    };

    // Idle connections, which a later request would use.
    fill(&backend).await;
    proxy.hold(Way::Answers);
    let sent = proxy.seen(Way::Requests);
    let began_at = backend.clock().now();
    let first = renewing();
    until("the first is sent", async || {
        proxy.seen(Way::Requests) > sent
    })
    .await;
    assert!(backend.may_go_on(began_at));
    let before = proxy.accepted();
    let second = renewing();
    until("the next attempt has a connection of its own", async || {
        proxy.accepted() > before
    })
    .await;
    // Many elections ask for the same outage: one connection serves them.
    assert!(backend.may_go_on(began_at));
    // Both are connected, and wait for an answer: however many attempts follow, these go on.
    for _ in 0..3 {
        assert!(backend.may_go_on(backend.clock().now()));
    }
    proxy.restore();
    renewed(first.await.unwrap().unwrap());
    renewed(second.await.unwrap().unwrap());
}

/// Beside a slow write a read is sent, and dropped when the write is answered: that says nothing of
/// the connections.
#[tokio::test]
async fn a_slow_api_server_costs_no_new_connections() {
    let Some(server) = Server::start().await else {
        return;
    };
    let proxy = FaultProxy::start(server.address()).unwrap();
    let backend = connect(server.config_at(proxy.address())).await.unwrap();
    let us = candidate("us", 1);
    let grant = backend.acquire(&lock("sluggish"), &us, LONG).await;
    let mut grant = held(grant.unwrap());
    // A write and a read beside each other.
    fill(&backend).await;
    let before = proxy.accepted();
    proxy.delay(Way::Answers, Duration::from_millis(400));
    for _ in 0..5 {
        let renewal = backend.renew(&grant, backend.clock().now()).await;
        grant = renewed(renewal.unwrap());
    }
    assert_eq!(proxy.accepted(), before);
}
