//! Which URL schemes there are, and which store each belongs to.

/// A store that a URL can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    File,
    KubeLease,
    KubeConfigMap,
    Redis,
    Postgres,
    /// In the design, not in this version: the name to use for it in a message.
    Planned(&'static str),
}

impl Store {
    /// The feature that builds the store in.
    pub(crate) const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory"),
            Self::File => Some("file"),
            Self::KubeLease => Some("kube-lease"),
            Self::KubeConfigMap => Some("kube-configmap"),
            Self::Redis => Some("redis"),
            Self::Postgres => Some("postgres"),
            Self::Planned(_) => None,
        }
    }
}

const ETCD: Store = Store::Planned("etcd");

/// Every known scheme.
pub(crate) const SCHEMES: [(&str, Store); 14] = [
    ("memory", Store::Memory),
    ("file", Store::File),
    ("kube-lease", Store::KubeLease),
    ("kube-configmap", Store::KubeConfigMap),
    ("etcd", ETCD),
    ("etcds", ETCD),
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

/// The schemes of stores that are not merely planned, for a message.
pub(crate) fn usable() -> String {
    let usable: Vec<String> = SCHEMES
        .iter()
        .filter(|(_, store)| store.feature().is_some())
        .map(|(scheme, _)| format!("{scheme}:"))
        .collect();
    usable.join(", ")
}
