//! What observers have asked for.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::key::AdvisoryKey;

/// The locks that observers have asked for, each once.
#[derive(Default)]
pub(super) struct Answers {
    asked: Mutex<HashSet<AdvisoryKey>>,
    added: Notify,
}

impl Answers {
    fn asked(&self) -> MutexGuard<'_, HashSet<AdvisoryKey>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, key: AdvisoryKey) {
        if self.asked().insert(key) {
            self.added.notify_one();
        }
    }

    /// Returns when there is one.
    pub(super) async fn any(&self) {
        self.added.notified().await;
    }

    pub(super) fn next(&self) -> Option<AdvisoryKey> {
        let mut asked = self.asked();
        let key = *asked.iter().next()?;
        asked.remove(&key);
        Some(key)
    }
}
