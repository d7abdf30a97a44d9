//! The one place that splits a store's URL.
//!
//! Split by hand, because a URL library expects one host where a store has several, and because its
//! errors repeat the URL. Nothing here repeats any part of one, except a parameter's name that
//! cannot be a part of a password.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::Error;

use crate::address::Address;
use crate::limits::shortened;
use crate::secret::{Credentials, Secret, holds_secret};

/// The parameter with a lock and the key that it has at the store: `lock_key=LOCK:KEY`.
pub(crate) const LOCK_KEY: &str = "lock_key";

/// A store's URL, taken apart: `scheme://[user[:password]@][host[:port],...][/path][?parameters]`,
/// or `scheme:path` for a store without hosts.
///
/// Parameters are taken out one after the other. [`finish`](Self::finish) then refuses those that
/// are left. A parameter that is given twice is refused when it is taken.
///
/// `Debug` shows the scheme alone: in a URL that was put together wrongly everything else may be a
/// part of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    has_authority: bool,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<String>,
    path: String,
    parameters: Vec<Parameter>,
    /// An `@` there may be the end of a password that holds a `?`.
    at_in_parameters: bool,
    /// The names that were asked for.
    known: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Parameter {
    name: String,
    value: String,
    /// Its name may be a part of a password.
    in_doubt: bool,
}

