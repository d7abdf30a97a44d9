//! The fault proxy in front of a small echo server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tenure_conformance::proxy::{FaultProxy, Way};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How long anything may take before the test has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// An echo server; it tells of everything that it reads, and of the end of a connection.
async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hearing) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(count) = stream.read(&mut buffer).await {
                    if heard.send(buffer[..count].to_vec()).is_err() || count == 0 {
                        break;
                    }
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, hearing)
}

async fn start() -> (FaultProxy, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (address, hearing) = echo().await;
    (FaultProxy::start(address).unwrap(), hearing)
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// Sends `text` and reads it back.
async fn round(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    read(stream, text).await;
}

async fn read(stream: &mut TcpStream, text: &str) {
    let mut buffer = vec![0; text.len()];
    let read = timeout(LIMIT, stream.read_exact(&mut buffer)).await;
    read.unwrap().unwrap();
    assert_eq!(String::from_utf8(buffer).unwrap(), text);
}

/// Nothing comes while the server hears and answers, or has been given the time to.
async fn is_silent(stream: &mut TcpStream) {
    let mut buffer = [0; 1];
    let read = timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
    assert!(read.is_err(), "{read:?}");
}

async fn is_reset(stream: &mut TcpStream) {
    let mut buffer = [0; 64];
    loop {
        match timeout(LIMIT, stream.read(&mut buffer)).await.unwrap() {
            Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(count) => assert!(count > 0, "the connection was closed, and not reset"),
        }
    }
}

/// Until the proxy has seen so many bytes of this way.
async fn seen(proxy: &FaultProxy, way: Way, bytes: u64) {
    let start = Instant::now();
    while proxy.seen(way) < bytes {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn everything_passes_both_ways_at_first() {
    let (proxy, _heard) = start().await;
    assert!(proxy.address().ip().is_loopback());
    let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
    round(&mut one, "one").await;
    round(&mut other, "other").await;
    let long = "x".repeat(300_000);
    let (mut reading, mut writing) = one.split();
    let mut back = vec![0; long.len()];
    let (written, read) = tokio::join!(
        writing.write_all(long.as_bytes()),
        reading.read_exact(&mut back)
    );
    written.unwrap();
    read.unwrap();
    assert_eq!(back, long.as_bytes());
    assert_eq!(proxy.accepted(), 2);
    // A proper end is passed on as such.
    one.shutdown().await.unwrap();
    assert_eq!(one.read(&mut back).await.unwrap(), 0);
}

#[tokio::test]
async fn a_delay_applies_to_its_way_and_to_open_connections() {
    let delay = Duration::from_millis(80);
    for way in [Way::Requests, Way::Answers] {
        let (proxy, mut heard) = start().await;
        let mut stream = connect(&proxy).await;
        round(&mut stream, "quick").await;
        heard.recv().await.unwrap();
        proxy.delay(way, delay);
        let start = Instant::now();
        stream.write_all(b"slow").await.unwrap();
        heard.recv().await.unwrap();
        let heard_after = start.elapsed();
        read(&mut stream, "slow").await;
        assert!(start.elapsed() >= delay);
        if way == Way::Requests {
            assert!(heard_after >= delay);
        }
        proxy.restore();
        round(&mut stream, "quick").await;
    }
}

#[tokio::test]
async fn lost_answers_leave_the_requests_alone() {
    let (proxy, mut heard) = start().await;
    let mut stream = connect(&proxy).await;
    round(&mut stream, "before").await;
    heard.recv().await.unwrap();
    proxy.lose(Way::Answers);
    stream.write_all(b"applied").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"applied");
    seen(&proxy, Way::Answers, 13).await;
    is_silent(&mut stream).await;
    // A stream with a gap does not go on.
    proxy.restore();
    is_reset(&mut stream).await;
    round(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn lost_requests_are_not_heard() {
    let (proxy, mut heard) = start().await;
    let mut stream = connect(&proxy).await;
    let mut idle = connect(&proxy).await;
    round(&mut idle, "idle").await;
    heard.recv().await.unwrap();
    proxy.lose(Way::Requests);
    stream.write_all(b"lost").await.unwrap();
    seen(&proxy, Way::Requests, 8).await;
    is_silent(&mut stream).await;
    assert!(heard.try_recv().is_err());
    proxy.restore();
    is_reset(&mut stream).await;
    // A connection that has lost nothing goes on.
    round(&mut idle, "still there").await;
}

#[tokio::test]
async fn held_bytes_arrive_when_the_network_is_mended() {
    for way in [Way::Requests, Way::Answers, Way::Both] {
        let (proxy, _heard) = start().await;
        let mut stream = connect(&proxy).await;
        round(&mut stream, "before").await;
        proxy.hold(way);
        stream.write_all(b"held").await.unwrap();
        seen(&proxy, Way::Requests, 10).await;
        is_silent(&mut stream).await;
        proxy.restore();
        read(&mut stream, "held").await;
        round(&mut stream, "after").await;
    }
}

#[tokio::test]
async fn a_blackhole_swallows_new_connections_too() {
    let (proxy, mut heard) = start().await;
    proxy.lose(Way::Both);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"hello?").await.unwrap();
    seen(&proxy, Way::Requests, 6).await;
    is_silent(&mut stream).await;
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn a_reset_ends_every_connection_and_no_later_one() {
    let (proxy, mut heard) = start().await;
    let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
    round(&mut one, "one").await;
    round(&mut other, "other").await;
    heard.recv().await.unwrap();
    proxy.reset();
    is_reset(&mut one).await;
    is_reset(&mut other).await;
    round(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn a_half_closed_connection_goes_on_in_the_other_way() {
    let (proxy, mut heard) = start().await;
    let mut stream = connect(&proxy).await;
    round(&mut stream, "before").await;
    heard.recv().await.unwrap();
    proxy.half_close(Way::Answers);
    let mut buffer = [0; 8];
    let read = timeout(LIMIT, stream.read(&mut buffer)).await;
    assert_eq!(read.unwrap().unwrap(), 0);
    stream.write_all(b"still heard").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"still heard");

    let mut stream = connect(&proxy).await;
    round(&mut stream, "new ones are whole").await;
    heard.recv().await.unwrap();
    proxy.half_close(Way::Requests);
    assert_eq!(heard.recv().await.unwrap(), b"", "the end of the requests");
}

#[tokio::test]
async fn a_connection_is_cut_at_the_byte() {
    let (proxy, mut heard) = start().await;
    let mut stream = connect(&proxy).await;
    round(&mut stream, "before").await;
    heard.recv().await.unwrap();
    proxy.cut_after(Way::Requests, 3);
    stream.write_all(b"abcdef").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"abc");
    is_reset(&mut stream).await;
    // A new one counts from its start.
    let mut stream = connect(&proxy).await;
    stream.write_all(b"12").await.unwrap();
    read(&mut stream, "12").await;
    stream.write_all(b"34").await.unwrap();
    is_reset(&mut stream).await;
    proxy.restore();
    round(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn refused_connections_are_refused_by_the_kernel() {
    let (proxy, _heard) = start().await;
    let mut open = connect(&proxy).await;
    round(&mut open, "before").await;
    proxy.refuse(true).await;
    let error = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    round(&mut open, "open ones go on").await;
    proxy.refuse(false).await;
    round(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn a_server_that_is_gone_resets_its_clients() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = FaultProxy::start(address).unwrap();
    is_reset(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn a_dropped_proxy_takes_its_connections_along() {
    let (proxy, _heard) = start().await;
    let mut stream = connect(&proxy).await;
    round(&mut stream, "before").await;
    let address = proxy.address();
    drop(proxy);
    is_reset(&mut stream).await;
    let start = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
