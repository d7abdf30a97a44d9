//! Leader election on an annotation of Kubernetes `ConfigMaps`, as client-go did it before Leases
//! and the C# client still can.
//!
//! For services that share an election with such candidates, or move away from it. For anything
//! new use Leases: they are smaller, and fewer programs watch them.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tenure_core::{Election, LockName};
//! use tenure_kube_configmap::{KubeConfig, connect};
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
//! # What stands in the `ConfigMap`
//!
//! The annotation [`LEADER_ANNOTATION`] with the record as client-go writes it, byte for byte, and
//! read as client-go reads it. A `ConfigMap` without it is a free lock; its data, the labels and
//! annotations of others, and unknown fields in the record stay as they are. The annotation
//! `tenure/term` beside it holds what the record has no field for: the fencing token and what the
//! leader publishes.
//!
//! # What to know
//!
//! - As with Leases, each candidate judges expiry from the moment it sees a change. Leases
//!   are in whole seconds, and candidates of other programs take a lock over from an **equal
//!   identity** at once.
//! - client-go before v0.27, so every one with locks on `ConfigMaps`, judges by its **own lease**,
//!   not by the one in the record. Choose a lease that is no longer, such as
//!   [`Policy::client_go`](tenure_core::Policy::client_go).
//! - Each write sends the whole `ConfigMap`, at most 1 MiB. Keep the lock's own one empty.
//! - fabric8 writes the duration under another name, so it cannot share an election with client-go,
//!   and not with us: never let it near the same `ConfigMap`.
//! - A candidate needs the verbs `get`, `update`, `create` and `watch`: see [`rbac_yaml`].

mod record;

use serde_json::Value;
use tenure_core::record::RecordLock;
use tenure_core::{Error, LockName};
use tenure_kube::{
    CONFIG_MAPS, ElectionRecord, Form, ObjectStore, Resource, WallTime, annotation, set_annotation,
};

use crate::record::Text;

pub use tenure_kube::{Cluster, KubeConfig, Owner, Subject, Tls, kube, pod_identity};

/// The scheme of this backend's URLs; see [`KubeConfig::from_url`].
pub const SCHEME: &str = "kube-configmap";

