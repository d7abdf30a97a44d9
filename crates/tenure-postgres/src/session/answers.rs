//! Answers to observers: slow enough for the heartbeats that go by the same session.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::Session;
use crate::key::AdvisoryKey;

/// After each answer. Any role can ask, as often as it likes.
const PAUSE: Duration = Duration::from_millis(10);

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

    fn next(&self) -> Option<AdvisoryKey> {
        let mut asked = self.asked();
        let key = *asked.iter().next()?;
        asked.remove(&key);
        Some(key)
    }
}

/// Answers for as long as the session lives.
pub(crate) async fn answer(session: Weak<Session>) {
    let Some(alive) = session.upgrade() else {
        return;
    };
    let mut end = std::pin::pin!(alive.connection().end());
    let answers = alive.answers.clone();
    drop(alive);
    loop {
        tokio::select! {
            _error = &mut end => return,
            () = answers.added.notified() => {}
        }
        while let Some(key) = answers.next() {
            let Some(alive) = session.upgrade() else {
                return;
            };
            alive.announce_if_possible(key).await;
            drop(alive);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
