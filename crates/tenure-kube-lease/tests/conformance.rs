//! The conformance suite on a real API server, with a fault proxy in front of it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::Connects as _;
use tenure_conformance::proxy::FaultProxy;
use tenure_conformance::{Answers, Hook, Proxied, Target, async_trait, run_all};
use tenure_core::{Error, LockBackend, LockName};
use tenure_testkit::kube::Server;

struct Cluster {
    server: Server,
    proxy: FaultProxy,
}

impl Cluster {
    fn new(server: Server) -> Self {
        let proxy = FaultProxy::start(server.address()).unwrap();
        Self { server, proxy }
    }
}

#[async_trait]
impl Target for Cluster {
    async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
        let config = self.server.config_at(self.proxy.address());
        Ok(Arc::new(tenure_kube_lease::connect(config).await?))
    }

    fn conditions_met(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.server.token()]
    }

    async fn delete_lock(&self, lock: &LockName) -> Hook {
        let path = self.server.lease_path(lock.as_str());
        match self.server.send("DELETE", &path, None).await {
            (200, _) => Hook::Done,
            (status, answer) => Hook::Failed(format!("{status}: {answer}")),
        }
    }

    async fn write_beside(&self, lock: &LockName) -> Hook {
        let path = self.server.lease_path(lock.as_str());
        let annotation = format!("{:?}", std::time::SystemTime::now());
        let change = json!({ "metadata": { "annotations": { "another/program": annotation } } });
        match self.server.send("PATCH", &path, Some(&change)).await {
            (200, _) => Hook::Done,
            (status, answer) => Hook::Failed(format!("{status}: {answer}")),
        }
    }

    async fn corrupt_lock(&self, lock: &LockName) -> Hook {
        let path = self.server.lease_path(lock.as_str());
        let nonsense =
            json!({ "spec": { "holderIdentity": null, "leaseDurationSeconds": 2_000_000_000 } });
        match self.server.send("PATCH", &path, Some(&nonsense)).await {
            (200, _) => Hook::Done,
            (status, answer) => Hook::Failed(format!("{status}: {answer}")),
        }
    }

    async fn answers(&self, answers: Answers) -> Hook {
        answers.through([&self.proxy])
    }

    async fn connect_by_proxy(&self) -> Option<Result<Proxied, Error>> {
        let proxy = FaultProxy::start(self.server.address()).unwrap();
        let config = self.server.config_at(proxy.address());
        let opened = tenure_kube_lease::connect(config).await;
        Some(opened.map(|backend| Proxied::new(Arc::new(backend), [proxy])))
    }

    async fn connect_to_nothing(&self) -> Option<Result<Arc<dyn LockBackend>, Error>> {
        // A port on which nobody listens: it was free a moment ago.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = self
            .server
            .config_at(address)
            .connect_timeout(Duration::from_secs(1));
        let backend = tenure_kube_lease::connect(config).await;
        Some(backend.map(|backend| Arc::new(backend) as Arc<dyn LockBackend>))
    }

    fn contestant(&self) -> Option<Command> {
        let mut command = tenure_conformance::reexec("contestant");
        let (name, value) = self.server.environment();
        command.env(name, value);
        Some(command)
    }
}

/// Does nothing when it is run among the other tests.
#[test]
fn contestant() {
    tenure_conformance::contestant_main(async || Cluster::new(Server::of_environment().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_is_green() {
    let Some(server) = Server::start().await else {
        return;
    };
    let subject = Cluster::new(server);
    let report = run_all("kube-lease", &subject).await;
    report.log();
    assert!(report.is_green(), "{report}");
}
