//! The targets, by name.

use crate::targets::{etcd, file, kubernetes, names, policy, postgres, redis, urls};

/// A function that takes any bytes, and panics if it finds a fault.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("lease", kubernetes::lease),
    target("config-map", kubernetes::config_map),
    target("kube-answer", kubernetes::answer),
    target("kubeconfig", kubernetes::kubeconfig),
    target("etcd-key", etcd::key),
    target("etcd-status", etcd::status),
    target("redis-value", redis::value),
    target("redis-answer", redis::answer),
    target("postgres-notification", postgres::notification),
    target("file-record", file::record),
    target("url", urls::url),
    target("secret", urls::secret),
    target("names", names::names),
    target("policy", policy::policy),
    target("settings", policy::settings),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target with this name.
pub fn named(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
