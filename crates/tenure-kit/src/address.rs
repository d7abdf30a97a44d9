//! The address of a server.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use tenure_core::Error;

/// A host and port, or the directory of a Unix socket and the port in the socket's name; with port
/// 0 it is the path of the socket itself.
///
/// A server is shown as it is written in a URL: `host:port`, `[v6]:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// An address from its parts, as a server names them. Not checked.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Reads `host`, `host:port` or `[v6]:port`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput). The message does not show
    /// the text: in a URL that was put together wrongly it may be a part of the password.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Error> {
        Self::read(text, default_port)
            .filter(|address| !address.is_socket())
            .ok_or_else(unreadable)
    }

    /// The same, and also `/directory` or `/directory:port`, where a server has its Unix socket.
    pub fn parse_or_socket(text: &str, default_port: u16) -> Result<Self, Error> {
        Self::read(text, default_port).ok_or_else(unreadable)
    }

    /// Reads several addresses with [`parse`](Self::parse). One that is given twice counts once.
    ///
    /// Fails too when there is none.
    pub fn parse_all<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        default_port: u16,
    ) -> Result<Vec<Self>, Error> {
        let read = texts
            .into_iter()
            .map(|text| Self::parse(text, default_port))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = Self::without_repeats(read);
        if addresses.is_empty() {
            return Err(unreadable());
        }
        Ok(addresses)
    }

    /// Each address once, in the order in which they came.
    pub fn without_repeats(addresses: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut known = HashSet::new();
        addresses
            .into_iter()
            .filter(|address| known.insert(address.clone()))
            .collect()
    }

    fn read(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                // A number may name the interface it is reached by: `fe80::1%eth0`.
                let number = host.split_once('%').map_or(host, |(number, _)| number);
                number.parse::<Ipv6Addr>().ok()?;
                match port.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if port.is_empty() => (host, ""),
                    None => return None,
                }
            }
            None => text.rsplit_once(':').unwrap_or((text, "")),
        };
        let port = match port {
            "" => default_port,
            port => port.parse().ok().filter(|port| *port != 0)?,
        };
        let is_socket = host.starts_with('/');
        let is_number = text.starts_with('[');
        let wrong = |c: char| {
            c.is_whitespace()
                || c.is_control()
                || "?#@,[]".contains(c)
                || (c == '/' && !is_socket)
                || (":%".contains(c) && !is_number && !is_socket)
        };
        if host.is_empty() || host.contains(wrong) {
            return None;
        }
        Some(Self::new(host, port))
    }

    /// The host's name or number, without brackets; for a socket its directory.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Whether it is the directory of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether it is a number, so that it leads to one server.
    pub fn is_number(&self) -> bool {
        self.number().is_some()
    }

    /// Whether the server is on this host, as far as its name tells.
    pub fn is_loopback(&self) -> bool {
        self.is_socket()
            || self.host == "localhost"
            || self.number().is_some_and(|number| number.is_loopback())
    }

    fn number(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_socket() && self.port == 0 {
            return f.write_str(&self.host);
        }
        if self.host.contains(':') && !self.is_socket() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn unreadable() -> Error {
    Error::invalid_input(
        // In this order: it must not look like a URL with a password, which is not shown.
        "a server's address cannot be read, or is missing; percent-encode '/', '@', ':' and '#' in \
         user and password, and write host, host:port or [v6]:port",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_was_read() {
        for (text, shown, is_loopback) in [
            ("a", "a:5", false),
            ("a.b-c_d:7", "a.b-c_d:7", false),
            ("localhost", "localhost:5", true),
            ("127.0.0.9:1", "127.0.0.9:1", true),
            ("[::1]", "[::1]:5", true),
            ("[::1]:7", "[::1]:7", true),
            ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7", false),
        ] {
            let address = Address::parse(text, 5).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_loopback(), is_loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_shown() {
        for secret in [
            "",
            ":",
            ":1",
            "s3cret:port",
            "s3cret:0",
            "s3cret:70000",
            "s3 cret",
            "s3/cret",
            "s3@cret",
            "s3,cret",
            "::1",
            "[::1",
            "[::1]7",
            "[s3cret]",
            "/s3cret",
        ] {
            let error = Address::parse(secret, 5).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("cret"), "{secret}: {text}");
            assert!(text.contains("address"), "{text}");
        }
    }

    #[test]
    fn a_socket_is_read_where_there_can_be_one() {
        let socket = Address::parse_or_socket("/run/pg", 5).unwrap();
        assert_eq!((socket.host(), socket.port()), ("/run/pg", 5));
        assert!(socket.is_socket() && socket.is_loopback());
        assert_eq!(Address::parse_or_socket("/run/pg:7", 5).unwrap().port(), 7);
        assert_eq!(Address::new("/run/a.sock", 0).to_string(), "/run/a.sock");
    }

    #[test]
    fn the_advice_is_not_taken_for_a_secret() {
        let error = Address::parse("", 5).unwrap_err();
        assert_eq!(crate::secret::redact(error.message()), error.message());
    }

    #[test]
    fn a_server_that_is_given_twice_counts_once() {
        let addresses = Address::parse_all(["b", "a:5", "b:5"], 5).unwrap();
        assert_eq!(addresses, [Address::new("b", 5), Address::new("a", 5)]);
        assert!(Address::parse_all([], 5).is_err());
    }
}
