//! What the printed Role grants, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../tenure-kube/tests/support/rights.rs"]
mod rights;
#[path = "../../tenure-kube/tests/support/mod.rs"]
mod support;

use support::Server;
use tenure_kube::LEASES;
use tenure_kube_lease::connect;

#[tokio::test]
async fn the_role_is_enough_and_no_verb_too_much() {
    let Some(server) = Server::start().await else {
        return;
    };
    let path = server.lease_path("rights");
    rights::the_role_is_enough_and_no_verb_too_much(&server, &LEASES, &path, async |config| {
        connect(config).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn without_watch_it_polls_and_warns_once() {
    let Some(server) = Server::start().await else {
        return;
    };
    rights::without_watch_it_polls_and_warns_once(&server, &LEASES, async |config| {
        connect(config).await.unwrap()
    })
    .await;
}
