//! The workspace's backends as data: what xtask runs, expects and checks of each.

/// A backend, its tests, and the server that they run on.
#[derive(Debug, PartialEq, Eq)]
pub struct Backend {
    /// On the command line, in tables, in the facade's features and in URLs.
    pub name: &'static str,
    /// The packages with its tests.
    pub packages: &'static [&'static str],
    /// The runs of the conformance suite that judge it, one for each topology of its store. If one
    /// of them is missing, the test has failed.
    pub suites: &'static [&'static str],
    /// The server that `cargo xtask stores up` starts for it.
    pub server: Option<&'static str>,
    /// The variable that names the running server: its URL, or a kubeconfig.
    pub variable: Option<&'static str>,
    /// Crates of this workspace that its feature brings along, beside the facade and the core.
    pub own: &'static [&'static str],
    /// The client of its store: in the tree with its feature, and in no other's.
    pub client: &'static [&'static str],
}

const KUBERNETES: &[&str] = &["kube", "kube-client", "k8s-openapi", "hyper"];

/// All of them, in the order of the table that `cargo xtask test` ends in.
pub const BACKENDS: [Backend; 7] = [
    Backend {
        name: "memory",
        packages: &["tenure-core", "tenure-conformance"],
        suites: &["memory"],
        server: None,
        variable: None,
        own: &[],
        client: &[],
    },
    Backend {
        name: "file",
        packages: &["tenure-file"],
        suites: &["file"],
        server: None,
        variable: None,
        own: &["tenure-file"],
        client: &[],
    },
    Backend {
        name: "kube-lease",
        packages: &["tenure-kube", "tenure-kube-lease"],
        suites: &["kube-lease"],
        server: Some("kube"),
        variable: Some("TENURE_TEST_KUBECONFIG"),
        own: &["tenure-kube", "tenure-kube-lease"],
        client: KUBERNETES,
    },
    Backend {
        name: "kube-configmap",
        packages: &["tenure-kube-configmap"],
        suites: &["kube-configmap"],
        server: Some("kube"),
        variable: Some("TENURE_TEST_KUBECONFIG"),
        own: &["tenure-kube", "tenure-kube-configmap"],
        client: KUBERNETES,
    },
    Backend {
        name: "etcd",
        packages: &["tenure-etcd"],
        suites: &["etcd", "etcd_cluster"],
        server: Some("etcd"),
        variable: Some("TENURE_TEST_ETCD_URL"),
        own: &["tenure-etcd"],
        client: &["etcd-client", "tonic", "hyper"],
    },
    Backend {
        name: "redis",
        packages: &["tenure-redis"],
        suites: &[
            "redis",
            "redis_sentinel",
            "redis_cluster",
            "redis_valkey",
            "redis_valkey_sentinel",
            "redis_valkey_cluster",
        ],
        server: Some("redis"),
        variable: Some("TENURE_TEST_REDIS_URL"),
        own: &["tenure-redis"],
        client: &["redis"],
    },
    Backend {
        name: "postgres",
        packages: &["tenure-postgres"],
        suites: &["postgres", "postgres_newest"],
        server: Some("postgres"),
        variable: Some("TENURE_TEST_POSTGRES_URL"),
        own: &["tenure-postgres"],
        client: &["tokio-postgres"],
    },
];

impl Backend {
    /// The URL by which an application opens it on the server that the variable names.
    pub fn url(&self, named: &str) -> String {
        if self.client == KUBERNETES {
            return format!("{}://default?kubeconfig={named}", self.name);
        }
        if self.name == "postgres" {
            // Nobody led before the server was started, which may be a short time ago.
            return format!("{named}?quarantine=off");
        }
        named.to_owned()
    }
}
