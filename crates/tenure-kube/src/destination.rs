//! The API server and the namespace that a process has begun with, and stays with.

use kube::Config;
use tenure_core::ErrorKind;
use tenure_kit::StoreError;
use tenure_kit::limits::shown;

use crate::config::KubeConfig;

/// Where the locks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    server: http::Uri,
    namespace: String,
}

impl Destination {
    pub(crate) fn of(kube: &Config, config: &KubeConfig) -> Self {
        let stated = config.namespace.clone();
        Self {
            server: kube.cluster_url.clone(),
            namespace: stated.unwrap_or_else(|| kube.default_namespace.clone()),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Fails with [`Misconfigured`](ErrorKind::Misconfigured) if `now` is elsewhere: an election
    /// that moved would have a leader in both places.
    pub(crate) fn check(&self, now: &Self) -> Result<(), StoreError> {
        if self == now {
            return Ok(());
        }
        let message = format!(
            "the kubeconfig or service account leads to {} now, but this process has begun with \
             {} and stays there: restart it to change cluster or namespace; ?context= keeps it \
             apart from the kubeconfig's current context",
            now.text(),
            self.text()
        );
        Err(StoreError::new(ErrorKind::Misconfigured, message))
    }

    fn text(&self) -> String {
        format!(
            "{}, namespace \"{}\",",
            self.address(),
            shown(&self.namespace)
        )
    }

    /// The API server, without what stands before an `@`, which may be a password.
    pub(crate) fn address(&self) -> String {
        let server = &self.server;
        let authority = server.authority().map_or("", http::uri::Authority::as_str);
        let address = authority.rsplit('@').next().unwrap_or_default();
        let scheme = server.scheme_str().unwrap_or("https");
        let url = format!("{scheme}://{address}{}", server.path());
        shown(&url)
    }
}
