//! How a connection pooler is told from the server itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{DuplexStream, ReadBuf};
use tokio_postgres::Client;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The process id that came with the login, which a pooler makes up (hazard 29). The client hides
/// it, but writes it into a request to cancel, which here goes nowhere.
pub(crate) async fn pid_of_the_login(client: &Client) -> Option<i32> {
    const SSL_REQUEST: u32 = 80_877_103;

    let (near, mut far) = tokio::io::duplex(64);
    let cancel = client.cancel_token();
    let request = cancel.cancel_query_raw(near, NoHandshake);
    let reading = async move {
        let code = read_code(&mut far).await?;
        if code == SSL_REQUEST {
            far.write_all(b"S").await.ok()?;
            read_code(&mut far).await?;
        }
        far.read_i32().await.ok()
    };
    // The pipe's other end is dropped after reading, which the writer may see as an error.
    let (_written, pid) = tokio::join!(request, reading);
    pid
}

/// The second of a message's first two numbers.
async fn read_code(stream: &mut DuplexStream) -> Option<u32> {
    let _length = stream.read_u32().await.ok()?;
    stream.read_u32().await.ok()
}

struct NoHandshake;

impl TlsConnect<DuplexStream> for NoHandshake {
    type Stream = Bare;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Bare, io::Error>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        std::future::ready(Ok(Bare(stream)))
    }
}

struct Bare(DuplexStream);

impl TlsStream for Bare {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Bare {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bare {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
