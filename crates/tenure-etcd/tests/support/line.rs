//! A network that loses packets: connections hang, and nothing tells either side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Passes everything on, except on the connections that were open or begun in a silence.
pub(crate) struct Line {
    address: SocketAddr,
    network: Arc<Network>,
}

#[derive(Default)]
struct Network {
    /// Odd in a silence.
    silences: AtomicUsize,
    accepted: AtomicUsize,
}

impl Line {
    pub(crate) async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(Network::default());
        let accepting = network.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepting.accepted.fetch_add(1, Ordering::SeqCst);
                let born = accepting.silences.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&upstream).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, born, accepting.clone()));
                tokio::spawn(pass(from_server, to_client, born, accepting.clone()));
            }
        });
        Self { address, network }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were begun.
    pub(crate) fn accepted(&self) -> usize {
        self.network.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn silence(&self) {
        let before = self.network.silences.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 0);
    }

    /// New connections work.
    pub(crate) fn restore(&self) {
        let before = self.network.silences.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 1);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: usize,
    network: Arc<Network>,
) -> Option<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0);
        let is_open = network.silences.load(Ordering::SeqCst) == born && born.is_multiple_of(2);
        if !is_open {
            // Lost: nothing, nor the end, comes through. The halves stay open.
            read?;
            continue;
        }
        to.write_all(&buffer[..read?]).await.ok()?;
    }
}
