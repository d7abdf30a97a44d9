//! TLS with the cryptography that the crate's features choose; nothing is installed globally.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tenure_core::ErrorKind;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::{Address, Tls};
use crate::connection::Own;
use crate::errors::{Cure, Trouble};

/// Speaks TLS to the server on `stream`, whose certificate must be for the host of `address`.
pub(crate) async fn connect(
    tls: &Tls,
    address: &Address,
    stream: Own,
) -> Result<TlsStream<Own>, Trouble> {
    let name = ServerName::try_from(address.host.clone()).map_err(|error| {
        let message = format!("{address} has no name that a certificate can be for");
        Trouble::new(ErrorKind::Misconfigured, message).caused_by(error)
    })?;
    let config = client_config(tls)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| handshake_trouble(address, error))
}

fn handshake_trouble(address: &Address, error: io::Error) -> Trouble {
    // rustls' own errors come as `InvalidData`; all others are the network's.
    if error.kind() == io::ErrorKind::InvalidData {
        let message = format!(
            "the TLS handshake with {address} failed: {error}; check the server's certificate, \
             and the authorities (ca) and the certificate (cert, key) configured here"
        );
        Trouble::new(ErrorKind::Misconfigured, message).caused_by(error)
    } else {
        Trouble::connecting(address, error)
    }
    .cured_by(Cure::Reconnect)
}

#[cfg(feature = "aws-lc-rs")]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(not(feature = "aws-lc-rs"))]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::ring::default_provider()
}

/// Read for each connection, so that renewed certificates are used without a restart. The files
/// are small and local; reading them does not hold the thread up.
fn client_config(tls: &Tls) -> Result<ClientConfig, Trouble> {
    let wrong =
        |error| Trouble::new(ErrorKind::Misconfigured, "TLS cannot be set up").caused_by(error);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(authorities(tls)?);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .map_err(|error| unreadable(certificate, error))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(wrong)
        }
    }
}

fn authorities(tls: &Tls) -> Result<RootCertStore, Trouble> {
    static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();

    let Some(file) = &tls.authorities else {
        let of_system = || {
            let mut store = RootCertStore::empty();
            // Some systems hold a few that cannot be read; those are left out.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            store
        };
        return Ok(SYSTEM.get_or_init(of_system).clone());
    };
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(file, error))?;
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Trouble::new(
            ErrorKind::Misconfigured,
            format!("{} holds no certificate", file.display()),
        ));
    }
    Ok(store)
}

fn unreadable(file: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Trouble {
    let message = format!("{} cannot be read as PEM: {error}", file.display());
    Trouble::new(ErrorKind::Misconfigured, message).caused_by(error)
}
