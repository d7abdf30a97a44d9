//! What the two Kubernetes backends of tenure share: the client, the watch, the errors, the rules
//! of client-go's record, and the rights that they need.
//!
//! Applications use `tenure-kube-lease` or `tenure-kube-configmap`.
//!
//! Objects are read and written as JSON, not as this version's types: a field that it does not
//! know, of a newer API server or of another program, survives. So no version feature of
//! `k8s-openapi` matters here; the client library needs one still, and which one is the
//! application's choice:
//!
//! ```toml
//! k8s-openapi = { version = "0.29", default-features = false, features = ["latest"] }
//! ```

mod access;
mod annotations;
mod api;
mod checks;
mod client;
mod cluster;
mod config;
mod connector;
mod connects;
mod coordination;
mod crowded;
mod destination;
mod election_record;
mod errors;
mod form;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod held_up;
mod helper;
mod intact;
mod kubeconfig;
mod lease_candidate;
mod lines;
mod objects;
mod own;
mod owner;
mod pace;
mod pods;
mod rbac;
mod reply;
mod resource;
mod retries;
mod source;
mod store;
mod surroundings;
mod term;
mod time;
mod transport;
mod trial;
mod warned;
mod watch;
mod wish;

pub use annotations::{annotation, set_annotation};
pub use cluster::Cluster;
pub use config::KubeConfig;
pub use election_record::ElectionRecord;
pub use form::Form;
pub use lease_candidate::LeaseCandidate;
pub use owner::Owner;
pub use pods::pod_identity;
pub use rbac::{NAMED_VERBS, Subject, lease_candidates_rule, pods_rule, rbac_yaml, rbac_yaml_of};
pub use resource::{CONFIG_MAPS, LEASES, Resource, Verb};
pub use store::ObjectStore;
pub use tenure_kit::Tls;
pub use term::TERM_ANNOTATION;
pub use time::WallTime;
pub use wish::WISH_ANNOTATION;

/// The client library, for those who bring a client of their own.
pub use kube;
