//! The socket to a server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tenure_core::ErrorKind;
use tenure_kit::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Notify;

use crate::errors::StoreError;

/// TCP or a Unix socket.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The bytes of a connection, before TLS.
pub(crate) struct Socket {
    stream: Box<dyn Transport>,
    /// What the server has sent first.
    first: Vec<u8>,
    asked_in_clear: Arc<AtomicBool>,
    /// Told when the server has sent something.
    answered: Arc<Notify>,
}

/// Connects to the first of the host's addresses that answers. Has no time limit of its own.
pub(crate) async fn connect(address: &Address) -> Result<Socket, StoreError> {
    connect_to_tell(address, Arc::default()).await
}

/// The same, and `answered` is told when the server has sent something.
pub(crate) async fn connect_to_tell(
    address: &Address,
    answered: Arc<Notify>,
) -> Result<Socket, StoreError> {
    let opened = open(address).await.map_err(|error| {
        let message = format!("error connecting to server: {error}");
        let failed = StoreError::new(ErrorKind::Unavailable, message).with_source(error);
        failed.reconnect()
    })?;
    Ok(Socket {
        stream: opened,
        first: Vec::new(),
        asked_in_clear: Arc::default(),
        answered,
    })
}

async fn open(address: &Address) -> io::Result<Box<dyn Transport>> {
    #[cfg(unix)]
    if address.is_socket() {
        let name = format!(".s.PGSQL.{}", address.port());
        let path = std::path::Path::new(address.host()).join(name);
        return Ok(Box::new(tokio::net::UnixStream::connect(path).await?));
    }
    let mut failed = None;
    for found in lookup_host((address.host(), address.port())).await? {
        match TcpStream::connect(found).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                // Without these a cut network would be noticed by the next deadline only.
                let alive = TcpKeepalive::new().with_time(Duration::from_secs(10));
                #[cfg(any(target_os = "linux", target_vendor = "apple"))]
                let alive = alive.with_interval(Duration::from_secs(5)).with_retries(2);
                SockRef::from(&stream).set_tcp_keepalive(&alive)?;
                return Ok(Box::new(stream));
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other("the name has no address")))
}

impl Socket {
    /// Whether the server has asked for the password as it is, without TLS.
    pub(crate) fn asked_in_clear(&self) -> Arc<AtomicBool> {
        self.asked_in_clear.clone()
    }
}

/// The longest beginning that is looked at.
const FIRST: usize = 10;

/// Whether a server that begins so asks for a password in clear. Before, it may have said that it
/// has no TLS; what it sends by TLS begins otherwise.
fn asks_in_clear(first: &[u8]) -> bool {
    let first = first.strip_prefix(b"N").unwrap_or(first);
    first.starts_with(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3])
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = FIRST - self.first.len();
        if more > 0 {
            let read = buffer.filled().iter().skip(before);
            self.first.extend(read.take(more));
            if !self.first.is_empty() {
                self.answered.notify_one();
            }
            if asks_in_clear(&self.first) {
                self.asked_in_clear.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_a_password_in_clear_is_told_from_others() {
        let clear = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];
        assert!(asks_in_clear(&clear));
        assert!(asks_in_clear(&[&b"N"[..], &clear].concat()));
        // SCRAM, MD5, TLS, and a beginning.
        assert!(!asks_in_clear(&[b'R', 0, 0, 0, 23, 0, 0, 0, 10]));
        assert!(!asks_in_clear(&[b'R', 0, 0, 0, 12, 0, 0, 0, 5]));
        assert!(!asks_in_clear(b"S\x16\x03\x03"));
        assert!(!asks_in_clear(&clear[..5]));
    }
}
