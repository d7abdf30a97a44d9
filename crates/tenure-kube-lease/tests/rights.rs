//! What the printed Role grants, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::Connects as _;
use tenure_conformance::proxy::FaultProxy;
use tenure_core::{Acquired, Election, Identity, LockBackend as _, Policy};
use tenure_kube::{LEASES, NAMED_VERBS, Subject, Verb, rbac_yaml, rbac_yaml_of};
use tenure_kube_lease::{KubeLeaseBackend, connect};
use tenure_testkit::kube::{Server, rights};
use tenure_testkit::log::Log;
use tenure_testkit::{LONG, candidate, lock, until, within_limit};

fn user() -> Subject {
    Subject::User(rights::USER.to_owned())
}

/// A Role for a part of the verbs.
fn role(server: &Server, named: &[&str], create: bool) -> String {
    let named: Vec<Verb> = NAMED_VERBS
        .into_iter()
        .filter(|verb| named.contains(&verb.name()))
        .collect();
    let lock = lock(rights::LOCK);
    rbac_yaml_of(&LEASES, &server.namespace, &lock, &user(), &named, create)
}

#[tokio::test]
async fn the_role_is_enough_and_no_verb_too_much() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config_of_candidate()).await.unwrap();
    let path = server.lease_path(rights::LOCK);
    let printed = rbac_yaml(&LEASES, &server.namespace, &lock(rights::LOCK), &user());
    let role = |named: &[&str], create: bool| role(&server, named, create);
    rights::the_role_is_enough_and_no_verb_too_much(&server, &backend, &path, &printed, &role)
        .await;
}

#[tokio::test]
async fn without_watch_it_polls_and_warns_once() {
    let Some(server) = Server::start().await else {
        return;
    };
    let backend = connect(server.config_of_candidate()).await.unwrap();
    let role = |named: &[&str], create: bool| role(&server, named, create);
    rights::without_watch_it_polls_and_warns_once(&server, backend, &role).await;
}

fn election(backend: &Arc<KubeLeaseBackend>, identity: &str, policy: Policy) -> Election {
    Election::builder(backend.clone(), lock(rights::LOCK))
        .identity(Identity::new(identity).unwrap())
        .policy(policy)
        .build()
        .unwrap()
}

/// As a role binding that is put back, or one that is written anew by a tool.
#[tokio::test]
async fn rights_that_are_taken_away_and_given_back_cost_no_watch_and_no_candidacy() {
    let Some(server) = Server::start().await else {
        return;
    };
    let (log, _logged) = Log::of_this_thread();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let config = server.config_at(proxy.address());
    let config = config.token_file(Server::token_file_of(rights::USER));
    let whole = role(&server, &["get", "update", "watch"], true);
    rights::apply(&server, &whole).await;
    let ours = Arc::new(connect(config).await.unwrap());
    until("the Role counts", async || {
        ours.holder(&lock(rights::LOCK)).await.is_ok()
    })
    .await;
    let admin = Arc::new(connect(server.config()).await.unwrap());
    // No time tells a waiting candidate of a release: only its watch or a look.
    let patient = Policy::builder().lease(LONG).build().unwrap();

    // In the middle of a watch: it is looked instead, until there is a watch again.
    let leader = election(&admin, "leader", patient.clone()).campaign().await;
    let leader = leader.unwrap();
    let waiting = election(&ours, "waiting", patient.clone());
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    until("it watches", async || proxy.accepted() > 1).await;
    for (named, told) in [
        (&["get", "update"][..], "is polled"),
        (&["get", "update", "watch"], "can be watched again"),
        // In the middle of a wait: nothing can be seen.
        (&["update"], "is polled"),
        (&["get", "update", "watch"], "can be watched again"),
    ] {
        let before = log.text().matches(told).count();
        rights::apply(&server, &role(&server, named, true)).await;
        until(told, async || {
            // A watch that is under way goes on, whatever has become of the right.
            if told == "is polled" {
                proxy.reset();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            log.text().matches(told).count() > before
        })
        .await;
        assert!(!campaign.is_finished());
    }
    leader.resign().await.unwrap();
    let next = within_limit("the hand-over", campaign).await.unwrap();
    next.unwrap().resign().await.unwrap();
}

#[tokio::test]
async fn a_lock_is_handed_over_while_the_right_to_watch_is_taken_away() {
    let Some(server) = Server::start().await else {
        return;
    };
    let (log, _logged) = Log::of_this_thread();
    rights::apply(&server, &role(&server, &["get", "update"], true)).await;
    let ours = Arc::new(connect(server.config_of_candidate()).await.unwrap());
    until("the Role counts", async || {
        ours.holder(&lock(rights::LOCK)).await.is_ok()
    })
    .await;
    let admin = Arc::new(connect(server.config()).await.unwrap());
    let patient = Policy::builder().lease(LONG).build().unwrap();
    let leader = election(&admin, "leader", patient.clone()).campaign().await;
    let leader = leader.unwrap();
    let waiting = election(&ours, "waiting", patient);
    let campaign = tokio::spawn(async move { waiting.campaign().await });
    until("the missing verb is noticed", async || {
        log.text().contains("is polled")
    })
    .await;
    leader.resign().await.unwrap();
    let next = within_limit("the hand-over", campaign).await.unwrap();
    next.unwrap().resign().await.unwrap();
}

#[tokio::test]
async fn rights_that_are_taken_away_and_given_back_cost_no_term() {
    let Some(server) = Server::start().await else {
        return;
    };
    let whole = role(&server, &["get", "update", "watch"], true);
    rights::apply(&server, &whole).await;
    let ours = Arc::new(connect(server.config_of_candidate()).await.unwrap());
    until("the Role counts", async || {
        let us = candidate("first", 1);
        let outcome = ours.acquire(&lock(rights::LOCK), &us, LONG).await;
        let Ok(Acquired::Held(grant)) = outcome else {
            return false;
        };
        ours.release(&grant).await.is_ok()
    })
    .await;
    let policy = Policy::builder()
        .lease(Duration::from_secs(240))
        .heartbeat(Duration::from_secs(1))
        .retry_interval(Duration::from_millis(200));
    let us = election(&ours, "us", policy.build().unwrap());
    let leader = within_limit("the election", us.campaign()).await.unwrap();
    let token = leader.token();
    rights::apply(&server, &role(&server, &["get", "watch"], true)).await;
    let mut refused = None;
    until("heartbeats are refused", async || {
        refused = leader.confirm().await.err();
        refused.is_some()
    })
    .await;
    let refused = format!("{:?}", refused.unwrap());
    assert!(refused.contains("the verb \\\"update\\\""), "{refused}");
    rights::apply(&server, &whole).await;
    until("heartbeats go on", async || leader.confirm().await.is_ok()).await;
    assert!(leader.is_valid() && leader.token() == token);
    leader.resign().await.unwrap();
}
