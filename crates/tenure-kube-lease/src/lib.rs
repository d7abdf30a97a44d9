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

use serde_json::{Value, json};
use tenure_core::record::RecordLock;
use tenure_core::{Error, LockName};
use tenure_kube::{ElectionRecord, Form, LEASES, ObjectStore, Resource, WallTime};

pub use tenure_kube::{Cluster, KubeConfig, Owner, Subject, Tls, kube, pod_identity};

/// The scheme of this backend's URLs; see [`KubeConfig::from_url`].
pub const SCHEME: &str = "kube-lease";

/// Elections on the Leases of a namespace; see the [crate's documentation](crate).
///
/// Clones share one connection.
pub type KubeLeaseBackend = RecordLock<ObjectStore<LeaseForm>>;

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
    RecordLock::new(ObjectStore::new(cluster))
}

/// A Role and `RoleBinding` with what a candidate for `lock` needs, and nothing else.
pub fn rbac_yaml(namespace: &str, lock: &LockName, subject: &Subject) -> String {
    tenure_kube::rbac_yaml(&LEASES, namespace, lock, subject)
}

/// How an election's record stands in a Lease.
#[derive(Debug)]
pub struct LeaseForm;

impl Form for LeaseForm {
    const RESOURCE: Resource = LEASES;
    const STORE: &'static str = "kube-lease";

    fn read(object: &Value) -> Result<Option<ElectionRecord>, String> {
        let spec = &object["spec"];
        let text = |field: &str| spec[field].as_str().map(str::to_owned);
        let holder = text("holderIdentity").unwrap_or_default();
        Ok(Some(ElectionRecord {
            holder,
            lease_seconds: spec["leaseDurationSeconds"].as_i64().unwrap_or(0),
            acquired: text("acquireTime"),
            renewed: text("renewTime"),
            transitions: spec["leaseTransitions"].as_i64().unwrap_or(0),
        }))
    }

    fn write(object: &mut Value, record: &ElectionRecord) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        spec["holderIdentity"] = json!(record.holder);
        spec["leaseDurationSeconds"] = json!(record.lease_seconds);
        spec["acquireTime"] = json!(record.acquired);
        spec["renewTime"] = json!(record.renewed);
        spec["leaseTransitions"] = json!(record.transitions);
    }

    fn removal(namespace: &str, lock: &str) -> String {
        format!("kubectl delete lease {lock} --namespace {namespace}")
    }

    fn time(time: WallTime) -> String {
        time.to_micro_time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_others_stay() {
        let mut lease = json!({
            "metadata": { "name": "x", "labels": { "a": "b" } },
            "spec": {
                "holderIdentity": "other",
                "leaseDurationSeconds": 15,
                "strategy": "OldestEmulationVersion",
                "preferredHolder": "third",
                "later": { "unknown": [1] },
            },
        });
        let mut record = LeaseForm::read(&lease).unwrap().unwrap();
        assert_eq!(
            (record.holder.as_str(), record.lease_seconds),
            ("other", 15)
        );
        "us".clone_into(&mut record.holder);
        LeaseForm::write(&mut lease, &record);
        assert_eq!(lease["spec"]["holderIdentity"], "us");
        assert_eq!(lease["spec"]["strategy"], "OldestEmulationVersion");
        assert_eq!(lease["spec"]["preferredHolder"], "third");
        assert_eq!(lease["spec"]["later"], json!({ "unknown": [1] }));
        assert_eq!(lease["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn a_lease_with_nothing_in_it_is_free() {
        for lease in [json!({}), json!({ "spec": {} }), json!({ "spec": null })] {
            assert_eq!(LeaseForm::read(&lease).unwrap().unwrap().holder, "");
        }
    }
}