impl Url {
    /// Splits `text`. No I/O.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) when there is no scheme,
    /// something percent-encoded is no UTF-8 or a NUL, or a character stands bare that would cut a
    /// password in two.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let scheme = scheme_of(text).ok_or_else(|| {
            Error::invalid_input(
                "the URL does not begin with a scheme; write it like redis://host:6379",
            )
        })?;
        let rest = &text[scheme.len() + 1..];
        if rest.contains('#') {
            return Err(Error::invalid_input(
                "the URL holds a '#'; in a password, path or value write it as %23",
            ));
        }
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match location.strip_prefix("//") {
            Some(location) => {
                let slash = location.find('/').unwrap_or(location.len());
                let (authority, path) = location.split_at(slash);
                (Some(authority), path)
            }
            None => (None, location),
        };
        let has_authority = authority.is_some();
        let authority = authority.unwrap_or_default();
        if !authority.is_empty() && path.contains('@') {
            return Err(Error::invalid_input(
                "the URL's password holds a '/', or its path an '@'; write them as %2F and %40",
            ));
        }
        let (user_info, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (user_info, None),
        };
        let hosts = match hosts {
            "" => Vec::new(),
            hosts => hosts.split(',').map(decode).collect::<Result<_, _>>()?,
        };
        let at_in_parameters = query.contains('@');
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            has_authority,
            user: Some(decode(user)?).filter(|user| !user.is_empty()),
            password,
            hosts,
            path: path.to_owned(),
            parameters: read_parameters(query, at_in_parameters)?,
            at_in_parameters,
            known: Vec::new(),
        })
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Whether `//` follows the scheme.
    pub fn has_authority(&self) -> bool {
        self.has_authority
    }

    /// The hosts, decoded and not checked: see [`addresses`](Self::addresses).
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The hosts as addresses, each once. Fails when there is none, or one cannot be read.
    pub fn addresses(&self, default_port: u16) -> Result<Vec<Address>, Error> {
        Address::parse_all(self.hosts.iter().map(String::as_str), default_port)
    }

    /// What stands between hosts and parameters, as it was written: percent-encoded, with the `/`
    /// at its beginning.
    pub fn raw_path(&self) -> &str {
        &self.path
    }

    /// The path without the `/` at its beginning, decoded.
    pub fn path(&self) -> Result<String, Error> {
        decode(self.path.strip_prefix('/').unwrap_or(&self.path))
    }

    /// The parts of the path between its `/`, decoded; empty ones are left out.
    pub fn segments(&self) -> Result<Vec<String>, Error> {
        self.path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(decode)
            .collect()
    }

    /// The user in front of the hosts, if any.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password in front of the hosts, if any.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Fails when an `@` stands behind the `?`: what looks like a parameter may be a part of the
    /// password. For stores none of whose parameters hold an `@`.
    pub fn refuse_at_in_parameters(&self) -> Result<(), Error> {
        if !self.at_in_parameters {
            return Ok(());
        }
        Err(Error::invalid_input(
            "the URL holds an '@' behind a '?'; in a password or value write them as %40 and %3F",
        ))
    }

    /// Takes a parameter's value. `None` when it is not there.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Error> {
        let mut values = self.take_all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Error::invalid_input(format!(
                "the URL has the parameter {name} twice; keep one of them"
            ))),
        }
    }

    /// Takes a parameter that has several names: the first one is ours, the others are those by
    /// which the store's own tools know it. Fails when two of them are there.
    pub fn take_any(&mut self, names: &[&str]) -> Result<Option<String>, Error> {
        Ok(self.take_named(names)?.map(|(_, value)| value))
    }

    fn take_named<'a>(&mut self, names: &[&'a str]) -> Result<Option<(&'a str, String)>, Error> {
        let mut taken: Option<(&str, String)> = None;
        for name in names {
            let Some(value) = self.take(name)? else {
                continue;
            };
            if let Some((other, _)) = taken {
                return Err(Error::invalid_input(format!(
                    "the URL's parameters {other} and {name} mean the same; keep one of them"
                )));
            }
            taken = Some((name, value));
        }
        Ok(taken)
    }

    /// Whether it has a parameter of this name that was not taken yet.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|known| known.name == name)
    }

    /// Adds a parameter that stands elsewhere: in a file that the URL names, say.
    pub fn add(&mut self, name: &str, value: &str) {
        self.parameters.push(Parameter {
            name: name.to_owned(),
            value: value.to_owned(),
            in_doubt: false,
        });
    }

    /// Takes a parameter that can be there several times.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        if !self.known.iter().any(|known| known == name) {
            self.known.push(name.to_owned());
        }
        self.parameters
            .extract_if(.., |parameter| parameter.name == name)
            .map(|parameter| parameter.value)
            .collect()
    }

    /// Takes a duration: `500ms`, `2s`, or whole seconds without a unit. Several names are those
    /// of [`take_any`](Self::take_any).
    pub fn take_duration(&mut self, names: &[&str]) -> Result<Option<Duration>, Error> {
        self.take_read(names, "a duration like 500ms or 2s", read_duration)
    }

    /// Takes a number of the type's range.
    pub fn take_number<N: FromStr>(&mut self, name: &str) -> Result<Option<N>, Error> {
        self.take_read(&[name], "a whole number in its range", |text| {
            text.parse().ok()
        })
    }

    /// Takes a switch: `on` or `off`; `true` or `false` mean the same.
    pub fn take_switch(&mut self, name: &str) -> Result<Option<bool>, Error> {
        self.take_read(&[name], "on or off", |text| match text {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        })
    }

    /// Takes a parameter and reads it by `read`. `expected` finishes the sentence "it is ..." when
    /// that gives nothing.
    pub fn take_read<T>(
        &mut self,
        names: &[&str],
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some((name, text)) = self.take_named(names)? else {
            return Ok(None);
        };
        let value = read(&text).ok_or_else(|| {
            Error::invalid_input(format!(
                "the URL's parameter {name} cannot be read; it is {expected}"
            ))
        })?;
        Ok(Some(value))
    }

    /// Takes who connects: user and password in front of the hosts, and the parameters
    /// `password_file` and `password_env`. Fails as [`take_secret`](Self::take_secret) does.
    pub fn take_credentials(&mut self) -> Result<Credentials, Error> {
        let here = self.password.take().map(Secret::value);
        Ok(Credentials {
            user: self.user.take(),
            password: self.take_secret("password", here)?,
        })
    }

    /// Takes the parameters `NAME_file` and `NAME_env`. Fails when two of them and of `here` are
    /// there, or the second one cannot be the name of a variable.
    pub fn take_secret(
        &mut self,
        name: &str,
        here: Option<Secret>,
    ) -> Result<Option<Secret>, Error> {
        let (file, environment) = (format!("{name}_file"), format!("{name}_env"));
        let mut secrets = here.into_iter().collect::<Vec<_>>();
        secrets.extend(self.take(&file)?.map(Secret::file));
        secrets.extend(self.take(&environment)?.map(Secret::environment));
        if secrets.len() > 1 {
            return Err(Error::invalid_input(format!(
                "the URL has several of {name}, {file} and {environment}; keep one of them"
            )));
        }
        let secret = secrets.pop();
        if let Some(secret) = &secret {
            secret.check(name).map_err(Error::invalid_input)?;
        }
        Ok(secret)
    }

    /// Refuses the parameter `lock_key` where it is left. On a store that has not taken it, by
    /// [`take_lock_keys`](Self::take_lock_keys), a lock has no key but its name.
    pub fn refuse_lock_keys(&self) -> Result<(), Error> {
        if !self.parameters.iter().any(|known| known.name == LOCK_KEY) {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "a URL of {}: takes no {LOCK_KEY}: the lock's name says where its election is",
            self.scheme
        )))
    }

    /// Refuses the parameters that were not taken. It names one only when its name cannot be a part
    /// of a password: nothing behind a secret, nothing without a `=`, nothing in a URL with an `@`
    /// behind the `?`.
    pub fn finish(self) -> Result<(), Error> {
        self.refuse_lock_keys()?;
        let Some(unknown) = self.parameters.first() else {
            return Ok(());
        };
        let known = match self.known.split_last() {
            Some((last, [])) => format!("the only one known is {last}"),
            Some((last, first)) => format!("known are {} and {last}", first.join(", ")),
            None => format!("a URL of {}: has none", self.scheme),
        };
        let nameless = self.parameters.iter().any(|parameter| parameter.in_doubt);
        Err(Error::invalid_input(if nameless {
            format!(
                "the URL has an unknown parameter, or one without a value (in a password '?' is \
                 written %3F, and '&' %26); {known}"
            )
        } else {
            let name = shortened(&unknown.name);
            format!("the URL has the unknown parameter {name:?}; {known}")
        }))
    }

    /// A configuration as a URL without its secrets, for `Display`. A user without a password is
    /// hidden too: it may be a password that was written in its place.
    pub fn show(
        scheme: &str,
        credentials: &Credentials,
        hosts: &[Address],
        path: &[&str],
    ) -> String {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut shown = format!("{scheme}://{}{}", credentials.shown(), hosts.join(","));
        for segment in path.iter().filter(|segment| !segment.is_empty()) {
            shown.push('/');
            shown.push_str(segment);
        }
        shown
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Url")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// The scheme that `text` begins with, as it is written: a letter, then letters, digits, `+`, `-`
/// and `.`, and a colon behind it.
pub fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}

fn read_parameters(query: &str, at_in_parameters: bool) -> Result<Vec<Parameter>, Error> {
    let mut after_secret = false;
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = decode(name)?;
            let is_plain = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
            let in_doubt = at_in_parameters || after_secret || !piece.contains('=') || !is_plain;
            after_secret |= holds_secret(&name);
            Ok(Parameter {
                value: decode(value)?,
                name,
                in_doubt,
            })
        })
        .collect()
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

fn read_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(unit).map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
