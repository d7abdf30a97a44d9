//! Which servers, how to reach them, and under which names the locks are kept there.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::Error;

/// The longest prefix of keys and channels, in bytes.
const MAX_PREFIX_BYTES: usize = 100;

/// The one parameter of a URL that holds a secret.
const SENTINEL_PASSWORD: &str = "sentinel_password";

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
    pub(crate) response_timeout: Duration,
    pub(crate) replicas: Option<Replicas>,
    pub(crate) tls: Option<Tls>,
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

/// How many replicas must have a write before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) count: u32,
    pub(crate) timeout: Duration,
}

/// A host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Reads `host`, `host:port` or `[v6]:port`.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        } else {
            text.rsplit_once(':').unwrap_or((text, ""))
        };
        let port = match port {
            "" => default_port,
            port => port.parse().ok().filter(|port| *port != 0)?,
        };
        let wrong = |c: char| c.is_whitespace() || c.is_control() || "/?#@".contains(c);
        if host.is_empty() || host.contains(wrong) {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// A user and password; shown without the password. A user's name alone is not shown either: it may
/// be a password that was written in its place.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl Credentials {
    fn shown_username(&self) -> Option<&str> {
        let username = self.username.as_deref()?;
        Some(self.password.as_ref().map_or("***", |_| username))
    }

    fn check(&self, whose: &str) -> Result<(), Error> {
        if self.username.is_none() || self.password.is_some() {
            return Ok(());
        }
        // Without a password nobody would be logged in at all.
        Err(Error::invalid_input(format!(
            "there is a user name{whose} but no password; give both, or a password alone for the \
             user `default` (redis://:PASSWORD@host)"
        )))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.shown_username())
            .field("password", &self.password.as_ref().map(|_| "***"))
            .finish()
    }
}

