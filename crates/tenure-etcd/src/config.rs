//! Which endpoints, as whom, and where the locks are.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::Error;

/// Where the locks of an [`EtcdBackend`](crate::EtcdBackend) are.
///
/// `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) prefix: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keys_per_lease: usize,
}

/// A member's host and port.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::invalid_input(
                "an endpoint is not host, host:port or [v6]:port; several are joined by commas",
            )
        };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (format!("[{host}]"), rest.strip_prefix(':').unwrap_or(rest))
        } else {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            (host.to_owned(), port)
        };
        let port = match port {
            "" => 2379,
            port => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(bad)?,
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if host.is_empty()
            || !host.chars().all(fits)
            || (host.contains(':') && !host.starts_with('['))
        {
            return Err(bad());
        }
        Ok(Self { host, port })
    }
}

impl Endpoint {
    /// Whether it is on this host, as far as its name tells.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let number: Option<std::net::IpAddr> = host.parse().ok();
        host == "localhost" || number.is_some_and(|number| number.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How connections are encrypted, and who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: Option<String>,
}

impl Tls {
    /// Believes the certificate authorities of the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Believes the certificate authorities in this PEM file, and not those of the system.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows the server this certificate (PEM, with its chain), whose key is in the second file.
    #[must_use]
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the servers' certificates are for, if it is not the endpoint's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

impl Default for EtcdConfig {
    /// One member on this host, on etcd's usual port.
    fn default() -> Self {
        Self::of(vec![Endpoint {
            host: "localhost".to_owned(),
            port: 2379,
        }])
    }
}

impl EtcdConfig {
    fn of(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            user: None,
            password: None,
            password_file: None,
            prefix: String::new(),
            tls: None,
            // To check a password takes an etcd that is busy a while.
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            keys_per_lease: 1000,
        }
    }

    /// These members of one cluster, each `host`, `host:port` or `[v6]:port`; the port defaults
    /// to 2379. One is used at a time, and the next when it fails.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn endpoints<'a>(endpoints: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let endpoints = endpoints
            .into_iter()
            .map(Endpoint::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::invalid_input("there is no endpoint"));
        }
        Ok(Self::of(endpoints))
    }

    /// Reads `etcd://[user:password@]host[:port][,host...][/prefix][?parameters]`, or `etcds://`
    /// for TLS. No I/O yet.
    ///
    /// What is not a letter, digit or `-._~` is percent-encoded in user, password, prefix and the
    /// parameters' values. The prefix is what the locks' keys begin with, see
    /// [`prefix`](Self::prefix).
    ///
    /// Parameters: `password_file`, `ca`, `cert` and `key`, `server_name` (these four with
    /// `etcds://` only), `connect_timeout` and `request_timeout` (such as `2s` or `500ms`) and
    /// `keys_per_lease`; see the functions of the same or similar name.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(unknown_scheme());
        };
        let encrypted = match scheme.to_ascii_lowercase().as_str() {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(unknown_scheme()),
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
                "the URL's password holds a '/', or its prefix an '@'; write them as %2F and %40",
            ));
        }
        let (user_info, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let mut config = Self::endpoints(hosts.split(','))?;
        if !user_info.is_empty() {
            let (user, password) = match user_info.split_once(':') {
                Some((user, password)) => (user, Some(decode(password)?)),
                None => (user_info, None),
            };
            config.user = Some(decode(user)?);
            config.password = password;
        }
        config = config.prefix(decode(path)?)?;
        config.tls = encrypted.then(Tls::new);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            config.set(name, decode(value)?)?;
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Error> {
        match name {
            "password_file" => self.password_file = Some(value.into()),
            "ca" => self.tls_for(name)?.ca = Some(value.into()),
            "cert" => self.tls_for(name)?.certificate.get_or_insert_default().0 = value.into(),
            "key" => self.tls_for(name)?.certificate.get_or_insert_default().1 = value.into(),
            "server_name" => self.tls_for(name)?.server_name = Some(value),
            "connect_timeout" => self.connect_timeout = duration(name, &value)?,
            "request_timeout" => self.request_timeout = duration(name, &value)?,
            "keys_per_lease" => self.keys_per_lease = number(name, &value)?,
            _ => {
                return Err(Error::invalid_input(format!(
                    "the URL has the unknown parameter {:?}; known are password_file, ca, cert, \
                     key, server_name, connect_timeout, request_timeout and keys_per_lease",
                    name.chars().take(40).collect::<String>()
                )));
            }
        }
        Ok(())
    }

    fn tls_for(&mut self, name: &str) -> Result<&mut Tls, Error> {
        self.tls.as_mut().ok_or_else(|| {
            Error::invalid_input(format!(
                "the URL's parameter {name} is for TLS; write etcds:// instead of etcd://"
            ))
        })
    }

    /// The user, on a cluster that has authentication turned on.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A file that holds the password and nothing else (a line break at its end is left out), as
    /// secrets are mounted. Read for each new connection, so that the password can change under a
    /// running service.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password_file = Some(file.into());
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

    /// How long one endpoint may take for an answer before the next is tried; 2 s by default, and
    /// never more than a quarter of the lease.
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
        for (name, timeout) in [
            ("connect timeout", self.connect_timeout),
            ("request timeout", self.request_timeout),
        ] {
            if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(3600) {
                return Err(Error::invalid_input(format!(
                    "the {name} of {timeout:?} is outside 10ms to 3600s"
                )));
            }
        }
        if self.keys_per_lease == 0 {
            return Err(Error::invalid_input("keys_per_lease is 0; 1,000 is usual"));
        }
        let secret = self.password.is_some() || self.password_file.is_some();
        if secret != self.user.is_some() {
            return Err(Error::invalid_input(
                "user and password belong together; a user with a certificate alone needs neither",
            ));
        }
        if let Some((certificate, key)) = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref())
            && (certificate.as_os_str().is_empty() || key.as_os_str().is_empty())
        {
            return Err(Error::invalid_input(
                "the parameters cert and key belong together",
            ));
        }
        if self.tls.is_some() && !cfg!(feature = "_tls") {
            return Err(Error::misconfigured(
                "TLS is not compiled in; turn on the feature \"ring\" or \"aws-lc-rs\" of \
                 tenure-etcd",
            ));
        }
        Ok(())
    }

    /// The endpoint's address as the client wants it.
    pub(crate) fn address(&self, endpoint: &Endpoint) -> String {
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
        f.write_str(if self.tls.is_some() {
            "etcds://"
        } else {
            "etcd://"
        })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if number == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.prefix)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("keys_per_lease", &self.keys_per_lease)
            .finish_non_exhaustive()
    }
}

