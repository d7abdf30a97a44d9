//! TLS as Postgres does it: the mode, and the handshake in the client's own terms.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tenure_core::ErrorKind;
use tenure_kit::Address;
use tenure_kit::tls::client::provider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::TlsConnect;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{DigitallySignedStruct, Error as TlsError, SignatureScheme};

use crate::channel_binding::server_end_point;
use crate::config::{PostgresConfig, TlsMode};
use crate::errors::StoreError;
use crate::stream::Bound;

/// Makes TLS connections for the client.
#[derive(Clone)]
pub(crate) struct MakeTls {
    connector: TlsConnector,
    /// The name that the certificate must be for, if it is not the host's.
    name: Option<String>,
}

impl MakeTls {
    /// Reads the files for each connection, so that renewed certificates are used without a
    /// restart.
    pub(crate) async fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        let verifier: Option<Arc<dyn ServerCertVerifier>> = match config.tls_mode {
            TlsMode::Require => None,
            _ => Some(Arc::new(Unverified(
                provider()?.signature_verification_algorithms,
            ))),
        };
        let client = config.tls.client_config(verifier).await?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            name: config.tls.name().map(str::to_owned),
        })
    }
}

impl MakeTls {
    /// The handshake with this host.
    pub(crate) fn for_host(&self, address: &Address) -> Result<Handshake, StoreError> {
        let name = self.name.as_deref().unwrap_or(address.host());
        let name = ServerName::try_from(name).map_err(|error| {
            let message = format!(
                "no certificate can be for the name {name:?}; set server_name, or sslmode=disable \
                 for a connection without TLS"
            );
            StoreError::new(ErrorKind::Misconfigured, message).with_source(error)
        })?;
        Ok(Handshake {
            connector: self.connector.clone(),
            name: name.to_owned(),
        })
    }
}

pub(crate) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Bound<TlsStream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Bound<TlsStream<S>>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = self.connector.connect(self.name, stream).await?;
            let certificates = stream.get_ref().1.peer_certificates();
            let first = certificates.and_then(<[_]>::first);
            let binding = first.and_then(|certificate| server_end_point(certificate));
            Ok(Bound::new(stream, binding))
        })
    }
}

/// For `sslmode=prefer`: any certificate will do.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
