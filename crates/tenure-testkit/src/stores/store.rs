//! The stores, each as what was started of it.

use serde::{Deserialize, Serialize};

use super::etcd::Etcd;
use super::kube::Kube;
use super::postgres::Postgres;
use super::redis::Redis;
use super::server::Server;

/// A store that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Kube(Kube),
    Etcd(Etcd),
    Redis(Redis),
    Postgres(Postgres),
}

impl Store {
    pub(super) fn server(&self) -> &dyn Server {
        match self {
            Self::Kube(server) => server,
            Self::Etcd(server) => server,
            Self::Redis(server) => server,
            Self::Postgres(server) => server,
        }
    }
}
