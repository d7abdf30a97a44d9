//! TLS, with authorities and certificates of the test's own.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use tenure_core::{ErrorKind, LockBackend as _, Time};
use tenure_redis::{RedisBackend, RedisConfig, Tls};
use tenure_testkit::certificates::Authority;
use tenure_testkit::redis::start;
use tenure_testkit::{LIMIT, LONG, candidate, free_port, held, lock, renewed, within_limit};

#[tokio::test]
async fn a_server_is_reached_by_tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(&dir.path().join("ours"));
    let other = Authority::new(&dir.path().join("other"));
    let (certificate, key) = ours.certificate("localhost", &["localhost"]);
    let client = ours.certificate("client", &["client"]);
    let port = free_port();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let Some(server) = start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &text(&certificate),
        "--tls-key-file",
        &text(&key),
        "--tls-ca-cert-file",
        &text(&ours.ca()),
    ]) else {
        return;
    };

    let trusted = Tls::new().ca(ours.ca());
    let with_certificate = trusted.clone().client_cert(&client.0).client_key(&client.1);
    let address = format!("localhost:{port}");
    let config = |tls| RedisConfig::server(&address).unwrap().tls(tls);
    let backend = RedisBackend::connect(config(with_certificate.clone()))
        .await
        .unwrap();
    let (lock, me) = (lock("tls"), candidate("a", 1));
    let grant = held(backend.acquire(&lock, &me, LONG).await.unwrap());
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    renewed(backend.renew(&grant, Time::ZERO).await.unwrap());
    let mut changes = backend.changes(&lock);
    let hint = futures_util::StreamExt::next(&mut changes);
    assert!(within_limit("a hint", hint).await.is_some());

    let url = format!(
        "rediss://{address}?ca={}&cert={}&key={}",
        text(&ours.ca()),
        text(&client.0),
        text(&client.1)
    );
    RedisBackend::connect(RedisConfig::from_url(&url).unwrap().connect_timeout(LIMIT))
        .await
        .unwrap();

    // Another authority, another name, files that are none: the message says which.
    let foreign = Tls::new().ca(other.ca());
    let missing = Tls::new().ca(ours.file("missing.pem"));
    let empty = Tls::new().ca(&key);
    for (config, expected) in [
        (config(foreign), "certificate"),
        (config(missing), "missing.pem"),
        (config(empty), "localhost.key"),
        (
            RedisConfig::server(&format!("127.0.0.1:{port}"))
                .unwrap()
                .tls(with_certificate),
            "certificate",
        ),
    ] {
        let error = RedisBackend::connect(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // The server wants a certificate.
    let error = RedisBackend::connect(config(trusted)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn a_port_without_tls_is_told() {
    let Some(server) = start(&[]) else { return };
    let config = RedisConfig::server(&server.address())
        .unwrap()
        .tls(Tls::new());
    let error = RedisBackend::connect(config).await.unwrap_err();
    assert!(error.message().contains("TLS"), "{error}");
    assert!(
        error.message().contains("redis instead of rediss"),
        "{error}"
    );
}
