//! What to do while nobody leads.
//!
//! After a crash nobody may act until the lease has ended, and while the store is away nobody can
//! be elected. Whoever needs the leader in that gap waits a moment, and then says so. It does not
//! ask the last known leader: that one may be cut off and not know yet that it is past.

use std::time::Duration;

use futures_util::StreamExt as _;
use tenure::{Observation, Observer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Knows where the leader is. Needs no right to write, and is no candidate.
#[derive(Debug)]
pub struct Directory {
    /// The leader's address, as it publishes it; `None` in the gap.
    address: watch::Receiver<Option<String>>,
    watching: JoinHandle<()>,
}

/// There is no leader to ask: tell the caller to try again later (503 and `Retry-After`, in HTTP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLeader {
    /// A gap is over after a lease, unless the store is away for longer.
    pub retry_after: Duration,
}

impl Directory {
    /// Watches, until it is dropped.
    pub fn new(observer: &Observer) -> Self {
        let (told, address) = watch::channel(None);
        let mut observations = observer.watch();
        let watching = tokio::spawn(async move {
            while let Some(observation) = observations.next().await {
                told.send_replace(match observation {
                    Observation::Led { value, .. } => value,
                    // Unknown is no leader either: the store is silent.
                    _ => None,
                });
            }
        });
        Self { address, watching }
    }

    /// The leader's address, for which this waits at most `patience`: most gaps are hand-overs,
    /// and over in milliseconds. Keep it below the caller's own timeout, and the number of those
    /// who wait bounded.
    pub async fn leader(&self, patience: Duration) -> Result<String, NoLeader> {
        let mut address = self.address.clone();
        let known = address.wait_for(Option::is_some);
        match tokio::time::timeout(patience, known).await {
            Ok(Ok(found)) => found.clone().ok_or(NoLeader {
                retry_after: patience,
            }),
            _ => Err(NoLeader {
                retry_after: patience,
            }),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
