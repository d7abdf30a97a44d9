//! The bytes of a connection.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tenure_core::Process;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// With TLS or without.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection's bytes, in the process that made it. A forked child neither moves nor closes them:
/// the parent uses the same socket, and the same poller.
pub(super) struct OwnStream<S = TcpStream> {
    /// `None` only while it is dropped.
    stream: Option<S>,
    process: Process,
}

impl<S: Unpin> OwnStream<S> {
    pub(super) fn new(stream: S, process: Process) -> Self {
        Self {
            stream: Some(stream),
            process,
        }
    }

    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.stream {
            Some(stream) if self.process.is_current() => poll(Pin::new(stream)),
            _ => Poll::Pending,
        }
    }
}

impl<S> Drop for OwnStream<S> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            mem::forget(self.stream.take());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for OwnStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OwnStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}
