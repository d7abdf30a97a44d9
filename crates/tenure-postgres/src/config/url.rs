//! How the configuration is read from a URL.

use std::net::Ipv6Addr;
use std::str::FromStr;

use tenure_core::{Error, LockName};
use tenure_kit::{Address, Credentials, Secret, Tls, TlsNames, Url};

use super::service::Service;
use super::{ChannelBinding, PostgresConfig, Servers, TlsMode};
use crate::key::AdvisoryKey;

/// By which names libpq knows the TLS settings.
const OF_LIBPQ: TlsNames<'_> = TlsNames {
    ca: &["sslrootcert"],
    client_cert: &["sslcert"],
    client_key: &["sslkey"],
    server_name: &[],
};

impl PostgresConfig {
    /// Reads `postgres://[user[:password]@]host[:port][,host...][/database][?parameters]`, or the
    /// same with `postgresql:`.
    ///
    /// What is not a letter, digit or `-._~` is percent-encoded in user, password, database and
    /// the parameters' values. Parameters as in libpq: `host` (a Unix socket's directory, with
    /// nothing between `//` and `/`), `port`, `user`, `password`, `passfile`, `dbname`,
    /// `options`. For TLS `sslmode` ([`TlsMode`]), `sslrootcert` (or `ca`), `sslcert` (or `client_cert`),
    /// `sslkey` (or `client_key`), `channel_binding`. Also `connect_timeout` (seconds, or `500ms`) and
    /// `target_session_attrs`, which is `read-write`, or `any` to look only
    /// ([`only_looks`](Self::only_looks)). `application_name` is refused, because it carries the
    /// candidate's identity. Without a host or a port those of `PGHOST` and `PGPORT` are taken.
    ///
    /// `service` (or `PGSERVICE`) names a section of the file that `PGSERVICEFILE` names, of
    /// `~/.pg_service.conf`, or of the system's `pg_service.conf`. That file is read here, and it is
    /// the one thing that is. What the URL says itself comes before what the service says.
    ///
    /// Parameters of this crate: `password_file`, `password_env`, `server_name`,
    /// `request_timeout`, `watch_sessions`, `key_class`, `token_sequence`, `pooler=session`,
    /// `server_lease=off`, `quarantine=off` (or `restart_grace=off`) and `clock_error`, and once for
    /// each lock `lock_key=LOCK:KEY`, see [`key`](Self::key); see the functions of the same or
    /// similar name.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput), and says what is wrong
    /// without repeating the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::from_parsed(Url::parse(url)?)
    }

    /// The same for a URL that was split before.
    pub fn from_parsed(mut url: Url) -> Result<Self, Error> {
        if !matches!(url.scheme(), "postgres" | "postgresql") || !url.has_authority() {
            return Err(Error::invalid_input(
                "the URL's scheme is unknown; use postgres://host/database",
            ));
        }
        let read = Self::read(&mut url).and_then(|config| {
            url.clone().finish()?;
            Ok(config)
        });
        // What looks like a parameter may be a part of a password; then that is wrong, too.
        read.map_err(|error| match url.refuse_at_in_parameters() {
            Ok(()) => error,
            Err(at) => Error::invalid_input(format!("{}; {}", error.message(), at.message())),
        })
    }

    fn read(url: &mut Url) -> Result<Self, Error> {
        if url.path()?.contains(['@', '/']) {
            return Err(Error::invalid_input(
                "the URL's password or database holds a '/', or the path an '@'; write them as \
                 %2F and %40",
            ));
        }
        Self::read_with(url, variable)
    }

    /// With these variables of the environment.
    pub(super) fn read_with(
        url: &mut Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let service = Service::of(url, &variable)?;
        service.add_to(url)?;
        let variable = |name: &str| {
            let said = match name {
                "PGHOST" => service.says("host"),
                "PGPORT" => service.says("port"),
                _ => None,
            };
            said.map(str::to_owned).or_else(|| variable(name))
        };
        let default_ports = default_ports(variable)?;
        let hosts = hosts(url, variable)?;
        if !url.has("port") && !hosts.iter().all(|host| names_a_port(host)) {
            check_ports(
                "PGPORT, or the service's port,",
                &default_ports,
                hosts.len(),
            )?;
        }
        let hosts = hosts.iter().map(String::as_str);
        let mut config = Self::with_default_ports(hosts, &default_ports)?;
        if let Some(ports) = url.take_read(&["port"], PORTS, ports)? {
            config.hosts = with_ports(config.hosts, &ports)?;
        }
        config.credentials = credentials(url)?;
        config.passfile = url.take("passfile")?.map(Into::into);
        config.database = url.take("dbname")?.or(Some(url.path()?));
        config.database = config.database.filter(|name| !name.is_empty());
        config.options = url.take("options")?;
        config.read_tls(url)?;
        config.read_limits(url)?;
        config.read_session(url)?;
        Ok(config)
    }

    fn read_tls(&mut self, url: &mut Url) -> Result<(), Error> {
        let expected = "one of disable, prefer, require, verify-full";
        let mode = url.take_read(&["sslmode"], expected, |mode| match mode {
            "disable" => Some(TlsMode::Disable),
            "allow" | "prefer" => Some(TlsMode::Prefer),
            "require" | "verify-ca" | "verify-full" => Some(TlsMode::Require),
            _ => None,
        })?;
        self.tls_mode = mode.unwrap_or_default();
        self.tls = Tls::take_from(url, OF_LIBPQ)?;
        let expected = "one of disable, prefer, require";
        let binding = url.take_read(&["channel_binding"], expected, |text| match text {
            "disable" => Some(ChannelBinding::Disable),
            "prefer" => Some(ChannelBinding::Prefer),
            "require" => Some(ChannelBinding::Require),
            _ => None,
        })?;
        self.channel_binding = binding.unwrap_or_default();
        self.check_tls_mode()
    }

    fn read_limits(&mut self, url: &mut Url) -> Result<(), Error> {
        if let Some(timeout) = url.take_duration(&["connect_timeout"])? {
            self.connect_timeout = timeout;
        }
        self.request_timeout = url.take_duration(&["request_timeout"])?;
        if let Some(most) = url.take_number("watch_sessions")? {
            self.watch_sessions = most;
        }
        Ok(())
    }

    /// What concerns the locks and the session that holds them.
    fn read_session(&mut self, url: &mut Url) -> Result<(), Error> {
        let expected = "read-write, or any to look only: locks of a standby exclude no candidate";
        let servers = url.take_read(&["target_session_attrs"], expected, |value| match value {
            "read-write" | "primary" => Some(Servers::Writable),
            "any" => Some(Servers::Any),
            _ => None,
        })?;
        self.servers = servers.unwrap_or(Servers::Writable);
        if url.take("application_name")?.is_some() {
            return Err(Error::invalid_input(
                "the URL's application_name cannot be set: it carries the candidate's identity",
            ));
        }
        if let Some(class) = url.take_number("key_class")? {
            *self = self.clone().key_class(class)?;
        }
        for (lock, text) in url.take_lock_keys()? {
            let key = AdvisoryKey::parse(&text).ok_or_else(|| not_a_key(&lock))?;
            *self = self.clone().key(lock, key)?;
        }
        self.token_sequence = url.take("token_sequence")?;
        let pooler = url.take_read(&["pooler"], "session", |value| {
            (value == "session").then_some(())
        })?;
        self.session_pooler = pooler.is_some();
        self.without_lease = url.take_switch("server_lease")? == Some(false);
        let names = ["quarantine", "restart_grace"];
        let quarantine = url.take_read(&names, "on or off", |value| match value {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        })?;
        self.quarantine = quarantine.unwrap_or(true);
        if let Some(most) = url.take_duration(&["clock_error"])? {
            self.clock_error = most;
        }
        Ok(())
    }
}

