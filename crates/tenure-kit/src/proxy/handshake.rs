//! What is said to a proxy before the connection is the server's.
//!
//! Read byte by byte: behind the proxy's last byte the server's first one may follow at once.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::address::Address;
use crate::limits::shown;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Who uses the proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
}

fn refused(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Asks an HTTP proxy for a tunnel.
pub(super) async fn http(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    user: Option<&User>,
) -> io::Result<()> {
    let server = Address::new(host, port);
    let login = user.map_or_else(String::new, |user| {
        let encoded = BASE64.encode(format!("{}:{}", user.name, user.password));
        format!("Proxy-Authorization: Basic {encoded}\r\n")
    });
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() == MAX_HEAD {
            return Err(refused("its answer has no end; is it an HTTP proxy?"));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match status.and_then(|status| status.parse().ok()) {
        Some(200..=299) => Ok(()),
        Some(407) => Err(refused(format!(
            "it answers \"{}\"; write the user and password in the proxy's URL",
            shown(line)
        ))),
        Some(100..=999) => Err(refused(format!(
            "it answers \"{}\"; allow the server there",
            shown(line)
        ))),
        _ => Err(refused("it does not answer as an HTTP proxy does")),
    }
}

const SOCKS: u8 = 5;
const ANYONE: u8 = 0;
const PASSWORD: u8 = 2;

/// Asks a SOCKS 5 proxy (RFC 1928, RFC 1929) for a connection.
pub(super) async fn socks5(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    user: Option<&User>,
) -> io::Result<()> {
    let greeting: &[u8] = match user {
        Some(_) => &[SOCKS, 2, ANYONE, PASSWORD],
        None => &[SOCKS, 1, ANYONE],
    };
    stream.write_all(greeting).await?;
    let [version, method] = read(stream).await?;
    match (version, method, user) {
        (SOCKS, ANYONE, _) => {}
        (SOCKS, PASSWORD, Some(user)) => log_in(stream, user).await?,
        (SOCKS, ..) => {
            return Err(refused(
                "it asks for another login; write the user and password in the proxy's URL",
            ));
        }
        _ => return Err(refused("it does not answer as a SOCKS 5 proxy does")),
    }
    let mut request = vec![SOCKS, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(number)) => {
            request.push(1);
            request.extend(number.octets());
        }
        Ok(IpAddr::V6(number)) => {
            request.push(4);
            request.extend(number.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len());
            request.extend([
                3,
                length.map_err(|_| refused("the server's name is too long"))?,
            ]);
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    let [_version, reply, _reserved, kind] = read(stream).await?;
    if reply != 0 {
        return Err(refused(format!(
            "it answers {reply}, {}; allow the server there",
            told(reply)
        )));
    }
    // Which address it connects from.
    let length = match kind {
        1 => 4,
        4 => 16,
        _ => stream.read_u8().await?,
    };
    let mut rest = vec![0; usize::from(length) + 2];
    stream.read_exact(&mut rest).await?;
    Ok(())
}

async fn log_in(stream: &mut TcpStream, user: &User) -> io::Result<()> {
    let mut request = vec![1];
    for text in [&user.name, &user.password] {
        let length = u8::try_from(text.len());
        request.push(length.map_err(|_| refused("the user or password is too long"))?);
        request.extend(text.as_bytes());
    }
    stream.write_all(&request).await?;
    match read(stream).await? {
        [_version, 0] => Ok(()),
        _ => Err(refused("it refuses the user and password in its URL")),
    }
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn told(reply: u8) -> &'static str {
    match reply {
        2 => "not allowed by its rules",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached",
        5 => "the connection was refused",
        6 => "the time to live has passed",
        7 => "it knows no such command",
        8 => "it knows no such kind of address",
        _ => "a failure of its own",
    }
}
