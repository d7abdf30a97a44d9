//! How the tests reach the testkit's API servers.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;

use tenure_kube::{KubeConfig, Tls};
use tenure_testkit::kube::faulty_api::FaultyApi;
use tenure_testkit::kube::{Server, rights};

/// The configuration of a backend on a server.
pub(crate) trait Connects {
    /// As the admin, directly.
    fn config(&self) -> KubeConfig;

    /// As the admin, by way of a proxy.
    fn config_at(&self, address: SocketAddr) -> KubeConfig;

    /// As the user whom the Role of [`rights`] is for.
    fn config_of_candidate(&self) -> KubeConfig;
}

impl Connects for Server {
    fn config(&self) -> KubeConfig {
        self.config_at(self.address())
    }

    fn config_at(&self, address: SocketAddr) -> KubeConfig {
        KubeConfig::server(format!("https://{address}"))
            .tls(Tls::new().ca(&self.ca))
            .token_file(&self.token_file)
            .namespace(&*self.namespace)
            .unwrap()
    }

    fn config_of_candidate(&self) -> KubeConfig {
        self.config().token_file(Self::token_file_of(rights::USER))
    }
}

/// As the admin, by way of a proxy that answers instead.
pub(crate) fn config_of(api: &FaultyApi, server: &Server) -> KubeConfig {
    KubeConfig::server(api.url())
        .namespace(&*server.namespace)
        .unwrap()
}
