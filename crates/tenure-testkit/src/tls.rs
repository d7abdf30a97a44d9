//! Servers that speak TLS and nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Shows this certificate.
pub fn acceptor(certificate: &Path, key: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    // Named, because a build with all features has two.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The first byte of a request to Postgres for TLS: the others begin with TLS itself.
const POSTGRES: u8 = 0;

/// A server that shows this certificate to clients of any store, and closes the connection.
pub async fn shows(certificate: &Path, key: &Path) -> SocketAddr {
    let acceptor = acceptor(certificate, key);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet(acceptor.clone(), stream));
        }
    });
    address
}

async fn greet(acceptor: TlsAcceptor, mut stream: TcpStream) -> Option<()> {
    let mut first = [0];
    stream.peek(&mut first).await.ok()?;
    if first[0] == POSTGRES {
        stream.read_exact(&mut [0; 8]).await.ok()?;
        stream.write_all(b"S").await.ok()?;
    }
    let mut stream = acceptor.accept(stream).await.ok()?;
    stream.shutdown().await.ok()
}
