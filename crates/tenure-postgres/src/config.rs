//! Which server, as whom, and how locks are kept there.

mod service;
mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tenure_core::{Error, LockName};
use tenure_kit::limits::check_timeout;
use tenure_kit::{Address, Credentials, LockKeys, Secret, Tls, Url};

use crate::key::{ALIVE, AdvisoryKey};

/// The port of a server that names none.
const PORT: u16 = 5432;

/// Where the locks of a [`PostgresBackend`](crate::PostgresBackend) are.
///
/// `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    pub(crate) hosts: Vec<Address>,
    pub(crate) credentials: Credentials,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) database: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) tls_mode: TlsMode,
    pub(crate) tls: Tls,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) connect_timeout: Duration,
    request_timeout: Option<Duration>,
    pub(crate) watch_sessions: usize,
    pub(crate) class: Option<i32>,
    keys: LockKeys<AdvisoryKey>,
    pub(crate) token_sequence: Option<String>,
    pub(crate) session_pooler: bool,
    pub(crate) without_lease: bool,
    pub(crate) quarantine: bool,
    pub(crate) clock_error: Duration,
    pub(crate) servers: Servers,
}

/// Which servers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// One on which an election can be held.
    Writable,
    /// Any, to look at it.
    Any,
}

/// Whether the login is bound to the TLS connection, so that nobody in between can pass it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelBinding {
    /// Never (`channel_binding=disable`): for a proxy that ends TLS on the way, and makes it again.
    Disable,
    /// Where the server offers it (`channel_binding=prefer`), as libpq does.
    #[default]
    Prefer,
    /// Always (`channel_binding=require`): needs TLS and a SCRAM password.
    Require,
}

