//! The sentinels confirm a master, and for so long calls are made on it.
//!
//! A master that they have replaced goes on as one until they demote it, after 8 s or more, or never
//! if it is cut off from them. Until then it grants and renews terms, beside the new one. So that
//! there are no two leaders, a lock is in quarantine on the new master for a lease and the
//! [`quarantine`]. And no call is made on the former one when [`trust`] has passed since it was last
//! confirmed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{ErrorKind, Time};
use tenure_kit::{Address, SingleFlight};
use tokio::time::timeout;

use super::connector::{Authority, Established, LONGEST_WAIT, Route};
use super::sentinels::{Master, Sentinels};
use crate::config::RedisConfig;
use crate::errors::{self, NextStep, StoreError};
use crate::net::network::{Network, Subscriber};

/// How often the sentinels are asked whether the master is still the one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// For how long after a question calls are made on the master that more than half of the sentinels
/// have named. Then they are asked first: the process may have been stopped since, or be cut off
/// from them.
///
/// While they answer, calls do not wait for that: the next answer comes before, also when it and
/// the last one take all the time that they have. (But for the first one after a slow connection.)
pub(super) fn trust(config: &RedisConfig) -> Duration {
    LOOK_EVERY + config.connect_timeout * 2
}

/// How long beyond a lease a term may go on that was granted before a new master was first looked
/// at.
///
/// Any two majorities of the same sentinels share one, and it does not go back to a former master.
/// So the last question to which they named that one was asked before they answered a process with
/// the new one. What is granted on the former master counts from when it was asked for, however
/// late that is executed there, and it is not asked for later than [`trust`] after that question.
///
/// A quarter longer, because the end is measured by another host's clock.
fn quarantine(config: &RedisConfig) -> Duration {
    trust(config) + trust(config) / 4
}

/// To the master that the sentinels name.
#[derive(Debug)]
pub(super) struct MasterRoute {
    pub(super) sentinels: Arc<Sentinels>,
    pub(super) network: Arc<Network>,
}

#[async_trait]
impl Route for MasterRoute {
    async fn connect(&self) -> Result<Established, StoreError> {
        let network = &self.network;
        let asked_at = network.clock.now();
        let master = self.sentinels.master().await?;
        let opening = network.open_master(&master.address);
        let connection = network.bounded(&master.address, opening).await?;
        connection.set_quarantine(quarantine(&network.config));
        let confirmation = Confirmation::new(self, master, asked_at);
        Ok(Established {
            connection,
            authority: Some(Arc::new(confirmation)),
        })
    }

    async fn subscribe(&self) -> Result<Subscriber, StoreError> {
        let master = self.sentinels.master().await?;
        self.network.subscriber(&master.address).await
    }
}

/// Whether the sentinels have confirmed the master at the end of a connection.
#[derive(Debug)]
pub(super) struct Confirmation {
    shared: Arc<Shared>,
    /// Callers share a question: there may be thousands, and sentinels that take all the time they
    /// have.
    asking: SingleFlight<(), NextStep>,
}

struct Shared {
    master: Address,
    sentinels: Arc<Sentinels>,
    network: Arc<Network>,
    /// When the question was asked to which they last confirmed it, in nanoseconds of the boot
    /// clock.
    asked_at: AtomicU64,
    /// The latest failover that they have told; 0 if none, otherwise its number and one.
    failovers: AtomicU64,
    /// The last answer was another one.
    is_in_doubt: AtomicBool,
}

impl Confirmation {
    fn new(route: &MasterRoute, named: Master, asked_at: Time) -> Self {
        let failovers = AtomicU64::new(0);
        note(&failovers, &named);
        Self {
            shared: Arc::new(Shared {
                master: named.address,
                failovers,
                sentinels: route.sentinels.clone(),
                network: route.network.clone(),
                asked_at: AtomicU64::new(asked_at.as_nanos()),
                is_in_doubt: AtomicBool::new(false),
            }),
            asking: SingleFlight::new(route.network.tasks.clone()),
        }
    }
}

#[async_trait]
impl Authority for Confirmation {
    fn counts(&self, now: Time) -> bool {
        let Shared {
            asked_at, network, ..
        } = &*self.shared;
        let asked_at = Time::from_nanos(asked_at.load(Ordering::Acquire));
        now.since(asked_at) <= trust(&network.config)
    }

    fn failovers(&self) -> Option<u64> {
        self.shared.failovers.load(Ordering::Acquire).checked_sub(1)
    }

    async fn confirm(&self) -> Result<Time, StoreError> {
        let Shared {
            master, network, ..
        } = &*self.shared;
        let confirming = async {
            loop {
                self.look().await?;
                let now = network.clock.now();
                if self.counts(now) {
                    return Ok(now);
                }
            }
        };
        // A question from before, and our own. Beside the deadline of the call, so that the error
        // names the sentinels.
        let limit = network.config.connect_timeout * 2 + LONGEST_WAIT;
        timeout(limit, confirming).await.unwrap_or_else(|_| {
            let silent = format!("nothing was heard of them within {limit:?}");
            let silent = StoreError::new(ErrorKind::Unavailable, silent);
            Err(errors::unconfirmed(master, silent))
        })
    }

    async fn look(&self) -> Result<(), StoreError> {
        let ask = || {
            // Before the question, whenever its task begins.
            let asked_at = self.shared.network.clock.now();
            let shared = self.shared.clone();
            async move { shared.ask(asked_at).await }
        };
        self.asking.run(|()| true, ask).await
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY
    }
}

impl Shared {
    async fn ask(&self, asked_at: Time) -> Result<(), StoreError> {
        let master = &self.master;
        match self.sentinels.master().await {
            Ok(named) if named.address == *master => {
                // First: a task that sees the confirmation sees this too.
                note(&self.failovers, &named);
                self.asked_at
                    .fetch_max(asked_at.as_nanos(), Ordering::AcqRel);
                self.is_in_doubt.store(false, Ordering::Relaxed);
                Ok(())
            }
            Ok(named) => {
                tracing::warn!(before = %master, now = %named.address, "the sentinels name another master");
                Err(errors::replaced(master, &named.address))
            }
            Err(error) => {
                if !self.is_in_doubt.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%master, %error, "the sentinels do not confirm the master; soon no call is made on it, until they do");
                }
                Err(errors::unconfirmed(master, error))
            }
        }
    }
}

fn note(failovers: &AtomicU64, named: &Master) {
    if let Some(number) = named.failovers {
        failovers.fetch_max(number.saturating_add(1), Ordering::AcqRel);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("master", &self.master)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
