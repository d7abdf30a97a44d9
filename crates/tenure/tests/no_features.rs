//! Without the backends' features their URLs are refused with the line to change.

#![cfg(not(any(
    feature = "file",
    feature = "memory",
    feature = "kube-configmap",
    feature = "kube-lease",
    feature = "etcd",
    feature = "redis",
    feature = "postgres"
)))]

use tenure::ErrorKind;

#[tokio::test]
async fn a_scheme_whose_feature_is_off_names_the_feature() {
    for (url, feature) in [
        ("memory:", "memory"),
        ("file:///var/locks", "file"),
        ("kube-lease://team", "kube-lease"),
        ("kube-configmap://team", "kube-configmap"),
        ("etcds://a:2379", "etcd"),
        ("redis+cluster://a,b", "redis"),
        ("postgres://host/database", "postgres"),
    ] {
        let error = tenure::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        let line = format!("features = [\"{feature}\"]");
        assert!(error.message().contains(&line), "{error}");
        assert!(error.message().contains("Cargo.toml"), "{error}");
    }
}
