//! Free ports, and the one HTTP request that readiness and the round trips need.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Below the range from which kernels take the port of an outgoing connection, so that nobody's
/// connection sits on a port between our asking and the server's binding it. The upper end leaves
/// room for [`BUS_OFFSET`].
const PORTS: std::ops::Range<u16> = 11_000..22_000;

/// Between the port of a Redis Cluster node and that of its bus.
const BUS_OFFSET: u16 = 10_000;

/// Ports on loopback that nobody listens on, all different.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // Held until all are found: no two are the same.
    let mut held = Vec::with_capacity(N);
    let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    for port in &mut ports {
        let found = (0..500).find_map(|_| {
            let candidate = fastrand::u16(PORTS);
            let both = (listen(candidate)?, listen(candidate + BUS_OFFSET)?);
            Some((candidate, both))
        });
        let (free, listeners) = found.context("no free port found on 127.0.0.1")?;
        *port = free;
        held.push(listeners);
    }
    Ok(ports)
}

/// An HTTP server on loopback.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// Its port.
    pub(crate) port: u16,
    /// How to trust it; none is plain text.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Sent as `Authorization: Bearer`.
    pub(crate) token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status, 200 for example.
    pub(crate) status: u16,
    /// The whole body.
    pub(crate) body: String,
}

impl Answer {
    /// The body when the status is the expected one; an error that shows both when not.
    pub(crate) fn expect_status(self, wanted: u16, what: &str) -> Result<String> {
        if self.status == wanted {
            return Ok(self.body);
        }
        let body: String = self.body.chars().take(400).collect();
        bail!(
            "{what}: status {} where {wanted} was expected: {body}",
            self.status
        )
    }
}

impl Http {
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A server without TLS.
    pub(crate) fn plain(port: u16) -> Self {
        Self {
            port,
            tls: None,
            token: None,
        }
    }

    /// One GET.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, None)
    }

    /// One request. HTTP/1.0 on a connection of its own: the answer then ends with the connection
    /// and never comes in chunks, so no HTTP client is needed.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        json: Option<&serde_json::Value>,
    ) -> Result<Answer> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let attempt = || -> Result<Answer> {
            let tcp = TcpStream::connect_timeout(&address, Self::TIMEOUT)?;
            tcp.set_read_timeout(Some(Self::TIMEOUT))?;
            tcp.set_write_timeout(Some(Self::TIMEOUT))?;
            let request = self.request(method, path, json);
            let mut raw = Vec::new();
            if let Some(config) = &self.tls {
                let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
                let session = ClientConnection::new(Arc::clone(config), name)?;
                let mut stream = StreamOwned::new(session, tcp);
                stream.write_all(&request)?;
                stream.read_to_end(&mut raw)?;
            } else {
                let mut stream = tcp;
                stream.write_all(&request)?;
                stream.read_to_end(&mut raw)?;
            }
            parse(&raw)
        };
        attempt().with_context(|| format!("{method} {path} on {address}"))
    }

    fn request(&self, method: &str, path: &str, json: Option<&serde_json::Value>) -> Vec<u8> {
        let body = json.map(ToString::to_string).unwrap_or_default();
        let mut head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\
             Connection: close\r\n"
        );
        if let Some(token) = &self.token {
            head.extend(["Authorization: Bearer ", token, "\r\n"]);
        }
        if json.is_some() {
            let length = body.len().to_string();
            head.push_str("Content-Type: application/json\r\nContent-Length: ");
            head.extend([length.as_str(), "\r\n"]);
        }
        head.push_str("\r\n");
        head.push_str(&body);
        head.into_bytes()
    }
}

fn parse(raw: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer is no HTTP, or was cut")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the answer has no HTTP status")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let ports = free_ports::<20>().unwrap();
        let mut sorted = ports.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ports.len());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = parse(b"HTTP/1.0 403 Forbidden\r\nA: b\r\n\r\nno\r\n\r\nway").unwrap();
        assert_eq!(answer.status, 403);
        assert_eq!(answer.body, "no\r\n\r\nway");
        assert!(parse(b"").is_err());
        assert!(parse(b"hello\r\n\r\n").is_err());
    }
}
