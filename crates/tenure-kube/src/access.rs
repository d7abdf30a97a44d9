//! [`Access`]: how the API server is reached, and as whom.

use http::Uri;
use http::uri::{Authority, Scheme};
use kube::Config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tenure_core::ErrorKind;
use tenure_kit::StoreError;
use tenure_kit::proxy::{self, Proxy};

/// How the API server is reached, as far as doctor tells of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    /// Its address; that of an application's own client is not known.
    pub(crate) server: Option<String>,
    /// Without user and password.
    pub(crate) proxy: Option<String>,
    /// The context that was chosen without being named in the configuration, and how many API servers the
    /// kubeconfig names.
    pub(crate) context: Option<(String, usize)>,
}

/// What a kubeconfig, a service account or an address says.
pub(crate) struct Access {
    pub(crate) kube: Config,
    /// It stands here and not in `kube`, whose client takes fewer kinds of proxies.
    pub(crate) proxy: Option<Proxy>,
    /// See [`Route`].
    pub(crate) context: Option<(String, usize)>,
}

impl Access {
    /// By the proxy that the environment names for the server, if any.
    pub(crate) fn by_environment(kube: Config) -> Result<Self, StoreError> {
        let proxy = proxy_of_environment(&kube.cluster_url)?;
        let context = None;
        Ok(Self {
            kube,
            proxy,
            context,
        })
    }

    pub(crate) fn route(&self, server: String) -> Route {
        Route {
            server: Some(server),
            proxy: self.proxy.as_ref().map(Proxy::to_string),
            context: self.context.clone(),
        }
    }
}

/// The proxy that the environment names for a server: as for client-go, also in a pod.
pub(crate) fn proxy_of_environment(server: &Uri) -> Result<Option<Proxy>, StoreError> {
    let scheme = server.scheme_str().unwrap_or_default();
    let of_scheme = if scheme == "http" { 80 } else { 443 };
    let port = server.port_u16().unwrap_or(of_scheme);
    proxy::from_environment(scheme, server.host().unwrap_or_default(), port)
}

/// An API server's address, without what stands before an `@`: Kubernetes takes no password there,
/// and the client library would log it.
pub(crate) fn server(url: &str) -> Option<Uri> {
    let mut server = url.parse::<Uri>().ok()?.into_parts();
    let scheme = server.scheme.as_ref().map(Scheme::as_str);
    if !matches!(scheme, Some("http" | "https")) {
        return None;
    }
    let authority = server.authority.as_ref().map_or("", Authority::as_str);
    if let Some((_, address)) = authority.rsplit_once('@') {
        server.authority = Some(address.parse().ok()?);
    }
    Uri::from_parts(server).ok()
}

/// The certificates in a file that holds at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    CertificateDer::pem_slice_iter(pem)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| misconfigured(format!("ca cannot be read as PEM: {error}")))
}

pub(crate) fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Misconfigured, message)
}
