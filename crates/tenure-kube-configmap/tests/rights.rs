//! What the printed Role grants, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../tenure-kube/tests/support/rights.rs"]
mod rights;
#[path = "../../tenure-kube/tests/support/mod.rs"]
mod support;

use support::Server;
use tenure_kube::CONFIG_MAPS;
use tenure_kube_configmap::connect;

#[tokio::test]
async fn the_role_is_enough_and_no_verb_too_much() {
    let Some(server) = Server::start().await else {
        return;
    };
    let path = server.config_map_path("rights");
    rights::the_role_is_enough_and_no_verb_too_much(&server, &CONFIG_MAPS, &path, async |config| {
        connect(config).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn without_watch_it_polls_and_warns_once() {
    let Some(server) = Server::start().await else {
        return;
    };
    rights::without_watch_it_polls_and_warns_once(&server, &CONFIG_MAPS, async |config| {
        connect(config).await.unwrap()
    })
    .await;
}
