//! Which server, as whom, and how locks are kept there.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::{Error, LockName};

use crate::key::{ALIVE, AdvisoryKey};

/// Where the locks of a [`PostgresBackend`](crate::PostgresBackend) are.
///
/// `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    pub(crate) hosts: Vec<Address>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) database: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) tls: TlsMode,
    pub(crate) authorities: Option<PathBuf>,
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) connect_timeout: Duration,
    pub(crate) watch_sessions: usize,
    pub(crate) class: Option<i32>,
    pub(crate) keys: HashMap<LockName, AdvisoryKey>,
    pub(crate) token_sequence: Option<String>,
    pub(crate) session_pooler: bool,
    pub(crate) without_lease: bool,
    pub(crate) restart_grace: bool,
}

/// A host and port; a host that begins with `/` is the directory of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
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
        let wrong = |c: char| c.is_whitespace() || c.is_control() || "?#@,".contains(c);
        if host.is_empty() || host.contains(wrong) {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// As far as its name tells.
    pub(crate) fn is_on_this_host(&self) -> bool {
        let number: Option<std::net::IpAddr> = self.host.parse().ok();
        self.is_socket()
            || self.host == "localhost"
            || number.is_some_and(|number| number.is_loopback())
    }
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

/// Whether the connection is made by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsMode {
    /// Never (`sslmode=disable`).
    Disable,
    /// When the server offers it, without looking at its certificate, as libpq does
    /// (`sslmode=prefer`): no protection from somebody in between, who could turn TLS off anyway.
    #[default]
    Prefer,
    /// Always, and the certificate must be for the host and of a trusted authority
    /// (`sslmode=verify-full`). `require` and `verify-ca` mean the same here, and so are
    /// stricter than in libpq.
    Require,
}

