//! Which endpoints, as whom, and where the locks are.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tenure_core::{Error, LockName};
use tenure_kit::{Address, Credentials, LockKeys, Secret, Tls, TlsNames, Url, limits};

use crate::keys::meet;

/// The port of an endpoint that names none.
const PORT: u16 = 2379;

/// A shorter limit would find every endpoint silent.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);

/// Where the locks of an [`EtcdBackend`](crate::EtcdBackend) are.
///
/// `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<Address>,
    pub(crate) credentials: Credentials,
    pub(crate) prefix: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keys_per_lease: usize,
    /// What the candidates' keys of some locks begin with, the slash included.
    keys: LockKeys<String>,
}

impl Default for EtcdConfig {
    /// One member on this host, on etcd's usual port.
    fn default() -> Self {
        Self::of(vec![Address::new("localhost", PORT)])
    }
}

impl EtcdConfig {
    fn of(endpoints: Vec<Address>) -> Self {
        Self {
            endpoints,
            credentials: Credentials::default(),
            prefix: String::new(),
            tls: None,
            // To check a password takes an etcd that is busy a while.
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            keys_per_lease: 1000,
            keys: LockKeys::default(),
        }
    }

    /// These members of one cluster, each `host`, `host:port` or `[v6]:port`; the port defaults
    /// to 2379. One is used at a time, and the next when it fails.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn endpoints<'a>(endpoints: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Address::parse_all(endpoints, PORT).map(Self::of)
    }

    /// Reads `etcd://[user:password@]host[:port][,host...][/prefix][?parameters]`, or `etcds://`
    /// for TLS. No I/O yet.
    ///
    /// What is not a letter, digit or `-._~` is percent-encoded in user, password, prefix and the
    /// parameters' values. The prefix is what the locks' keys begin with, see
    /// [`prefix`](Self::prefix).
    ///
    /// Parameters, as the functions of the same name:
    ///
    /// - `password_file`, `password_env`;
    /// - with `etcds://` only: `ca`, `client_cert` and `client_key` (also `cert` and `key`),
    ///   `server_name`, see [`Tls`];
    /// - `connect_timeout` and `request_timeout`, such as `2s` or `500ms`; `keys_per_lease`;
    /// - once for each lock `lock_key=LOCK:KEY`, see [`key`](Self::key).
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_parsed(Url::parse(url)?)
    }

    /// The same of a URL that is taken apart already.
    pub fn from_parsed(mut url: Url) -> Result<Self, Error> {
        let encrypted = match url.scheme() {
            "etcd" => false,
            "etcds" => true,
            _ => {
                return Err(Error::invalid_input(
                    "the URL's scheme is unknown; use etcd://host:2379 or etcds:// for TLS",
                ));
            }
        };
        url.refuse_at_in_parameters()?;
        let own = TlsNames {
            client_cert: &["cert"],
            client_key: &["key"],
            ..TlsNames::default()
        };
        let tls = Tls::take_from(&mut url, own)?;
        if let Some(setting) = tls.first_setting().filter(|_| !encrypted) {
            return Err(Error::invalid_input(format!(
                "the URL's parameter {setting} is for TLS; write etcds:// instead of etcd://"
            )));
        }
        let mut config = Self::of(url.addresses(PORT)?).prefix(url.path()?)?;
        config.credentials = url.take_credentials()?;
        config.tls = encrypted.then_some(tls);
        if let Some(limit) = url.take_duration(&["connect_timeout"])? {
            config.connect_timeout = limit;
        }
        if let Some(limit) = url.take_duration(&["request_timeout"])? {
            config.request_timeout = limit;
        }
        if let Some(most) = url.take_number("keys_per_lease")? {
            config.keys_per_lease = most;
        }
        for (lock, key) in url.take_lock_keys()? {
            config = config.key(lock, key)?;
        }
        url.finish()?;
        config.check()?;
        Ok(config)
    }

    /// The user, on a cluster that has authentication turned on.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.credentials.user = Some(user.into());
        self
    }

    /// The password. It, [`password_file`](Self::password_file) and
    /// [`password_env`](Self::password_env) replace each other.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::value(password));
        self
    }

    /// A file that holds the password and nothing else (a line break at its end is left out), as
    /// secrets are mounted. Read for each new connection, so that the password can change under a
    /// running service.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.credentials.password = Some(Secret::file(file));
        self
    }

    /// The variable of the environment that holds the password. Read for each new connection.
    #[must_use]
    pub fn password_env(mut self, variable: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::environment(variable));
        self
    }

    /// What the locks' keys begin with, at most 512 visible characters; nothing by default. A
    /// missing `/` at its end is added.
    ///
    /// The key of a candidate is `PREFIX/LOCK/LEASE`, so the lock `billing` with the prefix
    /// `locks` is the election that others know as `etcdctl elect locks/billing`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Result<Self, Error> {
        let mut prefix = prefix.into();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        if prefix.len() > 512 || !prefix.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::invalid_input(
                "the prefix is longer than 512 characters or holds others than visible ASCII",
            ));
        }
        self.prefix = prefix;
        Ok(self)
    }

    /// Joins the election that is known as `etcdctl elect KEY`, under the name `lock` here; the
    /// prefix does not count for it. For elections that exist already and whose names are no
    /// [`LockName`]s: `WantNumberOne`, `my_leader`, `a/b`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when the key is empty, is
    /// longer than 512 bytes or holds control characters, or when another lock has this key or one
    /// above or below it. So does each use of a lock whose name makes such a key.
    pub fn key(mut self, lock: LockName, key: impl Into<String>) -> Result<Self, Error> {
        let key = key.into();
        if key.is_empty() || key.len() > 512 || key.chars().any(char::is_control) {
            return Err(Error::invalid_input(format!(
                "the key of the lock {lock} is empty, is longer than 512 bytes or holds control \
                 characters"
            )));
        }
        self.keys.insert(lock, format!("{key}/"), meet)?;
        Ok(self)
    }

    /// What all candidates' keys of a lock begin with.
    pub(crate) fn election(&self, lock: &LockName) -> String {
        let given = self.keys.get(lock).cloned();
        given.unwrap_or_else(|| format!("{}{lock}/", self.prefix))
    }

    /// The lock whose candidates' keys begin so.
    pub(crate) fn lock_of(&self, election: &str) -> Option<LockName> {
        if let Some(lock) = self.keys.lock_of(&election.to_owned()) {
            return Some(lock.clone());
        }
        let name = election.strip_prefix(&self.prefix)?.strip_suffix('/')?;
        LockName::new(name).ok()
    }

    /// Fails when another lock has the key of this one.
    pub(crate) fn check_lock(&self, lock: &LockName) -> Result<(), Error> {
        self.keys.check(lock, &self.election(lock), meet)
    }

    /// Connects by TLS. Needs the crate's feature `ring` or `aws-lc-rs`.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one endpoint may take from the name's resolution to its first answer, which
    /// includes authentication; 5 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one endpoint may take for an answer before the next is tried beside it, on a new
    /// connection; 2 s by default, and never more than a quarter of the lease. A later answer still
    /// counts: a call fails after twice this for each endpoint, and at least four times.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How many elections share a lease before another one is opened; 1,000 by default.
    #[must_use]
    pub fn keys_per_lease(mut self, most: usize) -> Self {
        self.keys_per_lease = most;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        for (setting, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            limits::check_duration(setting, timeout, MIN_TIMEOUT, limits::MAX_TIMEOUT)?;
        }
        if self.keys_per_lease == 0 {
            return Err(Error::invalid_input("keys_per_lease is 0; 1,000 is usual"));
        }
        if self.credentials.user.is_some() != self.credentials.password.is_some() {
            return Err(Error::invalid_input(
                "user and password belong together; a user with a certificate alone needs neither",
            ));
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        if !cfg!(feature = "_tls") {
            return Err(Tls::not_built_in("tenure-etcd"));
        }
        tls.check()
    }

    /// The endpoint's address as the client wants it.
    pub(crate) fn address(&self, endpoint: &Address) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{endpoint}")
    }
}

