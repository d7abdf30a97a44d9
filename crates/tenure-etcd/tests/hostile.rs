//! Servers that do not end their answers, or send others than etcd does: time and memory are
//! bounded.
//!
//! `cargo test -p tenure-etcd --test hostile -- --nocapture` prints the figures as a table.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use support::memory::Memory;
use tenure_core::LockBackend as _;
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::{LONG, candidate, lock, within_limit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

/// How a server answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// A message of which a byte comes every 40 ms.
    Drip,
    /// Messages without end, where one is due.
    Stream,
    /// A message of 200 MiB.
    Huge,
    /// A message that is none of etcd's.
    Garbage,
    Never,
    /// No HTTP: a byte every 40 ms.
    RawDrip,
    RawStream,
    RawGarbage,
    RawNever,
}

const ALL: [Answer; 9] = [
    Answer::Drip,
    Answer::Stream,
    Answer::Huge,
    Answer::Garbage,
    Answer::Never,
    Answer::RawDrip,
    Answer::RawStream,
    Answer::RawGarbage,
    Answer::RawNever,
];

const DRIP: Duration = Duration::from_millis(40);

const WATCHED: Duration = Duration::from_millis(500);

/// More than any of these may take.
const MOST_KIB: u64 = 256 * 1024;

/// A server that says it is a member, and answers all else like that.
async fn serve(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, answer));
        }
    });
    address
}

async fn converse(mut stream: TcpStream, answer: Answer) -> Option<()> {
    match answer {
        Answer::RawDrip => loop {
            stream.write_all(b"\0").await.ok()?;
            tokio::time::sleep(DRIP).await;
        },
        Answer::RawStream => loop {
            stream.write_all(&[0; 4 * 1024]).await.ok()?;
        },
        Answer::RawGarbage => {
            let noise: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
            stream.write_all(&noise).await.ok()?;
            pending::<()>().await;
        }
        Answer::RawNever => pending::<()>().await,
        _ => {}
    }
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(accepted) = connection.accept().await {
        let (request, response) = accepted.ok()?;
        tokio::spawn(answer_to(request, response, answer));
    }
    Some(())
}

async fn answer_to(
    request: Request<h2::RecvStream>,
    mut response: SendResponse<Bytes>,
    answer: Answer,
) -> Option<()> {
    let path = request.uri().path().to_owned();
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.body(()).ok()?;
    if path.ends_with("/Status") || path.ends_with("/MemberList") {
        let mut body = response.send_response(head, false).ok()?;
        body.send_data(message(0), false).ok()?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().ok()?);
        return body.send_trailers(trailers).ok();
    }
    if matches!(answer, Answer::Never) {
        return pending().await;
    }
    let mut body = response.send_response(head, false).ok()?;
    match answer {
        Answer::Drip => {
            body.send_data(message(100_000), false).ok()?;
            loop {
                send(&mut body, Bytes::from_static(b"x")).await?;
                tokio::time::sleep(DRIP).await;
            }
        }
        Answer::Stream => loop {
            send(&mut body, message(0)).await?;
        },
        Answer::Huge => {
            body.send_data(message(200 << 20), false).ok()?;
            loop {
                send(&mut body, Bytes::from_static(&[b'x'; 16 * 1024])).await?;
            }
        }
        _ => {
            let noise = Bytes::from(vec![0xff; 1000]);
            body.send_data(message(1000), false).ok()?;
            body.send_data(noise, false).ok()?;
            pending().await
        }
    }
}

/// The begin of a message with so many bytes.
fn message(length: u32) -> Bytes {
    let mut begin = vec![0];
    begin.extend(length.to_be_bytes());
    Bytes::from(begin)
}

/// Waits until the client takes more.
async fn send(body: &mut SendStream<Bytes>, bytes: Bytes) -> Option<()> {
    body.reserve_capacity(bytes.len());
    while body.capacity() < bytes.len() {
        poll_fn(|cx| body.poll_capacity(cx)).await?.ok()?;
    }
    body.send_data(bytes, false).ok()
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
    for answer in ALL {
        let url = format!(
            "etcd://{}?connect_timeout=500ms&request_timeout=250ms",
            serve(answer).await
        );
        let backend = EtcdBackend::lazy(EtcdConfig::from_url(&url).unwrap()).unwrap();
        let (job, me) = (lock("hostile"), candidate("a", 1));
        let (memory, start) = (Memory::watch(), Instant::now());
        let acquiring = backend.acquire(&job, &me, LONG);
        let error = within_limit("an error", acquiring).await.unwrap_err();
        let name = format!("{answer:?}");
        row(&name, error.message(), start.elapsed(), memory.grown());
        let start = Instant::now();
        let error = within_limit("an error", backend.holder(&job)).await;
        let error = error.unwrap_err();
        let name = format!("{answer:?}, of a look");
        row(&name, error.message(), start.elapsed(), memory.grown());

        // A watch is open as long as it is not refused; what comes on it changes nothing.
        let mut changes = backend.changes(&job);
        let _no_hint = tokio::time::timeout(WATCHED, changes.next()).await;
        let name = format!("{answer:?}, of a watch");
        row(&name, "open", WATCHED, memory.grown());
        assert!(
            memory.grown() < MOST_KIB,
            "{answer:?}: {} KiB",
            memory.grown()
        );
    }
}
