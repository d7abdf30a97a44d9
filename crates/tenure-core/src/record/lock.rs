//! [`RecordLock`]: the lock protocol over compare-and-swap, written once.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use crate::contract::backend::{
    Acquired, Candidate, Changes, Grant, Hint, Holder, LockBackend, Occupancy, Renewal,
};
use crate::contract::capabilities::Capabilities;
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::LockName;
use crate::contract::page::Page;
use crate::contract::process::Process;
use crate::contract::token::FencingToken;
use crate::record::observation::{Observations, Standing, check_marked};
use crate::record::store::{
    Record, RecordEvent, RecordHolder, RecordStore, Step, Versioned, Written,
};
use crate::sync::{Mutex, MutexGuard};

/// How often one call reads the record again after another candidate's write came in between.
const ATTEMPTS: usize = 3;

/// How long a look that follows a change may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// A [`LockBackend`] on any [`RecordStore`].
///
/// Every write is conditional on the exact version that was judged, so of all candidates that see
/// a lease end only one succeeds. The fencing token is the version of the acquiring write. A lock
/// whose next version does not fit into a token is refused before any write, with
/// [`Unsupported`](ErrorKind::Unsupported), or with [`Misconfigured`](ErrorKind::Misconfigured)
/// when only the candidate's generation is too high. The version of a first record is known when it
/// is written: if it does not fit, that record is given back at once.
/// A store where versions repeat is refused too, unless its records have [marks](Versioned::mark).
#[derive(Debug)]
pub struct RecordLock<S> {
    inner: Arc<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    store: S,
    process: Process,
    observations: Observations,
    /// Free records as the store has reported them: the write that takes one need not look first.
    ///
    /// Only where versions never repeat. Where they begin again after a deletion (hazard 16), the
    /// version of an old report can be that of a leader now, and the write would overwrite it.
    reported: Mutex<HashMap<LockName, Versioned>>,
}

impl<S> Clone for RecordLock<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<S: RecordStore> RecordLock<S> {
    /// A lock on `store`.
    pub fn new(store: S) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                process: Process::current(),
                observations: Observations::default(),
                reported: Mutex::default(),
            }),
        }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.inner.store
    }
}

impl<S: RecordStore> Inner<S> {
    fn now(&self) -> Time {
        self.store.clock().now()
    }

    fn judge(&self, lock: &LockName, found: &Versioned) -> Standing {
        self.observations.judge(lock, found, self.now())
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let record = Record {
            holder: Some(holder_record(candidate, None)),
            lease,
        };
        // Perhaps it has changed since: the write is conditional, and the next attempt looks.
        let mut reported = self.reported().remove(lock);
        for _ in 0..ATTEMPTS {
            let found = match reported.take() {
                Some(reported) => Some(reported),
                None => self.store.get(lock).await?,
            };
            if let Some(found) = &found {
                found.version.check_next(candidate.generation)?;
                check_marked(found, self.versions_are_unique())?;
            }
            // What an earlier attempt of this campaign wrote, without our having had the answer,
            // is taken over like a free lock: no one has its token yet.
            if let Some(found) = &found
                && !is_of_campaign(found, candidate)
                && let Some(taken) = self.taken(lock, found)
            {
                return Ok(taken);
            }
            // Read before the write is sent: the lease counts from here (I1).
            let proven_at = self.now();
            let written = match &found {
                Some(found) => {
                    self.store
                        .replace(lock, &record, Step::Acquire, found)
                        .await?
                }
                None => self.store.create(lock, &record).await?,
            };
            if let Written::Applied(written) = written {
                let marked = check_marked(&written, self.versions_are_unique());
                let token = match marked.and_then(|()| written.version.token(candidate.generation))
                {
                    Ok(token) => token,
                    Err(error) => {
                        self.undo(lock, &written).await;
                        return Err(error);
                    }
                };
                return Ok(Acquired::Held(
                    self.grant(lock, candidate, token, lease, proven_at, written),
                ));
            }
        }
        Err(conflict(Operation::Acquire))
    }

    /// Gives back a record that begins no term, for want of a token. If that fails, it ends with
    /// its lease; so it does when the future is dropped.
    async fn undo(&self, lock: &LockName, written: &Versioned) {
        let undone = self
            .store
            .replace(lock, &Record::released(), Step::Release, written)
            .await;
        if let Err(error) = undone {
            tracing::debug!(%lock, %error, "a record without a term is left to end by itself");
        }
    }

    /// `Taken` if another candidate holds the lock and its lease is not over.
    fn taken(&self, lock: &LockName, found: &Versioned) -> Option<Acquired> {
        match self.judge(lock, found) {
            Standing::Free => None,
            Standing::Alive(left) | Standing::Unproven(left) => Some(Acquired::Taken {
                holder: holder_of(found, left),
                free_in: Some(left),
            }),
        }
    }

