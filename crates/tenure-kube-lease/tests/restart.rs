//! The API server ends and comes back in the middle of a term: one of the test's own.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::Connects as _;
use tenure_core::{Election, Event, Identity, Policy, Term};
use tenure_kube_lease::connect;
use tenure_testkit::kube::Server;
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::{lock, until, within_limit};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

/// A candidate and what happens to it.
async fn election(server: &Server, name: &str, identity: &str, policy: &Policy) -> Election {
    let backend = connect(server.config()).await.unwrap();
    Election::builder(Arc::new(backend), lock(name))
        .identity(Identity::new(identity).unwrap())
        .policy(policy.clone())
        .build()
        .unwrap()
}

/// Waits for an event, over those that come before it.
async fn happens(
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    what: &str,
    is_it: impl Fn(&Event) -> bool,
) {
    let waiting = async {
        loop {
            match events.recv().await {
                Ok(event) if is_it(&event) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("no {what} can come any more"),
            }
        }
    };
    within_limit(what, waiting).await;
}

/// Ends the API server in one way or the other.
async fn end(api: &mut PrivateApi, by_force: bool) {
    if by_force {
        api.kill();
    } else {
        api.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_outlives_the_api_server_and_the_candidates_watch_again() {
    let Some(mut api) = PrivateApi::start().await else {
        return;
    };
    // No lease ends by time here: what is heard of a release comes by a watch.
    let policy = Policy::builder()
        .lease(Duration::from_secs(600))
        .heartbeat(Duration::from_millis(500))
        .request_timeout(Duration::from_millis(500))
        .retry_interval(Duration::from_millis(100));
    let policy = policy.build().unwrap();
    let leader = election(&api.server, "kept", "leader", &policy).await;
    let mut events = leader.events();
    let leader = within_limit("the election", leader.campaign())
        .await
        .unwrap();
    let token = leader.token();
    let mut campaigns = JoinSet::new();
    for identity in ["second", "third"] {
        let waiting = election(&api.server, "kept", identity, &policy).await;
        let mut seen = waiting.events();
        campaigns.spawn(async move { waiting.campaign().await.unwrap() });
        happens(&mut seen, "the leader's name", |event| {
            matches!(event, Event::LeaderSeen(_))
        })
        .await;
    }
    for by_force in [true, false] {
        end(&mut api, by_force).await;
        happens(&mut events, "a missed heartbeat", |event| {
            matches!(event, Event::HeartbeatMissed { .. })
        })
        .await;
        assert!(leader.is_valid() && campaigns.try_join_next().is_none());
        api.start_again().await;
        happens(&mut events, "a heartbeat", |event| {
            matches!(event, Event::Renewed { .. })
        })
        .await;
        assert!(leader.is_valid() && campaigns.try_join_next().is_none());
        assert_eq!(leader.token(), token);
    }
    let mut leading = leader;
    while !campaigns.is_empty() {
        let term = leading.term();
        within_limit("the release", leading.resign()).await.unwrap();
        let next = within_limit("the hand-over", campaigns.join_next()).await;
        leading = next.unwrap().unwrap();
        assert!(leading.is_valid() && !term.is_valid());
        assert!(leading.token() > term.token());
    }
}

/// Campaigns again and again, and leads each time for as long as it can.
async fn leads_when_it_can(election: Election, terms: Arc<Mutex<Vec<Term>>>) {
    loop {
        let leader = election.campaign().await.unwrap();
        {
            let mut terms = terms.lock().unwrap();
            // A term that has ended never comes back, so this is exact.
            for earlier in terms.iter() {
                assert!(!earlier.is_valid(), "{} still leads", earlier.identity());
                assert!(leader.token() > earlier.token());
            }
            terms.push(leader.term());
        }
        leader.lost().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_that_outlasts_the_lease_ends_the_term_and_one_leads_after_it() {
    let Some(mut api) = PrivateApi::start().await else {
        return;
    };
    let terms = Arc::<Mutex<Vec<Term>>>::default();
    let mut candidates = JoinSet::new();
    for identity in ["first", "second", "third"] {
        let candidate = election(&api.server, "outage", identity, &Policy::fast()).await;
        candidates.spawn(leads_when_it_can(candidate, terms.clone()));
    }
    let valid = || terms.lock().unwrap().iter().any(Term::is_valid);
    for by_force in [true, false] {
        until("somebody leads", async || valid()).await;
        end(&mut api, by_force).await;
        until("nobody leads", async || !valid()).await;
        let so_far = terms.lock().unwrap().len();
        api.start_again().await;
        until("there is a next term", async || {
            terms.lock().unwrap().len() > so_far
        })
        .await;
    }
    // None has met two leaders, or an error that ends a campaign.
    assert!(candidates.try_join_next().is_none());
}
