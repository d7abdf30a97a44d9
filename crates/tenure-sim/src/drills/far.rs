//! Candidates whose answers take long.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::{LockBackend, Occupancy};
use tokio::time::{sleep, timeout};

use super::{SECOND, Stage, lead_for_ever};
use crate::invariant::Invariant;
use crate::network::Link;

/// So long somebody may take to lead: a few leases.
const LONG: Duration = Duration::from_secs(100);

impl Stage {
    /// A store that is slow for one candidate is not dead, and what that candidate has asked for
    /// does not keep the lock from others.
    pub(super) async fn far(&self) {
        let store = self.store(0);
        let (far, near) = (self.process(0), self.process(1));
        let link = |number| Link::new(self.world.clone(), number, 0);
        let far_store = store.client(link(0), far.clock.clone(), Some(far.clone()));
        let near_store = store.client(link(1), near.clock.clone(), Some(near.clone()));

        // An acquisition is two trips: more than the request timeout, less than a term needs.
        self.takes(self.world.between(SECOND * 8 / 5, SECOND * 4));
        let candidate = self.candidate(0, &far, &far_store, &self.world.lock);
        match timeout(LONG, candidate.election.campaign()).await {
            Ok(Ok(leadership)) => drop(leadership.resign().await),
            _ => self.broken(Invariant::Recovery, "a slow store elects nobody"),
        }

        // Now a grant comes too late for a term.
        self.takes(self.world.between(SECOND * 5, SECOND * 7));
        let candidate = self.candidate(0, &far, &far_store, &self.world.lock);
        lead_for_ever(candidate, 0, Arc::default());
        self.until_far_holds(&near_store).await;
        let candidate = self.candidate(1, &near, &near_store, &self.world.lock);
        let campaign = timeout(LONG, candidate.election.campaign());
        if !matches!(campaign.await, Ok(Ok(_))) {
            self.broken(
                Invariant::Leaderless,
                "a candidate that hears no answer keeps the lock from the others",
            );
        }
        far.crash();
        near.crash();
    }

    /// So long a question and its answer take the first candidate.
    fn takes(&self, trip: Duration) {
        self.world.faults().far = Some((0, trip));
    }

    async fn until_far_holds(&self, near: &Arc<dyn LockBackend>) {
        for _ in 0..1_000 {
            match near.holder(&self.world.lock).await {
                Ok(Occupancy::Led(holder)) if holder.identity == "host-0" => return,
                _ => sleep(SECOND / 10).await,
            }
        }
        self.broken(Invariant::Recovery, "a slow store grants nothing");
    }
}
