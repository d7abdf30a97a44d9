//! A candidate's key, as it is known here.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{CampaignId, Candidate, Identity, LockName, PublishedValue, Time};
use tokio::sync::Notify;

use super::proof::Proof;
use super::wish::WishState;

#[derive(Default)]
pub(super) struct HeldLocks {
    pub(super) by_lock: HashMap<LockName, Arc<HeldLock>>,
    pub(super) empty_since: Option<Time>,
    /// The user may not write all the keys that hang on the lease: no new ones join them.
    pub(super) is_split: bool,
}

/// Whose key it is: two candidates can have drawn one number, or bear one name, but not both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    identity: Identity,
    campaign: CampaignId,
}

impl Owner {
    pub(super) fn of(candidate: &Candidate) -> Self {
        Self {
            identity: candidate.identity.clone(),
            campaign: candidate.campaign,
        }
    }
}

/// Where a key is.
pub(super) struct KeyOnLease {
    pub(super) key: String,
    pub(super) lease: i64,
}

/// A candidate's key.
pub(crate) struct HeldLock {
    owner: Option<Owner>,
    /// Named by the lease of the session in which it began.
    pub(super) key: String,
    /// Requests about the key are sent one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// The key is gone, or the whole lease.
    pub(super) gone: Notify,
}

pub(super) struct State {
    /// The key's create revision, when it is known to be there.
    pub(super) revision: Option<i64>,
    pub(super) leads: bool,
    /// It is in no session any more, and nobody keeps its key.
    pub(super) closed: bool,
    /// The lease on which the key hangs: only what proves this one proves a term.
    lease: i64,
    /// The last revision at which the key is known to have stood there.
    pub(super) seen: i64,
    /// What the key publishes, and the revision that wrote it. Each write compares it: a request
    /// that arrives late would undo what was published since.
    pub(super) value: Option<PublishedValue>,
    pub(super) written: i64,
    pub(super) wish: WishState,
    /// When the request was sent that proved it last.
    pub(super) proven: Time,
    /// When the answer was here that told of it.
    pub(super) since: Time,
    /// When the key is deleted unless its owner is heard of.
    pub(super) until: Time,
}

impl HeldLock {
    /// `None` is nobody's: it keeps others away while what stands there is deleted.
    pub(super) fn new(owner: Option<Owner>, at: KeyOnLease, now: Time, until: Time) -> Self {
        Self {
            owner,
            key: at.key,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                revision: None,
                leads: false,
                closed: false,
                lease: at.lease,
                seen: 0,
                value: None,
                written: 0,
                wish: WishState::default(),
                proven: Time::ZERO,
                since: now,
                until,
            }),
            gone: Notify::new(),
        }
    }

    /// Whether it is this candidate's, in this very campaign.
    pub(crate) fn is_of(&self, candidate: &Candidate) -> bool {
        self.owner.as_ref() == Some(&Owner::of(candidate))
    }

    /// Returns when the term with this create revision is known to be over.
    pub(crate) async fn over(self: Arc<Self>, own: i64) {
        loop {
            let mut gone = pin!(self.gone.notified());
            // Before the look, or what happens right after it would be missed.
            gone.as_mut().enable();
            if self.state().leads_since(own).is_none() {
                return;
            }
            gone.await;
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key with this create revision was seen `now`, in this revision of the store. False when
    /// it was given up meanwhile.
    pub(super) fn entered(&self, own: i64, seen: i64, now: Time, lease: Duration) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        if state.revision != Some(own) {
            state.leads = false;
            state.revision = Some(own);
            state.since = now;
        }
        state.seen = state.seen.max(seen);
        state.until = now + lease;
        true
    }

    /// Gives the key up, unless it is known to be there.
    pub(super) fn close_unless_entered(&self) -> bool {
        let mut state = self.state();
        if state.revision.is_none() {
            state.close();
        }
        state.closed
    }

    /// Begins the term, unless it is over already. Its proof is the newest of the lease: one that
    /// is acknowledged while the first is read here would otherwise pass this key by.
    pub(super) fn elected(
        &self,
        own: i64,
        lease: i64,
        proof: &Mutex<Proof>,
        until: Time,
    ) -> Option<Time> {
        let mut state = self.state();
        if !state.is_on(lease) || state.revision != Some(own) {
            return None;
        }
        state.leads = true;
        let proof = proof.lock().unwrap_or_else(PoisonError::into_inner);
        state.proven = state.proven.max(proof.lease);
        state.until = until;
        Some(state.proven)
    }
}

impl State {
    pub(super) fn publishes(&mut self, value: Option<&PublishedValue>, written: i64) {
        self.value = value.cloned();
        self.written = written;
        self.wish.is_overwritten();
    }

    /// Whether the key belongs to the session with this lease.
    pub(super) fn is_on(&self, lease: i64) -> bool {
        !self.closed && self.lease == lease
    }

    /// The key hangs on this lease, or is on its way there.
    pub(super) fn moves_to(&mut self, lease: i64, now: Time) {
        self.lease = lease;
        self.since = now;
    }

    pub(super) fn close(&mut self) {
        self.forget();
        self.closed = true;
    }

    pub(super) fn forget(&mut self) {
        self.wish = WishState::default();
        self.revision = None;
        self.leads = false;
    }

    /// The create revision of the leader's key.
    pub(super) fn led_by(&self) -> Option<i64> {
        self.revision.filter(|_| self.leads)
    }

    /// When it was proven last, if it is the leader's with this create revision.
    pub(super) fn leads_since(&self, own: i64) -> Option<Time> {
        (self.leads && self.revision == Some(own)).then_some(self.proven)
    }
}
