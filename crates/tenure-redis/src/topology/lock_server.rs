//! The server that holds a lock, as one request meets it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value, cmd};
use tenure_core::Time;

use super::slots::SlotMap;
use crate::errors::{self, StoreError};
use crate::net::connection::Connection;
use crate::net::hold;
use crate::net::incarnation::Change;

/// What is asked of a server. A value, so that the connector can send it once more on another
/// connection.
#[async_trait]
pub(crate) trait Request: Send + Sync {
    /// What the server's answer means.
    type Answer: Send;

    /// Sends it, and reads the answer. Not bounded. Dropping the future leaves what was sent.
    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError>;
}

/// A connection to the server that holds a lock.
#[derive(Clone, Debug)]
pub(crate) struct LockServer {
    pub(crate) connection: Connection,
    /// Before the request (I1, hazard 2), and soon after the sentinels' last confirmation,
    /// where there are any: what the request proves is proven from here on.
    pub(crate) sent_at: Time,
    /// The number of the latest failover, where sentinels tell it.
    pub(crate) failovers: Option<u64>,
    /// In a cluster.
    pub(super) slot: Option<LockSlot>,
}

/// The slot of a lock in a cluster, and how its node is to be asked.
#[derive(Clone, Debug)]
pub(super) struct LockSlot {
    pub(super) number: u16,
    /// It is being moved to this node, which answers only when asked like that.
    pub(super) asking: bool,
    pub(super) map: Arc<Mutex<SlotMap>>,
}

impl LockServer {
    /// What may have made the server forget a term entirely, if anything may have: a change of its
    /// incarnation, or that another node had the slot before.
    pub(crate) fn last_change(&self) -> Option<Change> {
        let slot = self.slot.as_ref();
        let moved = slot.and_then(|slot| hold(&slot.map).change_of(slot.number).cloned());
        let both = moved.into_iter().chain(self.connection.change().cloned());
        both.max_by_key(|change| change.seen_at)
    }

    /// Sends one command, not bounded.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, StoreError> {
        if !self.slot.as_ref().is_some_and(|slot| slot.asking) {
            return self.connection.query(command).await;
        }
        let mut both = Pipeline::with_capacity(2);
        both.add_command(cmd("ASKING")).add_command(command.clone());
        let answers = self.connection.query_all(&both).await?;
        answers
            .into_iter()
            .nth(1)
            .ok_or_else(|| errors::unreadable("ASKING"))
    }
}
