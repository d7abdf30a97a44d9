//! Who holds a lock: what the others are told, and what they tell.

use std::sync::Weak;
use std::time::Duration;

use tenure_core::{Holder, LockName};
use tenure_kit::deadline::LEAST;

use super::{MOST_ATTEMPTS, Session};
use crate::errors::{self, StoreError};
use crate::key::AdvisoryKey;
use crate::notifications::message::ask_message;

/// After each answer: heartbeats go by the same session, and any role can ask, as often as it likes.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(10);

/// Answers observers for as long as the session lives.
pub(crate) async fn answer(session: Weak<Session>) {
    let Some(alive) = session.upgrade() else {
        return;
    };
    let mut end = std::pin::pin!(alive.end());
    let answers = alive.answers.clone();
    drop(alive);
    loop {
        tokio::select! {
            _error = &mut end => return,
            () = answers.any() => {}
        }
        while let Some(key) = answers.next() {
            let Some(alive) = session.upgrade() else {
                return;
            };
            alive.announce_if_possible(key).await;
            drop(alive);
            tokio::time::sleep(BETWEEN_ANSWERS).await;
        }
    }
}

impl Session {
    /// An observer asks for the term: the others are told of it soon, if there is one.
    pub(crate) fn asked(&self, key: AdvisoryKey) {
        if self.locks.holds(key) {
            self.answers.add(key);
        }
    }

    pub(super) async fn announce_if_possible(&self, key: AdvisoryKey) {
        if let Err(error) = self.announce_now(key).await {
            tracing::debug!(reason = error.message(), "cannot announce a term");
        }
    }

    pub(super) async fn announce_now(&self, key: AdvisoryKey) -> Result<(), StoreError> {
        let Some(held_lock) = self.locks.get(key) else {
            return Ok(());
        };
        let _turn = held_lock.announcing.lock().await;
        let _shared = self.gate.read().await;
        let held = held_lock.holding().clone();
        let Some(held) = held else {
            return Ok(());
        };
        let connection = self.connection();
        let message = held
            .announcement(connection.pid, self.lease)
            .message(key, connection.holds_all_characters());
        self.statements().notify(&message).await
    }

    /// Who holds the lock, as the server knows it, and as the holder has announced it. With
    /// `patience` the holder is asked when it has not.
    pub(crate) async fn holder(
        &self,
        key: AdvisoryKey,
        lock: &LockName,
        patience: Duration,
    ) -> Result<Option<Holder>, StoreError> {
        let owner = {
            let _shared = self.gate.read().await;
            let limit = self.patience_with_a_look();
            self.statements().owner(key, limit).await?
        };
        let Some(owner) = owner else {
            return Ok(None);
        };
        self.notifications.seen(key, owner.pid);
        if owner.is_tenure {
            self.is_led(key);
        }
        let is_ours = owner.pid == self.connection().pid;
        if owner.is_tenure && !is_ours {
            self.notifications.watch(key, owner.pid);
        }
        if is_ours
            && let Some(held) = self.locks.holding(key)
            && held.lock == *lock
        {
            return Ok(Some(held.holder()));
        }
        let mut announcement = self.notifications.announcement(key, owner.pid);
        if announcement.is_none() && owner.is_tenure && !patience.is_zero() {
            let asking = async {
                let _shared = self.gate.read().await;
                self.statements().notify(&ask_message(key)).await
            };
            let answer = self
                .notifications
                .await_announcement(key, owner.pid, asking);
            announcement = tokio::time::timeout(patience, answer).await.ok().flatten();
        }
        match announcement {
            Some(announcement) if announcement.lock != lock.as_str() => {
                Err(errors::collision(key, lock, &announcement.lock))
            }
            Some(announcement) => Ok(Some(announcement.holder())),
            None => Ok(Some(Holder::new(owner.name))),
        }
    }

    /// How long a look may take. A session that holds no lock, and tries for none, has nothing to
    /// lose, and is left sooner: its host may have vanished, and another one been promoted.
    fn patience_with_a_look(&self) -> Duration {
        let tries = self.attempts.available_permits() < MOST_ATTEMPTS;
        if tries || self.locks.holds_any() {
            return self.patience();
        }
        self.patience().min(self.config.request_limit().max(LEAST))
    }
}