/// The annotation that holds the record.
pub const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Elections on the `ConfigMaps` of a namespace; see the [crate's documentation](crate).
///
/// Clones share one connection.
pub type KubeConfigMapBackend = RecordLock<ObjectStore<ConfigMapForm>>;

/// Connects to the cluster of `config`.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) when the configuration
/// cannot be used or TLS fails, with [`Forbidden`](tenure_core::ErrorKind::Forbidden) when the
/// credentials are refused, with [`Unavailable`](tenure_core::ErrorKind::Unavailable) when the
/// server cannot be reached, and with [`Timeout`](tenure_core::ErrorKind::Timeout) after ten
/// seconds. Must be called in the tokio runtime that is to do the I/O.
pub async fn connect(config: KubeConfig) -> Result<KubeConfigMapBackend, Error> {
    refuse_lease_candidates(&config)?;
    Ok(on(Cluster::connect(config).await?))
}

/// The same without any I/O: the first call reads the kubeconfig or service account, connects, and
/// fails as [`connect`] does. For a service that starts before its API server does.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) outside a tokio runtime.
/// Must be called in the one that is to do the I/O.
pub fn lazy(config: KubeConfig) -> Result<KubeConfigMapBackend, Error> {
    refuse_lease_candidates(&config)?;
    Ok(on(Cluster::lazy(config)?))
}

/// A backend on an application's own client; of `config` only what is not about the connection
/// counts. No I/O.
///
/// Switch the client's own retries off: the engine has deadlines and retries of its own.
pub fn with_client(client: kube::Client, config: KubeConfig) -> KubeConfigMapBackend {
    on(Cluster::with_client(client, config))
}

fn refuse_lease_candidates(config: &KubeConfig) -> Result<(), Error> {
    if config.as_lease_candidate().is_none() {
        return Ok(());
    }
    Err(Error::invalid_input(
        "lease_candidate is for Leases alone; use kube-lease, or leave it out",
    ))
}

fn on(cluster: Cluster) -> KubeConfigMapBackend {
    RecordLock::new(ObjectStore::new(cluster))
}

/// A Role and `RoleBinding` with what a candidate for `lock` needs, and nothing else.
pub fn rbac_yaml(namespace: &str, lock: &LockName, subject: &Subject) -> String {
    tenure_kube::rbac_yaml(&CONFIG_MAPS, namespace, lock, subject)
}

/// How an election's record stands in a `ConfigMap`.
#[derive(Debug)]
pub struct ConfigMapForm;

impl Form for ConfigMapForm {
    const RESOURCE: Resource = CONFIG_MAPS;
    const STORE: &'static str = "kube-configmap";
    const LOCATION: &'static str = "the annotation control-plane.alpha.kubernetes.io/leader";

    fn read(object: &Value) -> Result<Option<ElectionRecord>, String> {
        let Some(text) = annotation(object, LEADER_ANNOTATION) else {
            return Ok(None);
        };
        let text = Text::read(text)
            .map_err(|problem| format!("the annotation {LEADER_ANNOTATION} {problem}"))?;
        Ok(Some(text.record))
    }

    fn write(object: &mut Value, record: &ElectionRecord) {
        let found = annotation(object, LEADER_ANNOTATION).map(Text::read);
        let found = found.and_then(Result::ok).unwrap_or_default();
        let text = found.write(record);
        set_annotation(object, LEADER_ANNOTATION, text);
    }

    fn removal(namespace: &str, lock: &str) -> String {
        format!("kubectl annotate configmap {lock} --namespace {namespace} {LEADER_ANNOTATION}-")
    }

    fn time(time: WallTime) -> String {
        time.to_time()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As client-go has written it.
    const GOLDEN: &str = "{\"holderIdentity\":\"a\",\"leaseDurationSeconds\":15,\
        \"acquireTime\":\"2021-12-07T15:38:32Z\",\"renewTime\":\"2021-12-07T15:38:32Z\",\
        \"leaderTransitions\":0}";

    fn holding(text: &str) -> Value {
        json!({ "metadata": { "annotations": { LEADER_ANNOTATION: text } } })
    }

    #[test]
    fn the_golden_record_comes_back_byte_for_byte() {
        for text in [
            GOLDEN.to_owned(),
            GOLDEN.replace("\"2021-12-07T15:38:32Z\"", "null"),
            GOLDEN.replace("\"a\"", r#""\u003cpod\u0026\u003e \"x\" \\""#),
            GOLDEN.replace("\"a\"", "\"\"").replace(":15", ":1"),
        ] {
            let record = ConfigMapForm::read(&holding(&text)).unwrap().unwrap();
            let mut written = json!({ "data": { "theirs": "stays" } });
            ConfigMapForm::write(&mut written, &record);
            assert_eq!(annotation(&written, LEADER_ANNOTATION), Some(text.as_str()));
            assert_eq!(written["data"]["theirs"], "stays");
        }
    }

    #[test]
    fn unknown_fields_and_nulls_are_no_trouble() {
        let text = r#"{"holderIdentity":null,"strategy":"","preferredHolder":"b","x":[1]}"#;
        let record = ConfigMapForm::read(&holding(text)).unwrap().unwrap();
        assert_eq!((record.holder.as_str(), record.lease_seconds), ("", 0));
    }

    #[test]
    fn fields_of_others_in_the_record_stay() {
        let others = r#""strategy":"","x":[1, {"y":"\u003c"}]"#;
        let text = GOLDEN.replace('}', &format!(",{others}}}"));
        let shuffled = format!("{{{others},{}", &GOLDEN[1..]);
        for found in [&text, &shuffled] {
            let mut object = holding(found);
            let record = ConfigMapForm::read(&object).unwrap().unwrap();
            ConfigMapForm::write(&mut object, &record);
            assert_eq!(annotation(&object, LEADER_ANNOTATION), Some(text.as_str()));
        }
    }

    #[test]
    fn without_the_annotation_there_is_no_record() {
        for object in [json!({}), json!({ "metadata": { "annotations": {} } })] {
            assert_eq!(ConfigMapForm::read(&object).unwrap(), None);
        }
        assert!(ConfigMapForm::read(&holding("leader")).is_err());
    }
}