/// How a TLS connection is made. Files are read anew for each connection, so that certificates
/// can be renewed under a running service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub(crate) authorities: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// TLS that trusts what the host's system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM file, and no others.
    #[must_use]
    pub fn authorities(mut self, file: impl Into<PathBuf>) -> Self {
        self.authorities = Some(file.into());
        self
    }

    /// Shows the server this certificate (a PEM file with its chain), of which the second file
    /// holds the private key.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }
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
            response_timeout: Duration::from_secs(2),
            replicas: None,
            tls: None,
        }
    }

    /// One server, given as `host`, `host:port` or `[v6]:port`; the port defaults to 6379.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn server(address: &str) -> Result<Self, Error> {
        let address = Address::parse(address, 6379).ok_or_else(bad_address)?;
        Ok(Self::with_servers(Servers::Single(address)))
    }

    /// The master that `sentinels` (port 26379 by default) know under the name `master`.
    ///
    /// Give all of them, each by an address of its own, and the same ones to every process: a
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
        let sentinels = addresses(sentinels, 26379)?;
        Ok(Self::with_servers(Servers::Sentinel { sentinels, master }))
    }

    /// The cluster of which `nodes` (port 6379 by default) are some members.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let nodes = addresses(nodes, 6379)?;
        Ok(Self::with_servers(Servers::Cluster(nodes)))
    }

    /// The server that an application's own client talks to, with the same user, password and
    /// database. The backend opens connections of its own there: locks need deadlines, and one of
    /// them does nothing but wait for messages. No I/O yet.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) for what cannot be taken
    /// over: a Unix socket, certificates (the client does not show them; give the files by
    /// [`tls`](Self::tls)), and a TLS connection that verifies no name.
    pub fn from_client(client: &redis::Client) -> Result<Self, Error> {
        use redis::ConnectionAddr;

        let info = client.get_connection_info();
        let (host, port, encrypted) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, port, false),
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            } => (host, port, true),
            ConnectionAddr::TcpTls { .. } => {
                return Err(Error::invalid_input(
                    "the client has certificates of its own, or verifies no name; describe the \
                     server by RedisConfig::server and its certificates by RedisConfig::tls",
                ));
            }
            _ => {
                return Err(Error::invalid_input(
                    "the client uses a Unix socket; locks need the server's address",
                ));
            }
        };
        let address = Address {
            host: host.clone(),
            port: *port,
        };
        let mut config = Self::with_servers(Servers::Single(address));
        let settings = info.redis_settings();
        // Without a password the client does not use the user's name either.
        if let Some(password) = settings.password() {
            config.credentials = Credentials {
                username: settings.username().map(str::to_owned),
                password: Some(password.to_owned()),
            };
        }
        config.database = u32::try_from(settings.db())
            .map_err(|_| Error::invalid_input("the client's database is a negative number"))?;
        config.tls = encrypted.then(Tls::new);
        Ok(config)
    }

    /// Reads a URL. No I/O yet.
    ///
    /// | URL | |
    /// |---|---|
    /// | `redis://[user:password@]host[:6379][/database]` | one server |
    /// | `redis+sentinel://[user:password@]host[:26379],.../master-name[/database]` | the master that sentinels name |
    /// | `redis+cluster://[user:password@]host[:6379],...` | a cluster |
    ///
    /// `rediss` instead of `redis` means TLS. User, password and the values of parameters are
    /// percent-encoded where they hold anything but letters, digits and `-._~`. Parameters:
    /// `prefix`, `connect_timeout` and `response_timeout` (`500ms`, `2s`), `wait_replicas` and
    /// `wait_timeout` (see [`wait_for_replicas`](Self::wait_for_replicas)), `sentinel_username`
    /// and `sentinel_password`, and with TLS `ca`, `cert` and `key` (PEM files).
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = Url::split(url)?;
        let mut config = match url.kind {
            Kind::Single => {
                let [host] = url.hosts[..] else {
                    return Err(Error::invalid_input(
                        "the URL names several servers; use redis+sentinel:// or redis+cluster://",
                    ));
                };
                Self::server(host)?.database_in(url.path.first().copied())?
            }
            Kind::Sentinel => {
                let master = decode(url.path.first().copied().unwrap_or_default())?;
                Self::sentinel(url.hosts.iter().copied(), master)?
                    .database_in(url.path.get(1).copied())?
            }
            Kind::Cluster => {
                let database = url.path.first().copied();
                Self::cluster(url.hosts.iter().copied())?.database_in(database)?
            }
        };
        if url.path.len() > if url.kind == Kind::Sentinel { 2 } else { 1 } {
            return Err(Error::invalid_input("the URL's path has too many parts"));
        }
        if config.database != 0 && url.kind == Kind::Cluster {
            return Err(Error::invalid_input("a cluster has only database 0"));
        }
        config.credentials.username = url.username;
        config.credentials.password = url.password;
        config.tls = url.tls.then(Tls::default);
        config.with_parameters(&url.parameters)
    }

    fn database_in(mut self, text: Option<&str>) -> Result<Self, Error> {
        if let Some(text) = text {
            self.database = text.parse().map_err(|_| {
                Error::invalid_input("the database in the URL's path is not a number, like /0")
            })?;
        }
        Ok(self)
    }

    fn with_parameters(mut self, parameters: &[Parameter]) -> Result<Self, Error> {
        let mut wait_timeout = Replicas::TIMEOUT;
        let mut certificate = None;
        let mut key = None;
        for parameter in parameters {
            let Parameter { name, value, .. } = parameter;
            let is_tls = matches!(name.as_str(), "ca" | "cert" | "key");
            match (name.as_str(), &mut self.tls) {
                ("prefix", _) => self = self.prefix(value.clone())?,
                ("connect_timeout", _) => self.connect_timeout = duration(name, value)?,
                ("response_timeout", _) => self.response_timeout = duration(name, value)?,
                ("wait_timeout", _) => wait_timeout = duration(name, value)?,
                ("wait_replicas", _) => {
                    let count = number(name, value)?;
                    let timeout = wait_timeout;
                    self.replicas = (count > 0).then_some(Replicas { count, timeout });
                }
                ("sentinel_username", _) => {
                    self.sentinel_credentials.username = Some(value.clone());
                }
                (SENTINEL_PASSWORD, _) => {
                    self.sentinel_credentials.password = Some(value.clone());
                }
                ("ca", Some(tls)) => tls.authorities = Some(value.into()),
                ("cert", Some(_)) => certificate = Some(PathBuf::from(value)),
                ("key", Some(_)) => key = Some(PathBuf::from(value)),
                (_, None) if is_tls => {
                    return Err(Error::invalid_input(format!(
                        "the URL's parameter {name} needs TLS; use the scheme rediss"
                    )));
                }
                _ => return Err(unknown_parameter(parameter)),
            }
        }
        if let Some(replicas) = &mut self.replicas {
            // Whichever of the two came first.
            replicas.timeout = wait_timeout;
        }
        match (certificate, key, &mut self.tls) {
            (None, None, _) => {}
            (Some(certificate), Some(key), Some(tls)) => tls.identity = Some((certificate, key)),
            _ => {
                return Err(Error::invalid_input(
                    "the URL's parameters cert and key belong together; give both or none",
                ));
            }
        }
        Ok(self)
    }

    /// The user of the server's access control list; without one the password is that of the
    /// user `default`.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.credentials.username = Some(username.into());
        self
    }

    /// The password. It can be changed later, see
    /// [`RedisBackend::set_password`](crate::RedisBackend::set_password).
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials.password = Some(password.into());
        self
    }

    /// User and password for the sentinels, which have their own; by default they are asked
    /// without.
    #[must_use]
    pub fn sentinel_credentials(
        mut self,
        username: Option<String>,
        password: impl Into<String>,
    ) -> Self {
        self.sentinel_credentials = Credentials {
            username,
            password: Some(password.into()),
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

    /// How long it may take to be connected, from the name's resolution to the server's first
    /// answer; 1 s by default.
    ///
    /// With sentinels it also is how long those may take, and a new master's pause follows from
    /// it: let all processes have the same, and do not change it while a failover may be going on.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take for an answer before the connection is given up; 2 s by
    /// default. The policy's request timeout, where it is shorter, ends a call earlier.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
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

    pub(crate) fn check(&self) -> Result<(), Error> {
        let timeouts = [
            ("connect timeout", self.connect_timeout),
            ("response timeout", self.response_timeout),
            (
                "time to wait for replicas",
                self.replicas.map_or(Replicas::TIMEOUT, |r| r.timeout),
            ),
        ];
        for (name, timeout) in timeouts {
            // A `WAIT` of 0 ms would wait for ever.
            if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(3600) {
                return Err(Error::invalid_input(format!(
                    "the {name} of {timeout:?} is outside 1ms to 3600s"
                )));
            }
        }
        self.credentials.check("")?;
        self.sentinel_credentials.check(" for the sentinels")?;
        if self.tls.is_some() && !cfg!(feature = "_tls") {
            return Err(Error::misconfigured(
                "TLS is not compiled in; turn on the feature \"ring\" or \"aws-lc-rs\" of \
                 tenure-redis",
            ));
        }
        Ok(())
    }
}

impl Replicas {
    const TIMEOUT: Duration = Duration::from_millis(500);
}

/// As a URL, without the password.
impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() {
            "rediss"
        } else {
            "redis"
        })?;
        let (kind, addresses, path) = match &self.servers {
            Servers::Single(address) => ("", std::slice::from_ref(address), ""),
            Servers::Sentinel { sentinels, master } => {
                ("+sentinel", sentinels.as_slice(), master.as_str())
            }
            Servers::Cluster(nodes) => ("+cluster", nodes.as_slice(), ""),
        };
        write!(f, "{kind}://")?;
        let Credentials { username, password } = &self.credentials;
        if username.is_some() || password.is_some() {
            let secret = if password.is_some() { ":***" } else { "" };
            let username = self.credentials.shown_username().unwrap_or_default();
            write!(f, "{username}{secret}@")?;
        }
        for (index, address) in addresses.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        if !path.is_empty() {
            write!(f, "/{path}")?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl FromStr for RedisConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// A URL taken apart by hand, because several hosts are not what a URL library expects.
struct Url<'a> {
    kind: Kind,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    value: String,
    /// It may be a part of a password with a bare '&': nothing that one would write as a
    /// parameter, or behind a password.
    in_doubt: bool,
}

