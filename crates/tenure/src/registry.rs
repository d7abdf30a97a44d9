//! The stores that a URL can name: those of this workspace, and those that a caller adds.

use std::sync::{Arc, LazyLock};

use tenure_core::{Error, Generation, InGeneration, LockBackend};
use tenure_kit::Url;
use tenure_kit::secret::hide_parameter;

use crate::store::{Reach, Store};

/// The stores that URLs can name, as a value that the caller passes on.
///
/// [`Registry::new`] has every store of this workspace; [`with`](Self::with) adds one of your own.
/// What [`connect`](crate::connect()) and [`from_env`](crate::from_env) do for the former,
/// [`Registry::connect`] and [`Registry::from_env`] do for all. The commands of the `tenure` binary
/// take a registry too: `tenure_cli::main(&registry)`.
///
/// ```
/// use tenure::{MemoryBackend, Reach, Registry, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure::Error> {
/// let scratch = Store::new("scratch", |url| async move {
///     url.finish()?; // it knows no parameters
///     Ok(MemoryBackend::private())
/// });
/// let registry = Registry::new().with(scratch.with_reach(Reach::Process))?;
/// let backend = registry.connect("scratch:?generation=2").await?;
/// assert_eq!(backend.capabilities().store, "memory");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    stores: Vec<Store>,
}

impl Registry {
    /// Every store of this workspace. Those whose feature is off are known and refused.
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
    /// `valkey:` means the same as `redis:`. `etcds:` and `rediss:` mean TLS, and `sslmode=` does in a
    /// `postgres:` URL: by ring (feature `ring`, on by default) or AWS-LC (`aws-lc-rs`). `full` is every
    /// store.
    ///
    /// With a Kubernetes store the application chooses the API version that the client library is
    /// built for, by a line of its own: `k8s-openapi = { version = "0.29", features = ["latest"] }`.
    ///
    /// A service that has a client of its store already adds the backend's crate, `tenure-redis` say,
    /// and gives that client or its settings to the backend: `tenure_kube_lease::with_client`,
    /// `tenure_etcd::EtcdBackend::with_client`, `tenure_redis::RedisConfig::from_client` or
    /// `tenure_postgres::PostgresConfig::from_client_config`.
    pub fn new() -> Self {
        built_in().clone()
    }

    /// No store at all, for a program that opens no URL but its own.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds a store.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when one of its schemes is
    /// there already, or is no scheme in lower case, or when it has none. From here on
    /// [`redact`](crate::redact()) hides its [secret parameters](Store::secret_parameters) in the
    /// whole process.
    pub fn with(mut self, store: Store) -> Result<Self, Error> {
        if store.schemes().is_empty() {
            return Err(Error::invalid_input(format!(
                "the store {:?} has no scheme; name one with with_schemes",
                store.name()
            )));
        }
        let mut earlier = Vec::new();
        for scheme in store.schemes() {
            if !is_scheme(scheme) {
                return Err(Error::invalid_input(format!(
                    "{scheme:?} of the store {:?} is no scheme; use lowercase letters, digits, \
                     '+', '-' and '.', a letter first",
                    store.name()
                )));
            }
            if earlier.contains(scheme) || self.find(scheme).is_some() {
                let other = self.find(scheme).unwrap_or(&store).name();
                return Err(Error::invalid_input(format!(
                    "the scheme {scheme}: of the store {:?} is that of the store {other:?} \
                     already; choose another one, or begin with Registry::empty()",
                    store.name()
                )));
            }
            earlier.push(*scheme);
        }
        for name in store.secret_parameters() {
            hide_parameter(name);
        }
        self.stores.push(store);
        Ok(self)
    }

    /// The stores, those of this workspace first.
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// The store of a URL, by its scheme, in whatever case that is written. No I/O.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when the scheme is
    /// unknown: the message lists those that are known, and holds nothing else of the URL.
    pub fn store_of(&self, url: &str) -> Result<&Store, Error> {
        // Nothing of what is not a scheme is shown: there may be a password in it.
        let Some(scheme) = tenure_kit::url::scheme_of(url) else {
            return Err(Error::invalid_input(format!(
                "the store's URL does not begin with a scheme; use one of {}, like \
                 file:///var/lib/my-service",
                self.known_schemes()
            )));
        };
        self.find(scheme).ok_or_else(|| {
            let scheme: String = scheme.chars().take(40).collect();
            Error::invalid_input(format!(
                "the URL's scheme {scheme:?} is unknown; use one of {}",
                self.known_schemes()
            ))
        })
    }

