//! Proves the terms of a session: one query for all of them.

use std::sync::Arc;

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
        self: &Arc<Self>,
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
                // It has the gate meanwhile, which must not depend on whether the caller is polled.
                let this = self.clone();
                let announcing = self
                    .tasks
                    .spawn(async move { this.announce_now(key).await });
                announcing
                    .await
                    .map_err(|_| StoreError::runtime_is_gone())??;
            }
            Ok(Standing::Proven(proven))
        };
        let deadline = Deadline::for_lease(self.lease);
        deadline.rest("the session", renewing).await
    }

    /// A proof of what is held, at or after `not_before`.
    pub(super) async fn prove(
        self: &Arc<Self>,
        held_lock: &HeldLock,
        not_before: Time,
    ) -> Result<Standing, StoreError> {
        if self.ended().is_some() {
            return Ok(Standing::Lost);
        }
        if let Some(standing) = held_lock.standing(not_before) {
            return Ok(standing);
        }
        let heartbeat = || {
            let this = self.clone();
            async move { this.heartbeat().await }
        };
        // One that was under way may have proven this term too.
        let is_known = |(): &()| held_lock.standing(not_before).is_some();
        if let Err(error) = self.heart.run(is_known, heartbeat).await {
            let connection = self.connection();
            if connection.client().is_closed() {
                // Perhaps its runtime has ended, and nothing has noted it.
                connection.close(&error);
            }
            if self.ended().is_some() {
                return Ok(Standing::Lost);
            }
            return Err(error);
        }
        held_lock.standing(not_before).ok_or_else(|| {
            StoreError::new(
                ErrorKind::Internal,
                "a lock is neither proven nor lost after a heartbeat",
            )
        })
    }
}
