//! How the configuration is read from a URL.

use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::Error;

use super::{PostgresConfig, TlsMode};

/// Other names of a parameter, which libpq or an older version of this library gives it.
const ALIASES: [(&str, &str); 4] = [
    ("sslrootcert", "ca"),
    ("sslcert", "client_cert"),
    ("sslkey", "client_key"),
    ("restart_grace", "quarantine"),
];

impl PostgresConfig {
    /// Reads `postgres://[user[:password]@]host[:port][,host...][/database][?parameters]`, or the
    /// same with `postgresql:`. No I/O yet.
    ///
    /// What is not a letter, digit or `-._~` is percent-encoded in user, password, database and
    /// the parameters' values. Parameters as in libpq: `host` (a Unix socket's directory, with
    /// nothing between `//` and `/`), `port`, `user`, `password`, `passfile`, `dbname`,
    /// `options`, `sslmode` ([`TlsMode`]), `sslrootcert` (or `ca`), `sslcert` (or `client_cert`),
    /// `sslkey` (or `client_key`), `connect_timeout` (seconds, or `500ms`) and `target_session_attrs`, which can only be `read-write`: the
    /// session is always one that can write. `application_name` is refused, because it carries the
    /// candidate's identity.
    ///
    /// Parameters of this crate: `password_file`, `watch_sessions`, `key_class`,
    /// `token_sequence`, `pooler=session`, `server_lease=off` and `quarantine=off`; see the
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
        for (alias, name) in ALIASES {
            if find(alias).is_some() && find(name).is_some() {
                return Err(Error::invalid_input(format!(
                    "the URL's parameters {alias} and {name} are one setting; leave one out"
                )));
            }
        }
        for (name, value) in &parameters {
            let alias = ALIASES.iter().find(|(alias, _)| alias == name);
            let name = alias.map_or(name.as_str(), |(_, name)| name);
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
                self.tls_mode = match value {
                    "disable" => TlsMode::Disable,
                    "allow" | "prefer" => TlsMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => TlsMode::Require,
                    _ => return Err(wrong(name, "one of disable, prefer, require, verify-full")),
                }
            }
            "ca" => self.authorities = Some(value.into()),
            "client_cert" => self.certificate.get_or_insert_default().0 = value.into(),
            "client_key" => self.certificate.get_or_insert_default().1 = value.into(),
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
            "quarantine" if matches!(value, "on" | "off") => self.quarantine = value == "on",
            "server_lease" | "quarantine" => return Err(wrong(name, "on or off")),
            _ => return Err(unknown(name, in_doubt)),
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), Error> {
        if let Some((certificate, key)) = &self.certificate
            && (certificate.as_os_str().is_empty() || key.as_os_str().is_empty())
        {
            return Err(Error::invalid_input(
                "the URL's parameters client_cert and client_key belong together",
            ));
        }
        Ok(())
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

/// Does not show what may be a part of the password.
fn unknown(name: &str, in_doubt: bool) -> Error {
    const KNOWN: &str = "known are host, port, user, password, password_file, passfile, dbname, \
        options, sslmode, ca, client_cert, client_key, connect_timeout, target_session_attrs, \
        watch_sessions, key_class, token_sequence, pooler, server_lease and quarantine";
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