impl PostgresConfig {
    /// A server, given as `host`, `host:port`, `[v6]:port` or the directory of its Unix socket;
    /// the port defaults to 5432. User and database default to `PGUSER` or the system's user, and
    /// `PGDATABASE` or the user's name; the password to that of the file named by `PGPASSFILE`,
    /// or `PGPASSWORD`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn server(address: &str) -> Result<Self, Error> {
        Self::servers([address])
    }

    /// Several servers, of which one at a time is the primary: each is tried until one can be
    /// written to.
    pub fn servers<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let hosts = addresses
            .into_iter()
            .map(|text| Address::parse(text, 5432).ok_or_else(bad_address))
            .collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(bad_address());
        }
        Ok(Self {
            hosts,
            user: None,
            password: None,
            password_file: None,
            passfile: None,
            database: None,
            options: None,
            tls: TlsMode::default(),
            authorities: None,
            certificate: None,
            connect_timeout: Duration::from_secs(2),
            watch_sessions: 2,
            class: None,
            keys: HashMap::new(),
            token_sequence: None,
            session_pooler: false,
            without_lease: false,
            restart_grace: true,
        })
    }

    /// The servers, role, password, database, options and connect timeout that an application has
    /// described for its own sessions, and its TLS mode ([`TlsMode`]: `require` verifies here; name
    /// certificates by [`authorities`](Self::authorities)). The backend opens sessions of its own: a
    /// lock belongs to its session. No I/O yet.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when no host is named, or
    /// the password is no UTF-8.
    pub fn from_client_config(client: &tokio_postgres::Config) -> Result<Self, Error> {
        use tokio_postgres::config::{Host, SslMode};

        let ports = client.get_ports();
        let port = |index: usize| match ports {
            [] => 5432,
            [one] => *one,
            several => several.get(index).copied().unwrap_or(5432),
        };
        let hosts: Vec<Address> = client
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(index, host)| Address {
                host: match host {
                    Host::Tcp(name) => name.clone(),
                    #[cfg(unix)]
                    Host::Unix(directory) => directory.to_string_lossy().into_owned(),
                },
                port: port(index),
            })
            .collect();
        let mut config = Self::server("localhost")?;
        if hosts.is_empty() {
            return Err(bad_address());
        }
        config.hosts = hosts;
        config.user = client.get_user().map(str::to_owned);
        config.database = client.get_dbname().map(str::to_owned);
        config.options = client.get_options().map(str::to_owned);
        config.password = match client.get_password() {
            Some(bytes) => Some(String::from_utf8(bytes.to_vec()).map_err(|_| {
                Error::invalid_input("the password is no UTF-8, which the server would refuse")
            })?),
            None => None,
        };
        config.tls = match client.get_ssl_mode() {
            SslMode::Disable => TlsMode::Disable,
            SslMode::Prefer => TlsMode::Prefer,
            _ => TlsMode::Require,
        };
        if let Some(timeout) = client.get_connect_timeout() {
            config.connect_timeout = *timeout;
        }
        Ok(config)
    }

    /// Reads `postgres://[user[:password]@]host[:port][,host...][/database][?parameters]`, or the
    /// same with `postgresql:`. No I/O yet.
    ///
    /// What is not a letter, digit or `-._~` is percent-encoded in user, password, database and
    /// the parameters' values. Parameters as in libpq: `host` (a Unix socket's directory, with
    /// nothing between `//` and `/`), `port`, `user`, `password`, `passfile`, `dbname`,
    /// `options`, `sslmode` ([`TlsMode`]), `sslrootcert`, `sslcert`, `sslkey`, `connect_timeout`
    /// (seconds, or `500ms`) and `target_session_attrs`, which can only be `read-write`: the
    /// session is always one that can write. `application_name` is refused, because it carries the
    /// candidate's identity.
    ///
    /// Parameters of this crate: `password_file`, `watch_sessions`, `key_class`,
    /// `token_sequence`, `pooler=session`, `server_lease=off` and `restart_grace=off`; see the
    /// functions of the same or similar name.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let rest = match url.split_once("://") {
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("postgres")
                    || scheme.eq_ignore_ascii_case("postgresql") =>
            {
                rest
            }
            _ => {
                return Err(Error::invalid_input(
                    "the URL's scheme is unknown; use postgres://host/database",
                ));
            }
        };
        if rest.contains('#') {
            return Err(Error::invalid_input(
                "the URL holds a '#'; in a password or value write it as %23",
            ));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains(['@', '/']) {
            return Err(Error::invalid_input(
                "the URL's password or database holds a '/', or the path an '@'; write them as \
                 %2F and %40",
            ));
        }
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (user_info, hosts),
            None => ("", authority),
        };
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (user_info, None),
        };
        let parameters = parameters(query)?;
        let find = |name: &str| {
            let found = parameters.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str())
        };
        let port = match find("port") {
            Some(text) => Some(number::<u16>("port", text)?),
            None => None,
        };
        let hosts: Vec<String> = hosts
            .split(',')
            .filter(|host| !host.is_empty())
            .map(decode)
            .collect::<Result<_, _>>()?;
        let mut config = match (hosts.as_slice(), find("host")) {
            ([], Some(host)) => Self::servers(host.split(','))?,
            ([], None) => Self::server("localhost")?,
            (_, None) => Self::servers(hosts.iter().map(String::as_str))?,
            (_, Some(_)) => {
                return Err(Error::invalid_input(
                    "the URL names hosts twice; leave the parameter host out",
                ));
            }
        };
        if let Some(port) = port {
            for host in &mut config.hosts {
                host.port = port;
            }
        }
        config.user = non_empty(decode(user)?);
        config.password = password;
        config.database = non_empty(decode(path)?);
        // An '@' there may be the end of a password that holds a '?', and what follows a password
        // or stands alone the rest of one that holds an '&'.
        let stands_alone = |piece: &str| !piece.is_empty() && !piece.contains('=');
        let in_doubt =
            query.contains('@') || find("password").is_some() || query.split('&').any(stands_alone);
        for (name, value) in &parameters {
            config.set(name, value, in_doubt)?;
        }
        config.check_files()?;
        Ok(config)
    }

    /// `in_doubt`: the name may be a part of a password.
    fn set(&mut self, name: &str, value: &str, in_doubt: bool) -> Result<(), Error> {
        match name {
            "host" | "port" => {}
            "user" => self.user = non_empty(value.to_owned()),
            "password" => self.password = Some(value.to_owned()),
            "password_file" => self.password_file = Some(value.into()),
            "passfile" => self.passfile = Some(value.into()),
            "dbname" => self.database = non_empty(value.to_owned()),
            "options" => self.options = Some(value.to_owned()),
            "sslmode" => {
                self.tls = match value {
                    "disable" => TlsMode::Disable,
                    "allow" | "prefer" => TlsMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => TlsMode::Require,
                    _ => return Err(wrong(name, "one of disable, prefer, require, verify-full")),
                }
            }
            "sslrootcert" => self.authorities = Some(value.into()),
            "sslcert" => self.certificate.get_or_insert_default().0 = value.into(),
            "sslkey" => self.certificate.get_or_insert_default().1 = value.into(),
            "connect_timeout" => self.connect_timeout = duration(name, value)?,
            "target_session_attrs" if matches!(value, "read-write" | "primary") => {}
            "target_session_attrs" => {
                return Err(wrong(name, "read-write: locks of a standby exclude nobody"));
            }
            "application_name" => {
                return Err(Error::invalid_input(
                    "the URL's application_name cannot be set: it carries the candidate's identity",
                ));
            }
            "watch_sessions" => self.watch_sessions = number(name, value)?,
            "key_class" => *self = self.clone().key_class(number(name, value)?)?,
            "token_sequence" => self.token_sequence = Some(value.to_owned()),
            "pooler" if value == "session" => self.session_pooler = true,
            "pooler" => return Err(wrong(name, "session")),
            "server_lease" if matches!(value, "on" | "off") => self.without_lease = value == "off",
            "restart_grace" if matches!(value, "on" | "off") => self.restart_grace = value == "on",
            "server_lease" | "restart_grace" => return Err(wrong(name, "on or off")),
            _ => return Err(unknown(name, in_doubt)),
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), Error> {
        if let Some((certificate, key)) = &self.certificate
            && (certificate.as_os_str().is_empty() || key.as_os_str().is_empty())
        {
            return Err(Error::invalid_input(
                "the URL's parameters sslcert and sslkey belong together",
            ));
        }
        Ok(())
    }

    /// The role.
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
    /// secrets are mounted. Read for each new session, so that the password can change under a
    /// running service.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password_file = Some(file.into());
        self
    }

    /// A file of lines `host:port:database:user:password`, as libpq's `.pgpass`. Read for each new
    /// session.
    #[must_use]
    pub fn passfile(mut self, file: impl Into<PathBuf>) -> Self {
        self.passfile = Some(file.into());
        self
    }

    /// The database. Advisory locks are separate in each: all candidates use the same one.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Settings for the session, as in `-c search_path=app`. Some poolers refuse them.
    #[must_use]
    pub fn options(mut self, options: impl Into<String>) -> Self {
        self.options = Some(options.into());
        self
    }

    /// Whether the connection is made by TLS; [`TlsMode::Prefer`] by default.
    #[must_use]
    pub fn tls(mut self, mode: TlsMode) -> Self {
        self.tls = mode;
        self
    }

    /// Trusts the certificate authorities in this PEM file, and not those of the system.
    #[must_use]
    pub fn authorities(mut self, file: impl Into<PathBuf>) -> Self {
        self.authorities = Some(file.into());
        self
    }

    /// Shows the server this certificate (PEM, with its chain), whose key is in the second file.
    #[must_use]
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// How long one host may take from the name's resolution to a session that is set up; 2 s by
    /// default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many sessions this backend opens at most to be woken when another process dies that
    /// holds a lock it waits for; 2 by default, one for each such process.
    ///
    /// With 0, or when there are more such processes, the end of a holder that dies is seen with
    /// the next look, one heartbeat later at most. A clean release is told in any case.
    #[must_use]
    pub fn watch_sessions(mut self, most: usize) -> Self {
        self.watch_sessions = most;
        self
    }

    /// Keeps locks in the (int, int) key space, with this first number; see
    /// [`AdvisoryKey::in_class`].
    pub fn key_class(mut self, class: i32) -> Result<Self, Error> {
        if class == ALIVE {
            return Err(reserved());
        }
        self.class = Some(class);
        Ok(self)
    }

    /// Uses this key for `lock` instead of the derived one: to join programs that use it already.
    pub fn key(mut self, lock: LockName, key: AdvisoryKey) -> Result<Self, Error> {
        if matches!(key, AdvisoryKey::Pair(ALIVE, _)) {
            return Err(reserved());
        }
        self.keys.insert(lock, key);
        Ok(self)
    }

    /// Takes fencing tokens from this sequence (`name` or `schema.name`), instead of from the
    /// server's transaction counter. It must exist: `CREATE SEQUENCE name;` and
    /// `GRANT USAGE ON SEQUENCE name TO role;`. One whose numbers can fall (cached by session,
    /// counting down, cycling, not logged) is refused as
    /// [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) with the first election. A new
    /// sequence begins below the tokens that were given without it, a restored one below those
    /// that were given since the backup: raise it by hand above them, or raise the generation.
    #[must_use]
    pub fn token_sequence(mut self, sequence: impl Into<String>) -> Self {
        self.token_sequence = Some(sequence.into());
        self
    }

    /// Says that there is a pooler between here and the server, and that it gives each client a
    /// server session of its own for as long as it is connected (`pool_mode = session`).
    ///
    /// Behind a pooler in transaction mode two candidates get the same lock. So every pooler is
    /// refused without this.
    #[must_use]
    pub fn session_pooler(mut self, there_is: bool) -> Self {
        self.session_pooler = there_is;
        self
    }

    /// Accepts servers older than `PostgreSQL` 14, which have no `idle_session_timeout`: there a
    /// holder that is frozen keeps its lock until it runs on or dies, and one whose network is cut
    /// until the server's keepalives tell.
    #[must_use]
    pub fn without_server_lease(mut self, accept: bool) -> Self {
        self.without_lease = accept;
        self
    }

    /// Whether nobody is elected for a lease after the server has lost its locks: after its
    /// start, a crash or a promotion. So it is by default.
    ///
    /// Advisory locks live in the server's memory. A leader that is frozen or cut off when they
    /// vanish does not know of it, and may go on for what is left of its lease. Without the grace
    /// a process that has not seen the restart may be elected meanwhile. Those that have seen it
    /// wait in any case.
    ///
    /// What is waited is the candidate's own lease, so all candidates of a lock should have the
    /// same. After a crash or a promotion, until the server is started the next time, every
    /// checkpoint looks to a process that has just connected like another promotion, so it may
    /// wait though it need not; never longer than its lease.
    #[must_use]
    pub fn restart_grace(mut self, wait: bool) -> Self {
        self.restart_grace = wait;
        self
    }

    /// The advisory key of a lock.
    pub fn key_of(&self, lock: &LockName) -> AdvisoryKey {
        match (self.keys.get(lock), self.class) {
            (Some(key), _) => *key,
            (None, Some(class)) => AdvisoryKey::in_class(class, lock),
            (None, None) => AdvisoryKey::of(lock),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.connect_timeout < Duration::from_millis(1)
            || self.connect_timeout > Duration::from_secs(3600)
        {
            return Err(Error::invalid_input(format!(
                "the connect timeout of {:?} is outside 1ms to 3600s",
                self.connect_timeout
            )));
        }
        if self.tls == TlsMode::Require && !cfg!(feature = "_tls") {
            return Err(Error::misconfigured(
                "TLS is not compiled in; turn on the feature \"ring\" or \"aws-lc-rs\" of \
                 tenure-postgres",
            ));
        }
        Ok(())
    }
}

