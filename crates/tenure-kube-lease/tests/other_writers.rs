//! Other programs write to the Lease too: annotations, labels, a whole object. That neither shows
//! that its holder lives nor costs the holder its term.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use support::{Connects as _, config_of};
use tenure_core::{
    Acquired, CampaignId, Candidate, Election, Identity, LockBackend as _, Observation, Observer,
    Policy,
};
use tenure_kube_lease::connect;
use tenure_testkit::kube::{Server, flood};
use tenure_testkit::{lock, within_limit};

async fn annotated(server: &Server, annotations: Value) {
    let change = json!({ "metadata": { "annotations": annotations } });
    let path = server.lease_path("shared");
    let (status, answer) = server.send("PATCH", &path, Some(&change)).await;
    assert_eq!(status, 200, "{answer}");
}

/// Writes an annotation of its own every two seconds.
async fn annotate(server: Server) {
    for number in 0_u64.. {
        annotated(&server, json!({ "another/program": number.to_string() })).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holder_is_followed_after_its_lease_although_its_object_is_annotated() {
    let Some(server) = Server::start().await else {
        return;
    };
    let dead = connect(server.config()).await.unwrap();
    let lease = Duration::from_secs(5);
    let candidate = Candidate::new(Identity::new("dead").unwrap(), CampaignId::new(7));
    let outcome = dead.acquire(&lock("shared"), &candidate, lease).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("the lock is free: {outcome:?}");
    };
    let annotating = tokio::spawn(annotate(server.clone()));

    let onlooker = Arc::new(connect(server.config()).await.unwrap());
    let mut seen = Observer::new(onlooker, lock("shared"), Policy::default()).watch();
    let backend = connect(server.config()).await.unwrap();
    let clock = backend.clock();
    let ours = Election::builder(Arc::new(backend), lock("shared"))
        .identity(Identity::new("ours").unwrap())
        .build()
        .unwrap();
    let leader = within_limit("our election", ours.campaign()).await.unwrap();
    assert!(clock.now() >= grant.proven_at + lease);
    assert!(leader.token() > grant.token);
    // What an onlooker has been told meanwhile: never that the dead holder leads.
    let watching = async {
        loop {
            match seen.next().await.unwrap() {
                Observation::Led { identity, .. } if identity == "ours" => return,
                Observation::Led { identity, .. } => panic!("{identity} is said to lead"),
                _ => {}
            }
        }
    };
    within_limit("the sight of us", watching).await;
    assert!(!annotating.is_finished(), "it wrote all the time");
    annotating.abort();
    leader.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_term_while_others_write_and_remove_its_annotation() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config()).await.unwrap();
    let election = Election::builder(Arc::new(backend), lock("shared"))
        .identity(Identity::new("ours").unwrap())
        .build()
        .unwrap();
    let leader = within_limit("our election", election.campaign())
        .await
        .unwrap();
    let token = leader.token();
    for _ in 0..2 {
        annotated(
            &server,
            json!({ "another/program": "written", "tenure/term": null }),
        )
        .await;
        let confirmed = within_limit("a heartbeat", leader.confirm()).await;
        assert_eq!(confirmed.unwrap().token, token);
        let lease = server.lease("shared").await;
        let annotations = &lease["metadata"]["annotations"];
        assert_eq!(annotations["another/program"], "written", "{lease}");
        assert!(annotations["tenure/term"].is_string(), "{lease}");
    }
    // And it is given back at once, not left to end with its lease.
    annotated(&server, json!({ "tenure/term": null })).await;
    leader.resign().await.unwrap();
    let lease = server.lease("shared").await;
    assert_eq!(lease["spec"]["holderIdentity"], "", "{lease}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_annotations_costs_no_term_and_few_calls() {
    let Some(server) = Server::start().await else {
        return;
    };
    let path = server.lease_path(flood::LOCK);
    let behind = async |api: &_| connect(config_of(api, &server)).await.unwrap();
    flood::a_flood_of_foreign_writes_costs_nothing(&server, &path, behind).await;
}
