//! How a connection pooler is told from the server itself.

use std::future::{Ready, ready};
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_postgres::Client;
use tokio_postgres::tls::TlsConnect;

use crate::stream::Bound;

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
    type Stream = Bound<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<Result<Bound<DuplexStream>, io::Error>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(Bound::new(stream, None)))
    }
}
