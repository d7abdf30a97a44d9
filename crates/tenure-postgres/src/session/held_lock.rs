//! The locks of a session, as this side knows them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{CampaignId, Candidate, FencingToken, Holder, Identity, LockName};
use tenure_core::{PublishedValue, Time};

use super::heartbeat::Heartbeat;
use crate::key::AdvisoryKey;
use crate::notifications::message::Announcement;

/// All locks that the session holds, tries for or gives back.
#[derive(Default)]
pub(super) struct HeldLocks(Mutex<HashMap<AdvisoryKey, Arc<HeldLock>>>);

/// One lock.
#[derive(Default)]
pub(super) struct HeldLock {
    /// Its statements are sent one after the other: advisory locks are re-entrant, and one that
    /// was taken twice would stay after it was given back.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Announcements are sent one after the other, each as of the moment at which it is sent. Or
    /// one that was written before a value changed could arrive last, and stay with observers.
    pub(super) announcing: tokio::sync::Mutex<()>,
    holding: Mutex<Option<Holding>>,
}

/// What is known of a term.
pub(crate) enum Standing {
    /// It was held when the request was sent that proved it.
    Proven(Time),
    Lost,
}

/// For whom the session holds the lock, and until when.
#[derive(Clone)]
pub(super) struct Holding {
    pub(super) lock: LockName,
    pub(super) identity: Identity,
    pub(super) campaign: CampaignId,
    pub(super) token: FencingToken,
    pub(super) value: Option<PublishedValue>,
    /// Whether the session holds the lock shared.
    pub(super) shared: bool,
    /// The claim that took it over last.
    pub(super) claim: u64,
    /// When the request was sent that proved it last.
    pub(super) proven: Time,
    /// When the answer to the request that locked it was here.
    pub(super) since: Time,
    /// When it is unlocked unless it is renewed.
    pub(super) until: Time,
}

impl HeldLocks {
    fn all(&self) -> MutexGuard<'_, HashMap<AdvisoryKey, Arc<HeldLock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: AdvisoryKey) -> Option<Arc<HeldLock>> {
        self.all().get(&key).cloned()
    }

    pub(super) fn get_or_add(&self, key: AdvisoryKey) -> Arc<HeldLock> {
        self.all().entry(key).or_default().clone()
    }

    /// What the session holds under this key.
    pub(super) fn holding(&self, key: AdvisoryKey) -> Option<Holding> {
        self.get(key)?.holding().clone()
    }

    pub(super) fn holds(&self, key: AdvisoryKey) -> bool {
        self.get(key).is_some_and(|lock| lock.holding().is_some())
    }

    pub(super) fn holds_any(&self) -> bool {
        self.all().values().any(|lock| lock.holding().is_some())
    }

    /// All that is held, in an order of its own.
    pub(super) fn held(&self) -> Vec<(AdvisoryKey, FencingToken)> {
        let all = self.all();
        let held = all.iter().filter_map(|(key, lock)| {
            let holding = lock.holding();
            Some((*key, holding.as_ref()?.token))
        });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by_key(|(key, _)| key.in_pg_locks());
        held
    }

    /// Whether there are any, and each is held so that another session can share it.
    pub(super) fn may_all_move(&self) -> bool {
        let all = self.all();
        let shared = all.values().filter_map(|lock| {
            let holding = lock.holding();
            Some(holding.as_ref()?.shared)
        });
        let shared: Vec<bool> = shared.collect();
        !shared.is_empty() && !shared.contains(&false)
    }

    /// What a heartbeat that was sent then says of each of them.
    pub(super) fn note(&self, heartbeat: &Heartbeat, sent: Time) {
        for (key, lock) in &*self.all() {
            let mut holding = lock.holding();
            let Some(held) = holding.as_mut() else {
                continue;
            };
            if heartbeat.holds(*key) {
                held.proven = held.proven.max(sent);
            } else if held.since < sent {
                // Unlocked by a statement in this very session. Not judged when it was locked
                // while the heartbeat was under way.
                tracing::warn!(lock = %held.lock, "the session no longer holds the lock");
                *holding = None;
            }
        }
    }

    /// Those that were not renewed in time, and when the next one will be overdue.
    pub(super) fn overdue(&self, now: Time) -> (Vec<AdvisoryKey>, Option<Time>) {
        let mut overdue = Vec::new();
        let mut next: Option<Time> = None;
        self.all().retain(|key, lock| {
            let until = lock.holding().as_ref().map(|held| held.until);
            match until {
                Some(until) if until <= now => overdue.push(*key),
                Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                // Nothing uses it, and nothing can begin to while the map is locked.
                None => return Arc::strong_count(lock) > 1,
            }
            true
        });
        (overdue, next)
    }
}

impl HeldLock {
    pub(super) fn holding(&self) -> MutexGuard<'_, Option<Holding>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this candidate's term with this token is held, and its time is not over.
    pub(super) fn has_term(&self, candidate: &Candidate, token: FencingToken, now: Time) -> bool {
        let holding = self.holding();
        let holding = holding.as_ref().filter(|held| now < held.until);
        holding.is_some_and(|held| held.is_term(candidate, token))
    }

    /// Proven at or after `not_before`, or lost; `None` if only the server knows.
    pub(super) fn standing(&self, not_before: Time) -> Option<Standing> {
        match &*self.holding() {
            Some(held) if held.proven >= not_before => Some(Standing::Proven(held.proven)),
            Some(_) => None,
            None => Some(Standing::Lost),
        }
    }

    /// Keeps the term until then, with the value of `candidate`; whether that value is another one
    /// than before. `None` if the term is held no longer.
    pub(super) fn extend(
        &self,
        candidate: &Candidate,
        token: FencingToken,
        until: Time,
    ) -> Option<bool> {
        let mut holding = self.holding();
        let held = holding.as_mut();
        let held = held.filter(|held| held.is_term(candidate, token))?;
        held.until = held.until.max(until);
        let is_news = held.value != candidate.value;
        held.value.clone_from(&candidate.value);
        Some(is_news)
    }
}

impl Holding {
    /// Numbers of campaigns repeat where memory is copied, so the identity counts too.
    pub(super) fn is_of(&self, candidate: &Candidate) -> bool {
        self.campaign == candidate.campaign && self.identity == candidate.identity
    }

    fn is_term(&self, candidate: &Candidate, token: FencingToken) -> bool {
        self.is_of(candidate) && self.token == token
    }

    pub(super) fn holder(&self) -> Holder {
        let mut holder = Holder::new(self.identity.as_str());
        holder.token = Some(self.token);
        holder.value = self.value.as_ref().map(|value| value.as_str().to_owned());
        holder
    }

    /// What the session `pid` tells the others.
    pub(super) fn announcement(&self, pid: i32, lease: Duration) -> Announcement {
        Announcement {
            pid,
            lock: self.lock.as_str().to_owned(),
            lease,
            token: self.token,
            identity: self.identity.as_str().to_owned(),
            value: self.value.as_ref().map(|value| value.as_str().to_owned()),
        }
    }
}
