//! What nobody asks for any more is deleted: a keepalive would keep it alive for ever.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tenure_core::{LockName, Time};
use tokio::sync::Notify;

use super::{Common, Session, Slot};

/// How often the sweep looks at most.
const TICK: Duration = Duration::from_millis(50);

/// Sweeps for as long as the session lives, without keeping it alive; and ends it when an endpoint
/// of another cluster has answered; and lets it look when a leader's key is gone.
pub(super) async fn run(session: Weak<Session>, common: Common, alarm: Arc<Notify>) {
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let Some(next) = alive.sweep().await else {
            return;
        };
        drop(alive);
        tokio::select! {
            () = common.clock.sleep_until(next) => {}
            () = alarm.notified() => {
                if let Some(alive) = session.upgrade() {
                    common.spawn(alive.alarmed());
                }
            }
            () = common.links.cluster.is_another() => {
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
        let now = self.common.clock.now();
        let mut overdue = Vec::new();
        let mut next: Option<Time> = None;
        {
            let mut slots = self.slots();
            if self.has_ended() {
                return None;
            }
            for (lock, slot) in &slots.by_lock {
                let until = slot.state().until;
                if until <= now {
                    overdue.push((lock.clone(), slot.clone()));
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            if slots.by_lock.is_empty() {
                let since = *slots.empty_since.get_or_insert(now);
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
        for (lock, slot) in overdue {
            let _turn = slot.turn.lock().await;
            // Its owner may have been heard of while this waited.
            if slot.state().until > now {
                continue;
            }
            tracing::debug!(%lock, "nobody asks for a key any more");
            match self.leave(&lock, None).await {
                Ok(()) => {
                    slot.state().forget();
                    self.remove(&lock, &slot);
                }
                // Once more, later; without keepalives it ends by itself.
                Err(_) => slot.state().until = now + self.limit,
            }
        }
        Some(next.map_or(now + TICK, |next| next.max(now + TICK)))
    }

    /// Deletes a key that belongs to nobody: its request arrived after it was withdrawn.
    pub(super) async fn clean(self: &Arc<Self>, lock: &LockName) {
        let slot = Arc::new(Slot::new(None, self.common.clock.now(), self.lease));
        {
            let mut slots = self.slots();
            if self.has_ended() || slots.by_lock.contains_key(lock) {
                return;
            }
            slots.by_lock.insert(lock.clone(), slot.clone());
            self.common.hub.sit(lock);
        }
        // If that fails it is seen again with the next heartbeat.
        let _deleted = self.leave(lock, None).await;
        self.remove(lock, &slot);
    }
}
