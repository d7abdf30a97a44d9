//! kube-apiserver with an etcd of its own: RBAC on, TLS by a CA made for it, users with tokens.
//!
//! No controller, scheduler or kubelet runs: what the API server itself does is all there is.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::etcd::Etcd;
use super::{Env, Kind, Launch, Server, random_hex};
use crate::net::{Http, free_ports};
use crate::paths::write_file;
use crate::process::Ending;
use crate::provision::KubeApiserver;

const ADMIN: &str = "admin";

/// Users without any right until a test grants one: `candidate` and `observer` for the roles that
/// the documentation describes, `stranger` for nobody's role.
const RESTRICTED: [&str; 3] = ["candidate", "observer", "stranger"];

/// A running API server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kube {
    pub(crate) port: u16,
    etcd: Etcd,
    /// Kubeconfigs, tokens and the CA.
    secrets: PathBuf,
    /// Where the program came from.
    pub(crate) origin: String,
    /// For tests that start API servers of their own.
    #[serde(default)]
    program: PathBuf,
}

impl Kube {
    pub(super) fn start(launch: &mut Launch<'_>, server: &KubeApiserver) -> Result<Self> {
        let etcd = Etcd::start(launch, "kube-etcd", 1)?;
        let [port] = free_ports()?;
        let folder = launch.folder("kube-apiserver", None)?;
        let kube = Self {
            port,
            etcd,
            secrets: launch.dirs.secrets(),
            origin: server.origin.clone(),
            program: server.program.clone(),
        };
        kube.write_certificates(&folder)?;
        kube.write_users(&folder)?;
        let mut spec = launch.spec(
            "kube-apiserver",
            server.program.clone(),
            folder,
            Ending::Plain,
        );
        spec.args = [
            ("--etcd-servers", kube.etcd.endpoints().as_str()),
            ("--bind-address", "127.0.0.1"),
            ("--advertise-address", "127.0.0.1"),
            // Its own address is no endpoint for pods here, and loopback would be refused as one.
            ("--endpoint-reconciler-type", "none"),
            ("--secure-port", &port.to_string()),
            ("--cert-dir", "certificates"),
            ("--tls-cert-file", "server.crt"),
            ("--tls-private-key-file", "server.key"),
            ("--authorization-mode", "RBAC"),
            ("--token-auth-file", "tokens.csv"),
            ("--service-account-issuer", "https://kubernetes.default.svc"),
            ("--service-account-signing-key-file", "service-account.key"),
            ("--service-account-key-file", "service-account.pub"),
            ("--service-cluster-ip-range", "10.0.0.0/24"),
            // It would refuse pods whose account no controller has made.
            ("--disable-admission-plugins", "ServiceAccount"),
        ]
        .into_iter()
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect();
        launch.run(&spec)?;
        Ok(kube)
    }

    fn ca_file(&self) -> PathBuf {
        self.secrets.join("kube-ca.crt")
    }

    fn token_file(&self, user: &str) -> PathBuf {
        self.secrets.join(format!("kube-{user}.token"))
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.secrets.join(format!("kube-{user}.kubeconfig"))
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A CA, the server's certificate under it, and the key pair for service accounts' tokens.
    fn write_certificates(&self, folder: &Path) -> Result<()> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(DnType::CommonName, "tenure test CA");
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate()?;
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut server = CertificateParams::new(names)?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_key = KeyPair::generate()?;
        let server_certificate = server.signed_by(&server_key, &issuer)?;

        let accounts = KeyPair::generate()?;
        for (file, mode, text) in [
            (self.ca_file(), 0o644, ca_certificate.pem()),
            (folder.join("server.crt"), 0o644, server_certificate.pem()),
            (folder.join("server.key"), 0o600, server_key.serialize_pem()),
            (
                folder.join("service-account.key"),
                0o600,
                accounts.serialize_pem(),
            ),
            (
                folder.join("service-account.pub"),
                0o644,
                accounts.public_key_pem(),
            ),
        ] {
            write_file(&file, mode, text.as_bytes())?;
        }
        Ok(())
    }

    /// A token and a kubeconfig for each user.
    fn write_users(&self, folder: &Path) -> Result<()> {
        let ca = STANDARD.encode(std::fs::read(self.ca_file())?);
        let mut table = String::new();
        for user in [ADMIN].iter().chain(&RESTRICTED) {
            let token = random_hex(16)?;
            let groups = if *user == ADMIN {
                "system:masters"
            } else {
                "tenure-restricted"
            };
            writeln!(table, "{token},{user},{user},{groups}")?;
            write_file(&self.token_file(user), 0o600, token.as_bytes())?;
            let config = format!(
                "apiVersion: v1\n\
                 kind: Config\n\
                 current-context: {user}@tenure\n\
                 clusters:\n\
                 - name: tenure\n\
                 \x20 cluster:\n\
                 \x20   server: {url}\n\
                 \x20   certificate-authority-data: {ca}\n\
                 users:\n\
                 - name: {user}\n\
                 \x20 user:\n\
                 \x20   token: {token}\n\
                 contexts:\n\
                 - name: {user}@tenure\n\
                 \x20 context:\n\
                 \x20   cluster: tenure\n\
                 \x20   user: {user}\n\
                 \x20   namespace: default\n",
                url = self.url()
            );
            write_file(&self.kubeconfig(user), 0o600, config.as_bytes())?;
        }
        write_file(&folder.join("tokens.csv"), 0o600, table.as_bytes())
    }

