//! What the printed Role grants, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use support::Connects as _;
use tenure_kube::{LEASES, NAMED_VERBS, Subject, Verb, rbac_yaml, rbac_yaml_of};
use tenure_kube_lease::connect;
use tenure_testkit::kube::{Server, rights};
use tenure_testkit::lock;

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
