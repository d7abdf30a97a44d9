//! The one table of the stores: what a new store is added to.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tenure_core::{Error, LockBackend, LockName};
use tenure_kit::Url;

/// A backend that is being connected.
type Connecting = Pin<Box<dyn Future<Output = Result<Arc<dyn LockBackend>, Error>> + Send>>;

/// Connects the backend of a URL whose `generation` is taken out already.
type Connect = fn(url: Url) -> Connecting;

/// A store that a URL can name, whether its feature is on or not.
///
/// | URL | feature | |
/// |---|---|---|
/// | `memory:` | `memory`, on by default | the tasks of one process |
/// | `file:///directory` | `file`, on by default | the processes of one host |
/// | `kube-lease://namespace` | `kube-lease` | Kubernetes Leases, shared with client-go |
/// | `kube-configmap://namespace` | `kube-configmap` | annotations of Kubernetes `ConfigMaps` |
/// | `etcd://host:2379,host:2379/prefix` | `etcd` | an etcd cluster; building needs `protoc` |
/// | `redis://host`, `redis+sentinel://…`, `redis+cluster://…`, `redis+unix:///socket` | `redis` | a Redis or Valkey server |
/// | `postgres://host/database` | `postgres` | a Postgres server (advisory locks) |
///
/// `valkey:` means the same as `redis:`. `etcds:` and `rediss:` mean TLS, and `sslmode=` does in a `postgres:` URL: by ring (feature
/// `ring`, on by default) or AWS-LC (`aws-lc-rs`). `full` is every store.
///
/// With a Kubernetes store the application chooses the API version that the client library is
/// built for, by a line of its own: `k8s-openapi = { version = "0.29", features = ["latest"] }`.
///
/// A service that has a client of its store already adds the backend's crate, `tenure-redis` say,
/// and gives that client or its settings to the backend: `tenure_kube_lease::with_client`,
/// `tenure_etcd::EtcdBackend::with_client`, `tenure_redis::RedisConfig::from_client` or
/// `tenure_postgres::PostgresConfig::from_client_config`.
///
/// ```
/// let store = tenure::Store::of("rediss+cluster://a,b")?;
/// assert_eq!((store.name(), store.reach()), ("redis", tenure::Reach::Network));
/// # Ok::<(), tenure::Error>(())
/// ```
#[non_exhaustive]
pub struct Store {
    name: &'static str,
    schemes: &'static [&'static str],
    examples: &'static [&'static str],
    reach: Reach,
    secret_parameters: &'static [&'static str],
    /// The parameter by which connecting makes nothing at the store.
    look_only: Option<(&'static str, &'static str)>,
    left_behind: Option<fn(&LockName) -> String>,
    /// `None` when the feature is off.
    connect: Option<Connect>,
}

/// Among whom a store elects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// The tasks of one process.
    Process,
    /// The processes of one host.
    Host,
    /// All that reach the store's servers, which other programs may use too.
    Network,
}

/// How to connect, where the feature is on: an expression that gives the backend.
macro_rules! connect {
    ($feature:literal, |$url:ident| $backend:expr) => {{
        #[cfg(feature = $feature)]
        let connect: Option<Connect> = Some(|$url| {
            Box::pin(async move {
                let backend: Arc<dyn LockBackend> = Arc::new($backend);
                Ok(backend)
            })
        });
        #[cfg(not(feature = $feature))]
        let connect: Option<Connect> = None;
        connect
    }};
}

