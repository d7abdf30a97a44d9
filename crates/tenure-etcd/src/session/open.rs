//! A session begins.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_core::ErrorKind;
use tenure_kit::SingleFlight;
use tokio::sync::mpsc;

use super::lease::{Session, Shared, revoke};
use super::proof::Proof;
use super::{look, sweep};
use crate::errors::StoreError;

impl Session {
    /// Opens a lease. One that is not as long as asked for is given back.
    ///
    /// Not before the other endpoints have been asked for their cluster: a lease on one cluster and
    /// one on another would each elect a leader.
    pub(crate) async fn open(shared: Shared, lease: Duration) -> Result<Arc<Self>, StoreError> {
        Box::pin(shared.connector.compare_clusters()).await?;
        let limit = shared.limit(lease);
        let asked = i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let clock = shared.clock.clone();
        let (sent, granted) = shared
            .connector
            .call(limit, |mut client| {
                let sent = clock.now();
                async move { Ok((sent, client.lease_grant(asked, None).await?)) }
            })
            .await?;
        let id = granted.id();
        if granted.ttl() != asked {
            revoke(&shared, id, limit).await;
            return Err(StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "etcd grants a lease of {} s where {asked} s were asked for (its shortest is \
                     one and a half election timeouts, in whole seconds); set the policy's lease \
                     to {} s",
                    granted.ttl(),
                    granted.ttl(),
                ),
            ));
        }
        let (asks, taken) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            id,
            lease,
            limit,
            held_locks: Mutex::default(),
            proof: Mutex::new(Proof::new(sent)),
            turn: tokio::sync::Mutex::default(),
            moved_to: Mutex::default(),
            heartbeat: SingleFlight::new(shared.connector.tasks.clone()),
            stream: Mutex::default(),
            asks,
            watched_term: Mutex::default(),
            term_key_gone: Arc::default(),
            ended: AtomicBool::new(false),
            keepalives: AtomicU64::new(0),
            shared,
        });
        let shared = &session.shared;
        shared.spawn(look::answer(shared.connector.clone(), limit, taken));
        let term_key_gone = session.term_key_gone.clone();
        shared.spawn(sweep::run(
            Arc::downgrade(&session),
            shared.clone(),
            term_key_gone,
        ));
        // Opened now, so that the first heartbeat takes one round trip, as all others do.
        let opening = session.clone();
        shared.spawn(async move { opening.keep_alive().await.map(|_| ()) });
        Ok(session)
    }
}
