//! Deletes keys whose owners are silent: keepalives would keep them alive without end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tenure_core::{LockName, Time};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::held_lock::HeldLock;
use super::lease::{Session, Shared};
use crate::errors;

/// How often the sweep looks at most.
const TICK: Duration = Duration::from_millis(50);

/// So many keys are deleted at a time.
const AT_ONCE: usize = 16;

/// What a look has found.
struct Overdue {
    held: Vec<(LockName, Arc<HeldLock>)>,
    /// When to look again.
    next: Time,
}

/// Sweeps for as long as the session lives, without keeping it alive; and ends it when an endpoint
/// of another cluster has answered; and lets it look when a leader's key is gone. Keys are deleted
/// beside this: a slow server keeps nothing else waiting.
pub(super) async fn run(session: Weak<Session>, shared: Shared, term_key_gone: Arc<Notify>) {
    let mut deleting: Option<JoinHandle<()>> = None;
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let Some(overdue) = alive.look_for_overdue() else {
            return;
        };
        if deleting.is_none() && !overdue.held.is_empty() {
            let session = alive.clone();
            deleting = Some(shared.spawn(async move { session.delete_all(overdue.held).await }));
        }
        drop(alive);
        let deleted = async {
            match &mut deleting {
                Some(deleting) => drop(deleting.await),
                None => shared.clock.sleep_until(overdue.next).await,
            }
        };
        tokio::select! {
            () = deleted => deleting = None,
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
    /// The keys of whose owners nothing was heard in time. None when the session has ended, as it
    /// does here when nothing is left in it.
    fn look_for_overdue(&self) -> Option<Overdue> {
        let now = self.shared.clock.now();
        let mut overdue = Overdue {
            held: Vec::new(),
            next: now + self.lease,
        };
        let mut held_locks = self.held_locks();
        if self.has_ended() {
            return None;
        }
        for (lock, held) in &held_locks.by_lock {
            let until = held.state().until;
            if until <= now {
                overdue.held.push((lock.clone(), held.clone()));
            } else {
                overdue.next = overdue.next.min(until);
            }
        }
        if held_locks.by_lock.is_empty() {
            let since = *held_locks.empty_since.get_or_insert(now);
            // One that was split stays as long, too: a key whose move failed may hang on it yet.
            overdue.next = since + self.lease;
            if overdue.next <= now {
                self.ended.store(true, Ordering::Release);
                drop(held_locks);
                self.revoke_later();
                return None;
            }
        }
        overdue.next = overdue.next.max(now + TICK);
        Some(overdue)
    }

    async fn delete_all(self: Arc<Self>, overdue: Vec<(LockName, Arc<HeldLock>)>) {
        let deleting = overdue.into_iter().map(|(lock, held)| {
            let session = self.clone();
            async move { session.delete_overdue(&lock, &held).await }
        });
        let deleting = stream::iter(deleting).buffer_unordered(AT_ONCE);
        deleting.collect::<()>().await;
    }

    async fn delete_overdue(self: &Arc<Self>, lock: &LockName, held: &Arc<HeldLock>) {
        let _turn = held.turn.lock().await;
        let now = self.shared.clock.now();
        // Its owner may have been heard of while this waited.
        if held.state().until > now {
            return;
        }
        tracing::debug!(%lock, "nobody asks for a key any more");
        let known = held.state().revision;
        let deleted = match self.leave(held, None).await {
            Err(error) if errors::is_denied(&error) => match known {
                // It ends with its lease, once no other key keeps that alive.
                Some(_) => self.split(Some(lock)).await,
                None => Ok(()),
            },
            deleted => deleted,
        };
        match deleted {
            Ok(()) => {
                held.state().forget();
                self.remove(lock, held);
            }
            // Once more, later; without keepalives it ends by itself.
            Err(_) => held.state().until = self.shared.clock.now() + self.limit,
        }
    }

    /// Deletes a key that belongs to nobody: its request arrived after it was withdrawn, or after
    /// it was given up on the way here.
    pub(super) async fn clean(self: &Arc<Self>, lock: &LockName, key: &str) {
        if self.has_moved(key) {
            // It was to move, and has not: the session that expects it finds out.
            return;
        }
        if key != self.key(lock) {
            // No candidate begins with this one. If that fails it is seen again.
            let _deleted = self.delete(key, None).await;
            return;
        }
        let held = self.new_held(lock, None);
        {
            let mut held_locks = self.held_locks();
            if self.has_ended() || held_locks.by_lock.contains_key(lock) {
                return;
            }
            held_locks.by_lock.insert(lock.clone(), held.clone());
            self.shared.notifications.key_added(lock);
        }
        // If that fails it is seen again with the next heartbeat.
        let deleted = self.leave(&held, None).await;
        self.remove(lock, &held);
        if deleted.is_err_and(|error| errors::is_denied(&error)) {
            let _split = self.split(Some(lock)).await;
        }
    }
}
