//! Admission webhooks that change what a term depends on: it does not begin, and it is said why.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tenure_kube_configmap::{KubeConfig, LEADER_ANNOTATION, connect};
use tenure_testkit::kube::Server;
use tenure_testkit::kube::faulty_api::{FaultyApi, Mutation};
use tenure_testkit::kube::mutations::{no_term_begins, without};

const STRIPS: Mutation = |object| without(object, "tenure/term");
/// Others would find the lock free.
const STRIPS_THE_RECORD: Mutation = |object| without(object, LEADER_ANNOTATION);

#[tokio::test]
async fn no_term_begins_without_what_it_depends_on() {
    let Some(server) = Server::start().await else {
        return;
    };
    let api = FaultyApi::start(&server).await;
    let config = KubeConfig::server(api.url()).namespace(&*server.namespace);
    let backend = connect(config.unwrap()).await.unwrap();
    for (mutation, part) in [
        (STRIPS, "the annotation tenure/term"),
        (STRIPS_THE_RECORD, LEADER_ANNOTATION),
    ] {
        no_term_begins(&api, &backend, mutation, part).await;
    }
}