static STORES: [Store; 7] = [
    Store {
        name: "memory",
        schemes: &["memory"],
        examples: &["memory:"],
        reach: Reach::Process,
        secret_parameters: &[],
        look_only: None,
        left_behind: None,
        connect: connect!("memory", |url| {
            url.refuse_lock_keys()?;
            let is_bare = url.hosts().is_empty() && url.raw_path().is_empty();
            let has_user = url.user().is_some() || url.password().is_some();
            if !is_bare || has_user || url.finish().is_err() {
                return Err(Error::invalid_input(
                    "a memory URL holds nothing but its scheme; use memory:",
                ));
            }
            tenure_core::MemoryBackend::shared()
        }),
    },
    Store {
        name: "file",
        schemes: &["file"],
        examples: &["file:///directory"],
        reach: Reach::Host,
        secret_parameters: &[],
        look_only: Some(("create", "false")),
        left_behind: Some(|lock| format!("the folder {lock} in the store's directory")),
        connect: connect!("file", |url| {
            let config = tenure_file::FileConfig::from_parsed(url)?;
            tenure_file::connect(config).await?
        }),
    },
    Store {
        name: "kube-lease",
        schemes: &["kube-lease"],
        examples: &["kube-lease://namespace"],
        reach: Reach::Network,
        secret_parameters: &[],
        look_only: None,
        left_behind: Some(|lock| format!("an empty object; kubectl delete lease {lock}")),
        connect: connect!("kube-lease", |url| {
            use tenure_kube_lease::{KubeConfig, SCHEME, connect};
            connect(KubeConfig::from_parsed(SCHEME, url)?).await?
        }),
    },
    Store {
        name: "kube-configmap",
        schemes: &["kube-configmap"],
        examples: &["kube-configmap://namespace"],
        reach: Reach::Network,
        secret_parameters: &[],
        look_only: None,
        left_behind: Some(|lock| format!("an empty object; kubectl delete configmap {lock}")),
        connect: connect!("kube-configmap", |url| {
            use tenure_kube_configmap::{KubeConfig, SCHEME, connect};
            connect(KubeConfig::from_parsed(SCHEME, url)?).await?
        }),
    },
    Store {
        name: "etcd",
        schemes: &["etcd", "etcds"],
        examples: &["etcd://host:2379/prefix"],
        reach: Reach::Network,
        secret_parameters: &[],
        look_only: None,
        left_behind: None,
        connect: connect!("etcd", |url| {
            let config = tenure_etcd::EtcdConfig::from_parsed(url)?;
            tenure_etcd::EtcdBackend::connect(config).await?
        }),
    },
    Store {
        name: "redis",
        schemes: &[
            "redis",
            "rediss",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
            "valkey",
            "valkeys",
            "valkey+sentinel",
            "valkeys+sentinel",
            "valkey+cluster",
            "valkeys+cluster",
            "redis+unix",
            "valkey+unix",
        ],
        examples: &["redis://host:6379", "redis+sentinel://", "redis+cluster://"],
        reach: Reach::Network,
        secret_parameters: &["sentinel_password"],
        look_only: None,
        left_behind: Some(|lock| format!("a counter, the key that ends in {{{lock}}}:fence")),
        connect: connect!("redis", |url| {
            let config = tenure_redis::RedisConfig::from_parsed(url)?;
            tenure_redis::RedisBackend::connect(config).await?
        }),
    },
    Store {
        name: "postgres",
        schemes: &["postgres", "postgresql"],
        examples: &["postgres://user@host/database"],
        reach: Reach::Network,
        secret_parameters: &["password"],
        look_only: Some(("target_session_attrs", "any")),
        left_behind: None,
        connect: connect!("postgres", |url| {
            let config = tenure_postgres::PostgresConfig::from_parsed(url)?;
            tenure_postgres::PostgresBackend::connect(config).await?
        }),
    },
];