    /// Opens the store that `url` names: [`connect`](crate::connect()) with these stores.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn LockBackend>, Error> {
        // The generation is read first, so that a wrong one is told before any I/O.
        let (store, url, generation) = self.read(url)?;
        let backend = store.connect(url).await?;
        Ok(match generation {
            Some(generation) => Arc::new(InGeneration::new(backend, generation)),
            None => backend,
        })
    }

    /// Opens the store that `url` names in order to look at it: connecting makes nothing there,
    /// where the store [can be told so](Store::to_look_at).
    pub async fn connect_to_look(&self, url: &str) -> Result<Arc<dyn LockBackend>, Error> {
        self.connect(&self.store_of(url)?.to_look_at(url)).await
    }

    /// Whether [`connect`](Self::connect) can open the store of this URL, as far as scheme and
    /// generation tell.
    pub(crate) fn check(&self, url: &str) -> Result<(), Error> {
        let (store, url, _) = self.read(url)?;
        store.check_built_in(url.scheme()).map(drop)
    }

    /// The store, and the URL without its `generation` parameter.
    fn read(&self, url: &str) -> Result<(&Store, Url, Option<Generation>), Error> {
        let store = self.store_of(url)?;
        let mut url = Url::parse(url)?;
        let expected = format!("a number from 0 to {}, like ?generation=1", Generation::MAX);
        let generation = url.take_read(&["generation"], &expected, |text| {
            Generation::new(text.parse().ok()?).ok()
        })?;
        Ok((store, url, generation))
    }

    fn find(&self, scheme: &str) -> Option<&Store> {
        let has = |store: &&Store| {
            let mut schemes = store.schemes().iter();
            schemes.any(|known| scheme.eq_ignore_ascii_case(known))
        };
        self.stores.iter().find(has)
    }

    /// The schemes, for a message.
    fn known_schemes(&self) -> String {
        let schemes = self.stores.iter().flat_map(Store::schemes);
        let schemes: Vec<String> = schemes.map(|scheme| format!("{scheme}:")).collect();
        schemes.join(", ")
    }
}

impl Store {
    /// Every store that this version knows.
    pub fn all() -> &'static [Self] {
        built_in().stores()
    }

    /// The store of a URL among [those that this version knows](Self::all):
    /// see [`Registry::store_of`](crate::Registry::store_of).
    pub fn of(url: &str) -> Result<&'static Self, Error> {
        built_in().store_of(url)
    }
}

/// The stores of this workspace.
pub(crate) fn built_in() -> &'static Registry {
    static BUILT_IN: LazyLock<Registry> = LazyLock::new(|| Registry {
        stores: workspace_stores(),
    });
    &BUILT_IN
}

/// Whether a URL can begin with it, in lower case.
fn is_scheme(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_part)
}

/// A store, whose backend the expression gives where the feature is on.
macro_rules! store {
    ($feature:literal, |$url:ident| $backend:expr) => {{
        #[cfg(feature = $feature)]
        let store = Store::new(
            $feature,
            |$url: Url| async move { Ok::<_, Error>($backend) },
        );
        #[cfg(not(feature = $feature))]
        let store = Store::not_built_in($feature);
        store
    }};
}

