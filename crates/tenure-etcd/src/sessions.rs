//! The sessions of a backend: which of them holds a campaign's key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, Grant, LockName, Time};
use tenure_kit::SingleFlight;

use crate::errors::{self, EtcdRecovery, StoreError};
use crate::session::{Attempt, HeldLock, RenewOutcome, Session, Shared};

/// A campaign's key, and the session that it hangs on. A grant needs them to be renewed or
/// released.
#[derive(Clone)]
pub(crate) struct GrantState {
    pub(crate) session: Arc<Session>,
    pub(crate) held: Arc<HeldLock>,
}

impl GrantState {
    /// As [`Session::renew`], in the session that has the key by now. It can move meanwhile.
    pub(crate) async fn renew(
        &self,
        grant: &Grant,
        not_before: Time,
    ) -> (Result<RenewOutcome, StoreError>, Self) {
        let held = &self.held;
        let mut session = self.session.home_of(held);
        loop {
            let (lock, token, candidate) = (&grant.lock, grant.token, &grant.candidate);
            let renewing = session.renew(lock, held, token, candidate, not_before);
            let renewed = renewing.await;
            let home = session.home_of(held);
            if Arc::ptr_eq(&home, &session) || matches!(renewed, Ok(RenewOutcome::Proven { .. })) {
                let held = held.clone();
                return (renewed, Self { session, held });
            }
            session = home;
        }
    }
}

/// The sessions of a backend, by their lease duration.
pub(crate) struct Sessions {
    shared: Shared,
    pools: Mutex<HashMap<Duration, Arc<Pool>>>,
}

/// The sessions of one lease duration.
struct Pool {
    open: Mutex<Vec<Arc<Session>>>,
    /// One new session for all who find no room in the others.
    opening: SingleFlight<(), EtcdRecovery>,
}

impl Pool {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = 0;
        while let Some(session) = open.get(number) {
            let is_new = |new: &Arc<Session>| !open.iter().any(|known| Arc::ptr_eq(known, new));
            let mut split_off = session.split_off();
            split_off.retain(is_new);
            open.extend(split_off);
            number += 1;
        }
        open
    }

    /// The key that the candidate has, or a new one where there is room.
    fn held(&self, lock: &LockName, candidate: &Candidate) -> Option<GrantState> {
        let mut open = self.open();
        open.retain(|session| !session.has_ended());
        let own = |session: &Arc<Session>| Some((session.clone(), session.held(lock, candidate)?));
        let new =
            |session: &Arc<Session>| Some((session.clone(), session.reserve(lock, candidate)?));
        let found = open
            .iter()
            .find_map(own)
            .or_else(|| open.iter().find_map(new));
        found.map(|(session, held)| GrantState { session, held })
    }
}

impl Sessions {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared,
            pools: Mutex::default(),
        }
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self, lease: Duration) -> Arc<Pool> {
        let new = || {
            Arc::new(Pool {
                open: Mutex::default(),
                opening: SingleFlight::new(self.shared.connector.tasks.clone()),
            })
        };
        self.pools().entry(lease).or_insert_with(new).clone()
    }

    /// Those that have not ended.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let pools = self.pools();
        let sessions = pools.values().flat_map(|pool| pool.open().clone());
        sessions.filter(|session| !session.has_ended()).collect()
    }

    /// A key for the campaign, on a new session if need be.
    async fn held(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
        gone: &impl Fn() -> bool,
    ) -> Result<GrantState, StoreError> {
        let pool = self.pool(lease);
        let open = || {
            let (shared, pool, lock) = (self.shared.clone(), pool.clone(), lock.clone());
            async move {
                // Others may have opened one since the caller found none.
                if pool
                    .open()
                    .iter()
                    .any(|session| session.has_room_for(&lock))
                {
                    return Ok(());
                }
                let session = Session::open(shared, lease).await?;
                pool.open().push(session);
                Ok(())
            }
        };
        // Again where others have filled the new session meanwhile.
        while !gone() {
            if let Some(held) = pool.held(lock, candidate) {
                return Ok(held);
            }
            pool.opening.run(|()| true, open).await?;
        }
        Err(errors::lease_gone())
    }

    /// Enters the queue of the lock, or looks at it again. Never called from a future that may be
    /// dropped; `gone` says whether a caller still waits.
    pub(crate) async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<(Attempt, GrantState), StoreError> {
        // Once more when the lease has ended, at the end of the queue of another one.
        let mut last = errors::lease_gone();
        for _ in 0..3 {
            let grant_state = self.held(lock, candidate, lease, &gone).await?;
            let GrantState { session, held } = &grant_state;
            let error = match session.acquire(lock, held, candidate, &gone).await {
                Ok(Attempt::Moved) => continue,
                Ok(attempt) => return Ok((attempt, grant_state)),
                Err(error) => error,
            };
            // Once the key has moved, or was given up, the error is not about it.
            if !errors::is_lease_gone(&error)
                && session.has(held)
                && !(errors::is_denied(&error)
                    && session.is_refused_for_another(lock, held).await?)
            {
                return Err(error);
            }
            last = error;
        }
        Err(last)
    }
}