fn not_a_key(lock: &LockName) -> Error {
    Error::invalid_input(format!(
        "the key of the lock {lock} cannot be read; it is the number of pg_advisory_lock, or its two \
         numbers with a comma between them: lock_key={lock}:42 or lock_key={lock}:7,42"
    ))
}

impl FromStr for PostgresConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Those of `PGPORT`, for hosts that name none.
fn default_ports(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<u16>, Error> {
    let Some(text) = variable("PGPORT") else {
        return Ok(Vec::new());
    };
    ports(&text)
        .ok_or_else(|| Error::invalid_input(format!("PGPORT cannot be read; it is {PORTS}")))
}

/// Those in front of the path, or of the parameter `host`, or of `PGHOST`.
fn hosts(url: &mut Url, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, Error> {
    let split = |named: &str| named.split(',').map(bracketed).collect();
    let hosts = url.hosts().iter().filter(|host| !host.is_empty());
    let hosts: Vec<String> = hosts.cloned().collect();
    match url.take("host")? {
        None if hosts.is_empty() => {
            let named = variable("PGHOST");
            Ok(split(named.as_deref().unwrap_or("localhost")))
        }
        None => Ok(hosts),
        Some(named) if hosts.is_empty() => Ok(split(&named)),
        Some(_) => Err(Error::invalid_input(
            "the URL names hosts twice; leave the parameter host out",
        )),
    }
}

/// A number of IPv6 stands without brackets in the parameter.
fn bracketed(host: &str) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]"),
        Err(_) => host.to_owned(),
    }
}

