//! Another program that wants the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tenure_core::LockName;
use tenure_testkit::postgres::Server;
use tenure_testkit::wait::until_seen;

use crate::backend::PostgresBackend;

/// One try after the other of a program that is no candidate here.
pub(super) struct Rival {
    tries: Arc<AtomicU64>,
    has_won: Arc<AtomicBool>,
}

impl Rival {
    pub(super) async fn start(server: &Server, backend: &PostgresBackend, name: &LockName) -> Self {
        let (client, key) = (server.admin().await, backend.key_of(name));
        let this = Self {
            tries: Arc::default(),
            has_won: Arc::default(),
        };
        let (tries, has_won) = (this.tries.clone(), this.has_won.clone());
        let sql = format!("SELECT pg_try_advisory_lock({key})");
        tokio::spawn(async move {
            while let Ok(row) = client.query_one(&sql, &[]).await {
                has_won.fetch_or(row.get(0), Ordering::SeqCst);
                tries.fetch_add(1, Ordering::SeqCst);
            }
        });
        this
    }

    /// It has tried, after this call too, and never won.
    pub(super) async fn assert_excluded(&self) {
        let before = self.tries.load(Ordering::SeqCst);
        let tried = || self.tries.load(Ordering::SeqCst) >= before + 2;
        until_seen("the rival has tried", tried).await;
        assert!(!self.has_won.load(Ordering::SeqCst), "two have the lock");
    }
}
