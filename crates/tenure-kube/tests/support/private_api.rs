//! An API server of the test's own, with an etcd of its own, that can be killed and started again.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tenure_kube::Cluster;

use crate::support::{Server, until, within_limit};

pub(crate) struct PrivateApi {
    pub(crate) server: Server,
    arguments: Vec<String>,
    api: Process,
    _etcd: Process,
    _folder: TempDir,
}

/// Killed on drop.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[String]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // May have been killed by the test.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// `None`, with a line that says so, if there is no program to start.
fn program() -> Option<String> {
    let program = std::env::var("TENURE_TEST_KUBE_APISERVER").ok();
    if program.is_none() {
        let missing = "TENURE_TEST_KUBE_APISERVER names no API server to start; \
                       eval \"$(cargo xtask stores env)\" sets it";
        assert!(
            std::env::var_os("TENURE_TEST_STRICT").is_none(),
            "{missing}"
        );
        println!("LEFT OUT: {missing}");
    }
    program
}

fn flags(flags: &[(&str, &str)]) -> Vec<String> {
    let flags = flags.iter().map(|(flag, value)| format!("{flag}={value}"));
    flags.collect()
}

impl PrivateApi {
    pub(crate) async fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let [port, client, peer] = free_ports();
        let (client, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let etcd = Process::start(
            "etcd",
            &flags(&[
                ("--name", "own"),
                ("--data-dir", &path("etcd")),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &format!("own={peer}")),
            ]),
        );
        write_secrets(folder.path());
        let arguments = flags(&[
            ("--etcd-servers", &client),
            ("--bind-address", "127.0.0.1"),
            ("--advertise-address", "127.0.0.1"),
            ("--endpoint-reconciler-type", "none"),
            ("--secure-port", &port.to_string()),
            ("--tls-cert-file", &path("server.crt")),
            ("--tls-private-key-file", &path("server.key")),
            ("--authorization-mode", "RBAC"),
            ("--token-auth-file", &path("tokens.csv")),
            ("--service-account-issuer", "https://own"),
            ("--service-account-signing-key-file", &path("accounts.key")),
            ("--service-account-key-file", &path("accounts.pub")),
            ("--service-cluster-ip-range", "10.0.0.0/24"),
            ("--disable-admission-plugins", "ServiceAccount"),
            // It is also how long it waits for others when it is asked to end.
            ("--request-timeout", "5s"),
        ]);
        let server = Server {
            url: format!("https://127.0.0.1:{port}"),
            ca: folder.path().join("ca.crt"),
            token_file: folder.path().join("token"),
            namespace: "default".to_owned(),
        };
        let own = Self {
            api: Process::start(&program, &arguments),
            server,
            arguments,
            _etcd: etcd,
            _folder: folder,
        };
        own.until_it_serves().await;
        let path = "/api/v1/namespaces/default";
        until("the namespace is there", async || {
            own.server.send("GET", path, None).await.0 == 200
        })
        .await;
        Some(own)
    }

    async fn until_it_serves(&self) {
        let config = self.server.config();
        until("the API server serves", async || {
            let connecting = Cluster::connect(config.clone());
            within_limit("an answer", connecting).await.is_ok()
                && self.server.send("GET", "/readyz", None).await.0 == 200
        })
        .await;
    }

    /// As a crash does.
    pub(crate) fn kill(&mut self) {
        self.api.kill();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(&mut self) {
        let pid = self.api.0.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.unwrap().success());
        until("the API server has ended", async || {
            self.api.0.try_wait().unwrap().is_some()
        })
        .await;
    }

    /// Starts it again on its data and its port.
    pub(crate) async fn start_again(&mut self) {
        self.api = Process::start(&program().unwrap(), &self.arguments);
        self.until_it_serves().await;
    }
}

/// A CA and the server's certificate, the keys of service accounts, and the admin's token.
fn write_secrets(folder: &Path) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(DnType::CommonName, "the test's CA");
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let server_key = KeyPair::generate().unwrap();
    let certificate = server.signed_by(&server_key, &issuer).unwrap();
    let accounts = KeyPair::generate().unwrap();
    let token = format!("{:032x}", fastrand::u128(..));
    for (file, text) in [
        ("ca.crt", ca_certificate.pem()),
        ("server.crt", certificate.pem()),
        ("server.key", server_key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        (
            "tokens.csv",
            format!("{token},admin,admin,system:masters\n"),
        ),
        ("token", token),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
}
