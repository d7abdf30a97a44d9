//! How much a server may send before it has ended an answer.
//!
//! Clients of stores read an answer to its end before they look at it, however long it is. A server
//! that never ends one would fill the memory.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes may come from a server until the next [`renew`](Self::renew). Clones are the same
/// allowance.
#[derive(Clone, Debug)]
pub struct Allowance {
    most: u64,
    used: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    is_lifted: Arc<AtomicBool>,
}

impl Allowance {
    /// Of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            used: Arc::default(),
            reads: Arc::default(),
            is_lifted: Arc::default(),
        }
    }

    /// The server may send whatever it likes until the value is dropped: for answers whose length
    /// the application chooses. One at a time.
    pub fn lift(&self) -> Lifted {
        self.is_lifted.store(true, Ordering::Relaxed);
        Lifted(self.clone())
    }

    /// An answer has come to its end: from now on the server may send as much again.
    pub fn renew(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// How often something has come from the server: a sign of life, for whatever it was the answer.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// The stream, whose reads use this allowance. When nothing is left of it, reading fails with
    /// [`Exceeded`] as the source of the error.
    pub fn limit<S>(&self, stream: S) -> Limited<S> {
        Limited {
            stream,
            allowance: self.clone(),
        }
    }
}

/// An [`Allowance`] without a limit; it has one again when this is dropped.
#[derive(Debug)]
pub struct Lifted(Allowance);

impl Drop for Lifted {
    fn drop(&mut self) {
        self.0.renew();
        self.0.is_lifted.store(false, Ordering::Relaxed);
    }
}

/// What the text of an [`Exceeded`] holds: for clients that keep no more of an error than its text.
pub const ENDLESS: &str = "have come without an end";

/// The server has sent more than its [`Allowance`] without ending an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    most: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.most / (1024 * 1024);
        write!(f, "more than {mebibytes} MiB {ENDLESS}")
    }
}

impl StdError for Exceeded {}

/// A stream with a limit for what is read from it.
#[derive(Debug)]
pub struct Limited<S> {
    stream: S,
    allowance: Allowance,
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Allowance {
            most,
            used,
            is_lifted,
            ..
        } = &self.allowance;
        if used.load(Ordering::Relaxed) > *most && !is_lifted.load(Ordering::Relaxed) {
            let exceeded = Exceeded { most: *most };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, exceeded)));
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        let Allowance { used, reads, .. } = &self.allowance;
        used.fetch_add(u64::try_from(read).unwrap_or(u64::MAX), Ordering::Relaxed);
        reads.fetch_add(u64::from(read > 0), Ordering::Relaxed);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
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

    async fn read(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<usize> {
        let mut bytes = vec![0; most];
        let mut buffer = ReadBuf::new(&mut bytes);
        std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_read_up_to_the_allowance() {
        let allowance = Allowance::new(100);
        let mut stream = allowance.limit(tokio::io::join(&[7_u8; 1000][..], Vec::new()));
        assert_eq!(read(&mut stream, 60).await.unwrap(), 60);
        assert_eq!(allowance.reads(), 1);
        allowance.renew();
        assert_eq!(read(&mut stream, 60).await.unwrap(), 60);
        assert_eq!(read(&mut stream, 60).await.unwrap(), 60);
        let lifted = allowance.lift();
        for _ in 0..3 {
            assert_eq!(read(&mut stream, 60).await.unwrap(), 60);
        }
        drop(lifted);
        for _ in 0..2 {
            assert_eq!(read(&mut stream, 60).await.unwrap(), 60);
        }
        let error = read(&mut stream, 60).await.unwrap_err();
        let source = error.get_ref().unwrap();
        assert_eq!(
            source.downcast_ref::<Exceeded>(),
            Some(&Exceeded { most: 100 })
        );
    }
}
