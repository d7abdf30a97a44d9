//! The kinds of objects that are used here, and the rights to them.

use serde_json::{Value, json};
use tenure_core::LockName;

/// A kind of object in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The group's version.
    pub version: &'static str,
    /// The kind, as in an object.
    pub kind: &'static str,
    /// The name in paths.
    pub plural: &'static str,
}

/// `coordination.k8s.io/v1` Lease.
pub const LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
};

/// `v1` `ConfigMap`.
pub const CONFIG_MAPS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
};

/// `coordination.k8s.io/v1beta1` `LeaseCandidate`.
pub(crate) const LEASE_CANDIDATES: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1beta1",
    kind: "LeaseCandidate",
    plural: "leasecandidates",
};

/// `v1` Namespace.
pub(crate) const NAMESPACES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
};

/// `v1` Pod.
pub(crate) const PODS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
};

impl Resource {
    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// An object of that kind that says nothing yet.
    pub(crate) fn object(&self, namespace: &str, lock: &LockName) -> Value {
        self.object_named(namespace, lock.as_str())
    }

    pub(crate) fn object_named(&self, namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": self.api_version(),
            "kind": self.kind,
            "metadata": { "name": name, "namespace": namespace },
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
    /// Removing one.
    Delete,
    /// Reading all of a namespace.
    List,
}

impl Verb {
    /// As it stands in a Role.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Watch => "watch",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}
