//! The API server that the tests run on: one that runs already, named by the environment
//! (`cargo xtask stores env`).

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::environment::left_out;

const NAMESPACE: &str = "TENURE_TEST_KUBE_NAMESPACE";

/// A running API server, and a namespace there.
#[derive(Clone, Debug)]
pub struct Server {
    /// `https://127.0.0.1:12345`
    pub url: String,
    /// The file of its CA.
    pub ca: PathBuf,
    /// The file of the admin's token.
    pub token_file: PathBuf,
    /// The test's own.
    pub namespace: String,
}

impl Server {
    /// The server of the environment with a new namespace; `None`, with a line that says so, if
    /// there is none.
    pub async fn start() -> Option<Self> {
        let server = Self::of_environment()?;
        let namespace = json!({ "metadata": { "name": server.namespace } });
        let (status, answer) = server
            .send("POST", "/api/v1/namespaces", Some(&namespace))
            .await;
        assert_eq!(status, 201, "{answer}");
        Some(server)
    }

    /// The server of the environment, for a process that another one has started.
    pub fn of_environment() -> Option<Self> {
        let variable = |name: &str| env::var(name).ok();
        let (Some(url), Some(ca), Some(token_file)) = (
            variable("TENURE_TEST_KUBE_URL"),
            variable("TENURE_TEST_KUBE_CA"),
            variable("TENURE_TEST_KUBE_TOKEN_FILE"),
        ) else {
            left_out(
                "no API server: TENURE_TEST_KUBE_URL is not set; \
                 eval \"$(cargo xtask stores env)\" sets it",
            );
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
    pub fn environment(&self) -> (&'static str, String) {
        (NAMESPACE, self.namespace.clone())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").unwrap();
        address.parse().unwrap()
    }

    /// The admin's.
    pub fn token(&self) -> String {
        fs::read_to_string(&self.token_file).unwrap()
    }

    /// The token of one of the users without rights.
    pub fn token_file_of(user: &str) -> PathBuf {
        let name = format!("TENURE_TEST_KUBE_TOKEN_FILE_{}", user.to_uppercase());
        env::var_os(name).unwrap().into()
    }

    /// A request as the admin: its status and answer.
    pub async fn send(&self, method: &str, path: &str, object: Option<&Value>) -> (u16, Value) {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
        let (status, body) = self.send_as(method, path, kind, body).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The same with a body of this content type.
    pub async fn send_as(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> (u16, Vec<u8>) {
        self.try_send(method, path, kind, body).await.unwrap()
    }

    async fn try_send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> kube::Result<(u16, Vec<u8>)> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", kind)
            .body(Body::from(body))
            .unwrap();
        let response = self.client().await.send(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body.to_vec()))
    }

    /// Whether it answers a GET with success.
    pub async fn has(&self, path: &str) -> bool {
        let answer = self.try_send("GET", path, "application/json", Vec::new());
        answer.await.is_ok_and(|(status, _)| status == 200)
    }

    /// The admin's kubeconfig: JSON, which is YAML too.
    pub fn kubeconfig(&self) -> String {
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
        kubeconfig.to_string()
    }

    /// An application's own client, made by the client library alone.
    pub async fn client(&self) -> kube::Client {
        let read = Kubeconfig::from_yaml(&self.kubeconfig()).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .unwrap();
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    /// The path of a Lease in the test's namespace.
    pub fn lease_path(&self, name: &str) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}",
            self.namespace
        )
    }

    /// The path of a `ConfigMap` in the test's namespace.
    pub fn config_map_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{name}", self.namespace)
    }

    /// A Lease as it stands there.
    pub async fn lease(&self, name: &str) -> Value {
        let (status, lease) = self.send("GET", &self.lease_path(name), None).await;
        assert_eq!(status, 200, "{lease}");
        lease
    }
}
