//! Which URL schemes there are, and which store each belongs to.

/// A store that a URL can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    File,
    KubeLease,
    KubeConfigMap,
    Etcd,
    Redis,
    Postgres,
}

impl Store {
    /// The feature that builds the store in.
    pub(crate) const fn feature(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::KubeLease => "kube-lease",
            Self::KubeConfigMap => "kube-configmap",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// Whether the store's feature is on.
    pub(crate) const fn is_built_in(self) -> bool {
        match self {
            Self::Memory => cfg!(feature = "memory"),
            Self::File => cfg!(feature = "file"),
            Self::KubeLease => cfg!(feature = "kube-lease"),
            Self::KubeConfigMap => cfg!(feature = "kube-configmap"),
            Self::Etcd => cfg!(feature = "etcd"),
            Self::Redis => cfg!(feature = "redis"),
            Self::Postgres => cfg!(feature = "postgres"),
        }
    }
}

/// Every known scheme.
pub(crate) const SCHEMES: [(&str, Store); 14] = [
    ("memory", Store::Memory),
    ("file", Store::File),
    ("kube-lease", Store::KubeLease),
    ("kube-configmap", Store::KubeConfigMap),
    ("etcd", Store::Etcd),
    ("etcds", Store::Etcd),
    ("redis", Store::Redis),
    ("rediss", Store::Redis),
    ("redis+sentinel", Store::Redis),
    ("rediss+sentinel", Store::Redis),
    ("redis+cluster", Store::Redis),
    ("rediss+cluster", Store::Redis),
    ("postgres", Store::Postgres),
    ("postgresql", Store::Postgres),
];

/// The store of a scheme, in whatever case it is written.
pub(crate) fn find(scheme: &str) -> Option<Store> {
    SCHEMES
        .iter()
        .find(|(known, _)| scheme.eq_ignore_ascii_case(known))
        .map(|(_, store)| *store)
}

/// The schemes, for a message.
pub(crate) fn usable() -> String {
    let usable: Vec<String> = SCHEMES
        .iter()
        .map(|(scheme, _)| format!("{scheme}:"))
        .collect();
    usable.join(", ")
}
