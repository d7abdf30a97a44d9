//! A network between a client and its server that the tests command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_testkit::postgres::{Server, url_at};
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::backend::PostgresBackend;
use crate::config::PostgresConfig;

/// A way to a server that can lose all that is sent on it, without a reset.
pub(super) struct Wire {
    port: u16,
    state: Arc<watch::Sender<(bool, SocketAddr)>>,
    accepted: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Wire {
    pub(super) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(watch::Sender::new((false, server.address())));
        let (accepted, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (states, count, counts) = (state.clone(), accepted.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let mut state = states.subscribe();
                count.fetch_add(1, Ordering::SeqCst);
                let asked = counts.clone();
                tokio::spawn(async move { carry(near, &mut state, &asked).await });
            }
        });
        Self {
            port,
            state,
            accepted,
            asked,
        }
    }

    /// Nothing arrives on any connection: not on those that are open, for good, nor on new ones.
    pub(super) fn lose(&self) {
        self.state.send_modify(|state| state.0 = true);
    }

    /// New connections lead to this server; those that have lost something stay silent.
    pub(super) fn restore_to(&self, server: &Server) {
        self.state.send_replace((false, server.address()));
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many round trips there were on all connections: how often a client has sent something
    /// after it had heard something, or first.
    pub(super) fn round_trips(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) async fn connect(&self) -> PostgresBackend {
        PostgresBackend::connect(self.config()).await.unwrap()
    }

    pub(super) fn config(&self) -> PostgresConfig {
        let config = PostgresConfig::from_url(&url_at(self.port)).unwrap();
        config.connect_timeout(Duration::from_secs(20))
    }
}

async fn carry(
    mut near: TcpStream,
    state: &mut watch::Receiver<(bool, SocketAddr)>,
    asked: &AtomicU64,
) {
    let (is_lost, server) = *state.borrow_and_update();
    if !is_lost {
        let mut far = TcpStream::connect(server).await.unwrap();
        // As the two at its ends do: small answers come one after the other.
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        tokio::select! {
            _ended = exchange(&mut near, &mut far, asked) => return,
            _lost = state.changed() => {}
        }
        // Both ends stay open.
        std::future::pending::<()>().await;
    }
    std::future::pending::<()>().await;
}

/// Until one of the two has closed the connection.
async fn exchange(near: &mut TcpStream, far: &mut TcpStream, asked: &AtomicU64) -> io::Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_asking = false;
    loop {
        tokio::select! {
            read = near.read(&mut from_client) => {
                let bytes = &from_client[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if !is_asking {
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                is_asking = true;
                far.write_all(bytes).await?;
            }
            read = far.read(&mut from_server) => {
                let bytes = &from_server[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                is_asking = false;
                near.write_all(bytes).await?;
            }
        }
    }
}
