//! `resourceVersion`s of 19 digits, as GKE serves them: an API server of the test's own on an etcd
//! that was restored with `--bump-revision`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, ErrorKind, FencingToken, Generation, Grant,
    Identity, InGeneration, Leadership, LockBackend, Policy, Renewal, Time,
};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::client_go::{ClientGo, program};
use tenure_testkit::kube::private_api::PrivateApi;
use tenure_testkit::{etcd, lock, within_limit};

/// A time in nanoseconds, which is what such clusters count in.
const LARGE: u64 = 1_753_647_547_040_000_000;

/// Longer than the store's restore takes on a busy machine.
const LONG: Duration = Duration::from_secs(600);

/// A release of client-go that meets its own heartbeat can fail: then its lease has to end.
const RHYTHM: &[&str] = &["--lease=4s", "--deadline=3s", "--retry=250ms"];

/// Of two hand-overs each.
const ROUNDS: u64 = 25;

/// The cluster's versions become large in the middle of our term of this round.
const MOVES_IN: u64 = 5;

fn election(backend: &KubeLeaseBackend) -> Election {
    let policy = Policy::builder()
        .lease(LONG)
        .heartbeat(Duration::from_secs(5))
        .build()
        .unwrap();
    Election::builder(Arc::new(backend.clone()), lock("shared"))
        .identity(Identity::new("ours").unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

async fn elected(election: Election) -> Leadership {
    within_limit("our election", election.campaign())
        .await
        .unwrap()
}

async fn acquired(backend: &dyn LockBackend, number: u64) -> Grant {
    let candidate = Candidate::new(Identity::new("ours").unwrap(), CampaignId::new(number));
    let outcome = backend.acquire(&lock("shared"), &candidate, LONG).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("the lock is free: {outcome:?}");
    };
    grant
}

async fn make_versions_large(api: &mut PrivateApi) {
    api.kill();
    api.etcd.restore_with_revisions_above(LARGE);
    api.start_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hand_overs_with_client_go_while_versions_become_large() {
    let (Some(program), Some(store)) = (program(), etcd::start_newer()) else {
        return;
    };
    let Some(mut api) = PrivateApi::start_on(store).await else {
        return;
    };
    let server = api.server.clone();
    let backend = connect(server.config()).await.unwrap();
    let mut ours = elected(election(&backend)).await;
    for round in 0..ROUNDS {
        let last = ours.token();
        assert_eq!(last.as_u64() > LARGE, round > MOVES_IN, "{last}");
        if round == MOVES_IN {
            make_versions_large(&mut api).await;
            let confirmed = within_limit("a heartbeat after the move", ours.confirm()).await;
            assert_eq!(confirmed.unwrap().token, last);
        }
        let theirs = format!("theirs-{round}");
        let mut other = ClientGo::start(&program, &server, "shared", &theirs, RHYTHM);
        other.says("leader ours").await;
        ours.resign().await.unwrap();
        other.says("started").await;
        let campaign = tokio::spawn(elected(election(&backend)));
        other.release().await;
        ours = campaign.await.unwrap();
        assert!(ours.token() > last, "{} after {last}", ours.token());
    }
    ours.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_large_versions_rise_over_deletion_and_in_a_generation() {
    let Some(store) = etcd::start_newer_at(LARGE) else {
        return;
    };
    let Some(api) = PrivateApi::start_on(store).await else {
        return;
    };
    let server = &api.server;
    let backend = connect(server.config()).await.unwrap();
    let in_generation = |number| {
        let generation = Generation::new(number).unwrap();
        InGeneration::new(Arc::new(backend.clone()), generation)
    };
    let mut last = FencingToken::from_counter(LARGE).unwrap();
    for (number, generation) in [0, 20_000].into_iter().enumerate() {
        let within = in_generation(generation);
        for deletes in [false, true, true, false] {
            let grant = acquired(&within, number as u64).await;
            assert!(grant.token > last, "{} after {last}", grant.token);
            last = grant.token;
            if deletes {
                let path = server.lease_path("shared");
                let (status, answer) = server.send("DELETE", &path, None).await;
                assert_eq!(status, 200, "{answer}");
                continue;
            }
            let Ok(Renewal::Renewed(grant)) = within.renew(&grant, Time::ZERO).await else {
                panic!("the term is ours");
            };
            // Observers learn the token from the record that a heartbeat has written.
            let seen = format!("{:?}", within.holder(&lock("shared")).await.unwrap());
            assert!(seen.contains(&last.to_string()), "{seen}");
            within.release(&grant).await.unwrap();
        }
    }
    // A generation without room for such versions is refused, and the Lease stays as it is.
    let before = server.lease("shared").await;
    let candidate = Candidate::new(Identity::new("ours").unwrap(), CampaignId::new(9));
    let refused = in_generation(30_000)
        .acquire(&lock("shared"), &candidate, LONG)
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(server.lease("shared").await, before);
}
