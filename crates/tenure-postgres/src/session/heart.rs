//! Asks for a heartbeat: one query for all terms of a session.

use super::Session;
use crate::errors::StoreError;

impl Session {
    /// One query, and what its answer says of all locks of the session. When the answer is
    /// overdue, that of a session to which this one is [moved](super::moving) will do.
    pub(super) async fn heartbeat(&self) -> Result<(), StoreError> {
        // Kept over a move: no guarded transaction is open in the session that is left.
        let _shared = self.gate.read().await;
        let statements = self.statements();
        self.overdue.send_replace(false);
        let sent = self.clock.now();
        let heartbeat = tokio::select! {
            biased;
            answer = statements.heartbeat() => answer?,
            () = self.move_when_overdue(&statements) => return Ok(()),
        };
        let connection = &statements.connection;
        let checked = heartbeat.check(connection.pid, self.lease, self.config.without_lease);
        checked.inspect_err(|error| {
            tracing::warn!(reason = error.message(), "the session is closed");
            connection.close(error);
        })?;
        self.locks.note(&heartbeat, sent);
        Ok(())
    }
}
