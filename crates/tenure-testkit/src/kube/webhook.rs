//! An admission webhook, which an API server asks before it writes an object.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::server::Server;
use crate::certificates::Authority;
use crate::tls;

/// Its refusal.
pub const REFUSAL: &str = "ask the platform team for a label";

/// How long it thinks over an object whose name begins with `slow`.
pub const THINKS: Duration = Duration::from_secs(3);

/// Starts it, and registers it for the Leases of a server of the test's own. It refuses those whose
/// names begin with `refused`, with the status 401 if `401` is in them, and is slow with those whose names begin with `slow`. When it takes
/// longer than an API server waits, the object is written without it.
pub async fn start(server: &Server, folder: &Path) {
    let authority = Authority::new(folder);
    let (certificate, key) = authority.certificate("webhook", &["127.0.0.1"]);
    let acceptor = tls::acceptor(&certificate, &key);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(acceptor.clone(), stream));
        }
    });
    let ca = std::fs::read(authority.ca()).unwrap();
    let configuration = json!({
        "metadata": { "name": "test" },
        "webhooks": [{
            "name": "leases.example.com",
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": url, "caBundle": ByteString(ca) },
            "rules": [{
                "apiGroups": ["coordination.k8s.io"],
                "apiVersions": ["v1"],
                "resources": ["leases"],
                "operations": ["CREATE", "UPDATE"],
            }],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": THINKS.as_secs(),
        }],
    });
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let (status, answer) = server.send("POST", path, Some(&configuration)).await;
    assert_eq!(status, 201, "{answer}");
}

/// One request of a connection.
async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await.ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let review: Value = serde_json::from_slice(&body).ok()?;
    let request = &review["request"];
    let name = request["name"].as_str().unwrap_or_default();
    if name.starts_with("slow") {
        // Longer than the API server waits.
        tokio::time::sleep(2 * THINKS).await;
    }
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": request["uid"],
            "allowed": !name.starts_with("refused"),
            "status": { "code": if name.contains("401") { 401 } else { 403 }, "message": REFUSAL },
        },
    });
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
