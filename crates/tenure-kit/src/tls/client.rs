//! A rustls client configuration, with the cryptography that the crate's features choose. Nothing
//! is installed globally.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{Tls, TlsMaterial, misconfigured};
use crate::store_error::{StoreError, blocking};

/// The cryptography: AWS-LC's or ring's, as the features say, or else the process's default.
///
/// Fails with [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) when there is none.
// Hidden: for this workspace's backends alone, and no part of what the version promises, since
// rustls types stand in its signature.
#[doc(hidden)]
pub fn provider<D>() -> Result<Arc<CryptoProvider>, StoreError<D>> {
    built_in()
        .or_else(|| CryptoProvider::get_default().cloned())
        .ok_or_else(|| {
            misconfigured(
                "TLS has no cryptography to use; switch on the feature ring or aws-lc-rs, or \
                 install a rustls provider as the process's default"
                    .to_owned(),
            )
        })
}

#[cfg(feature = "aws-lc-rs")]
#[expect(clippy::unnecessary_wraps, reason = "as without a provider")]
fn built_in() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
#[expect(clippy::unnecessary_wraps, reason = "as without a provider")]
fn built_in() -> Option<Arc<CryptoProvider>> {
    Some(Arc::new(rustls::crypto::ring::default_provider()))
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn built_in() -> Option<Arc<CryptoProvider>> {
    None
}

impl Tls {
    /// Reads the files, and builds the configuration of one connection from them. With a `verifier`
    /// that one decides about the server's certificate, and `ca` is not used.
    ///
    /// Fails as [`read`](Self::read) does, and when the files hold something else than they should.
    // Hidden, as `provider` is.
    #[doc(hidden)]
    pub async fn client_config<D>(
        &self,
        verifier: Option<Arc<dyn ServerCertVerifier>>,
    ) -> Result<ClientConfig, StoreError<D>> {
        let tls = self.clone();
        // The system's authorities are many files.
        let built = blocking(move || {
            let material = tls.read_now().map_err(misconfigured)?;
            tls.build(&material, verifier)
        });
        built.await?.map_err(StoreError::widen)
    }

    fn build(
        &self,
        material: &TlsMaterial,
        verifier: Option<Arc<dyn ServerCertVerifier>>,
    ) -> Result<ClientConfig, StoreError> {
        let wrong = |error: rustls::Error| {
            misconfigured(format!(
                "TLS cannot be set up: {error}; check client_cert and client_key"
            ))
        };
        let builder = ClientConfig::builder_with_provider(provider()?)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = match verifier {
            Some(verifier) => builder
                .dangerous()
                .with_custom_certificate_verifier(verifier),
            None => builder.with_root_certificates(self.authorities(material)?),
        };
        let (Some(cert), Some(key)) = (&material.client_cert, &material.client_key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable("client_cert", self.client_cert.as_ref(), &error))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| unreadable("client_key", self.client_key.as_ref(), &error))?;
        builder.with_client_auth_cert(chain, key).map_err(wrong)
    }

    fn authorities(&self, material: &TlsMaterial) -> Result<RootCertStore, StoreError> {
        static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();

        let Some(ca) = &material.ca else {
            let of_system = || {
                let mut store = RootCertStore::empty();
                // Some systems hold a few that cannot be read; those are left out.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                store
            };
            return Ok(SYSTEM.get_or_init(of_system).clone());
        };
        let certificates = CertificateDer::pem_slice_iter(ca)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable("ca", self.ca.as_ref(), &error))?;
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(unreadable(
                "ca",
                self.ca.as_ref(),
                &"no certificate is valid",
            ));
        }
        Ok(store)
    }
}

fn unreadable(
    setting: &str,
    path: Option<&std::path::PathBuf>,
    why: &dyn std::fmt::Display,
) -> StoreError {
    let path = path.map(|path| path.display().to_string());
    misconfigured(format!(
        "{setting}: {} cannot be read as PEM: {why}",
        path.unwrap_or_default()
    ))
}
