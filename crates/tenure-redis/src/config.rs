//! Which servers, how to reach them, and under which names the locks are kept there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tenure_core::{Error, LockName};
use tenure_kit::limits::{check_timeout, shortened};
use tenure_kit::{Address, Credentials, LockKeys, Secret, Tls, TlsNames, Url};

use crate::keys::KeyNames;

mod client;
mod scheme;

use scheme::Kind;

/// The longest prefix of keys and channels, in bytes.
const MAX_PREFIX_BYTES: usize = 100;

/// Where the locks of a [`RedisBackend`](crate::RedisBackend) are.
///
/// `Debug` and `Display` show no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    pub(crate) servers: Servers,
    pub(crate) credentials: Credentials,
    pub(crate) sentinel_credentials: Credentials,
    pub(crate) database: u32,
    pub(crate) prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) replicas: Option<Replicas>,
    pub(crate) tls: Option<Tls>,
    /// Of the locks that do not have the keys of their names.
    keys: LockKeys<KeyNames>,
}

/// How the server that holds a lock is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    Single(Address),
    Sentinel {
        sentinels: Vec<Address>,
        master: String,
    },
    Cluster(Vec<Address>),
}

impl Servers {
    /// Those in the URL.
    pub(crate) fn addresses(&self) -> &[Address] {
        match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::Sentinel {
                sentinels: nodes, ..
            }
            | Self::Cluster(nodes) => nodes,
        }
    }
}

/// How many replicas must have a write before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) count: u32,
    pub(crate) timeout: Duration,
}

impl RedisConfig {
    fn with_servers(servers: Servers) -> Self {
        Self {
            servers,
            credentials: Credentials::default(),
            sentinel_credentials: Credentials::default(),
            database: 0,
            prefix: "tenure".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: None,
            replicas: None,
            tls: None,
            keys: LockKeys::default(),
        }
    }

