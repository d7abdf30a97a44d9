//! How the tests reach the testkit's clusters.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

pub(crate) mod breaking;
pub(crate) mod memory;

use tenure_etcd::etcd_client::Client;
use tenure_etcd::{EtcdBackend, EtcdConfig};
use tenure_testkit::etcd::Cluster;

/// The backend of a cluster.
pub(crate) trait Connects {
    fn config(&self) -> EtcdConfig;

    async fn connect(&self) -> EtcdBackend;

    /// The client library itself, for what no backend would do.
    async fn client(&self) -> Client;
}

impl Connects for Cluster {
    fn config(&self) -> EtcdConfig {
        EtcdConfig::from_url(&self.url()).unwrap()
    }

    async fn connect(&self) -> EtcdBackend {
        EtcdBackend::connect(self.config()).await.unwrap()
    }

    async fn client(&self) -> Client {
        let connecting = Client::connect([self.members[0].address()], None);
        connecting.await.unwrap()
    }
}
