//! The server that holds a lock, as one call meets it.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};
use tenure_core::Time;

use crate::errors::{self, StoreError};
use crate::net::connection::Connection;
use crate::net::incarnation::Change;

/// A connection to the server that holds a lock.
#[derive(Clone, Debug)]
pub(crate) struct LockServer {
    pub(crate) connection: Connection,
    /// Before the request (I1, hazard 2), and soon after the sentinels' last confirmation,
    /// where there are any: what the request proves is proven from here on.
    pub(crate) sent_at: Time,
    /// The lock's slot is being moved to this node, which answers only when asked like that.
    pub(super) asking: bool,
    /// The lock's slot was another node's before.
    pub(super) moved: Option<Change>,
}

impl LockServer {
    /// What may have made the server forget a term entirely, if anything may have.
    fn last_change(&self) -> Option<&Change> {
        let both = self.moved.iter().chain(self.connection.change());
        both.max_by_key(|change| change.seen_at)
    }

    /// How long a term with this lease may still go on that the server has forgotten entirely.
    pub(crate) fn quarantine(&self, lease: Duration) -> Duration {
        let longest = lease + self.connection.quarantine();
        let change = self.last_change();
        change.map_or(Duration::ZERO, |change| change.quarantine(longest))
    }

    /// Whether the server has come back as it was, so that it may have forgotten terms of which
    /// its fences tell nothing.
    pub(crate) fn is_back(&self) -> bool {
        self.last_change().is_some_and(|change| change.is_back)
    }

    /// The incarnation before the last change that was seen; empty if it is not known.
    pub(crate) fn former_incarnation(&self) -> &str {
        self.last_change().map_or("", |change| &change.before)
    }

    /// Sends one command, not bounded.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, StoreError> {
        if !self.asking {
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