/// As a URL, without the password.
impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if self.user.is_some() || self.password.is_some() {
            let secret = if self.password.is_some() { ":***" } else { "" };
            write!(f, "{}{secret}@", self.user.as_deref().unwrap_or_default())?;
        }
        for (index, address) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        if let Some(database) = &self.database {
            write!(f, "/{database}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("url", &self.to_string())
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("watch_sessions", &self.watch_sessions)
            .finish_non_exhaustive()
    }
}

impl FromStr for PostgresConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, Error> {
    query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn reserved() -> Error {
    Error::invalid_input(format!(
        "the key class {ALIVE} is used by tenure itself; choose another one"
    ))
}

/// Does not show the address: in a URL put together wrongly it may be a part of the password.
fn bad_address() -> Error {
    Error::invalid_input(
        "a server's address cannot be read, or is missing; use host, host:port or [v6]:port, and \
         percent-encode '/', '@', ':' and '#' in user and password",
    )
}

/// Does not show what may be a part of the password.
fn unknown(name: &str, in_doubt: bool) -> Error {
    const KNOWN: &str = "known are host, port, user, password, password_file, passfile, dbname, \
        options, sslmode, sslrootcert, sslcert, sslkey, connect_timeout, target_session_attrs, \
        watch_sessions, key_class, token_sequence, pooler, server_lease and restart_grace";
    if in_doubt || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
        return Error::invalid_input(format!(
            "the URL has an unknown parameter (in a password '?' is written %3F, and '&' %26); \
             {KNOWN}"
        ));
    }
    let name: String = name.chars().take(40).collect();
    Error::invalid_input(format!(
        "the URL has the unknown parameter {name:?}; {KNOWN}"
    ))
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::invalid_input(format!(
        "the URL's parameter {name} cannot be read; it is {expected}"
    ))
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn decode(text: &str) -> Result<String, Error> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| {
        Error::invalid_input("something percent-encoded in the URL is not valid UTF-8")
    })?;
    if decoded.contains('\0') {
        return Err(Error::invalid_input("the URL holds a NUL character"));
    }
    Ok(decoded.into_owned())
}