impl Store {
    /// Every store that this version knows.
    pub fn all() -> &'static [Self] {
        &STORES
    }

    /// The store of a URL, by its scheme, in whatever case that is written. No I/O.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when the scheme is
    /// unknown: the message lists those that are known, and holds nothing else of the URL.
    pub fn of(url: &str) -> Result<&'static Self, Error> {
        // Nothing of what is not a scheme is shown: there may be a password in it.
        let Some(scheme) = tenure_kit::url::scheme_of(url) else {
            return Err(Error::invalid_input(format!(
                "the store's URL does not begin with a scheme; use one of {}, like \
                 file:///var/lib/my-service",
                known_schemes()
            )));
        };
        let has = |store: &&Self| {
            let mut schemes = store.schemes.iter();
            schemes.any(|known| scheme.eq_ignore_ascii_case(known))
        };
        STORES.iter().find(has).ok_or_else(|| {
            let scheme: String = scheme.chars().take(40).collect();
            Error::invalid_input(format!(
                "the URL's scheme {scheme:?} is unknown; use one of {}",
                known_schemes()
            ))
        })
    }

    /// The store's name, which is that of its feature too, and what
    /// [`Capabilities::store`](tenure_core::Capabilities::store) says.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The schemes of its URLs, in lower case.
    pub fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    /// What its URLs look like.
    pub fn examples(&self) -> &'static [&'static str] {
        self.examples
    }

    /// Among whom it elects.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The parameters of its URLs whose values are secrets. [`redact`](crate::redact()) hides them.
    pub fn secret_parameters(&self) -> &'static [&'static str] {
        self.secret_parameters
    }

    /// Whether its feature is on.
    pub fn is_built_in(&self) -> bool {
        self.connect.is_some()
    }

    /// What a released lock leaves at the store and how to delete it, if anything.
    pub fn left_behind(&self, lock: &LockName) -> Option<String> {
        self.left_behind.map(|left_behind| left_behind(lock))
    }

    /// One of its URLs, with the parameter by which [`connect`](crate::connect()) makes nothing at
    /// the store, unless the URL says already what is to be made.
    ///
    /// For those who only look: a mistyped directory that they made would look like a free lock.
    pub fn to_look_at<'a>(&self, url: &'a str) -> Cow<'a, str> {
        match self.look_only {
            Some((name, value)) if !url.contains(&format!("{name}=")) => {
                let joint = if url.contains('?') { '&' } else { '?' };
                Cow::Owned(format!("{url}{joint}{name}={value}"))
            }
            _ => Cow::Borrowed(url),
        }
    }

    /// Connects, or says which feature to switch on.
    pub(crate) async fn connect(&self, url: Url) -> Result<Arc<dyn LockBackend>, Error> {
        self.check_built_in(url.scheme())?(url).await
    }

    /// How to connect. Fails when the feature is off.
    pub(crate) fn check_built_in(&self, scheme: &str) -> Result<Connect, Error> {
        self.connect.ok_or_else(|| {
            let feature = self.name;
            Error::misconfigured(format!(
                "the store of {scheme}: URLs is not built in; switch its feature on in \
                 Cargo.toml: tenure = {{ version = \"{}\", features = [\"{feature}\"] }}; or, for \
                 the tenure binary, build it with --features {feature}",
                env!("CARGO_PKG_VERSION"),
            ))
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("schemes", &self.schemes)
            .field("is_built_in", &self.is_built_in())
            .finish_non_exhaustive()
    }
}

/// The schemes, for a message.
fn known_schemes() -> String {
    let schemes = STORES.iter().flat_map(|store| store.schemes);
    let schemes: Vec<String> = schemes.map(|scheme| format!("{scheme}:")).collect();
    schemes.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_scheme_belongs_to_one_store_and_each_example_to_its_own() {
        let mut seen = BTreeSet::new();
        for store in Store::all() {
            for scheme in store.schemes() {
                assert!(seen.insert(*scheme), "{scheme}: twice");
                let url = format!("{}:", scheme.to_uppercase());
                assert_eq!(Store::of(&url).unwrap().name(), store.name());
            }
            for example in store.examples() {
                assert_eq!(Store::of(example).unwrap().name(), store.name());
            }
        }
    }

    #[test]
    fn the_secret_parameters_of_every_store_are_hidden() {
        for store in Store::all() {
            for parameter in store.secret_parameters() {
                let url = format!("{}://h?{parameter}=hunter2&x=1", store.schemes()[0]);
                let shown = crate::redact(&url);
                assert!(!shown.contains("hunter2"), "{shown}");
            }
        }
    }

    #[test]
    fn who_only_looks_makes_nothing() {
        for (url, expected) in [
            ("file:///a", "file:///a?create=false"),
            ("FILE:///a?x=1", "FILE:///a?x=1&create=false"),
            ("file:///a?create=true", "file:///a?create=true"),
            ("redis://h", "redis://h"),
            ("postgres://h/d", "postgres://h/d?target_session_attrs=any"),
        ] {
            assert_eq!(Store::of(url).unwrap().to_look_at(url), expected);
        }
    }
}
