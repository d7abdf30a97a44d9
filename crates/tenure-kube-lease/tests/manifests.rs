//! The manifests of `examples/kubernetes`, judged by a real API server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tenure_core::LockName;
use tenure_kube::Subject;
use tenure_kube_lease::rbac_yaml;
use tenure_testkit::kube::Server;

const RBAC: &str = include_str!("../../../examples/kubernetes/rbac.yaml");
const DEPLOYMENT: &str = include_str!("../../../examples/kubernetes/deployment.yaml");
const SIDECAR: &str = include_str!("../../../examples/kubernetes/sidecar.yaml");

/// Where objects of a kind are made.
fn path(document: &str) -> &'static str {
    let kind = document
        .lines()
        .find_map(|line| line.strip_prefix("kind: "))
        .unwrap();
    match kind {
        "Role" => "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        "RoleBinding" => "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        "ServiceAccount" => "/api/v1/namespaces/default/serviceaccounts",
        "Deployment" => "/apis/apps/v1/namespaces/default/deployments",
        other => panic!("a new kind: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_accepts_each_document_strictly() {
    let Some(server) = Server::start().await else {
        return;
    };
    for file in [RBAC, DEPLOYMENT, SIDECAR] {
        for document in file.split("---\n") {
            let path = format!("{}?dryRun=All&fieldValidation=Strict", path(document));
            let body = document.as_bytes().to_vec();
            let (status, answer) = server
                .send_as("POST", &path, "application/yaml", body)
                .await;
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(status, 201, "{answer}\n{document}");
        }
    }
    // It is strict: a field that is not known is refused.
    let wrong = DEPLOYMENT.replace("replicas: 3", "replica: 3");
    let document = wrong.split("---\n").nth(1).unwrap();
    let path = format!("{}?dryRun=All&fieldValidation=Strict", path(document));
    let body = document.as_bytes().to_vec();
    let (status, _) = server
        .send_as("POST", &path, "application/yaml", body)
        .await;
    assert_eq!(status, 400);
}

#[test]
fn the_rights_are_those_that_tenure_rbac_prints() {
    let lock = LockName::new("my-service").unwrap();
    let account = Subject::ServiceAccount("my-service".to_owned());
    assert_eq!(RBAC, rbac_yaml("default", &lock, &account));
}