fn number<N: FromStr>(name: &str, value: &str) -> Result<N, Error> {
    value
        .parse()
        .map_err(|_| wrong(name, "a whole number in its range"))
}

fn duration(name: &str, value: &str) -> Result<Duration, Error> {
    let (digits, unit) = match value.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (value.strip_suffix('s').unwrap_or(value), 1000),
    };
    let millis = digits.parse::<u64>().ok();
    millis
        .and_then(|millis| millis.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| wrong(name, "a duration like 500ms or 2s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_own_configuration_says_where_the_locks_are() {
        let url = "postgres://ann:s3cret@a:6000,b:6001/jobs?sslmode=disable&connect_timeout=7";
        let client: tokio_postgres::Config = url.parse().unwrap();
        let config = PostgresConfig::from_client_config(&client).unwrap();
        assert_eq!(config, PostgresConfig::from_url(url).unwrap());
        let empty = tokio_postgres::Config::new();
        assert!(PostgresConfig::from_client_config(&empty).is_err());
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let config = PostgresConfig::from_url(
            "postgresql://ann:p%40ss%2Fword@h1,[::1]:7000/app?sslmode=verify-full&sslrootcert=ca.pem\
             &sslcert=c.pem&sslkey=k.pem&connect_timeout=3&target_session_attrs=read-write\
             &key_class=5&token_sequence=app.fence&pooler=session&server_lease=off",
        )
        .unwrap();
        let expected = PostgresConfig::servers(["h1:5432", "[::1]:7000"])
            .unwrap()
            .user("ann")
            .password("p@ss/word")
            .database("app")
            .tls(TlsMode::Require)
            .authorities("ca.pem")
            .certificate("c.pem", "k.pem")
            .connect_timeout(Duration::from_secs(3))
            .key_class(5)
            .unwrap()
            .token_sequence("app.fence")
            .session_pooler(true)
            .without_server_lease(true);
        assert!(config == expected, "{config:?}");
        assert_eq!(
            config.to_string(),
            "postgres://ann:***@h1:5432,[::1]:7000/app"
        );
        for (url, host, port) in [
            ("postgres://", "localhost", 5432),
            (
                "postgres:///app?host=/run/postgresql&port=6000",
                "/run/postgresql",
                6000,
            ),
            ("postgres://%2Frun%2Fpg/app", "/run/pg", 5432),
        ] {
            let config = PostgresConfig::from_url(url).unwrap();
            assert_eq!(config.hosts[0].host, host);
            assert_eq!(config.hosts[0].port, port);
            assert_eq!(config.hosts[0].is_socket(), host.starts_with('/'));
        }
    }

    #[test]
    fn bad_urls_are_refused_without_repeating_a_password() {
        for (url, expected) in [
            ("localhost:5432", "scheme"),
            ("http://secret@x", "scheme"),
            ("postgres://:secret@x:port", "address"),
            ("postgres://:secret@x:0", "address"),
            ("postgres://u:sec/ret@x", "%2F"),
            ("postgres://u:sec#ret@x", "%23"),
            ("postgres://u:%ff@a", "UTF-8"),
            ("postgres://u:%00@a", "NUL"),
            ("postgres://u:secret@a?color=red", "\"color\""),
            ("postgres://u:1?secret@a/b", "%3F"),
            ("postgres://u:1?sec=ret@a/b", "%3F"),
            ("postgres://u:1?sec=r&pooler=session@a", "%3F"),
            ("postgres://u:1?sec%72et=@a", "%3F"),
            ("postgres://a?Secret", "%3F"),
            ("postgres://a?password=x&secret", "%26"),
            ("postgres://a?password=x&secret=y", "%26"),
            ("postgres://u:x@a?secret", "%26"),
            ("postgres://u:secret@a?sslmode=maybe", "verify-full"),
            ("postgres://u:secret@a?sslcert=x", "belong together"),
            ("postgres://u:secret@a?connect_timeout=soon", "duration"),
            (
                "postgres://u:secret@a?target_session_attrs=any",
                "read-write",
            ),
            ("postgres://u:secret@a?application_name=x", "identity"),
            ("postgres://u:secret@a?host=b", "twice"),
            ("postgres://u:secret@a?pooler=transaction", "session"),
            ("postgres://u:secret@a?key_class=1952804469", "another"),
        ] {
            let error = PostgresConfig::from_url(url).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{url}: {text}");
            assert!(
                !text.contains("sec") || expected == "session",
                "{url}: {text}"
            );
            assert!(!text.contains("secret"), "{url}: {text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = PostgresConfig::from_url("postgres://u:hidden@a/b?password=hidden").unwrap();
        let text = format!("{config} {config:?} {config:#?}");
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn keys_can_be_chosen() {
        let lock = LockName::new("a").unwrap();
        let config = PostgresConfig::server("x").unwrap();
        assert_eq!(config.key_of(&lock), AdvisoryKey::of(&lock));
        let config = config.key_class(9).unwrap();
        assert_eq!(config.key_of(&lock), AdvisoryKey::in_class(9, &lock));
        let config = config.key(lock.clone(), AdvisoryKey::Big(42)).unwrap();
        assert_eq!(config.key_of(&lock), AdvisoryKey::Big(42));
        assert!(config.key(lock, AdvisoryKey::Pair(ALIVE, 0)).is_err());
    }
}
