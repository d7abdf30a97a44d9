//! The stores that this program can start.

use crate::backends::Backend;
use crate::provision::Need;
use serde::{Deserialize, Serialize};

/// A store.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// kube-apiserver with an etcd of its own
    Kube,
    /// etcd: one node
    Etcd,
    /// one Redis server
    Redis,
    /// one Postgres server
    Postgres,
}

impl Kind {
    /// What `up` starts when nothing is named.
    pub const ALL: [Self; 4] = [Self::Kube, Self::Etcd, Self::Redis, Self::Postgres];

    /// The name on the command line, in files and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// The store that a backend runs on, if it needs one.
    pub fn of(backend: &Backend) -> Option<Self> {
        let wanted = backend.server?;
        Self::ALL.into_iter().find(|kind| kind.name() == wanted)
    }

    /// What has to be installed for it.
    pub fn need(self) -> Need {
        match self {
            Self::Kube | Self::Etcd => Need::Etcd,
            Self::Redis => Need::Redis,
            Self::Postgres => Need::Postgres,
        }
    }
}