/// Whether the connection is made by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsMode {
    /// Never (`sslmode=disable`).
    Disable,
    /// When the server offers it, without looking at its certificate, as libpq does
    /// (`sslmode=prefer`): no protection from an attacker in between, who could turn TLS off anyway.
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
    /// `PGDATABASE` or the user's name; the password to `PGPASSWORD`, or that of the file named by
    /// `PGPASSFILE`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), as all functions here
    /// do. No I/O yet.
    pub fn server(address: &str) -> Result<Self, Error> {
        Self::servers([address])
    }

    /// Several servers, of which one at a time is the primary: each is tried until one can be
    /// written to.
    pub fn servers<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Self::with_default_ports(addresses, &[])
    }

    /// The same with these ports for hosts that name none: one for all, or one for each.
    fn with_default_ports<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        ports: &[u16],
    ) -> Result<Self, Error> {
        let port = |index| match ports {
            [one] => *one,
            several => several.get(index).copied().unwrap_or(PORT),
        };
        let hosts = addresses
            .into_iter()
            .enumerate()
            .map(|(index, text)| Address::parse_or_socket(text, port(index)))
            .collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(no_host());
        }
        Ok(Self {
            hosts,
            credentials: Credentials::default(),
            passfile: None,
            database: None,
            options: None,
            tls_mode: TlsMode::default(),
            tls: Tls::new(),
            channel_binding: ChannelBinding::default(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: None,
            watch_sessions: 2,
            class: None,
            keys: LockKeys::default(),
            token_sequence: None,
            session_pooler: false,
            without_lease: false,
            quarantine: true,
            clock_error: Duration::from_secs(60 * 60),
            servers: Servers::Writable,
        })
    }

    /// The servers, role, password, database, options and connect timeout that an application has
    /// described for its own sessions, and its TLS mode ([`TlsMode`]: `require` verifies here; name
    /// certificates by [`tls`](Self::tls)). The backend opens sessions of its own: a
    /// lock belongs to its session. No I/O yet.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when no host is named, or
    /// the password is no UTF-8.
    pub fn from_client_config(client: &tokio_postgres::Config) -> Result<Self, Error> {
        use tokio_postgres::config::{ChannelBinding as Binding, Host, SslMode};

        let ports = client.get_ports();
        let port = |index: usize| match ports {
            [] => PORT,
            [one] => *one,
            several => several.get(index).copied().unwrap_or(PORT),
        };
        let hosts: Vec<Address> = client
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(index, host)| match host {
                Host::Tcp(name) => Address::new(name, port(index)),
                #[cfg(unix)]
                Host::Unix(directory) => Address::new(directory.to_string_lossy(), port(index)),
            })
            .collect();
        let mut config = Self::server("localhost")?;
        if hosts.is_empty() {
            return Err(no_host());
        }
        config.hosts = hosts;
        config.credentials.user = client.get_user().map(str::to_owned);
        config.database = client.get_dbname().map(str::to_owned);
        config.options = client.get_options().map(str::to_owned);
        let password = client.get_password().map(<[u8]>::to_vec);
        let password = password.map(String::from_utf8).transpose().map_err(|_| {
            Error::invalid_input("the password is no UTF-8, which the server would refuse")
        })?;
        config.credentials.password = password.map(Secret::value);
        config.tls_mode = match client.get_ssl_mode() {
            SslMode::Disable => TlsMode::Disable,
            SslMode::Prefer => TlsMode::Prefer,
            _ => TlsMode::Require,
        };
        config.channel_binding = match client.get_channel_binding() {
            Binding::Disable => ChannelBinding::Disable,
            Binding::Require => ChannelBinding::Require,
            _ => ChannelBinding::Prefer,
        };
        if let Some(timeout) = client.get_connect_timeout() {
            config.connect_timeout = *timeout;
        }
        Ok(config)
    }

    /// The role.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.credentials.user = Some(user.into());
        self
    }

    /// The password. Of this, [`password_file`](Self::password_file) and
    /// [`password_env`](Self::password_env) the last one counts.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::value(password));
        self
    }

    /// A file that holds the password and nothing else (a line break at its end is left out), as
    /// secrets are mounted. Read for each new session, so that the password can change under a
    /// running service.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.credentials.password = Some(Secret::file(file));
        self
    }

    /// The environment variable that holds the password. Read for each new session.
    #[must_use]
    pub fn password_env(mut self, variable: impl Into<String>) -> Self {
        self.credentials.password = Some(Secret::environment(variable));
        self
    }

    /// A file of lines `host:port:database:user:password`, as libpq's `.pgpass`. Read for each new
    /// session. One that others may read is refused. By default `~/.pgpass`, if there is one.
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
    pub fn tls_mode(mut self, mode: TlsMode) -> Self {
        self.tls_mode = mode;
        self
    }

    /// The files and the name by which TLS is made. [`Tls::ca`] and [`Tls::server_name`] need
    /// [`TlsMode::Require`], and with [`TlsMode::Disable`] all of them are refused.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Whether the login is bound to the TLS connection; [`ChannelBinding::Prefer`] by default.
    #[must_use]
    pub fn channel_binding(mut self, binding: ChannelBinding) -> Self {
        self.channel_binding = binding;
        self
    }

    /// Takes a server that cannot hold an election too, to look at it: one whose role accepts reads
    /// only, or where all hosts are standbys. Who leads is seen at a primary alone; an attempt to
    /// lock fails as without this.
    #[must_use]
    pub fn only_looks(mut self, only: bool) -> Self {
        self.servers = if only {
            Servers::Any
        } else {
            Servers::Writable
        };
        self
    }

    /// How long one host may take from the name's resolution to a session that is set up; 2 s by
    /// default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the checks of `doctor` may take, and a look at who holds a lock (a second at least)
    /// in a session that has no lock to lose. The connect timeout by default.
    ///
    /// Heartbeats and attempts to lock have one limit, the lease (a second at least).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
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

    /// Joins the election that other programs hold under this advisory key, under the name `lock`
    /// here; [`key_class`](Self::key_class) does not count for it.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when another lock has this
    /// key. So does each use of a lock whose name makes this key.
    pub fn key(mut self, lock: LockName, key: AdvisoryKey) -> Result<Self, Error> {
        if matches!(key, AdvisoryKey::Pair(ALIVE, _)) {
            return Err(reserved());
        }
        self.keys.insert(lock, key, AdvisoryKey::eq)?;
        Ok(self)
    }

    /// Fails when another lock has the key of this one.
    pub(crate) fn check_lock(&self, lock: &LockName) -> Result<(), Error> {
        self.keys.check(lock, &self.key_of(lock), AdvisoryKey::eq)
    }

    /// Takes fencing tokens from this sequence (`name` or `schema.name`), instead of from the
    /// server's transaction counter. It must exist: `CREATE SEQUENCE name;` and
    /// `GRANT USAGE ON SEQUENCE name TO role;`. One whose numbers can fall (cached by session,
    /// counting down, cycling, not logged) is refused as
    /// [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) with the first election. A new
    /// sequence begins below the tokens that were given without it, a restored one below those
    /// that were given since the backup: raise it by hand above them, or raise the generation.
    ///
    /// A name without a schema is looked up by the role's `search_path`, once per session. A
    /// sequence found in a schema in which other roles can create is refused in the same way: they
    /// could put one there whose numbers fall.
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

    /// Accepts servers older than `PostgreSQL` 14, which have no `idle_session_timeout`. There a
    /// holder that is frozen keeps its lock until it runs on or dies, and one whose network is cut
    /// until the server's keepalives tell.
    #[must_use]
    pub fn without_server_lease(mut self, accept: bool) -> Self {
        self.without_lease = accept;
        self
    }

    /// Whether the locks stay in quarantine for a lease after the server has lost them: after its
    /// start, a crash or a promotion. No candidate is elected then. On by default.
    ///
    /// Advisory locks live in the server's memory. A leader that is frozen or cut off when they
    /// vanish does not know it, and may go on for what is left of its lease. Without quarantine a
    /// process that has not seen the restart may be elected meanwhile. Those that have seen it
    /// wait in any case.
    ///
    /// Each candidate waits its own lease, so all candidates of a lock should have the same.
    /// A process that has not seen the restart knows of it by the server's clock alone, see
    /// [`clock_error`](Self::clock_error).
    #[must_use]
    pub fn quarantine(mut self, wait: bool) -> Self {
        self.quarantine = wait;
        self
    }

    /// By how much the server's clock may have been set forward since its start; an hour by
    /// default.
    ///
    /// A process that has not seen the server's earlier start knows by the server's clock alone for
    /// how long the server has kept its locks. It believes that less this much. Where that is less
    /// than its lease, it waits a lease from its own first connection, by its own clock, before it
    /// is elected; unless it has seen another candidate lead meanwhile, which has waited.
    ///
    /// Zero is for servers whose clock is never set forward while they run.
    #[must_use]
    pub fn clock_error(mut self, most: Duration) -> Self {
        self.clock_error = most;
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

    pub(crate) fn request_limit(&self) -> Duration {
        self.request_timeout.unwrap_or(self.connect_timeout)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_timeout("connect_timeout", self.connect_timeout)?;
        check_timeout("request_timeout", self.request_limit())?;
        self.tls.check()?;
        let is_for_tls = self.tls_mode == TlsMode::Require || self.tls.first_setting().is_some();
        let is_bound = self.channel_binding == ChannelBinding::Require;
        if (is_for_tls || is_bound) && !cfg!(feature = "_tls") {
            return Err(Tls::not_built_in("tenure-postgres"));
        }
        if is_bound && self.tls_mode == TlsMode::Disable {
            return Err(Error::invalid_input(
                "channel_binding=require needs TLS, which sslmode=disable turns off",
            ));
        }
        self.check_tls_mode()
    }

    /// Fails when the mode would pass over a TLS setting: who names an authority expects that it
    /// is asked.
    fn check_tls_mode(&self) -> Result<(), Error> {
        let first = self.tls.first_setting();
        let server_name = self.tls.name().map(|_| "server_name");
        let verifying = first.filter(|name| *name == "ca").or(server_name);
        let message = match self.tls_mode {
            TlsMode::Disable => first.map(|name| {
                format!(
                    "{name} needs TLS, which sslmode=disable (TlsMode::Disable) turns off; set \
                     sslmode=verify-full (TlsMode::Require), or leave {name} out"
                )
            }),
            TlsMode::Prefer => verifying.map(|name| {
                format!(
                    "{name} needs sslmode=verify-full (TlsMode::Require): with `prefer` nobody's \
                     certificate is checked"
                )
            }),
            TlsMode::Require => None,
        };
        message.map_or(Ok(()), |message| Err(Error::invalid_input(message)))
    }
}

/// As a URL, without the password.
impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = [self.database.as_deref().unwrap_or_default()];
        f.write_str(&Url::show(
            "postgres",
            &self.credentials,
            &self.hosts,
            &path,
        ))
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("url", &self.to_string())
            .field("tls_mode", &self.tls_mode)
            .field("connect_timeout", &self.connect_timeout)
            .field("watch_sessions", &self.watch_sessions)
            .finish_non_exhaustive()
    }
}

fn reserved() -> Error {
    Error::invalid_input(format!(
        "the key class {ALIVE} is used by tenure itself; choose another one"
    ))
}

fn no_host() -> Error {
    Error::invalid_input("no server is named; use host, host:port or [v6]:port")
}

#[cfg(test)]
mod tests;
