//! TLS on a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::ErrorKind;
use tenure_kit::{Address, Tls};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::stream::OwnStream;
use crate::errors::{self, StoreError};

/// Speaks TLS to the server on `stream`. Its certificate must be for the host of `address`, or for
/// the name that was set. Reads the files of `tls`.
pub(super) async fn connect(
    tls: &Tls,
    address: &Address,
    stream: OwnStream,
) -> Result<TlsStream<OwnStream>, StoreError> {
    let name = tls.name_of(address.host()).to_owned();
    let name = ServerName::try_from(name).map_err(|error| {
        let message =
            format!("{address} has no name that a certificate can be for; set one by server_name");
        StoreError::new(ErrorKind::Misconfigured, message).with_source(error)
    })?;
    let config = tls.client_config(None).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| handshake_error(address, error))
}

/// A plain Redis waits for the end of a line that TLS does not send.
pub(super) fn silent(address: &Address, limit: Duration) -> StoreError {
    let message = format!(
        "{address} did not answer the TLS handshake within {limit:?} (three quarters of \
         connect_timeout); if the server speaks no TLS on this port, use its TLS port, or redis \
         instead of rediss in the URL"
    );
    StoreError::new(ErrorKind::Timeout, message).reconnect()
}

fn handshake_error(address: &Address, error: io::Error) -> StoreError {
    // rustls' own errors come as `InvalidData`; all others are the network's.
    if error.kind() != io::ErrorKind::InvalidData {
        return errors::connecting(address, error);
    }
    if error.to_string().contains("InvalidContentType") {
        let message = format!(
            "{address} does not speak TLS on this port; use its TLS port, or redis instead of rediss \
             in the URL"
        );
        return StoreError::new(ErrorKind::Misconfigured, message)
            .reconnect()
            .with_source(error);
    }
    let message = format!(
        "the TLS handshake with {address} failed: {error}; check the server's certificate, and ca, \
         client_cert, client_key and server_name here"
    );
    StoreError::new(ErrorKind::Misconfigured, message)
        .reconnect()
        .with_source(error)
}
