//! Short words for what backends are asked and answer.

use std::time::Duration;

use tenure_core::{
    Acquired, CampaignId, Candidate, Grant, Holder, Identity, LockBackend, LockName, Occupancy,
    Renewal,
};

use crate::wait::within_limit;

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// The lock with this name.
pub fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

/// A candidate with this identity and campaign.
pub fn candidate(identity: &str, campaign: u64) -> Candidate {
    Candidate::new(Identity::new(identity).unwrap(), CampaignId::new(campaign))
}

/// The grant; panics when another candidate has the lock.
pub fn held(acquired: Acquired) -> Grant {
    match acquired {
        Acquired::Held(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

/// The other holder; panics when the lock was granted.
pub fn taken(acquired: Acquired) -> Option<Holder> {
    match acquired {
        Acquired::Taken { holder, .. } => holder,
        other => panic!("not taken: {other:?}"),
    }
}

/// Whether another candidate has the lock.
pub fn is_taken(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Taken { .. })
}

/// The renewed grant; panics when the lock was lost.
pub fn renewed(renewal: Renewal) -> Grant {
    match renewal {
        Renewal::Renewed(grant) => grant,
        other => panic!("not renewed: {other:?}"),
    }
}

/// Whether the lock was lost.
pub fn is_lost(renewal: &Renewal) -> bool {
    matches!(renewal, Renewal::Lost { .. })
}

/// The leader; panics when none is known.
pub fn leader(occupancy: Occupancy) -> Holder {
    match occupancy {
        Occupancy::Led(holder) => holder,
        other => panic!("not led: {other:?}"),
    }
}

/// Tries until the lock is granted, for a lease of [`LONG`].
pub async fn win(backend: &dyn LockBackend, name: &LockName, who: &Candidate) -> Grant {
    win_for(backend, name, who, LONG).await
}

/// The same with another lease.
pub async fn win_for(
    backend: &dyn LockBackend,
    name: &LockName,
    who: &Candidate,
    lease: Duration,
) -> Grant {
    let trying = async {
        loop {
            if let Ok(Acquired::Held(grant)) = backend.acquire(name, who, lease).await {
                return grant;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within_limit("a term", trying).await
}