/// What the parameter `port` can be.
const PORTS: &str = "a port, or a port for each host with commas between them";

fn ports(text: &str) -> Option<Vec<u16>> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    text.split(',').map(port).collect()
}

fn names_a_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, port)| {
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        is_number && (!before.contains(':') || before.ends_with(']'))
    })
}

fn check_ports(what: &str, ports: &[u16], hosts: usize) -> Result<(), Error> {
    if ports.len() < 2 || ports.len() == hosts {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{what} names {} ports for {hosts} hosts; give one for all, or one for each",
        ports.len()
    )))
}

fn with_ports(hosts: Vec<Address>, ports: &[u16]) -> Result<Vec<Address>, Error> {
    check_ports("the URL's port", ports, hosts.len())?;
    let each = ports.iter().cycle();
    let hosts = hosts.into_iter().zip(each);
    Ok(hosts.map(|(host, port)| host.with_port(*port)).collect())
}

/// As in libpq the parameters `user` and `password` count more than what stands before the hosts.
fn credentials(url: &mut Url) -> Result<Credentials, Error> {
    let user = url.take("user")?;
    let password = url.take("password")?;
    let in_front = Credentials {
        user: url.user().map(str::to_owned),
        password: url.password().map(Secret::value),
    };
    let here = password.map(Secret::value).or(in_front.password);
    Ok(Credentials {
        user: user.or(in_front.user).filter(|user| !user.is_empty()),
        password: url.take_secret("password", here)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_host_or_a_port_takes_those_of_the_environment() {
        let read = |url: &str, host: &str, port: &str| {
            let variable = |name: &str| {
                let value = if name == "PGHOST" { host } else { port };
                Some(value.to_owned()).filter(|value| !value.is_empty())
            };
            let mut url = Url::parse(url).unwrap();
            let ports = default_ports(variable)?;
            let hosts = hosts(&mut url, variable)?;
            let hosts = hosts.iter().map(String::as_str);
            let config = PostgresConfig::with_default_ports(hosts, &ports)?;
            let hosts = config.hosts.iter().map(ToString::to_string);
            Ok::<_, Error>(hosts.collect::<Vec<_>>().join(","))
        };
        for (url, host, port, expected) in [
            ("postgres:///db", "", "", "localhost:5432"),
            ("postgres:///db", "a,::1", "6432", "a:6432,[::1]:6432"),
            ("postgres:///db", "a,b", "1,2", "a:1,b:2"),
            ("postgres:///db", "/run/pg", "", "/run/pg:5432"),
            // What the URL says comes first.
            ("postgres://x,y:7/db", "a", "6432", "x:6432,y:7"),
            ("postgres:///db?host=x", "a", "", "x:5432"),
        ] {
            assert_eq!(
                read(url, host, port).unwrap(),
                expected,
                "{url} {host} {port}"
            );
        }
        assert!(read("postgres:///db", "a", "x").is_err());
        let variable = |name: &str| (name == "PGPORT").then(|| "1,2,3".to_owned());
        let with = |url: &str| PostgresConfig::read_with(&mut Url::parse(url).unwrap(), variable);
        let error = with("postgres://a,b/db").unwrap_err();
        assert!(error.message().contains("3 ports for 2 hosts"), "{error}");
        with("postgres://a:1,b:2/db").unwrap();
        with("postgres://a,b/db?port=7").unwrap();
    }
}
