//! A network between a client and its server that the tests command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_testkit::postgres::{Server, url_at};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::backend::PostgresBackend;
use crate::config::PostgresConfig;

/// A way to a server that can lose all that is sent on it, without a reset.
pub(super) struct Wire {
    port: u16,
    state: Arc<watch::Sender<(bool, SocketAddr)>>,
    accepted: Arc<AtomicU64>,
}

impl Wire {
    pub(super) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(watch::Sender::new((false, server.address())));
        let accepted = Arc::new(AtomicU64::new(0));
        let (states, count) = (state.clone(), accepted.clone());
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let mut state = states.subscribe();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move { carry(near, &mut state).await });
            }
        });
        Self {
            port,
            state,
            accepted,
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

    pub(super) async fn connect(&self) -> PostgresBackend {
        PostgresBackend::connect(self.config()).await.unwrap()
    }

    pub(super) fn config(&self) -> PostgresConfig {
        let config = PostgresConfig::from_url(&url_at(self.port)).unwrap();
        config.connect_timeout(Duration::from_secs(20))
    }
}

async fn carry(mut near: TcpStream, state: &mut watch::Receiver<(bool, SocketAddr)>) {
    let (is_lost, server) = *state.borrow_and_update();
    if !is_lost {
        let mut far = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ended = copy_bidirectional(&mut near, &mut far) => return,
            _lost = state.changed() => {}
        }
        // Both ends stay open.
        std::future::pending::<()>().await;
    }
    std::future::pending::<()>().await;
}
