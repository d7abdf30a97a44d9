//! Servers that do not end their answers, or send others than `PostgreSQL` does: time and memory are
//! bounded.
//!
//! `cargo test -p tenure-postgres --test hostile -- --nocapture` prints the figures as a table.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::Connects as _;
use tenure_core::LockBackend as _;
use tenure_postgres::{PostgresBackend, PostgresConfig};
use tenure_testkit::postgres::start;
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

/// How a server answers, from the login on or from the first question after it.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// A byte every 40 ms.
    Drip,
    /// Rows without an end.
    Stream,
    /// One row of 2 GiB.
    OneRow,
    /// An error of 200 MiB.
    HugeError,
    /// Notices without an end.
    Notices,
    Garbage,
    Never,
}

const ALL: [Answer; 7] = [
    Answer::Drip,
    Answer::Stream,
    Answer::OneRow,
    Answer::HugeError,
    Answer::Notices,
    Answer::Garbage,
    Answer::Never,
];

/// More than any of these may take.
const MOST_KIB: u64 = 256 * 1024;

/// A server that lets everybody log in, if `logs_in`, and then answers like that. Counts its
/// connections.
async fn serve(answer: Answer, logs_in: bool) -> (PostgresConfig, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(stream, answer, logs_in));
        }
    });
    let url = format!("postgres://app@127.0.0.1:{port}/x?sslmode=disable");
    let config = PostgresConfig::from_url(&url).unwrap();
    (config.connect_timeout(Duration::from_secs(1)), connections)
}

fn message(kind: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn whole(kind: u8, body: &[u8]) -> Vec<u8> {
    message(kind, body.len(), body)
}

/// A row with one column of so many bytes, of which the first are here.
fn row(length: usize, body: &[u8]) -> Vec<u8> {
    let column = u32::try_from(length).unwrap().to_be_bytes();
    message(b'D', length + 6, &[&[0, 1], &column[..], body].concat())
}

async fn converse(mut stream: TcpStream, answer: Answer, logs_in: bool) -> Option<()> {
    let mut request = vec![0; 4096];
    let _read = stream.read(&mut request).await.ok()?;
    if logs_in {
        let ok = [
            whole(b'R', &[0, 0, 0, 0]),
            whole(b'S', b"server_encoding\0UTF8\0"),
            whole(b'K', &[0, 0, 0, 7, 0, 0, 0, 7]),
            whole(b'Z', b"I"),
        ];
        stream.write_all(&ok.concat()).await.ok()?;
        let _read = stream.read(&mut request).await.ok()?;
    }
    let (mut requests, stream) = stream.into_split();
    tokio::spawn(async move {
        // What is sent is read, whatever it is.
        while requests.read(&mut request).await.ok()? > 0 {}
        Some(())
    });
    misbehave(stream, answer).await
}

async fn misbehave(mut stream: OwnedWriteHalf, answer: Answer) -> Option<()> {
    let columns = [&[0, 1][..], b"x\0", &[0; 18]].concat();
    let piece = match answer {
        Answer::Drip => {
            stream
                .write_all(&message(b'N', 1_000_000, b""))
                .await
                .ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
        Answer::Stream => {
            stream.write_all(&whole(b'T', &columns)).await.ok()?;
            row(1000, &[b'x'; 1000]).repeat(64)
        }
        Answer::OneRow => {
            stream.write_all(&whole(b'T', &columns)).await.ok()?;
            let row = row(2_000_000_000, b"");
            stream.write_all(&row).await.ok()?;
            vec![b'x'; 64 * 1024]
        }
        Answer::HugeError => {
            let error = message(b'E', 200 * 1024 * 1024, b"SERROR\0M");
            stream.write_all(&error).await.ok()?;
            vec![b'x'; 64 * 1024]
        }
        Answer::Notices => whole(b'N', b"SNOTICE\0C00000\0Mhello\0\0").repeat(1024),
        Answer::Garbage => {
            let noise: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
            stream.write_all(&noise).await.ok()?;
            std::future::pending().await
        }
        Answer::Never => std::future::pending().await,
    };
    loop {
        stream.write_all(&piece).await.ok()?;
    }
}

/// The most memory of this process since [`watch`](Self::watch), beyond what it had then.
struct Memory {
    before: u64,
}

impl Memory {
    fn of_process(field: &str) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn watch() -> Self {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self {
            before: Self::of_process("VmRSS:"),
        }
    }

    fn grown(&self) -> u64 {
        Self::of_process("VmHWM:").saturating_sub(self.before)
    }
}

fn print(name: &str, outcome: &str, took: Duration, kib: u64) {
    println!(
        "| {name} | {outcome} | {} ms | {kib} KiB |",
        took.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers_are_bounded_in_time_and_memory() {
    println!("| answer | outcome | time | memory |\n|---|---|---|---|");
    for (answer, logs_in) in ALL.into_iter().flat_map(|a| [(a, true), (a, false)]) {
        let (config, connections) = serve(answer, logs_in).await;
        let backend = PostgresBackend::lazy(config).unwrap();
        let (memory, start) = (Memory::watch(), Instant::now());
        let name = lock("hostile");
        let lease = Duration::from_secs(1);
        let me = candidate("a", 1);
        let acquiring = backend.acquire(&name, &me, lease);
        let error = within_limit("an error", acquiring).await.unwrap_err();
        let told: String = error.message().chars().take(120).collect();
        let when = if logs_in {
            "after the login"
        } else {
            "instead of it"
        };
        let called = format!("{answer:?}, {when}");
        print(&called, &told, start.elapsed(), memory.grown());
        assert!(
            error.message().len() < 4096,
            "{called}: a message that long"
        );
        assert!(
            memory.grown() < MOST_KIB,
            "{called}: {} KiB",
            memory.grown()
        );

        // A caller with a shorter limit goes before ours has passed. The connection is given up too.
        let before = connections.load(Ordering::SeqCst);
        until("the connection is replaced", async || {
            let attempt = backend.acquire(&name, &me, lease);
            let _too_late = tokio::time::timeout(Duration::from_millis(100), attempt).await;
            connections.load(Ordering::SeqCst) > before + 1
        })
        .await;
        assert!(
            memory.grown() < MOST_KIB,
            "{called}: {} KiB",
            memory.grown()
        );
    }
}

/// What the application asks for in its own transaction may be as long as it likes.
#[tokio::test]
async fn a_guarded_transaction_may_read_more_than_an_answer_of_ours_is_long() {
    let Some(server) = start(&[]) else { return };
    let backend = server.connect().await;
    let name = lock("batch");
    let grant = held(
        backend
            .acquire(&name, &candidate("ann", 1), LONG)
            .await
            .unwrap(),
    );
    let mut transaction = backend.begin(&name, grant.token).await.unwrap();
    let much = "SELECT repeat('x', 1000000) FROM generate_series(1, 20)";
    let rows = transaction.query(much, &[]).await.unwrap();
    let length: usize = rows.iter().map(|row| row.get::<_, &str>(0).len()).sum();
    assert_eq!(length, 20_000_000);
    transaction.commit().await.unwrap();
    renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
}