    async fn renew(&self, grant: &Grant) -> Result<Renewal, Error> {
        let record = Record {
            holder: Some(holder_record(&grant.candidate, Some(grant.token))),
            lease: grant.lease,
        };
        let mut expected = state_of(grant, Operation::Renew)?.clone();
        // Only the candidate that the term was granted to renews it (contract 9).
        if !is_of_term(&expected, grant) {
            return Ok(Renewal::Lost { holder: None });
        }
        for _ in 0..ATTEMPTS {
            let proven_at = self.now();
            let written = self
                .store
                .replace(&grant.lock, &record, Step::Renew, &expected)
                .await?;
            match written {
                Written::Applied(written) => {
                    let (lock, candidate) = (&grant.lock, &grant.candidate);
                    let (token, lease) = (grant.token, grant.lease);
                    let renewed = self.grant(lock, candidate, token, lease, proven_at, written);
                    return Ok(Renewal::Renewed(renewed));
                }
                Written::Altered => return Ok(Renewal::Lost { holder: None }),
                Written::Conflict => {}
            }
            // Perhaps our own earlier renewal was applied and only its answer lost.
            match self.store.get(&grant.lock).await? {
                Some(found) if is_ours(&found, &expected, grant) => {
                    expected = reread(found, &expected);
                }
                Some(found) => {
                    let holder = match self.judge(&grant.lock, &found) {
                        Standing::Free => None,
                        Standing::Alive(left) | Standing::Unproven(left) => holder_of(&found, left),
                    };
                    return Ok(Renewal::Lost { holder });
                }
                // Deleted under the leader. Writing it again would be an upsert: another
                // candidate may have created and lost it in between (hazard 16).
                None => return Ok(Renewal::Lost { holder: None }),
            }
        }
        Err(conflict(Operation::Renew))
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let mut expected = state_of(grant, Operation::Release)?.clone();
        if !is_of_term(&expected, grant) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let written = self
                .store
                .replace(&grant.lock, &Record::released(), Step::Release, &expected)
                .await?;
            if let Written::Applied(_) = written {
                return Ok(());
            }
            match self.store.get(&grant.lock).await? {
                Some(found) if is_ours(&found, &expected, grant) => {
                    expected = reread(found, &expected);
                }
                // Released before, deleted, or a successor's: not ours to touch.
                Some(_) | None => return Ok(()),
            }
        }
        Err(conflict(Operation::Release))
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.store.get(lock).await? else {
                return Ok(());
            };
            if !is_of_campaign(&found, candidate) {
                return Ok(());
            }
            let written = self
                .store
                .replace(lock, &Record::released(), Step::Release, &found)
                .await?;
            if let Written::Applied(_) = written {
                return Ok(());
            }
        }
        Err(conflict(Operation::Withdraw))
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        let Some(found) = self.store.get(lock).await? else {
            return Ok(Occupancy::Free);
        };
        let occupancy = match self.judge(lock, &found) {
            Standing::Free => None,
            Standing::Alive(left) => holder_of(&found, left).map(Occupancy::Led),
            Standing::Unproven(left) => holder_of(&found, left).map(Occupancy::Unknown),
        };
        Ok(occupancy.unwrap_or(Occupancy::Free))
    }

    async fn hint(&self, lock: &LockName, event: RecordEvent) -> Hint {
        let mut reported = false;
        let found = match event {
            RecordEvent::Is(found) => {
                reported = true;
                Some(found)
            }
            RecordEvent::Gone => None,
            // Look before waking anybody: most changes are the leader's heartbeats. A look that
            // fails is left to the candidate, which knows how to back off.
            RecordEvent::Changed => self.look(lock).await,
        };
        let standing = found.as_ref().map(|found| self.judge(lock, found));
        self.reported().remove(lock);
        match standing {
            None | Some(Standing::Free) => {
                let reported = reported && self.versions_are_unique();
                if let Some(found) = found.filter(|_| reported) {
                    self.reported().insert(lock.clone(), found);
                }
                Hint::MayBeFree
            }
            Some(Standing::Alive(left) | Standing::Unproven(left)) => Hint::HeldFor(left),
        }
    }

    fn versions_are_unique(&self) -> bool {
        self.store.capabilities().fencing.never_repeats()
    }

    fn reported(&self) -> MutexGuard<'_, HashMap<LockName, Versioned>> {
        // No code panics while it holds this lock; even so each entry is whole on its own.
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look under a deadline of its own: a stream of notifications has none, and a look
    /// without an answer (hazard 6) would hold back all later ones.
    async fn look(&self, lock: &LockName) -> Option<Versioned> {
        let clock = self.store.clock();
        tokio::select! {
            biased;
            found = self.store.get(lock) => found.ok().flatten(),
            () = clock.sleep_until(clock.now() + LOOK_LIMIT) => None,
        }
    }

    fn grant(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        token: FencingToken,
        lease: Duration,
        proven_at: Time,
        written: Versioned,
    ) -> Grant {
        self.observations.wrote(lock, &written, self.now());
        let wish = written.wish;
        Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at)
            .with_wish(wish)
            .with_state(written)
    }
}