impl FromStr for EtcdConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

/// As a URL, without a password.
impl fmt::Display for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        let url = Url::show(scheme, &self.credentials, &self.endpoints, &[&self.prefix]);
        f.write_str(&url)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("credentials", &self.credentials)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("keys_per_lease", &self.keys_per_lease)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_it_all() {
        let config = EtcdConfig::from_url(
            "etcds://ann:p%40ss@a:2379,b,[::1]:23/locks/blue?ca=/ca.pem&client_cert=/c\
             &key=/k\
             &server_name=etcd.local&request_timeout=500ms&connect_timeout=3s&keys_per_lease=7",
        )
        .unwrap();
        let hosts: Vec<_> = config.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:2379", "b:2379", "[::1]:23"]);
        assert_eq!(config.credentials.user.as_deref(), Some("ann"));
        assert_eq!(config.credentials.password, Some(Secret::value("p@ss")));
        assert_eq!(config.prefix, "locks/blue/");
        assert_eq!(config.keys_per_lease, 7);
        assert_eq!(config.request_timeout, Duration::from_millis(500));
        let tls = Tls::new().ca("/ca.pem").client_cert("/c").client_key("/k");
        assert_eq!(config.tls, Some(tls.server_name("etcd.local")));
        assert_eq!(config.address(&config.endpoints[0]), "https://a:2379");
        for shown in [format!("{config:?}"), config.to_string()] {
            assert!(!shown.contains("p@ss"), "{shown}");
        }
        assert_eq!(EtcdConfig::from_url("etcd://h").unwrap().prefix, "");
    }

    #[test]
    fn a_lock_joins_an_election_by_its_key() {
        let lock = |name: &str| LockName::new(name).unwrap();
        let url = "etcd://h/locks?lock_key=leader:WantNumberOne&lock_key=job:a/b";
        let config = EtcdConfig::from_url(url).unwrap();
        assert_eq!(config.election(&lock("leader")), "WantNumberOne/");
        assert_eq!(config.election(&lock("other")), "locks/other/");
        assert_eq!(config.lock_of("a/b/"), Some(lock("job")));
        assert_eq!(config.lock_of("locks/x.y/"), Some(lock("x.y")));
        config.check_lock(&lock("leader")).unwrap();

        // Two names of one election, or one of them within the other.
        for key in ["WantNumberOne", "a/b/c", "a", "WantNumberOne/x"] {
            let error = config.clone().key(lock("third"), key).unwrap_err();
            assert!(error.message().contains("third"), "{error}");
        }
        for key in ["locks/other", "locks", "locks/other/x"] {
            let config = EtcdConfig::from_url("etcd://h/locks").unwrap();
            let config = config.key(lock("leader"), key).unwrap();
            assert!(config.check_lock(&lock("other")).is_err(), "{key}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, expected) in [
            ("http://a:secret@h", "scheme"),
            ("etcd:h", "host"),
            ("etcd://", "host"),
            ("etcd://u:secret@h:x", "host"),
            ("etcd://u:secret@h:0", "host"),
            ("etcd://u:secret@h h", "host"),
            ("etcd://u:secret@::1", "host"),
            ("etcd://u:sec/ret@h", "%2F"),
            ("etcd://u:secret@h?ca=/x", "etcds://"),
            ("etcds://u:secret@h?cert=/x", "belong together"),
            ("etcds://u:secret@h?cert=/x&client_cert=/x", "mean the same"),
            ("etcd://u:secret@h?password_env=X", "keep one"),
            ("etcd://u:secret@h?nonsense=1", "nonsense"),
            ("etcd://u:secret@h?request_timeout=soon", "request_timeout"),
            ("etcd://u:secret@h?request_timeout=1ms", "outside"),
            ("etcd://u:secret@h?keys_per_lease=0", "keys_per_lease"),
            ("etcd://u:secret@h/a%01b", "prefix"),
            ("etcd://u:secret@h?lock_key=job", "LOCK:KEY"),
            ("etcd://u:secret@h?lock_key=job:", "empty"),
            ("etcd://u:secret@h?lock_key=a:x&lock_key=b:x", "a"),
            ("etcd://u@h", "belong together"),
            ("etcd://u:se#cret@h", "%23"),
            ("etcd://u:1?secret@h", "%3F"),
            ("etcd://u:1?secret=2@h/p", "%3F"),
        ] {
            let error = EtcdConfig::from_url(url).unwrap_err();
            let message = error.to_string();
            assert_eq!(error.kind(), tenure_core::ErrorKind::InvalidInput, "{url}");
            assert!(message.contains(expected), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