impl Parameter {
    fn read_all(query: &str) -> Result<Vec<Self>, Error> {
        let mut after_password = false;
        let pieces = query.split('&').filter(|piece| !piece.is_empty());
        let read = |piece: &str| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let parameter = Self {
                name: decode(name)?,
                value: decode(value)?,
                in_doubt: after_password || !piece.contains('='),
            };
            after_password |= parameter.name == SENTINEL_PASSWORD;
            Ok(parameter)
        };
        pieces.map(read).collect()
    }
}

impl<'a> Url<'a> {
    fn split(url: &'a str) -> Result<Self, Error> {
        let unknown = || {
            Error::invalid_input(
                "the URL's scheme is unknown; known are redis://, redis+sentinel://, \
                 redis+cluster:// and, with TLS, rediss://, rediss+sentinel://, rediss+cluster://",
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let scheme = scheme.to_ascii_lowercase();
        let (transport, topology) = scheme.split_once('+').unwrap_or((&scheme, ""));
        let tls = match transport {
            "redis" => false,
            "rediss" => true,
            _ => return Err(unknown()),
        };
        let kind = match topology {
            "" => Kind::Single,
            "sentinel" => Kind::Sentinel,
            "cluster" => Kind::Cluster,
            _ => return Err(unknown()),
        };
        if rest.contains('#') {
            return Err(Error::invalid_input(
                "the URL holds a '#'; in a password or value write it as %23",
            ));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // What looks like a parameter there may be a part of the password.
        if query.contains('@') {
            return Err(Error::invalid_input(
                "the URL holds an '@' behind a '?'; in a password or value write them as %40 and \
                 %3F",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(Error::invalid_input(
                "the URL's password holds a '/' or the path an '@'; write them as %2F and %40",
            ));
        }
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        let (username, password) = match user_info.map(|info| info.split_once(':')) {
            None => (None, None),
            Some(None) => (Some(decode(user_info.unwrap_or_default())?), None),
            Some(Some((username, password))) => (Some(decode(username)?), Some(decode(password)?)),
        };
        Ok(Self {
            kind,
            tls,
            username: username.filter(|username| !username.is_empty()),
            password,
            hosts: hosts.split(',').collect(),
            path: path.split('/').filter(|part| !part.is_empty()).collect(),
            parameters: Parameter::read_all(query)?,
        })
    }
}

fn addresses<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    default_port: u16,
) -> Result<Vec<Address>, Error> {
    let addresses = texts
        .into_iter()
        .map(|text| Address::parse(text, default_port).ok_or_else(bad_address))
        .collect::<Result<Vec<_>, _>>()?;
    // One sentinel that is named twice has one vote.
    let mut known = HashSet::new();
    let addresses: Vec<_> = addresses
        .into_iter()
        .filter(|address| known.insert(address.clone()))
        .collect();
    if addresses.is_empty() {
        return Err(bad_address());
    }
    Ok(addresses)
}

/// Does not show the address: in a URL put together wrongly it may be a part of the password.
fn bad_address() -> Error {
    Error::invalid_input(
        "a server's address cannot be read, or is missing; use host, host:port or [v6]:port, and \
         percent-encode '/', '@', ':' and '#' in user and password",
    )
}

/// Does not show what may be a part of a password.
fn unknown_parameter(parameter: &Parameter) -> Error {
    const KNOWN: &str = "known are prefix, connect_timeout, response_timeout, wait_replicas, \
        wait_timeout, sentinel_username, sentinel_password, ca, cert and key";
    if parameter.in_doubt {
        return Error::invalid_input(format!(
            "the URL has an unknown parameter, or one without a value (an '&' in a password is \
             written %26); {KNOWN}"
        ));
    }
    Error::invalid_input(format!(
        "the URL has the unknown parameter {:?}; {KNOWN}",
        shortened(&parameter.name)
    ))
}

fn decode(text: &str) -> Result<String, Error> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| {
        Error::invalid_input("something percent-encoded in the URL is not valid UTF-8")
    })?;
    Ok(decoded.into_owned())
}

fn number(name: &str, value: &str) -> Result<u32, Error> {
    value.parse().map_err(|_| {
        Error::invalid_input(format!("the URL's parameter {name} is not a whole number"))
    })
}

fn duration(name: &str, value: &str) -> Result<Duration, Error> {
    let (number, unit) = match value.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (value.strip_suffix('s').unwrap_or_default(), 1000),
    };
    let millis = number.parse::<u64>().ok();
    millis
        .and_then(|millis| millis.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            Error::invalid_input(format!(
                "the URL's parameter {name} is not a duration like 500ms or 2s"
            ))
        })
}

