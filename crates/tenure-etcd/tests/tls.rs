//! TLS, with authorities and certificates of the test's own.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tenure_core::{Error, ErrorKind, LockBackend as _};
use tenure_etcd::{EtcdBackend, EtcdConfig, Tls};
use tenure_testkit::certificates::Authority;
use tenure_testkit::etcd::{Cluster, launch, start};
use tenure_testkit::{LONG, candidate, held, lock, renewed, until, within_limit};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server with a certificate of ours, who asks for the clients' certificates or does not.
struct Encrypted {
    cluster: Cluster,
    ours: Authority,
    other: Authority,
    client: (PathBuf, PathBuf),
}

impl Encrypted {
    fn start(ask: bool) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let ours = Authority::new(&dir.path().join("ours"));
        let other = Authority::new(&dir.path().join("other"));
        let server = ours.certificate("server", &["localhost", "127.0.0.1"]);
        let client = ours.certificate("client", &[]);
        let ca = ours.ca();
        let mut arguments = vec![
            "--cert-file",
            text(&server.0),
            "--key-file",
            text(&server.1),
        ];
        if ask {
            arguments.extend(["--client-cert-auth", "--trusted-ca-file", text(&ca)]);
        }
        let flags = [
            format!("--cacert={}", text(&ca)),
            format!("--cert={}", text(&client.0)),
            format!("--key={}", text(&client.1)),
        ];
        let cluster = launch(1, &arguments, "https", &flags, dir)?;
        Some(Self {
            cluster,
            ours,
            other,
            client,
        })
    }

    fn address(&self) -> String {
        self.cluster.members[0].address()
    }

    fn with(&self, tls: Tls) -> EtcdConfig {
        EtcdConfig::endpoints([&*self.address()]).unwrap().tls(tls)
    }

    /// Fails with this kind, and a message that contains this.
    async fn refuses(&self, tls: Tls, expected: &str) {
        let error = misconfigured(self.with(tls)).await;
        assert!(error.to_string().contains(expected), "{error}");
    }
}

async fn refusal(config: EtcdConfig) -> Error {
    let connecting = Box::pin(EtcdBackend::connect(config));
    within_limit("a refusal", connecting).await.unwrap_err()
}

async fn misconfigured(config: EtcdConfig) -> Error {
    let error = refusal(config).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    error
}

/// Over a restart too: the new connection is encrypted as the first was.
async fn lead(server: &mut Encrypted, config: EtcdConfig) {
    let backend = EtcdBackend::connect(config).await.unwrap();
    let (job, me) = (lock("job"), candidate("ann", 1));
    let mut changes = backend.changes(&job);
    let grant = held(backend.acquire(&job, &me, LONG).await.unwrap());
    let grant = renewed(backend.renew(&grant, backend.clock().now()).await.unwrap());
    server.cluster.members[0].kill();
    server.cluster.members[0].restart();
    server.cluster.wait();
    let mut last = None;
    until("a heartbeat gets through", async || {
        last = backend.renew(&grant, backend.clock().now()).await.ok();
        last.is_some()
    })
    .await;
    renewed(last.unwrap());
    backend.release(&grant).await.unwrap();
    within_limit("a hint", changes.next()).await.unwrap();
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_its_name() {
    let Some(mut server) = Encrypted::start(false) else {
        return;
    };
    let trusted = Tls::new().ca(server.ours.ca());
    let config = server.with(trusted.clone());
    lead(&mut server, config).await;
    let url = format!(
        "etcds://{}?ca={}",
        server.address(),
        text(&server.ours.ca())
    );
    lead(&mut server, EtcdConfig::from_url(&url).unwrap()).await;
    // It is for that name as well.
    let named = trusted.clone().server_name("localhost");
    EtcdBackend::connect(server.with(named)).await.unwrap();

    // Another authority, the system's, another name, files that are none.
    let foreign = Tls::new().ca(server.other.ca());
    server.refuses(foreign, "certificate").await;
    server.refuses(Tls::new(), "certificate").await;
    let misnamed = trusted.server_name("elsewhere.example");
    server.refuses(misnamed, "certificate").await;
    let missing = Tls::new().ca(server.ours.file("missing.pem"));
    server.refuses(missing, "missing.pem").await;
    let no_authority = Tls::new().ca(&server.client.1);
    server.refuses(no_authority, "certificate").await;
}

#[tokio::test]
async fn a_server_that_asks_for_certificates_takes_those_of_its_authority() {
    let Some(mut server) = Encrypted::start(true) else {
        return;
    };
    let trusted = Tls::new().ca(server.ours.ca());
    let (certificate, key) = server.client.clone();
    let known = trusted.clone().client_cert(&certificate).client_key(&key);
    let config = server.with(known);
    lead(&mut server, config).await;
    let url = format!(
        "etcds://{}?ca={}&cert={}&key={}",
        server.address(),
        text(&server.ours.ca()),
        text(&certificate),
        text(&key)
    );
    lead(&mut server, EtcdConfig::from_url(&url).unwrap()).await;

    server.refuses(trusted.clone(), "certificate").await;
    let (foreign, its_key) = server.other.certificate("client", &[]);
    let stranger = trusted.clone().client_cert(foreign).client_key(its_key);
    server.refuses(stranger, "certificate").await;
    let missing = trusted
        .clone()
        .client_cert(&certificate)
        .client_key(server.ours.file("missing.key"));
    server.refuses(missing, "missing.key").await;
    let swapped = trusted.client_cert(&key).client_key(&certificate);
    server.refuses(swapped, "key").await;
}

/// One side encrypts and the other does not: an error that says so, in time.
#[tokio::test]
async fn a_scheme_that_is_not_the_servers_is_told() {
    let (Some(server), Some(plain)) = (Encrypted::start(false), start()) else {
        return;
    };
    let tls = Tls::new().ca(server.ours.ca());
    let address = plain.members[0].address();
    let config = EtcdConfig::endpoints([&*address]).unwrap().tls(tls);
    let error = refusal(config).await;
    assert!(error.to_string().contains("speaks no TLS"), "{error}");

    let config = EtcdConfig::endpoints([&*server.address()]).unwrap();
    let error = refusal(config).await;
    assert!(error.to_string().contains("speaks TLS only"), "{error}");
}

/// Neither the name is resolved nor the file read before a call needs them.
#[tokio::test]
async fn a_lazy_backend_reads_no_file_before_its_first_call() {
    let missing = std::path::Path::new("/there/is/none.pem");
    let config = EtcdConfig::endpoints(["there-is-none.invalid"]).unwrap();
    let config = config.tls(Tls::new().ca(missing));
    let backend = EtcdBackend::lazy(config).unwrap();
    let error = backend.holder(&lock("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert_eq!(error.operation(), tenure_core::Operation::Holder, "{error}");
    assert!(error.message().contains("none.pem"), "{error}");
}
