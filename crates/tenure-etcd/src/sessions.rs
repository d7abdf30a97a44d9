//! The sessions of a backend: which of them holds a campaign's key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_core::{Candidate, LockName};
use tenure_kit::SingleFlight;

use crate::errors::{self, EtcdRecovery, StoreError};
use crate::session::{Attempt, HeldLock, Session, Shared};

/// A campaign's key, and the session that it hangs on. A grant needs them to be renewed or
/// released.
#[derive(Clone)]
pub(crate) struct GrantState {
    pub(crate) session: Arc<Session>,
    pub(crate) held: Arc<HeldLock>,
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
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
            let (shared, pool) = (self.shared.clone(), pool.clone());
            async move {
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
            match session.acquire(lock, held, candidate, &gone).await {
                Ok(Attempt::Moved) => {}
                Err(error) if errors::is_lease_gone(&error) => last = error,
                Err(error) => return Err(error),
                Ok(attempt) => return Ok((attempt, grant_state)),
            }
        }
        Err(last)
    }
}