/// The record a candidate writes; `token` is `None` in the write that mints it.
fn holder_record(candidate: &Candidate, token: Option<FencingToken>) -> RecordHolder {
    RecordHolder {
        identity: candidate.identity.as_str().to_owned(),
        campaign: Some(candidate.campaign),
        token,
        value: candidate
            .value
            .as_ref()
            .map(|value| value.as_str().to_owned()),
    }
}

fn holder_of(found: &Versioned, left: Duration) -> Option<Holder> {
    let holder = found.record.holder.as_ref()?;
    Some(Holder {
        identity: holder.identity.clone(),
        token: holder.token,
        value: holder.value.clone(),
        expires_in: Some(left),
    })
}

fn is_of_campaign(found: &Versioned, candidate: &Candidate) -> bool {
    found.record.holder.as_ref().is_some_and(|holder| {
        holder.identity == candidate.identity.as_str()
            && holder.campaign == Some(candidate.campaign)
    })
}

/// Whether a record is of this very term (I6): identity alone would do for two terms of one
/// candidate, or for two candidates that share a host name (hazards 19 and 20).
fn is_of_term(found: &Versioned, grant: &Grant) -> bool {
    is_of_campaign(found, &grant.candidate)
        && found
            .record
            .holder
            .as_ref()
            .and_then(|holder| holder.token)
            .is_none_or(|token| token == grant.token)
}

/// The same of a record that was read again after the write of `ours` had met another version.
///
/// Another program may have removed what names the campaign, an annotation for example. Under the
/// mark of our last write the record is still ours; a record that names another campaign is not.
fn is_ours(found: &Versioned, ours: &Versioned, grant: &Grant) -> bool {
    let names_a_campaign = |holder: &RecordHolder| holder.campaign.is_some();
    is_of_term(found, grant)
        || found.mark.is_some()
            && found.mark == ours.mark
            && !found.record.holder.as_ref().is_some_and(names_a_campaign)
}

fn state_of(grant: &Grant, operation: Operation) -> Result<&Versioned, Error> {
    grant.state().ok_or_else(|| Error::foreign_grant(operation))
}

/// A record of our own term that was read again, with what the store attached to it then, or
/// else when we wrote it.
fn reread(found: Versioned, ours: &Versioned) -> Versioned {
    Versioned {
        state: found.state.or_else(|| ours.state.clone()),
        ..found
    }
}

fn conflict(operation: Operation) -> Error {
    Error::new(
        ErrorKind::Conflict,
        operation,
        format!("others changed the record {ATTEMPTS} times in a row"),
    )
}

#[async_trait]
impl<S: RecordStore> LockBackend for RecordLock<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.store.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.inner.store.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.inner.process.check(Operation::Acquire)?;
        self.inner.acquire(lock, candidate, lease).await
    }

    async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
        // Every renewal is a write of its own, so its proof is always fresh.
        self.inner.process.check(Operation::Renew)?;
        self.inner.renew(grant).await
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        self.inner.store.may_go_on(began_at)
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.inner.process.check(Operation::Release)?;
        self.inner.release(grant).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.inner.process.check(Operation::Withdraw)?;
        self.inner.withdraw(lock, candidate).await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        self.inner.process.check(Operation::AskToResign)?;
        self.inner.store.ask_to_resign(lock, token, lasts).await
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        self.inner.process.check(Operation::List)?;
        self.inner.store.elections(page).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        self.inner.process.check(Operation::Holder)?;
        self.inner.holder(lock).await
    }

    fn changes(&self, lock: &LockName) -> Changes {
        let inner = self.inner.clone();
        if !inner.process.is_current() {
            return Box::pin(stream::empty());
        }
        let lock = lock.clone();
        let events = inner.store.watch(&lock);
        let process = inner.process.clone();
        let hints = events.then(move |event| {
            let (inner, lock) = (inner.clone(), lock.clone());
            async move { inner.hint(&lock, event).await }
        });
        // A child that was forked while they are listened to inherits the store's connection.
        Box::pin(process.confine(hints))
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        if let Err(error) = self.inner.process.check(Operation::Holder) {
            let fix = "connect after the fork";
            return vec![Check::unusable("process", error.message(), fix)];
        }
        self.inner.store.checks(lock, lease).await
    }
}
