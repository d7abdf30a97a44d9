//! One API server with an etcd of its own: Leases, or `ConfigMaps`.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tenure_conformance::async_trait;
use tenure_conformance::proxy::FaultProxy;
use tenure_testkit::kube::private_api::PrivateApi;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::fault::Fault;
use crate::links::Links;
use crate::stores::topology::{Applies, DELETED, LOCK, Store, beyond, proxies, within};

/// The topologies `kube-lease` and `kube-configmap`.
pub(super) struct Kubernetes {
    api: PrivateApi,
    proxies: Vec<Vec<FaultProxy>>,
    name: &'static str,
}

impl Kubernetes {
    pub(super) async fn start(name: &'static str, links: Option<&Links>) -> Result<Option<Self>> {
        let Some(api) = PrivateApi::start().await else {
            return Ok(None);
        };
        Ok(Some(Self {
            proxies: proxies(&[api.server.address()], links)?,
            api,
            name,
        }))
    }

    fn path(&self) -> String {
        match self.name {
            "kube-lease" => self.api.server.lease_path(LOCK),
            _ => self.api.server.config_map_path(LOCK),
        }
    }

    async fn send(&self, method: &str, kind: &str, body: &str) -> Result<String> {
        let path = self.path();
        let body = body.as_bytes().to_vec();
        let (status, _) = self.api.server.send_as(method, &path, kind, body).await;
        ensure!(status == 200, "{method} {path}: {status}");
        Ok(format!("{method} {path}: {status}"))
    }
}

#[async_trait]
impl Store for Kubernetes {
    fn name(&self) -> &'static str {
        self.name
    }

    fn url(&self, candidate: usize) -> String {
        let server = &self.api.server;
        format!(
            "{}://default?server=https://{}&server_name=localhost&ca={}&token_file={}",
            self.name,
            self.proxies[candidate][0].address(),
            server.ca.display(),
            server.token_file.display(),
        )
    }

    fn proxies(&self, candidate: usize) -> &[FaultProxy] {
        &self.proxies[candidate]
    }

    fn faults(&self) -> Vec<Applies> {
        vec![
            within(Fault::StoreKill).and_leases(1),
            within(Fault::StoreFreeze).and_leases(1),
            within(Fault::ForeignWriter),
            beyond(Fault::KeyDeleted, DELETED),
        ]
    }

    async fn strike(&mut self, fault: Fault, _lasts: Duration) -> Result<String> {
        match fault {
            Fault::StoreKill => {
                self.api.kill();
                Ok(String::new())
            }
            // The API server waits for its etcd.
            Fault::StoreFreeze => {
                let member = &self.api.etcd.members[0];
                block_in_place(|| member.freeze());
                Ok(format!("etcd's process {} stood still", member.pid()))
            }
            Fault::ForeignWriter => {
                let stamp = crate::history::now();
                let change = format!(r#"{{"metadata":{{"annotations":{{"foreign":"{stamp}"}}}}}}"#);
                self.send("PATCH", "application/merge-patch+json", &change)
                    .await
            }
            Fault::KeyDeleted => self.send("DELETE", "application/json", "").await,
            _ => bail!("{fault} does not apply"),
        }
    }

    async fn heal(&mut self, fault: Fault) -> Result<String> {
        match fault {
            Fault::StoreKill => {
                let refused = std::net::TcpStream::connect(self.api.server.address()).is_err();
                ensure!(refused, "a killed API server takes connections");
                block_in_place(|| Handle::current().block_on(self.api.start_again()));
                Ok("no connection, then a new API server".to_owned())
            }
            Fault::StoreFreeze => {
                block_in_place(|| {
                    self.api.etcd.members[0].thaw();
                    self.api.etcd.wait();
                });
                Ok(String::new())
            }
            _ => Ok(String::new()),
        }
    }
}
