//! The API server that the tests of the Kubernetes crates run on: one that runs already, named by
//! the environment (`cargo xtask stores env`).
#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tenure_core::LockName;
use tenure_kube::kube::client::Body;
use tenure_kube::kube::config::{KubeConfigOptions, Kubeconfig};
use tenure_kube::{KubeConfig, Token, kube};

/// Nothing takes so long unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

/// Waits until this is so.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for this.
pub(crate) async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(LIMIT, future).await;
    outcome.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

const NAMESPACE: &str = "TENURE_TEST_KUBE_NAMESPACE";

/// A running API server, and a namespace there.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) ca: PathBuf,
    pub(crate) token_file: PathBuf,
    pub(crate) namespace: String,
}

impl Server {
    /// The server of the environment with a new namespace; `None`, with a line that says so, if
    /// there is none.
    pub(crate) async fn start() -> Option<Self> {
        let server = Self::of_environment()?;
        let namespace = json!({ "metadata": { "name": server.namespace } });
        let (status, answer) = server
            .send("POST", "/api/v1/namespaces", Some(&namespace))
            .await;
        assert_eq!(status, 201, "{answer}");
        Some(server)
    }

    /// The server of the environment, for a process that another one has started.
    pub(crate) fn of_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let (Some(url), Some(ca), Some(token_file)) = (
            variable("TENURE_TEST_KUBE_URL"),
            variable("TENURE_TEST_KUBE_CA"),
            variable("TENURE_TEST_KUBE_TOKEN_FILE"),
        ) else {
            let missing = "no API server: TENURE_TEST_KUBE_URL is not set; \
                           eval \"$(cargo xtask stores env)\" sets it";
            assert!(
                std::env::var_os("TENURE_TEST_STRICT").is_none(),
                "{missing}"
            );
            println!("LEFT OUT: {missing}");
            return None;
        };
        Some(Self {
            url,
            ca: ca.into(),
            token_file: token_file.into(),
            namespace: variable(NAMESPACE)
                .unwrap_or_else(|| format!("tenure-{:012x}", fastrand::u64(..1 << 48))),
        })
    }

    /// What [`of_environment`](Self::of_environment) needs in a process started from here, beyond
    /// what it inherits.
    pub(crate) fn environment(&self) -> (&'static str, String) {
        (NAMESPACE, self.namespace.clone())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").unwrap();
        address.parse().unwrap()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(&self.token_file).unwrap()
    }

    /// As the admin, directly.
    pub(crate) fn config(&self) -> KubeConfig {
        self.config_at(self.address())
    }

    /// As the admin, by way of a proxy.
    pub(crate) fn config_at(&self, address: SocketAddr) -> KubeConfig {
        self.config_as(address, Token::File(self.token_file.clone()))
    }

    pub(crate) fn config_as(&self, address: SocketAddr, token: Token) -> KubeConfig {
        KubeConfig::server(format!("https://{address}"), Some(self.ca.clone()), token)
            .namespace(&*self.namespace)
            .unwrap()
    }

    /// The token of one of the users without rights.
    pub(crate) fn token_file_of(user: &str) -> PathBuf {
        let name = format!("TENURE_TEST_KUBE_TOKEN_FILE_{}", user.to_uppercase());
        std::env::var_os(name).unwrap().into()
    }

    /// A request as the admin: its status and answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        object: Option<&Value>,
    ) -> (u16, Value) {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
        let (status, body) = self.send_as(method, path, kind, body).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) async fn send_as(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> (u16, Vec<u8>) {
        let client = self.client().await;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", kind)
            .body(Body::from(body))
            .unwrap();
        let response = client.send(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body.to_vec())
    }

    /// An application's own client, made by the client library alone.
    pub(crate) async fn client(&self) -> kube::Client {
        let [ca, token_file] = [&self.ca, &self.token_file].map(|file| file.to_string_lossy());
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "us",
            "clusters": [{
                "name": "test",
                "cluster": { "server": self.url, "certificate-authority": ca },
            }],
            "users": [{ "name": "us", "user": { "tokenFile": token_file } }],
            "contexts": [{ "name": "us", "context": { "cluster": "test", "user": "us" } }],
        });
        let read = Kubeconfig::from_yaml(&kubeconfig.to_string()).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .unwrap();
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    pub(crate) fn lease_path(&self, name: &str) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}",
            self.namespace
        )
    }

    pub(crate) fn config_map_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{name}", self.namespace)
    }

    /// A Lease as it stands there.
    pub(crate) async fn lease(&self, name: &str) -> Value {
        let (status, lease) = self.send("GET", &self.lease_path(name), None).await;
        assert_eq!(status, 200, "{lease}");
        lease
    }
}
