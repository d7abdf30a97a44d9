//! A role that is taken away refuses many keys at once, and each of them asks for a split.

use std::time::Duration;

use tenure_core::Time;

use crate::errors::StoreError;

/// The last time that a session was split.
pub(super) struct LastSplit {
    pub(super) began: Time,
    /// Whether only refused keys are left in the session.
    pub(super) outcome: Result<bool, StoreError>,
}

impl LastSplit {
    /// What it says to one who was refused before `called`; none if another split is needed.
    pub(super) fn serves(
        &self,
        called: Time,
        now: Time,
        lease: Duration,
    ) -> Option<Result<(), StoreError>> {
        let is_recent = now < self.began + lease / 4;
        match &self.outcome {
            outcome if self.began > called => Some(outcome.clone().map(|_| ())),
            // No key has come since. A right that comes back is found out a little later.
            Ok(true) if is_recent => Some(Ok(())),
            _ => None,
        }
    }
}