/// Enough to recognise it by; control characters do not reach terminals and logs.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_client_says_where_the_locks_are() {
        let taken = |url: &str| RedisConfig::from_client(&redis::Client::open(url).unwrap());
        let config = taken("redis://app:s3cret@db:6380/3").unwrap();
        assert_eq!(
            config,
            RedisConfig::from_url("redis://app:s3cret@db:6380/3").unwrap()
        );
        let error = taken("unix:///run/redis.sock").unwrap_err();
        assert!(error.message().contains("Unix socket"), "{error}");
    }

    #[test]
    fn urls_of_all_kinds_are_read() {
        let config = RedisConfig::from_url("redis://localhost").unwrap();
        assert_eq!(config, RedisConfig::server("localhost:6379").unwrap());

        let config = RedisConfig::from_url(
            "rediss://ann:p%40ss%2Fword@[::1]:7000/3?prefix=app&wait_timeout=80ms&wait_replicas=2\
             &connect_timeout=2s&ca=/etc/ca.pem&cert=c.pem&key=k.pem",
        )
        .unwrap();
        let expected = RedisConfig::server("[::1]:7000")
            .unwrap()
            .username("ann")
            .password("p@ss/word")
            .database(3)
            .prefix("app")
            .unwrap()
            .connect_timeout(Duration::from_secs(2))
            .wait_for_replicas(2, Duration::from_millis(80))
            .tls(
                Tls::new()
                    .authorities("/etc/ca.pem")
                    .identity("c.pem", "k.pem"),
            );
        assert_eq!(config, expected);
        assert_eq!(config.to_string(), "rediss://ann:***@[::1]:7000/3");

        let config =
            RedisConfig::from_url("redis+sentinel://:pw@a,b:1,c/main/2?sentinel_password=spw")
                .unwrap();
        let expected = RedisConfig::sentinel(["a:26379", "b:1", "c:26379"], "main")
            .unwrap()
            .password("pw")
            .sentinel_credentials(None, "spw")
            .database(2);
        assert_eq!(config, expected);
        assert_eq!(
            config.to_string(),
            "redis+sentinel://:***@a:26379,b:1,c:26379/main/2"
        );

        let config = RedisConfig::from_url("redis+cluster://a:7000,b:7001").unwrap();
        assert_eq!(config, RedisConfig::cluster(["a:7000", "b:7001"]).unwrap());
    }

    #[test]
    fn bad_urls_are_refused_without_repeating_a_password() {
        for (url, expected) in [
            ("localhost:6379", "scheme"),
            ("http://secret@x", "scheme"),
            ("redis+quorum://a:secret@x", "scheme"),
            ("redis://", "address"),
            ("redis://:secret@", "address"),
            ("redis://:secret@x:port", "address"),
            ("redis://:secret@x:0", "address"),
            ("redis://u:sec/ret@x", "%2F"),
            ("redis://u:sec#ret@x", "%23"),
            ("redis://u:1?secret@x", "%3F"),
            ("redis://u:1?secret=2@x/0", "%3F"),
            ("redis://u:secret@a,b", "several"),
            ("redis://u:secret@a/one", "number"),
            ("redis://u:secret@a/1/2", "too many"),
            ("redis://u:%ff@a", "UTF-8"),
            ("redis://u:secret@a?color=red", "\"color\""),
            ("redis://u:secret@a?color", "%26"),
            ("redis+sentinel://a/m?sentinel_password=ab&secret", "%26"),
            ("redis+sentinel://a/m?sentinel_password=ab&secret=", "%26"),
            (
                "redis+sentinel://a/m?sentinel_password=ab&prefix=c&sec=ret",
                "%26",
            ),
            (
                "redis+sentinel://a/m?sentinel%5Fpassword=ab&secret=1",
                "%26",
            ),
            (
                "redis+sentinel://a/m?color=red&sentinel_password=ab",
                "\"color\"",
            ),
            ("redis://u:secret@a?ca=x", "rediss"),
            ("rediss://u:secret@a?cert=x", "belong together"),
            ("redis://u:secret@a?connect_timeout=5", "duration"),
            ("redis://u:secret@a?wait_replicas=two", "whole number"),
            ("redis://u:secret@a?prefix=a{b}", "prefix"),
            ("redis+sentinel://u:secret@a", "master"),
            ("redis+cluster://u:secret@a/1", "database 0"),
        ] {
            let error = RedisConfig::from_url(url).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{url}: {text}");
            assert!(!text.contains("sec"), "{url}: {text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = RedisConfig::from_url(
            "redis+sentinel://u:hidden@a/m?sentinel_username=s&sentinel_password=hidden",
        )
        .unwrap();
        let text = format!("{config} {config:?} {config:#?}");
        assert!(!text.contains("hidden"), "{text}");
        assert!(text.contains("***"));
    }

    #[test]
    fn a_password_in_the_place_of_the_user_is_refused_and_not_shown() {
        for url in [
            "redis://hidden@a",
            "redis+sentinel://a/m?sentinel_username=hidden",
        ] {
            let config = RedisConfig::from_url(url).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.kind(), tenure_core::ErrorKind::InvalidInput);
            let text = format!("{config} {config:?} {error} {error:?}");
            assert!(!text.contains("hidden"), "{text}");
        }
        // The password may come from somewhere else.
        let config = RedisConfig::from_url("redis://ann@a").unwrap();
        assert!(config.password("p").check().is_ok());
    }

    #[test]
    fn timeouts_of_nothing_are_refused() {
        let config = RedisConfig::server("a").unwrap();
        assert!(config.check().is_ok());
        let config = config.wait_for_replicas(1, Duration::ZERO);
        assert!(config.check().unwrap_err().to_string().contains("replicas"));
    }
}
