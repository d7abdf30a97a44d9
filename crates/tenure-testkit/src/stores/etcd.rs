//! etcd: one node. Also the store underneath kube-apiserver.

use std::path::Path;

use crate::etcd;
use crate::port::free_ports;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::http::Http;
use super::launch::Launch;
use super::server::{Env, Server};
use crate::bound::Ending;
use crate::provision;

/// A running node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Etcd {
    /// Where clients connect.
    port: u16,
}

impl Etcd {
    /// Starts the node as a process with this name.
    pub(super) fn start(launch: &mut Launch<'_>, name: &str) -> Result<Self> {
        let program = provision::program("etcd")?;
        let [port, peer] = free_ports();
        let node = Self { port };
        let folder = launch.folder(name, None)?;
        let peer = format!("http://127.0.0.1:{peer}");
        let initial = format!("{name}={peer}");
        let mut spec = launch.spec(name, program, folder, Ending::Plain);
        spec.args = etcd::arguments(name, Path::new("data"), &node.endpoint(), &peer, &initial);
        if cfg!(target_arch = "aarch64") {
            // Releases before 3.5 want to be told.
            let (name, value) = ("ETCD_UNSUPPORTED_ARCH", "arm64");
            spec.env.insert(name.to_owned(), value.to_owned());
        }
        launch.run(&spec)?;
        Ok(node)
    }

    /// As kube-apiserver takes it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Server for Etcd {
    fn probe(&self) -> Result<String> {
        let http = Http::plain(self.port);
        let get = |path: &str| -> Result<serde_json::Value> {
            Ok(serde_json::from_str(&http.get(path)?)?)
        };
        let health = get("/health")?;
        if health["health"] != "true" {
            bail!("etcd is not healthy: {health}");
        }
        let version = get("/version")?["etcdserver"].as_str().map(str::to_owned);
        version.context("etcd names no version")
    }

    fn env(&self) -> Result<Env> {
        let url = format!("etcd://127.0.0.1:{}", self.port);
        Ok(vec![
            ("TENURE_TEST_ETCD_URL", url),
            ("TENURE_TEST_ETCD_ENDPOINTS", self.endpoint()),
        ])
    }
}
