//! [`Proxy`]: a forward proxy, and connections through it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tenure_core::ErrorKind;
use tokio::net::TcpStream;

use crate::address::Address;
use crate::proxy::handshake::{self, User};
use crate::store_error::StoreError;
use crate::url::Url;

/// A proxy that connects to servers for us.
///
/// `Debug` and `Display` show no user and no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    protocol: Protocol,
    address: Address,
    /// What names it: a variable of the environment, or a setting.
    setting: &'static str,
    /// Whether `NO_PROXY` can exclude servers from it.
    pub(super) of_environment: bool,
    user: Option<User>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// By the method CONNECT.
    Http,
    /// The proxy resolves the server's name.
    Socks5,
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]` or `socks5://...` (also `socks5h://`); without a
    /// scheme it is `http`. The port defaults to 80, and to 1080 for SOCKS. No I/O.
    ///
    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured); the error names the `setting` and
    /// shows nothing of `text`.
    pub fn parse(setting: &'static str, text: &str) -> Result<Self, StoreError> {
        let wrong = |problem: &str| {
            let message = format!("{setting} names no proxy that can be used: {problem}");
            StoreError::new(ErrorKind::Misconfigured, message)
        };
        let text = text.trim();
        let text = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&text).map_err(|error| wrong(error.message()))?;
        let (protocol, port) = match url.scheme() {
            "http" => (Protocol::Http, 80),
            "socks5" | "socks5h" => (Protocol::Socks5, 1080),
            _ => return Err(wrong("its scheme is unknown; use http:// or socks5://")),
        };
        let addresses = url
            .addresses(port)
            .map_err(|error| wrong(error.message()))?;
        let [address] = &addresses[..] else {
            return Err(wrong("it has several hosts; keep one"));
        };
        let user = url.user().map(|name| User {
            name: name.to_owned(),
            password: url.password().unwrap_or_default().to_owned(),
        });
        let too_long = |user: &User| user.name.len() > 255 || user.password.len() > 255;
        if protocol == Protocol::Socks5 && user.as_ref().is_some_and(too_long) {
            return Err(wrong("SOCKS has users and passwords of 255 bytes at most"));
        }
        Ok(Self {
            protocol,
            address: address.clone(),
            setting,
            of_environment: false,
            user,
        })
    }

    /// Connects to a server through the proxy. The host's name is resolved by the proxy.
    ///
    /// The error names the proxy and what it said. Has no deadline of its own. Cancel safe:
    /// dropping the future closes the connection.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let proxy = (self.address.host(), self.address.port());
        let connecting = TcpStream::connect(proxy).await;
        let mut stream = connecting.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot reach {self}: {error}"))
        })?;
        stream.set_nodelay(true)?;
        let agreeing = match self.protocol {
            Protocol::Http => handshake::http(&mut stream, host, port, self.user.as_ref()).await,
            Protocol::Socks5 => {
                handshake::socks5(&mut stream, host, port, self.user.as_ref()).await
            }
        };
        agreeing.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
                _ => error.to_string(),
            };
            let server = Address::new(host, port);
            let mut text = format!("{self} does not connect to {server}: {why}");
            if self.of_environment {
                text.push_str("; NO_PROXY excludes servers from it");
            }
            io::Error::new(error.kind(), text)
        })?;
        Ok(stream)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Socks5 => "socks5",
        };
        let (address, setting) = (&self.address, self.setting);
        write!(f, "the proxy {scheme}://{address} of {setting}")
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// As the connector of a client library.
impl tower_service::Service<http::Uri> for Proxy {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: http::Uri) -> Self::Future {
        let proxy = self.clone();
        Box::pin(async move {
            let host = server.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let of_scheme = if server.scheme_str() == Some("http") {
                80
            } else {
                443
            };
            let port = server.port_u16().unwrap_or(of_scheme);
            proxy.connect(host, port).await.map(TokioIo::new)
        })
    }
}
