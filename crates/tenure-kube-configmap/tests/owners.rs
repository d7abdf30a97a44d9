//! Whom a `ConfigMap` belongs to, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use support::Connects as _;
use tenure_core::Identity;
use tenure_kube_configmap::connect;
use tenure_testkit::kube::Server;
use tenure_testkit::kube::owners;

#[tokio::test]
async fn of_two_candidates_with_one_number_exactly_one_leads() {
    let Some(server) = Server::start().await else {
        return;
    };
    let (one, other) = (
        connect(server.config()).await.unwrap(),
        connect(server.config()).await.unwrap(),
    );
    owners::exactly_one_leads(&one, &other).await;
}

#[tokio::test]
async fn an_earlier_self_is_known_by_its_identity_and_its_campaign() {
    let Some(server) = Server::start().await else {
        return;
    };
    let earlier = connect(server.config()).await.unwrap();
    let identity = Identity::new("pod-0").unwrap();
    let config = server.config().take_back_from_earlier_self(identity);
    let restarted = connect(config.clone()).await.unwrap();
    let beside = connect(config).await.unwrap();
    owners::an_earlier_self_is_an_identity_and_a_campaign(&earlier, &restarted, &beside).await;
}
