//! Leader election on Kubernetes Leases (`coordination.k8s.io/v1`), in the very elections that
//! client-go's leader election takes part in.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tenure_core::{Election, LockName};
//! use tenure_kube_lease::{KubeConfig, connect};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = KubeConfig::from_environment().namespace("team-a")?;
//! let backend = Arc::new(connect(config).await?);
//! let election = Election::builder(backend, LockName::new("nightly-batch")?).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What stands in the Lease
//!
//! Exactly what client-go writes: all five fields always, times with six digits, `leaseTransitions`
//! raised when the holder changes, and on a release an empty holder with a duration of one second.
//! `strategy`, `preferredHolder`, and the labels, annotations and owner references of others stay
//! as they are. The annotation `tenure/term` beside it holds what the record has no field for: the
//! fencing token and what the leader publishes.
//!
//! # What to know
//!
//! - Expiry is judged by each candidate on its own clock, from the moment it sees the Lease change.
//!   A candidate that starts after the leader died waits one full lease.
//! - The lease is in whole seconds.
//! - client-go takes a lock over from an **equal identity** at once. Give every candidate its own.
//! - client-go before v0.27 judges by its **own lease**, not by the one in the record. Beside such
//!   candidates choose a lease that is no longer, such as
//!   [`Policy::client_go`](tenure_core::Policy::client_go).
//! - A candidate needs the verbs `get`, `update`, `create` and `watch`: see [`rbac_yaml`].

mod backend;
mod form;

use tenure_core::{Error, LockName};
use tenure_kube::LEASES;

pub use backend::KubeLeaseBackend;
pub use form::LeaseForm;
pub use tenure_kube::{
    Cluster, KubeConfig, LeaseCandidate, Owner, Subject, Tls, kube, pod_identity,
};

/// The scheme of this backend's URLs; see [`KubeConfig::from_url`].
pub const SCHEME: &str = "kube-lease";

/// Connects to the cluster of `config`.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) when the configuration
/// cannot be used or TLS fails, with [`Forbidden`](tenure_core::ErrorKind::Forbidden) when the
/// credentials are refused, with [`Unavailable`](tenure_core::ErrorKind::Unavailable) when the
/// server cannot be reached, and with [`Timeout`](tenure_core::ErrorKind::Timeout) after ten
/// seconds. Must be called in the tokio runtime that is to do the I/O.
pub async fn connect(config: KubeConfig) -> Result<KubeLeaseBackend, Error> {
    Ok(on(Cluster::connect(config).await?))
}

/// The same without any I/O: the first call reads the kubeconfig or service account, connects, and
/// fails as [`connect`] does. For a service that starts before its API server does.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) outside a tokio runtime.
/// Must be called in the one that is to do the I/O.
pub fn lazy(config: KubeConfig) -> Result<KubeLeaseBackend, Error> {
    Ok(on(Cluster::lazy(config)?))
}

/// A backend on an application's own client; of `config` only what is not about the connection
/// counts. No I/O.
///
/// Switch the client's own retries off: the engine has deadlines and retries of its own.
pub fn with_client(client: kube::Client, config: KubeConfig) -> KubeLeaseBackend {
    on(Cluster::with_client(client, config))
}

fn on(cluster: Cluster) -> KubeLeaseBackend {
    KubeLeaseBackend::on(cluster)
}

/// A Role and `RoleBinding` with what a candidate for `lock` needs, and nothing else.
pub fn rbac_yaml(namespace: &str, lock: &LockName, subject: &Subject) -> String {
    tenure_kube::rbac_yaml(&LEASES, namespace, lock, subject)
}
