//! kube-apiserver with an etcd of its own: RBAC on, TLS by a CA made for it, users with tokens.
//!
//! No controller, scheduler or kubelet runs: what the API server itself does is all there is.

use std::fs;
use std::path::PathBuf;

use crate::free_port;
use crate::kube::launch::{arguments, write_secrets};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::etcd::Etcd;
use super::http::Http;
use super::launch::Launch;
use super::server::{Env, Server};
use crate::bound::Ending;
use crate::paths::write_file;
use crate::provision::kube_apiserver::KubeApiserver;

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
        let etcd = Etcd::start(launch, "kube-etcd")?;
        let port = free_port();
        let folder = launch.folder("kube-apiserver", None)?;
        let kube = Self {
            port,
            etcd,
            secrets: launch.dirs.secrets().join("kube"),
            origin: server.origin.clone(),
            program: server.program.clone(),
        };
        let restricted = RESTRICTED.map(|user| (user, "tenure-restricted"));
        let users = [&[(ADMIN, "system:masters")], &restricted[..]].concat();
        write_secrets(&kube.secrets, &users);
        for (user, _) in users {
            kube.write_kubeconfig(user)?;
        }
        let program = server.program.clone();
        let mut spec = launch.spec("kube-apiserver", program, folder, Ending::Plain);
        spec.args = arguments(&kube.etcd.endpoint(), port, &kube.secrets);
        launch.run(&spec)?;
        Ok(kube)
    }

    fn ca_file(&self) -> PathBuf {
        self.secrets.join("ca.pem")
    }

    fn token_file(&self, user: &str) -> PathBuf {
        self.secrets.join(format!("{user}.token"))
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.secrets.join(format!("{user}.kubeconfig"))
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn token(&self, user: &str) -> Result<String> {
        let file = self.token_file(user);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    fn write_kubeconfig(&self, user: &str) -> Result<()> {
        let context = format!("{user}@tenure");
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{ "name": "tenure", "cluster": {
                "server": self.url(),
                "certificate-authority": self.ca_file(),
            } }],
            "users": [{ "name": user, "user": { "token": self.token(user)? } }],
            "contexts": [{ "name": context, "context": {
                "cluster": "tenure",
                "user": user,
                "namespace": "default",
            } }],
        });
        write_file(&self.kubeconfig(user), 0o600, config.to_string().as_bytes())
    }

    /// A connection as one of the users, trusting the CA of the kubeconfig and nothing else.
    fn http(&self, user: &str) -> Result<Http> {
        Ok(Http {
            url: self.url(),
            ca: Some(self.ca_file()),
            token: Some(self.token(user)?),
        })
    }
}

impl Server for Kube {
    fn probe(&self) -> Result<String> {
        self.etcd.probe()?;
        let http = self.http(ADMIN)?;
        http.get("/readyz")?;
        // Made by the API server itself a moment after it calls itself ready.
        http.get("/api/v1/namespaces/default")?;
        let version: serde_json::Value = serde_json::from_str(&http.get("/version")?)?;
        version["gitVersion"]
            .as_str()
            .map(str::to_owned)
            .context("kube-apiserver names no version")
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
}