/// The table: what a new store of this workspace is added to.
fn workspace_stores() -> Vec<Store> {
    vec![
        store!("memory", |url| {
            url.refuse_lock_keys()?;
            let is_bare = url.hosts().is_empty() && url.raw_path().is_empty();
            let has_user = url.user().is_some() || url.password().is_some();
            if !is_bare || has_user || url.finish().is_err() {
                return Err(Error::invalid_input(
                    "a memory URL holds nothing but its scheme; use memory:",
                ));
            }
            tenure_core::MemoryBackend::shared()
        })
        .with_examples(&["memory:"])
        .with_reach(Reach::Process),
        store!("file", |url| {
            let config = tenure_file::FileConfig::from_parsed(url)?;
            tenure_file::connect(config).await?
        })
        .with_examples(&["file:///directory"])
        .with_reach(Reach::Host)
        .with_look_only("create", "false")
        .with_left_behind(|lock| format!("the folder {lock} in the store's directory")),
        store!("kube-lease", |url| {
            use tenure_kube_lease::{KubeConfig, SCHEME, connect};
            connect(KubeConfig::from_parsed(SCHEME, url)?).await?
        })
        .with_examples(&["kube-lease://namespace"])
        .with_left_behind(|lock| format!("an empty object; kubectl delete lease {lock}")),
        store!("kube-configmap", |url| {
            use tenure_kube_configmap::{KubeConfig, SCHEME, connect};
            connect(KubeConfig::from_parsed(SCHEME, url)?).await?
        })
        .with_examples(&["kube-configmap://namespace"])
        .with_left_behind(|lock| format!("an empty object; kubectl delete configmap {lock}")),
        store!("etcd", |url| {
            let config = tenure_etcd::EtcdConfig::from_parsed(url)?;
            tenure_etcd::EtcdBackend::connect(config).await?
        })
        .with_schemes(&["etcd", "etcds"])
        .with_examples(&["etcd://host:2379/prefix"]),
        store!("redis", |url| {
            let config = tenure_redis::RedisConfig::from_parsed(url)?;
            tenure_redis::RedisBackend::connect(config).await?
        })
        .with_schemes(&[
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
        ])
        .with_examples(&["redis://host:6379", "redis+sentinel://", "redis+cluster://"])
        .with_secret_parameters(&["sentinel_password"])
        .with_left_behind(|lock| format!("a counter, the key that ends in {{{lock}}}:fence")),
        store!("postgres", |url| {
            let config = tenure_postgres::PostgresConfig::from_parsed(url)?;
            tenure_postgres::PostgresBackend::connect(config).await?
        })
        .with_schemes(&["postgres", "postgresql"])
        .with_examples(&["postgres://user@host/database"])
        .with_secret_parameters(&["password"])
        .with_look_only("target_session_attrs", "any"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tenure_core::ErrorKind;

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
            ("file:///create=true", "file:///create=true?create=false"),
            ("file:///a?recreate=1", "file:///a?recreate=1&create=false"),
            ("file:///a?x=create=1", "file:///a?x=create=1&create=false"),
            ("file:///a?x=1&create=on", "file:///a?x=1&create=on"),
            ("redis://h", "redis://h"),
            ("postgres://h/d", "postgres://h/d?target_session_attrs=any"),
        ] {
            assert_eq!(Store::of(url).unwrap().to_look_at(url), expected);
        }
    }

    #[test]
    fn the_generation_is_taken_out_of_the_url() {
        for (url, generation) in [
            ("memory:", None),
            ("memory:?generation=3", Some(3)),
            ("file:///a?generation=0", Some(0)),
            ("redis://h/?generation=7", Some(7)),
            ("redis://u:p%40@h/", None),
        ] {
            let (_, url, found) = built_in().read(url).unwrap();
            assert_eq!(found.map(Generation::get), generation);
            assert!(url.finish().is_ok());
        }
        for url in [
            "memory:?generation=",
            "memory:?generation=-1",
            "memory:?generation=32768",
            "memory:?generation=1&generation=2",
        ] {
            let error = built_in().read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
            assert!(error.message().contains("generation"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_of_ones_own_is_opened_by_its_scheme_and_in_its_generation() {
        let registry = Registry::new()
            .with(scratch(&["scratch", "scratch+x"]))
            .unwrap();
        for url in [
            "scratch:",
            "SCRATCH+X:?generation=3",
            "scratch://u:hunter2@h/",
        ] {
            registry.connect(url).await.unwrap();
            registry.connect_to_look(url).await.unwrap();
        }
        let error = registry.connect("scratch:?generation=x").await.unwrap_err();
        assert!(error.message().contains("generation"), "{error}");
        let error = registry.connect("other://u:hunter2@h").await.unwrap_err();
        assert!(error.message().contains("file:, "), "{error}");
        assert!(error.message().ends_with("scratch:, scratch+x:"), "{error}");
        assert!(built_in().connect("scratch:").await.is_err());
    }

    #[test]
    fn a_scheme_that_is_there_or_is_none_is_refused() {
        for (schemes, expected) in [
            (&["redis"][..], "of the store \"redis\" already"),
            (&["scratch", "scratch"], "already"),
            (&["Scratch"], "no scheme"),
            (&["1x"], "no scheme"),
            (&["a:b"], "no scheme"),
            (&[""], "no scheme"),
            (&[], "has no scheme"),
        ] {
            let error = Registry::new().with(scratch(schemes)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains(expected), "{error}");
        }
        let own = Registry::empty().with(scratch(&["redis"])).unwrap();
        let twice = own.with(scratch(&["redis"])).unwrap_err();
        assert!(twice.message().contains("\"scratch\" already"), "{twice}");
    }

    #[test]
    fn the_secrets_of_a_store_of_ones_own_are_hidden_from_its_registration_on() {
        let store = scratch(&["scratch"]).with_secret_parameters(&["pin"]);
        let _registry = Registry::new().with(store).unwrap();
        for url in ["scratch://h?x=1&PIN=hunter2", "scratch://h?pin=a&hunter2@h"] {
            let shown = crate::redact(url);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let shown = crate::redact("scratch://h?pink=1&spin=2");
        assert_eq!(shown, "scratch://h?pink=1&spin=2");
    }

    fn scratch(schemes: &[&'static str]) -> Store {
        let connect = |_| async { Ok(tenure_core::MemoryBackend::private()) };
        Store::new("scratch", connect).with_schemes(schemes)
    }
}
