//! Deletes keys whose owners are silent: keepalives would keep them alive without end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tenure_core::{LockName, Time};
use tokio::sync::Notify;

use super::held_lock::HeldLock;
use super::lease::{Session, Shared};

/// How often the sweep looks at most.
const TICK: Duration = Duration::from_millis(50);

/// Sweeps for as long as the session lives, without keeping it alive; and ends it when an endpoint
/// of another cluster has answered; and lets it look when a leader's key is gone.
pub(super) async fn run(session: Weak<Session>, shared: Shared, term_key_gone: Arc<Notify>) {
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let Some(next) = alive.sweep().await else {
            return;
        };
        drop(alive);
        tokio::select! {
            () = shared.clock.sleep_until(next) => {}
            () = term_key_gone.notified() => {
                if let Some(alive) = session.upgrade() {
                    shared.spawn(alive.on_term_key_gone());
                }
            }
            () = shared.connector.cluster.is_another() => {
                if let Some(alive) = session.upgrade() {
                    alive.end();
                }
                return;
            }
        }
    }
}

impl Session {
    /// Deletes what nobody was heard of in time, and the lease when nothing is left; when to look
    /// again.
    async fn sweep(&self) -> Option<Time> {
        let now = self.shared.clock.now();
        let mut overdue = Vec::new();
        let mut next: Option<Time> = None;
        {
            let mut held_locks = self.held_locks();
            if self.has_ended() {
                return None;
            }
            for (lock, held) in &held_locks.by_lock {
                let until = held.state().until;
                if until <= now {
                    overdue.push((lock.clone(), held.clone()));
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            if held_locks.by_lock.is_empty() {
                let since = *held_locks.empty_since.get_or_insert(now);
                let until = since + self.lease;
                if until > now {
                    return Some(until);
                }
                self.ended.store(true, Ordering::Release);
            }
        }
        if self.has_ended() {
            self.revoke_later();
            return None;
        }
        for (lock, held) in overdue {
            let _turn = held.turn.lock().await;
            // Its owner may have been heard of while this waited.
            if held.state().until > now {
                continue;
            }
            tracing::debug!(%lock, "nobody asks for a key any more");
            match self.leave(&lock, None).await {
                Ok(()) => {
                    held.state().forget();
                    self.remove(&lock, &held);
                }
                // Once more, later; without keepalives it ends by itself.
                Err(_) => held.state().until = now + self.limit,
            }
        }
        Some(next.map_or(now + TICK, |next| next.max(now + TICK)))
    }

    /// Deletes a key that belongs to nobody: its request arrived after it was withdrawn.
    pub(super) async fn clean(self: &Arc<Self>, lock: &LockName) {
        let held = Arc::new(HeldLock::new(None, self.shared.clock.now(), self.lease));
        {
            let mut held_locks = self.held_locks();
            if self.has_ended() || held_locks.by_lock.contains_key(lock) {
                return;
            }
            held_locks.by_lock.insert(lock.clone(), held.clone());
            self.shared.notifications.key_added(lock);
        }
        // If that fails it is seen again with the next heartbeat.
        let _deleted = self.leave(lock, None).await;
        self.remove(lock, &held);
    }
}
