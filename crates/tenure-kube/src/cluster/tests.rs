use std::path::Path;

use serde_json::{Value, json};
use tenure_core::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server that accepts nobody's credentials.
async fn refusing_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _request = connection.read(&mut [0; 4096]).await;
            let answer =
                b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _sent = connection.write_all(answer).await;
        }
    });
    url
}

fn write_kubeconfig(file: &Path, server: &str, namespace: &str, user: &Value) {
    let context = json!({ "cluster": "test", "user": "us", "namespace": namespace });
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "now",
        "clusters": [{ "name": "test", "cluster": { "server": server } }],
        "users": [{ "name": "us", "user": user }],
        "contexts": [{ "name": "now", "context": context }],
    });
    std::fs::write(file, kubeconfig.to_string()).unwrap();
}

fn lazy(file: &Path) -> Cluster {
    Cluster::lazy(KubeConfig::from_file(Some(file.to_owned()), None)).unwrap()
}

/// Makes a client, whose first request is refused.
async fn refused(cluster: &Cluster) -> Result<(), Error> {
    let api = cluster.api(Operation::Connect).await?;
    let error = api.probe().await.unwrap_err();
    match error.kind() {
        ErrorKind::Forbidden => Ok(()),
        _ => Err(error),
    }
}

/// Two leaders could be the result.
#[tokio::test]
async fn a_process_stays_at_its_cluster_and_namespace_when_the_kubeconfig_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let (ours, other) = (refusing_server().await, "http://me:hunter2@10.0.0.9:6443");
    let user = json!({ "token": "0123456789abcdef" });
    write_kubeconfig(&file, &ours, "team-a", &user);
    let cluster = lazy(&file);
    refused(&cluster).await.unwrap();

    for (server, namespace) in [(other, "team-a"), (&*ours, "team-b")] {
        write_kubeconfig(&file, server, namespace, &user);
        let error = refused(&cluster).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        let (text, host) = (error.to_string(), server.rsplit(['/', '@']).next().unwrap());
        for part in [&ours, host, "\"team-a\"", namespace, "restart"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for secret in ["0123456789abcdef", "hunter2"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(cluster.namespace().as_deref(), Some("team-a"));
    }

    // Other credentials for the same place are what the kubeconfig is read again for.
    write_kubeconfig(&file, &ours, "team-a", &json!({ "token": "another" }));
    refused(&cluster).await.unwrap();
}

#[tokio::test]
async fn a_credential_helper_that_hangs_fails_one_call_and_not_the_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (file, helper) = (dir.path().join("config"), dir.path().join("helper"));
    let answer = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": "0123456789abcdef" },
    });
    let script = "for i in $(seq 200); do [ -e \"$1/go\" ] && break; sleep 0.1; done";
    std::fs::write(&helper, format!("{script}\necho '{answer}'\n")).unwrap();
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": [helper, dir.path()],
        "interactiveMode": "Never",
    });
    write_kubeconfig(
        &file,
        "http://127.0.0.1:1",
        "team-a",
        &json!({ "exec": exec }),
    );
    let cluster = lazy(&file);

    let error = cluster.api(Operation::Acquire).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    for part in ["\"sh\"", "user.exec"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    std::fs::write(dir.path().join("go"), "").unwrap();
    cluster.api(Operation::Acquire).await.unwrap();
}
