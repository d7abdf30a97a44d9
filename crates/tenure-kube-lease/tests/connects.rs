//! How many connections wait to come up in an outage in which packets are lost.
//!
//! No API server is needed: a listener whose queue is full lets the kernel drop each attempt to
//! connect, and the kernel's own table tells how many there are.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use tenure_core::record::{Record, RecordHolder, RecordStore as _};
use tenure_core::{ErrorKind, LockBackend as _};
use tenure_kube::KubeConfig;
use tenure_kube_lease::lazy;
use tenure_testkit::{LONG, lock, until, within_limit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long an attempt goes on before the next one begins, as under an election's policy. A read
/// would be sent beside it after 250 ms.
const ATTEMPT: Duration = Duration::from_millis(400);
const ATTEMPTS: usize = 5;

/// What the kernel calls a connection that waits to come up.
const SYN_SENT: &str = "02";

/// A server that no connection reaches.
struct Unreachable {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Unreachable {
    async fn start() -> Self {
        const BACKLOG: u32 = 1;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(BACKLOG).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        // Linux takes one more.
        for _ in 0..=BACKLOG {
            let connecting = TcpStream::connect(address);
            queue.push(
                within_limit("a place in the queue", connecting)
                    .await
                    .unwrap(),
            );
        }
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }

    /// The connections to it that wait to come up.
    fn awaited(&self) -> usize {
        let port = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let waits = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            let remote = fields.next().unwrap_or_default();
            remote.ends_with(&port) && fields.next() == Some(SYN_SENT)
        };
        table.lines().filter(waits).count()
    }
}

/// When the network is back each of them would come up: with many leaders that is a flood of TLS
/// handshakes, in which terms end.
#[tokio::test]
async fn of_the_attempts_in_an_outage_the_last_two_wait_for_a_connection() {
    let server = Unreachable::start().await;
    let config = KubeConfig::server(format!("http://{}", server.address))
        .connect_timeout(LONG)
        .namespace("default")
        .unwrap();
    let backend = lazy(config).unwrap();
    let record = Record::new(Some(RecordHolder::new("us")), LONG);
    let mut attempts = JoinSet::new();
    for number in 1..=ATTEMPTS {
        let (store, record) = (backend.store().clone(), record.clone());
        attempts.spawn(async move { store.create(&lock("outage"), &record).await.map(drop) });
        let expected = number.min(2);
        until("the attempt connects", async || {
            server.awaited() == expected
        })
        .await;
        // The first has made the client.
        let began_at = backend.clock().now();
        tokio::time::sleep(ATTEMPT).await;
        assert_eq!(server.awaited(), expected, "in attempt {number}");
        if number < ATTEMPTS {
            assert!(backend.may_go_on(began_at));
            until("one connection waits, for the last attempt", async || {
                server.awaited() == 1
            })
            .await;
        }
    }
    for _ in 2..ATTEMPTS {
        let ended = within_limit("the end of an older attempt", attempts.join_next()).await;
        let error = ended.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert_eq!(attempts.len(), 2);
}