fn unknown_scheme() -> Error {
    Error::invalid_input("the URL's scheme is unknown; use etcd://host:2379 or etcds:// for TLS")
}

fn decode(text: &str) -> Result<String, Error> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Error::invalid_input("the URL's percent-encoding gives no UTF-8"))
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::invalid_input(format!("the URL's parameter {name} is not {expected}"))
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| wrong(name, "a number in its range"))
}

fn duration(name: &str, text: &str) -> Result<Duration, Error> {
    let millis = match text.strip_suffix("ms") {
        Some(number) => number.parse::<u64>().ok(),
        None => text
            .strip_suffix('s')
            .unwrap_or(text)
            .parse::<u64>()
            .ok()
            .and_then(|seconds| seconds.checked_mul(1000)),
    };
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| wrong(name, "a duration such as 2s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_it_all() {
        let config = EtcdConfig::from_url(
            "etcds://ann:p%40ss@a:2379,b,[::1]:23/locks/blue?ca=/ca.pem&cert=/c&key=/k\
             &server_name=etcd.local&request_timeout=500ms&connect_timeout=3s&keys_per_lease=7",
        )
        .unwrap();
        let hosts: Vec<_> = config.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:2379", "b:2379", "[::1]:23"]);
        assert_eq!(config.user.as_deref(), Some("ann"));
        assert_eq!(config.password.as_deref(), Some("p@ss"));
        assert_eq!(config.prefix, "locks/blue/");
        assert_eq!(config.keys_per_lease, 7);
        assert_eq!(config.request_timeout, Duration::from_millis(500));
        let tls = config.tls.clone().unwrap();
        assert_eq!(tls.server_name.as_deref(), Some("etcd.local"));
        assert_eq!(tls.certificate, Some(("/c".into(), "/k".into())));
        assert_eq!(config.address(&config.endpoints[0]), "https://a:2379");
        for shown in [format!("{config:?}"), config.to_string()] {
            assert!(!shown.contains("p@ss"), "{shown}");
        }
        assert_eq!(EtcdConfig::from_url("etcd://h").unwrap().prefix, "");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, expected) in [
            ("http://a:secret@h", "scheme"),
            ("etcd:h", "scheme"),
            ("etcd://", "endpoint"),
            ("etcd://u:secret@h:x", "endpoint"),
            ("etcd://u:secret@h:0", "endpoint"),
            ("etcd://u:secret@h h", "endpoint"),
            ("etcd://u:secret@::1", "endpoint"),
            ("etcd://u:sec/ret@h", "%2F"),
            ("etcd://u:secret@h?ca=/x", "etcds://"),
            ("etcds://u:secret@h?cert=/x", "belong together"),
            ("etcd://u:secret@h?nonsense=1", "nonsense"),
            ("etcd://u:secret@h?request_timeout=soon", "request_timeout"),
            ("etcd://u:secret@h?request_timeout=1ms", "outside"),
            ("etcd://u:secret@h?keys_per_lease=0", "keys_per_lease"),
            ("etcd://u:secret@h/a%00b", "prefix"),
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
