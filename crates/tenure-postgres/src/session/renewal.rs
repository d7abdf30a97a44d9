//! Proves the terms of a session: one query for all of them.

use tenure_core::{Candidate, ErrorKind, FencingToken, Time};
use tenure_kit::Deadline;

use super::Session;
use super::held_lock::{HeldLock, Standing};
use crate::errors::StoreError;
use crate::key::AdvisoryKey;

impl Session {
    /// Proves a term, at or after `not_before`, and moves its deadline.
    ///
    /// All of it has one time limit, the lease: later the term has expired in any case.
    pub(crate) async fn renew(
        &self,
        key: AdvisoryKey,
        candidate: &Candidate,
        token: FencingToken,
        not_before: Time,
    ) -> Result<Standing, StoreError> {
        let now = self.clock.now();
        let held_lock = self.locks.get(key);
        let Some(held_lock) = held_lock.filter(|lock| lock.has_term(candidate, token, now)) else {
            return Ok(Standing::Lost);
        };
        let renewing = async {
            let Standing::Proven(proven) = self.prove(&held_lock, not_before).await? else {
                return Ok(Standing::Lost);
            };
            let until = proven + self.lease;
            let Some(is_news) = held_lock.extend(candidate, token, until) else {
                return Ok(Standing::Lost);
            };
            if is_news {
                self.announce_now(key).await?;
            }
            Ok(Standing::Proven(proven))
        };
        let deadline = Deadline::for_lease(self.lease);
        deadline.rest("the session", renewing).await
    }

    /// A proof of what is held, at or after `not_before`.
    pub(super) async fn prove(
        &self,
        held_lock: &HeldLock,
        not_before: Time,
    ) -> Result<Standing, StoreError> {
        if self.ended().is_some() {
            return Ok(Standing::Lost);
        }
        if let Some(standing) = held_lock.standing(not_before) {
            return Ok(standing);
        }
        let _turn = self.heart.lock().await;
        // That of another term may have proven this one meanwhile.
        if let Some(standing) = held_lock.standing(not_before) {
            return Ok(standing);
        }
        match self.heartbeat().await {
            Err(_) if self.ended().is_some() => return Ok(Standing::Lost),
            outcome => outcome?,
        }
        held_lock.standing(not_before).ok_or_else(|| {
            StoreError::new(
                ErrorKind::Internal,
                "a lock is neither proven nor lost after a heartbeat",
            )
        })
    }

    /// One query, and what its answer says of all locks of the session. When the answer is
    /// overdue, that of a session to which this one is [moved](super::moving) will do.
    async fn heartbeat(&self) -> Result<(), StoreError> {
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