    /// One server, given as `host`, `host:port` or `[v6]:port`; the port defaults to 6379.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn server(address: &str) -> Result<Self, Error> {
        let address = Address::parse(address, 6379)?;
        Ok(Self::with_servers(Servers::Single(address)))
    }

    /// One server on this host, by the absolute path of its Unix socket (`unixsocket` in the
    /// server's configuration).
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput). No I/O yet.
    pub fn socket(path: impl Into<String>) -> Result<Self, Error> {
        let path = path.into();
        if !cfg!(unix) || !path.starts_with('/') || path.contains(char::is_control) {
            return Err(Error::invalid_input(
                "a Unix socket is given by its absolute path, as in redis+unix:///run/redis.sock",
            ));
        }
        Ok(Self::with_servers(Servers::Single(Address::new(path, 0))))
    }

    /// The master that `sentinels` (port 26379 by default) know under the name `master`.
    ///
    /// Give all of them, each by an address of its own, and the same ones to every process. A
    /// master counts when more than half of those given agree on it, so two halves that share no
    /// sentinel could have two.
    pub fn sentinel<'a>(
        sentinels: impl IntoIterator<Item = &'a str>,
        master: impl Into<String>,
    ) -> Result<Self, Error> {
        let master = master.into();
        if master.is_empty() || master.contains(char::is_whitespace) {
            return Err(Error::invalid_input(
                "the master's name is missing, or holds white space; it is the one in the \
                 sentinels' line \"sentinel monitor <name> ...\"",
            ));
        }
        let sentinels = Address::parse_all(sentinels, 26379)?;
        Ok(Self::with_servers(Servers::Sentinel { sentinels, master }))
    }

    /// The cluster of which `nodes` (port 6379 by default) are some members.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let nodes = Address::parse_all(nodes, 6379)?;
        Ok(Self::with_servers(Servers::Cluster(nodes)))
    }

    /// Reads a URL. No I/O yet.
    ///
    /// | URL | |
    /// |---|---|
    /// | `redis://[user:password@]host[:6379][/database]` | one server |
    /// | `redis+sentinel://[user:password@]host[:26379],.../master-name[/database]` | the master that sentinels name |
    /// | `redis+cluster://[user:password@]host[:6379],...` | a cluster |
    /// | `redis+unix://[user:password@]/path/of/socket[?db=NUMBER]` | one server, by its Unix socket |
    ///
    /// `rediss` instead of `redis` means TLS; `valkey` and `valkeys` mean the same as they. User,
    /// password and the values of parameters are percent-encoded where they hold anything but
    /// letters, digits and `-._~`. Parameters:
    ///
    /// - `password_file` and `password_env` in place of the password; `prefix`;
    /// - `connect_timeout` and `request_timeout` (`500ms`, `2s`);
    /// - `wait_replicas` and `wait_timeout`, see [`wait_for_replicas`](Self::wait_for_replicas);
    /// - `sentinel_user` and `sentinel_password` (`sentinel_password_file`,
    ///   `sentinel_password_env`);
    /// - with TLS `ca`, `client_cert`, `client_key` (PEM files) and `server_name`;
    /// - once for each such lock `lock_key=LOCK:KEY`, see [`key`](Self::key).
    ///
    /// `response_timeout`, `sentinel_username`, `cert` and `key` are other names of
    /// `request_timeout`, `sentinel_user`, `client_cert` and `client_key`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_parsed(Url::parse(url)?)
    }

    /// The same, of a URL that was split already.
    pub fn from_parsed(mut url: Url) -> Result<Self, Error> {
        let (kind, encrypted) = Kind::of_scheme(url.scheme())?;
        url.refuse_at_in_parameters()?;
        let mut config = Self::at(kind, &url)?;
        config.credentials = url.take_credentials()?;
        config.tls = read_tls(&mut url, encrypted)?;
        config.take_parameters(&mut url)?;
        url.finish()?;
        Ok(config)
    }

    /// The servers and the database, which stand in front of the parameters.
    fn at(kind: Kind, url: &Url) -> Result<Self, Error> {
        let path = url.segments()?;
        let hosts = url.hosts().iter().map(String::as_str);
        let (config, database) = match kind {
            Kind::Single if url.hosts().len() > 1 => {
                return Err(Error::invalid_input(
                    "the URL names several servers; use redis+sentinel:// or redis+cluster://",
                ));
            }
            Kind::Single => {
                let host = url.hosts().first().map_or("", String::as_str);
                (Self::server(host)?, 0)
            }
            Kind::Sentinel => {
                let master = path.first().cloned().unwrap_or_default();
                (Self::sentinel(hosts, master)?, 1)
            }
            Kind::Cluster => (Self::cluster(hosts)?, 0),
            Kind::Socket if url.hosts().is_empty() => {
                return Self::socket(format!("/{}", url.path()?));
            }
            Kind::Socket => {
                return Err(Error::invalid_input(
                    "the URL of a Unix socket names no host; write redis+unix:///path/of/socket",
                ));
            }
        };
        if path.len() > database + 1 {
            return Err(Error::invalid_input("the URL's path has too many parts"));
        }
        let config = match path.get(database) {
            Some(number) => config.database(number.parse().map_err(|_| {
                Error::invalid_input("the database in the URL's path is not a number, like /0")
            })?),
            None => config,
        };
        if config.database != 0 && kind == Kind::Cluster {
            return Err(Error::invalid_input("a cluster has only database 0"));
        }
        Ok(config)
    }

    fn take_parameters(&mut self, url: &mut Url) -> Result<(), Error> {
        let is_socket = self.servers.addresses().iter().all(Address::is_socket);
        if is_socket && let Some(database) = url.take_number("db")? {
            self.database = database;
        }
        if let Some(prefix) = url.take("prefix")? {
            *self = self.clone().prefix(prefix)?;
        }
        if let Some(limit) = url.take_duration(&["connect_timeout"])? {
            self.connect_timeout = limit;
        }
        if let Some(limit) = url.take_duration(&["request_timeout", "response_timeout"])? {
            self.request_timeout = Some(limit);
        }
        let count = url.take_number("wait_replicas")?.unwrap_or(0);
        let timeout = url.take_duration(&["wait_timeout"])?;
        let timeout = timeout.unwrap_or(Replicas::TIMEOUT);
        self.replicas = (count > 0).then_some(Replicas { count, timeout });
        let user = url.take_any(&["sentinel_user", "sentinel_username"])?;
        let password = url.take("sentinel_password")?.map(Secret::value);
        self.sentinel_credentials = Credentials {
            user,
            password: url.take_secret("sentinel_password", password)?,
        };
        for (lock, key) in url.take_lock_keys()? {
            *self = self.clone().key(lock, key)?;
        }
        Ok(())
    }

    /// The user of the server's access control list; without one the password is that of the
    /// user `default`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.credentials.user = Some(user.into());
        self
    }

    /// The password. It can be changed later, see
    /// [`RedisBackend::set_password`](crate::RedisBackend::set_password).
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::value(password));
        self
    }

    /// A file that holds the password and nothing else (a line break at its end is left out). Read
    /// for each new connection, so that the password can change under a running service.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.credentials.password = Some(Secret::file(file));
        self
    }

    /// The variable of the process's environment that holds the password. Read for each new
    /// connection.
    #[must_use]
    pub fn password_env(mut self, variable: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::environment(variable));
        self
    }

    /// User and password for the sentinels, which have their own; by default they are asked
    /// without.
    #[must_use]
    pub fn sentinel_credentials(
        mut self,
        user: Option<String>,
        password: impl Into<String>,
    ) -> Self {
        self.sentinel_credentials = Credentials {
            user,
            password: Some(Secret::value(password)),
        };
        self
    }

    /// The database, 0 by default. Wake-ups are not told apart by database: the same lock in two
    /// databases wakes the waiters of both, which costs them a look.
    #[must_use]
    pub fn database(mut self, database: u32) -> Self {
        self.database = database;
        self
    }

    /// What the names of all keys and channels begin with, `tenure` by default: 1 to 100 of
    /// `A-Z a-z 0-9 . _ : / -`.
    ///
    /// Two services that must not share their locks have different prefixes, and access control
    /// lists can tell them apart by it.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Result<Self, Error> {
        let prefix = prefix.into();
        // Braces would move the key to another slot, and `*` would be a pattern in an ACL.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(allowed) {
            return Err(Error::invalid_input(format!(
                "the prefix {:?} is not 1 to {MAX_PREFIX_BYTES} of A-Z a-z 0-9 . _ : / -",
                shortened(&prefix)
            )));
        }
        self.prefix = prefix;
        Ok(self)
    }

    /// Joins the election whose lock is the key `key`, under the name `lock` here; the prefix does
    /// not count for it. For elections that exist already and whose names are no [`LockName`]s:
    /// `WantNumberOne`, `my_leader`, `a/b`.
    ///
    /// Other programs may take and free the key too, as long as they leave a key alone that is
    /// there (`SET key value NX PX`). They publish no message, so a candidate here waits for the
    /// expiry that the key has. The fence is `key:fence` when the key has a hash tag, and
    /// `{key}.fence` when it has none: in a cluster both have the slot of the key.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when the key is empty, is
    /// longer than 512 bytes, holds control characters, or a `}` but no hash tag, or when another
    /// lock has this key. So does each use of a lock whose name makes such a key.
    pub fn key(mut self, lock: LockName, key: impl Into<String>) -> Result<Self, Error> {
        let keys = KeyNames::at(key.into())?;
        self.keys.insert(lock, keys, KeyNames::meet)?;
        Ok(self)
    }

    /// The keys of a lock. Fails when another lock has one of them.
    pub(crate) fn keys_of(&self, lock: &LockName) -> Result<KeyNames, Error> {
        let keys = || KeyNames::of(&self.prefix, lock);
        if self.keys.is_empty() {
            return Ok(keys());
        }
        let keys = self.keys.get(lock).cloned().unwrap_or_else(keys);
        self.keys.check(lock, &keys, KeyNames::meet)?;
        Ok(keys)
    }

    /// The keys and channels that a user must be allowed.
    pub(crate) fn patterns(&self) -> String {
        let Self { prefix, keys, .. } = self;
        let own = format!("~{prefix}:* &{prefix}:*");
        keys.iter()
            .fold(own, |all, keys| format!("{all} {}", keys.patterns()))
    }

    /// How long it may take to be connected, from the name's resolution to the server's first
    /// answer; 1 s by default.
    ///
    /// With sentinels it also is how long those may take, and a new master's quarantine follows
    /// from it. Let all processes have the same, and do not change it while a failover may be going on.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take for an answer before the connection is given up. By default a
    /// call that takes, extends or ends a lease has as long as the lease, and other calls have 2 s.
    /// The policy's request timeout ends a call earlier where it is shorter, and a renewal that is
    /// answered after that counts from when it was sent.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// Lets a term and each of its heartbeats count only when `count` replicas have confirmed it
    /// within `timeout` (Redis' `WAIT`).
    ///
    /// With it a term survives the failover to a replica that has confirmed it. A heartbeat that
    /// too few replicas confirm has failed and is retried; a lock that too few confirm is given
    /// back. While the server waits, the other calls of this backend wait too, so keep `timeout`
    /// well below the policy's request timeout.
    #[must_use]
    pub fn wait_for_replicas(mut self, count: u32, timeout: Duration) -> Self {
        self.replicas = (count > 0).then_some(Replicas { count, timeout });
        self
    }

    /// Connects by TLS. Needs the crate's feature `ring` or `aws-lc-rs`.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The time limit of a call that has no lease: the first comparison of the servers, then twice a
    /// connection, found through sentinels perhaps, and an answer.
    pub(crate) fn call_limit(&self) -> Duration {
        self.connect_timeout * 9 + self.answer_limit() * 2
    }

    /// How long the server may take for an answer to a call without a lease.
    pub(crate) fn answer_limit(&self) -> Duration {
        self.request_timeout.unwrap_or(Duration::from_secs(2))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("request_timeout", self.answer_limit())?;
        if let Some(replicas) = self.replicas {
            // A `WAIT` of 0 ms would wait without end.
            check_timeout("time to wait for replicas", replicas.timeout)?;
        }
        check_user(&self.credentials, "")?;
        check_user(&self.sentinel_credentials, " for the sentinels")?;
        if let Some(tls) = &self.tls {
            tls.check()?;
            if !cfg!(feature = "_tls") {
                return Err(Tls::not_built_in("tenure-redis"));
            }
        }
        Ok(())
    }
}

