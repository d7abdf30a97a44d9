//! A connection that breaks each time a certain request comes along, before it arrives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Fault {
    /// What is in the request.
    bytes: Vec<u8>,
    left: usize,
}

/// Passes everything else on.
pub(crate) struct Breaking {
    address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
}

impl Breaking {
    pub(crate) async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(Mutex::new(Fault::default()));
        let of_all = fault.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&upstream).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let fault = of_all.clone();
                tokio::spawn(async move {
                    let (mut from, mut to) = (from_server, to_client);
                    tokio::select! {
                        _ = pass(from_client, to_server, fault) => {}
                        _ = copy(&mut from, &mut to) => {}
                    }
                });
            }
        });
        Self { address, fault }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the connection of each of the next requests with these bytes.
    pub(crate) fn breaks_at(&self, bytes: Vec<u8>, times: usize) {
        let left = times;
        *self.fault.lock().unwrap() = Fault { bytes, left };
    }

    /// How many are still to break.
    pub(crate) fn left(&self) -> usize {
        self.fault.lock().unwrap().left
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fault: Arc<Mutex<Fault>>,
) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        let read = &buffer[..read];
        {
            let mut fault = fault.lock().unwrap();
            let has_come = |bytes: &[u8]| read.windows(bytes.len()).any(|part| part == bytes);
            if fault.left > 0 && has_come(&fault.bytes) {
                fault.left -= 1;
                return None;
            }
        }
        to.write_all(read).await.ok()?;
    }
}
