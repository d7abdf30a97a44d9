//! The kinds of objects that are used here, and the rights to them.

use serde_json::{Value, json};
use tenure_core::LockName;

/// A kind of object in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The kind, as in an object.
    pub kind: &'static str,
    /// The name in paths.
    pub plural: &'static str,
}

/// `coordination.k8s.io/v1` Lease.
pub const LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
};

/// `v1` `ConfigMap`.
pub const CONFIG_MAPS: Resource = Resource {
    group: "",
    kind: "ConfigMap",
    plural: "configmaps",
};

/// `v1` Pod.
pub(crate) const PODS: Resource = Resource {
    group: "",
    kind: "Pod",
    plural: "pods",
};

impl Resource {
    fn api_version(&self) -> String {
        if self.group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{}/v1", self.group)
        }
    }

    /// An object of that kind that says nothing yet.
    pub(crate) fn object(&self, namespace: &str, lock: &LockName) -> Value {
        json!({
            "apiVersion": self.api_version(),
            "kind": self.kind,
            "metadata": { "name": lock.as_str(), "namespace": namespace },
        })
    }

    /// As kubectl names it: `leases.coordination.k8s.io`.
    pub(crate) fn in_kubectl(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(crate) fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        let (version, plural) = (self.api_version(), self.plural);
        format!("{root}/{version}/namespaces/{namespace}/{plural}")
    }
}

/// What a right is granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reading one object.
    Get,
    /// Making one.
    Create,
    /// Replacing one.
    Update,
    /// Reading each change as it happens.
    Watch,
}

impl Verb {
    /// As it stands in a Role.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}