fn check_user(credentials: &Credentials, whose: &str) -> Result<(), Error> {
    if !credentials.is_user_alone() {
        return Ok(());
    }
    // Without a password no user would be logged in.
    Err(Error::invalid_input(format!(
        "there is a user name{whose} but no password; give both, or a password alone for the \
         user `default`, with a colon in front of it"
    )))
}

impl Replicas {
    const TIMEOUT: Duration = Duration::from_millis(500);
}

/// As a URL, without the password.
impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, master) = match &self.servers {
            Servers::Single(address) if address.is_socket() => ("+unix", ""),
            Servers::Single(_) => ("", ""),
            Servers::Sentinel { master, .. } => ("+sentinel", master.as_str()),
            Servers::Cluster(_) => ("+cluster", ""),
        };
        let tls = if self.tls.is_some() { "s" } else { "" };
        let database = match self.database {
            0 => String::new(),
            number => number.to_string(),
        };
        let path = [master, &database];
        let scheme = format!("redis{tls}{kind}");
        let addresses = self.servers.addresses();
        f.write_str(&Url::show(&scheme, &self.credentials, addresses, &path))
    }
}

impl FromStr for RedisConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

fn read_tls(url: &mut Url, encrypted: bool) -> Result<Option<Tls>, Error> {
    let own = TlsNames {
        client_cert: &["cert"],
        client_key: &["key"],
        ..TlsNames::default()
    };
    let tls = Tls::take_from(url, own)?;
    if let Some(setting) = tls.first_setting().filter(|_| !encrypted) {
        return Err(Error::invalid_input(format!(
            "the URL's parameter {setting} needs TLS; use the scheme rediss"
        )));
    }
    Ok(encrypted.then_some(tls))
}

#[cfg(test)]
mod tests;
