//! Servers that do not end their answers, or send others than Redis does: time and memory are
//! bounded.
//!
//! `cargo test -p tenure-redis --test hostile -- --nocapture` prints the figures as a table.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::{ErrorKind, LockBackend as _, Time};
use tenure_redis::{RedisBackend, RedisConfig};
use tenure_testkit::memory::Memory;
use tenure_testkit::redis::start;
use tenure_testkit::{LONG, candidate, held, is_lost, lock, until, within_limit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How a server answers a script.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// A byte every 40 ms.
    Drip,
    /// A string of 4 GB.
    Stream,
    /// A list of two thousand million numbers.
    StreamOfNumbers,
    Garbage,
    Never,
}

/// More than any of these may take.
const MOST_KIB: u64 = 256 * 1024;

/// A server that connects well, and answers scripts like that. Counts its connections.
async fn serve(answer: Answer) -> (RedisConfig, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(stream, answer));
        }
    });
    let config = RedisConfig::server(&address)
        .unwrap()
        .request_timeout(Duration::from_secs(1));
    (config, connections)
}

async fn converse(mut stream: TcpStream, answer: Answer) -> Option<()> {
    let info = "role:master\r\nmaster_replid:0123456789012345678901234567890123456789\r\n";
    let mut request = vec![0; 4096];
    loop {
        let read = stream
            .read(&mut request)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        let text = String::from_utf8_lossy(&request[..read]);
        if text.contains("EVAL") {
            break;
        }
        let reply = format!("${}\r\n{info}\r\n", info.len());
        stream.write_all(reply.as_bytes()).await.ok()?;
    }
    let (mut requests, mut stream) = stream.into_split();
    tokio::spawn(async move {
        // What is sent is read, whatever it is.
        while requests.read(&mut request).await.ok()? > 0 {}
        Some(())
    });
    match answer {
        Answer::Drip => {
            stream.write_all(b"$100000\r\n").await.ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
        Answer::Stream => stream.write_all(b"$4000000000\r\n").await.ok()?,
        Answer::StreamOfNumbers => stream.write_all(b"*2000000000\r\n").await.ok()?,
        Answer::Garbage => {
            let noise: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
            stream.write_all(&noise).await.ok()?;
        }
        Answer::Never => {}
    }
    let piece = match answer {
        Answer::Stream => vec![b'x'; 64 * 1024],
        Answer::StreamOfNumbers => b":1\r\n".repeat(16 * 1024),
        _ => std::future::pending().await,
    };
    loop {
        stream.write_all(&piece).await.ok()?;
    }
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
        Answer::Drip,
        Answer::Stream,
        Answer::StreamOfNumbers,
        Answer::Garbage,
        Answer::Never,
    ] {
        let (config, connections) = serve(answer).await;
        let backend = RedisBackend::lazy(config).unwrap();
        let (memory, start) = (Memory::watch(), Instant::now());
        let lock = lock("hostile");
        let me = candidate("a", 1);
        let acquiring = backend.acquire(&lock, &me, LONG);
        let error = within_limit("an error", acquiring).await.unwrap_err();
        row(
            &format!("{answer:?}"),
            error.message(),
            start.elapsed(),
            memory.grown(),
        );
        assert!(
            memory.grown() < MOST_KIB,
            "{answer:?}: {} KiB",
            memory.grown()
        );

        // A caller with a shorter limit gives up before ours has passed. The connection is given up
        // too, though something comes on it all the time.
        let (start, before) = (Instant::now(), connections.load(Ordering::SeqCst));
        until("the connection is replaced", async || {
            let attempt = backend.acquire(&lock, &me, LONG);
            let _too_late = tokio::time::timeout(Duration::from_millis(100), attempt).await;
            connections.load(Ordering::SeqCst) > before + 1
        })
        .await;
        let name = format!("{answer:?}, callers that go");
        row(
            &name,
            "the connection is replaced",
            start.elapsed(),
            memory.grown(),
        );
        assert!(
            memory.grown() < MOST_KIB,
            "{answer:?}: {} KiB",
            memory.grown()
        );
    }
}

#[tokio::test]
async fn a_huge_value_in_the_locks_key_is_read_in_part() {
    const HUGE: &str = "209715200";
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let lock = lock("huge");
    let me = candidate("a", 1);
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    // As an application that uses the name for something else.
    server.command(&["SETRANGE", "tenure:{huge}", HUGE, "x"]);
    server.command(&["PERSIST", "tenure:{huge}"]);
    server.command(&["CONFIG", "RESETSTAT"]);
    let (memory, start) = (Memory::watch(), Instant::now());
    assert!(is_lost(&backend.renew(&grant, Time::ZERO).await.unwrap()));
    backend.release(&grant).await.unwrap();
    let other = candidate("b", 2);
    // Its first bytes are still those of the term.
    let _taken = backend.acquire(&lock, &other, LONG).await;
    server.command(&["SETRANGE", "tenure:{huge}", "0", "something else"]);
    server.command(&["PERSIST", "tenure:{huge}"]);
    let error = backend.acquire(&lock, &other, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
    let error = backend.holder(&lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupted, "{error}");
    row(
        "200 MiB in the key, 5 calls",
        error.message(),
        start.elapsed(),
        memory.grown(),
    );
    let stats = server.text(&["INFO", "stats"]);
    let sent = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    let sent: u64 = sent.unwrap().trim().parse().unwrap();
    assert!(sent < 1024 * 1024, "{sent} bytes");
    assert!(memory.grown() < MOST_KIB, "{} KiB", memory.grown());
}

/// Some that resemble Redis do not.
#[tokio::test]
async fn a_server_that_tells_no_replication_id_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(resemble(stream));
        }
    });
    let config = RedisConfig::server(&address).unwrap();
    let backend = RedisBackend::connect(config).await.unwrap();
    let checks = backend.connect_checks();
    let told = checks.iter().find(|check| check.name == "incarnation");
    assert!(told.unwrap().reason.contains("master_replid"), "{checks:?}");
}

async fn resemble(mut stream: TcpStream) -> Option<()> {
    let mut request = vec![0; 4096];
    loop {
        let read = stream.read(&mut request).await.ok()?;
        let text = String::from_utf8_lossy(&request[..read]);
        if read == 0 {
            return None;
        }
        let answer = if text.contains("EVALSHA") {
            "-NOSCRIPT no\r\n"
        } else if text.contains("EVAL") {
            "$0\r\n\r\n"
        } else if text.contains("CONFIG") {
            "*0\r\n"
        } else {
            "$13\r\nrole:master\r\n\r\n"
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// A server that repeats what it was given: no error shows it.
#[tokio::test]
async fn a_password_that_a_server_repeats_is_not_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let answer = b"-WRONGPASS hunter2 is no password\r\n";
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
        }
    });
    let config = RedisConfig::server(&address).unwrap().password("hunter2");
    let backend = RedisBackend::lazy(config).unwrap();
    let me = candidate("a", 1);
    let error = backend.acquire(&lock("echo"), &me, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let checks = backend.checks(&lock("echo"), LONG).await;
    for shown in [format!("{error} {error:?}"), format!("{checks:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
