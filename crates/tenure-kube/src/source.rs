//! [`Source`]: where it stands how the API server is reached.

use std::fmt;
use std::path::{Path, PathBuf};

use tenure_core::Error;
use tenure_kit::{Url, redact};

/// Where the configuration of the connection is.
#[derive(Clone)]
pub(crate) enum Source {
    /// What the environment offers, in kubectl's order.
    Environment,
    InCluster,
    Kubeconfig {
        file: Option<PathBuf>,
        context: Option<String>,
    },
    /// Its address.
    Server(String),
}

/// Without what stands before an `@` in an address, which may be a password.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::InCluster => f.write_str("InCluster"),
            Self::Kubeconfig { file, context } => f
                .debug_struct("Kubeconfig")
                .field("file", file)
                .field("context", context)
                .finish(),
            Self::Server(url) => f.debug_tuple("Server").field(&redact(url)).finish(),
        }
    }
}

/// What the URL says of it.
pub(crate) fn source_in(url: &mut Url) -> Result<Source, Error> {
    let file = take(url, "kubeconfig")?.map(PathBuf::from);
    match (take(url, "server")?, file, take(url, "context")?) {
        (Some(server), None, None) => Ok(Source::Server(server)),
        (Some(_), ..) => Err(Error::invalid_input(
            "the URL names both a server and a kubeconfig; keep one of them",
        )),
        (None, None, None) => Ok(Source::Environment),
        (None, file, context) => Ok(Source::Kubeconfig { file, context }),
    }
}

/// A parameter that must not be empty.
pub(crate) fn take(url: &mut Url, name: &str) -> Result<Option<String>, Error> {
    match url.take(name)? {
        Some(value) if value.is_empty() => Err(Error::invalid_input(format!(
            "the URL's parameter {name} is empty; leave it out"
        ))),
        value => Ok(value),
    }
}

/// Which kubeconfig the environment offers, if any.
pub(crate) fn kubeconfig_variable() -> bool {
    std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty())
}

/// Whether we are in a pod that may speak to its API server.
pub(crate) fn in_a_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}
