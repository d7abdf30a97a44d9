//! What stands in the `ConfigMap` over a whole term, on a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Connects as _;
use tenure_core::{Acquired, CampaignId, Candidate, Identity, LockBackend as _, Renewal};
use tenure_kube_configmap::{KubeConfig, connect};
use tenure_testkit::kube::faulty_api::FaultyApi;
use tenure_testkit::kube::{Server, flood};
use tenure_testkit::lock;

const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

async fn found(server: &Server) -> Value {
    let path = server.config_map_path("shared");
    let (status, object) = server.send("GET", &path, None).await;
    assert_eq!(status, 200, "{object}");
    object
}

#[tokio::test]
async fn the_old_client_gos_record_is_taken_on_and_all_else_stays() {
    let Some(server) = Server::start().await else {
        return;
    };
    // Released by the old client-go, in an object that serves somebody else as well.
    let released = "{\"holderIdentity\":\"\",\"leaseDurationSeconds\":1,\
        \"acquireTime\":\"2021-12-07T15:38:32Z\",\"renewTime\":\"2021-12-07T15:38:32Z\",\
        \"leaderTransitions\":7}";
    let object = json!({
        "metadata": {
            "name": "shared",
            "labels": { "team": "a" },
            "annotations": { LEADER: released, "note": "keep" },
        },
        "data": { "settings": "theirs" },
        "binaryData": { "blob": "AAEC" },
    });
    let all = server.config_map_path("");
    let (status, made) = server
        .send("POST", all.trim_end_matches('/'), Some(&object))
        .await;
    assert_eq!(status, 201, "{made}");

    let backend = connect(server.config()).await.unwrap();
    let us = Candidate::new(Identity::new("<us>").unwrap(), CampaignId::new(1));
    let lease = Duration::from_secs(600);
    let outcome = backend.acquire(&lock("shared"), &us, lease).await;
    let Ok(Acquired::Held(grant)) = outcome else {
        panic!("{outcome:?}");
    };
    let acquired = found(&server).await;
    let now = backend.clock().now();
    let Renewal::Renewed(grant) = backend.renew(&grant, now).await.unwrap() else {
        panic!("it is ours");
    };
    let renewed = found(&server).await;
    backend.release(&grant).await.unwrap();
    let released = found(&server).await;

    let terms = [
        (&acquired, r#""\u003cus\u003e""#, 600),
        (&renewed, r#""\u003cus\u003e""#, 600),
        (&released, "\"\"", 1),
    ];
    for (object, holder, seconds) in terms {
        assert_eq!(object["data"], made["data"]);
        assert_eq!(object["binaryData"], made["binaryData"]);
        assert_eq!(object["metadata"]["labels"], made["metadata"]["labels"]);
        assert_eq!(object["metadata"]["uid"], made["metadata"]["uid"]);
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(annotations["note"], "keep");
        let text = annotations[LEADER].as_str().unwrap();
        let record: Value = serde_json::from_str(text).unwrap();
        // client-go's order, its spacing, its whole seconds.
        let (acquired, renewed) = (&record["acquireTime"], &record["renewTime"]);
        let as_in_go = format!(
            "{{\"holderIdentity\":{holder},\"leaseDurationSeconds\":{seconds},\
             \"acquireTime\":{acquired},\"renewTime\":{renewed},\"leaderTransitions\":8}}"
        );
        assert_eq!(text, as_in_go);
        for time in [acquired, renewed] {
            assert_eq!(time.as_str().unwrap().len(), "2021-12-07T15:38:32Z".len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_annotations_costs_no_term_and_few_calls() {
    let Some(server) = Server::start().await else {
        return;
    };
    let path = server.config_map_path(flood::LOCK);
    let behind = async |api: &FaultyApi| {
        let config = KubeConfig::server(api.url()).namespace(&*server.namespace);
        connect(config.unwrap()).await.unwrap()
    };
    flood::a_flood_of_foreign_writes_costs_nothing(&server, &path, behind).await;
}
