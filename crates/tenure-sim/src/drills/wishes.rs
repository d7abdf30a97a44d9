//! Leaders that are asked to resign.

use std::time::Duration;

use tenure_core::{Cause, FencingToken, Leadership, Policy};
use tokio::time::sleep;

use super::{CALM_TRIP, SECOND, Stage};
use crate::invariant::Invariant;
use crate::network::Link;

/// How long a wish lasts that is to be heeded.
const LASTS: Duration = Duration::from_secs(60);

impl Stage {
    /// A leader heeds a wish for its own term, and no other one: none for an earlier or a later term,
    /// and none that is over. The store keeps each until the next.
    pub(super) async fn wishes(&self) {
        let store = self.store(0);
        let process = self.process(0);
        let client = || {
            let link = Link::new(self.world.clone(), 0, 0);
            store.client(link, process.clock.clone(), Some(process.clone()))
        };
        let asker = client();
        let candidate = self.candidate(0, &process, &client(), &self.world.lock);
        let ask = async |token: FencingToken, lasts: Duration| {
            let answer = asker.ask_to_resign(&self.world.lock, token, lasts).await;
            if answer.is_err() {
                self.broken(Invariant::Asked, "a leader cannot be asked in calm weather");
            }
        };
        let mut before: Option<FencingToken> = None;
        for _ in 0..4 {
            let campaign = tokio::time::timeout(60 * SECOND, candidate.election.campaign());
            let Ok(Ok(leadership)) = campaign.await else {
                self.broken(Invariant::Recovery, "nobody leads in calm weather");
                return;
            };
            let token = leadership.token();
            if let Some(before) = before {
                ask(before, LASTS).await;
                self.must_go_on(&leadership, "an earlier term").await;
            }
            if let Ok(later) = FencingToken::from_counter(token.as_u64() + 1) {
                ask(later, LASTS).await;
                self.must_go_on(&leadership, "a later term").await;
            }
            ask(token, Duration::ZERO).await;
            self.must_go_on(&leadership, "its term, but over").await;
            sleep(self.world.between(Duration::ZERO, 10 * SECOND)).await;
            ask(token, LASTS).await;
            let heeded = tokio::time::timeout(a_heartbeat(), leadership.cancelled());
            if heeded.await.is_err() || leadership.cause() != Some(Cause::Asked) {
                self.broken(Invariant::Asked, "a leader was asked to resign and did not");
            }
            before = Some(token);
            drop(leadership.resign().await);
        }
        process.crash();
    }

    async fn must_go_on(&self, leadership: &Leadership, of: &str) {
        sleep(a_heartbeat()).await;
        if leadership.is_cancelled() {
            self.broken(
                Invariant::Asked,
                format!("a leader resigned on a wish for {of}"),
            );
        }
    }
}

/// So long the next heartbeat takes at most, with its answer.
fn a_heartbeat() -> Duration {
    let policy = Policy::default();
    policy.heartbeat() + policy.heartbeat() / 500 + CALM_TRIP
}
