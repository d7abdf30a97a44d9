//! TLS, with authorities and certificates of the test's own.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::{LONG, candidate, free_port, held, lock, renewed, start, within_limit};
use tenure_core::{ErrorKind, LockBackend as _, Time};
use tenure_redis::{RedisBackend, RedisConfig, Tls};

/// An authority, and certificates it has given out, as files.
struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A certificate with its issuer's name would look self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, dir.to_str().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::create_dir_all(dir).unwrap();
        let this = Self {
            dir: dir.to_owned(),
            issuer,
        };
        fs::write(this.file("ca.pem"), this.issuer.pem()).unwrap();
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        );
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

#[tokio::test]
async fn a_server_is_reached_by_tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(&dir.path().join("ours"));
    let other = Authority::new(&dir.path().join("other"));
    let (certificate, key) = ours.certificate("localhost");
    let client = ours.certificate("client");
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
        &text(&ours.file("ca.pem")),
    ]) else {
        return;
    };

    let trusted = Tls::new().authorities(ours.file("ca.pem"));
    let with_certificate = trusted.clone().identity(&client.0, &client.1);
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
        text(&ours.file("ca.pem")),
        text(&client.0),
        text(&client.1)
    );
    RedisBackend::connect(RedisConfig::from_url(&url).unwrap())
        .await
        .unwrap();

    // Another authority, another name, files that are none: the message says which.
    let foreign = Tls::new().authorities(other.file("ca.pem"));
    let missing = Tls::new().authorities(ours.file("missing.pem"));
    let empty = Tls::new().authorities(&key);
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