    /// A connection as one of the users, trusting the CA of the kubeconfig and nothing else.
    fn http(&self, user: &str) -> Result<Http> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca_file())
            .with_context(|| format!("no certificate in {}", self.ca_file().display()))?;
        roots.add(ca)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let file = self.token_file(user);
        let token = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Http {
            port: self.port,
            tls: Some(Arc::new(config)),
            token: Some(token),
        })
    }
}

impl Server for Kube {
    fn probe(&self) -> Result<String> {
        self.etcd.probe()?;
        let http = self.http(ADMIN)?;
        http.get("/readyz")?.expect_status(200, "/readyz")?;
        // Made by the API server itself a moment after it calls itself ready.
        http.get("/api/v1/namespaces/default")?
            .expect_status(200, "the namespace default")?;
        let version = http.get("/version")?.expect_status(200, "/version")?;
        let version: serde_json::Value = serde_json::from_str(&version)?;
        version["gitVersion"]
            .as_str()
            .map(str::to_owned)
            .context("kube-apiserver names no version")
    }

    /// The admin may all, the others nothing, and what the admin grants is granted to whom it says.
    fn round_trip(&self) -> Result<String> {
        const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
        const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
        let name = format!("xtask-{}", random_hex(4)?);
        let [granted, refused] = [RESTRICTED[0], RESTRICTED[1]];
        let admin = self.http(ADMIN)?;
        let make = |path: &str, mut object: serde_json::Value| -> Result<()> {
            object["metadata"] = json!({ "name": name });
            admin
                .send("POST", path, Some(&object))?
                .expect_status(201, path)?;
            Ok(())
        };
        let lease = format!("{LEASES}/{name}");
        let read_as = |user: &str| -> Result<u16> { Ok(self.http(user)?.get(&lease)?.status) };

        let outcome = (|| {
            make(
                LEASES,
                json!({ "spec": { "holderIdentity": name, "leaseDurationSeconds": 20 } }),
            )?;
            let read = admin.get(&lease)?.expect_status(200, &lease)?;
            let read: serde_json::Value = serde_json::from_str(&read)?;
            if read["spec"]["holderIdentity"] != name.as_str() {
                bail!("the lease came back as {read}");
            }
            for user in RESTRICTED {
                let status = read_as(user)?;
                if status != 403 {
                    bail!("{user} reads a lease without a right to: status {status}");
                }
            }
            make(
                &format!("{RBAC}/roles"),
                json!({ "rules": [{
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "resourceNames": [name],
                    "verbs": ["get"],
                }]}),
            )?;
            make(
                &format!("{RBAC}/rolebindings"),
                json!({
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Role",
                        "name": name,
                    },
                    "subjects": [{
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "User",
                        "name": granted,
                    }],
                }),
            )?;
            // The authoriser reads roles from a cache that follows.
            super::eventually("a granted right is there", || match read_as(granted)? {
                200 => Ok(()),
                status => bail!("{granted} reads the lease: status {status}"),
            })?;
            let status = read_as(refused)?;
            if status != 403 {
                bail!("{refused} got {granted}'s right: status {status}");
            }
            Ok(())
        })();
        for path in [
            format!("{RBAC}/rolebindings/{name}"),
            format!("{RBAC}/roles/{name}"),
            lease.clone(),
        ] {
            admin.send("DELETE", &path, None)?;
        }
        outcome.map(|()| "a Lease by HTTPS; 403 without a right, 200 with a Role".to_owned())
    }

    fn env(&self) -> Result<Env> {
        let shown = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut env = vec![
            ("TENURE_TEST_KUBECONFIG", shown(self.kubeconfig(ADMIN))),
            ("TENURE_TEST_KUBE_URL", self.url()),
            ("TENURE_TEST_KUBE_CA", shown(self.ca_file())),
            ("TENURE_TEST_KUBE_TOKEN_FILE", shown(self.token_file(ADMIN))),
            ("TENURE_TEST_KUBE_APISERVER", shown(self.program.clone())),
        ];
        let names = [
            (
                "TENURE_TEST_KUBECONFIG_CANDIDATE",
                "TENURE_TEST_KUBE_TOKEN_FILE_CANDIDATE",
            ),
            (
                "TENURE_TEST_KUBECONFIG_OBSERVER",
                "TENURE_TEST_KUBE_TOKEN_FILE_OBSERVER",
            ),
            (
                "TENURE_TEST_KUBECONFIG_STRANGER",
                "TENURE_TEST_KUBE_TOKEN_FILE_STRANGER",
            ),
        ];
        for (user, (config, token)) in RESTRICTED.into_iter().zip(names) {
            env.push((config, shown(self.kubeconfig(user))));
            env.push((token, shown(self.token_file(user))));
        }
        Ok(env)
    }

    fn kind(&self) -> Kind {
        Kind::Kube
    }
}
