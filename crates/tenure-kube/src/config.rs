//! Which cluster, which namespace, as whom.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tenure_core::{Error, Identity};

/// Where the API server is and how to speak to it.
///
/// `Debug` shows no token.
#[derive(Clone, Debug)]
pub struct KubeConfig {
    pub(crate) source: Source,
    pub(crate) namespace: Option<String>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) field_manager: String,
    pub(crate) reclaim: Option<Identity>,
    pub(crate) gone_pods: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// What the environment offers, in kubectl's order.
    Environment,
    InCluster,
    Kubeconfig {
        file: Option<PathBuf>,
        context: Option<String>,
    },
    Server {
        url: String,
        authorities: Option<PathBuf>,
        token: Token,
    },
}

/// Where the token comes from that says who we are.
#[derive(Clone)]
#[non_exhaustive]
pub enum Token {
    /// No token: for a proxy that adds one, such as `kubectl proxy`.
    None,
    /// This file, read anew every minute, since tokens expire.
    File(PathBuf),
    /// This token, for as long as it lasts.
    Text(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Text(_) => f.write_str("Text(***)"),
        }
    }
}

impl KubeConfig {
    fn new(source: Source) -> Self {
        Self {
            source,
            namespace: None,
            tls_server_name: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            labels: Vec::new(),
            field_manager: "tenure".to_owned(),
            reclaim: None,
            gone_pods: false,
        }
    }

    /// What the environment offers: the kubeconfig that `KUBECONFIG` names, else the service
    /// account of the pod we are in, else `~/.kube/config`.
    pub fn from_environment() -> Self {
        Self::new(Source::Environment)
    }

    /// The service account of the pod we are in.
    pub fn in_cluster() -> Self {
        Self::new(Source::InCluster)
    }

    /// A kubeconfig: this file (without one `KUBECONFIG` or `~/.kube/config`) and this context
    /// (without one its current context).
    pub fn from_file(file: Option<PathBuf>, context: Option<String>) -> Self {
        Self::new(Source::Kubeconfig { file, context })
    }

    /// An API server by its address, such as `https://10.0.0.1:6443`. `authorities` is a PEM file
    /// with the certificates to trust; without it those that the system trusts.
    pub fn server(url: impl Into<String>, authorities: Option<PathBuf>, token: Token) -> Self {
        Self::new(Source::Server {
            url: url.into(),
            authorities,
            token,
        })
    }

    /// The namespace of the locks. Without it that of the pod or of the kubeconfig's context,
    /// else `default`.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput) if it is no name for one.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self, Error> {
        let namespace = namespace.into();
        check_namespace(&namespace)?;
        self.namespace = Some(namespace);
        Ok(self)
    }

    /// The namespace, if it was said.
    pub fn stated_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The name to expect in the server's certificate instead of the one in its address.
    #[must_use]
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// How long one attempt to connect may take; 5 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long the API server may take to answer one request. By default only the policy's
    /// [`request_timeout`](tenure_core::Policy::request_timeout) bounds it.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = Some(limit);
        self
    }

    /// A label to set on every object that is written here.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// The name under which the API server notes who changed which field; `tenure` by default.
    #[must_use]
    pub fn field_manager(mut self, name: impl Into<String>) -> Self {
        self.field_manager = name.into();
        self
    }

    /// Takes a lock that this identity holds back at once, in a new term, when this process did
    /// not acquire it itself. Off by default.
    ///
    /// For a process with a fixed identity that is restarted, as in a `StatefulSet`: instead of
    /// waiting for its own old lease to end. **Only where never two processes have that identity
    /// at a time**: the second would take the lock from the first, which may still be working.
    #[must_use]
    pub fn take_back_from_earlier_self(mut self, identity: Identity) -> Self {
        self.reclaim = Some(identity);
        self
    }

    /// Takes a lock over, without waiting for the lease to end, from a holder whose pod is gone.
    /// Off by default.
    ///
    /// It is for candidates that call themselves by [`pod_identity`](crate::pod_identity) and whose
    /// pods are in the locks' namespace. The pod is gone when there is none of its name any more, or when it
    /// has another UID. Needs the verb `get` on `pods`; each waiting candidate sends one such
    /// request every two seconds.
    ///
    /// **A pod can be gone while its process still runs**: when it was deleted by force, or its
    /// node is cut off. The old leader then leads beside the new one, at most until its lease ends.
    /// So use it only where all writes are fenced by the token.
    #[must_use]
    pub fn take_over_from_gone_pods(mut self, on: bool) -> Self {
        self.gone_pods = on;
        self
    }

    /// Whether locks are taken over from holders whose pod is gone.
    pub fn takes_over_from_gone_pods(&self) -> bool {
        self.gone_pods
    }

    /// Reads `<scheme>://[namespace][?parameters]`. No I/O yet.
    ///
    /// Parameters, percent-encoded where they hold anything but letters, digits and `-._~/`:
    /// `kubeconfig` (a file), `context`, or `server` (`https://...`) with `ca` and `token_file`;
    /// `tls_server_name`, `field_manager`, `gone_pods=true` for
    /// [`take_over_from_gone_pods`](Self::take_over_from_gone_pods), and `label=name:value`, also
    /// several times. With none of
    /// the first three what the [environment](Self::from_environment) offers.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput).
    pub fn from_url(scheme: &str, url: &str) -> Result<Self, Error> {
        let wrong = |problem: &str| {
            Error::invalid_input(format!(
                "the URL {problem}; use {scheme}://namespace?context=name, or {scheme}:// alone"
            ))
        };
        let (found, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("has no \"://\""))?;
        if !found.eq_ignore_ascii_case(scheme) {
            return Err(wrong("is of another scheme"));
        }
        if rest.contains('#') {
            return Err(wrong("has a fragment"));
        }
        let (namespace, query) = rest.split_once('?').unwrap_or((rest, ""));
        let namespace = namespace.strip_suffix('/').unwrap_or(namespace);
        if namespace.contains(['@', ':', '/']) {
            return Err(wrong(
                "has something else than a namespace after \"://\"; an API server's address goes \
                 into ?server=",
            ));
        }
        let mut parameters = Parameters::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| wrong("has a parameter that is not UTF-8"))?;
            parameters.set(name, &value)?;
        }
        let config = parameters.into_config()?;
        if namespace.is_empty() {
            Ok(config)
        } else {
            config.namespace(namespace)
        }
    }
}

#[derive(Default)]
struct Parameters {
    single: Vec<(&'static str, String)>,
    labels: Vec<(String, String)>,
}

/// Parameters that may be given once.
const SINGLE: [&str; 8] = [
    "kubeconfig",
    "context",
    "server",
    "ca",
    "token_file",
    "tls_server_name",
    "field_manager",
    "gone_pods",
];

impl Parameters {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        if value.is_empty() {
            return Err(Error::invalid_input(format!(
                "the URL's parameter {:?} is empty",
                shown(name)
            )));
        }
        if name == "label" {
            let (name, value) = value.split_once(':').ok_or_else(|| {
                Error::invalid_input("the URL's label has no colon; use label=name:value")
            })?;
            self.labels.push((name.to_owned(), value.to_owned()));
            return Ok(());
        }
        let Some(name) = SINGLE.iter().find(|known| **known == name) else {
            return Err(Error::invalid_input(format!(
                "the URL's parameter {:?} is unknown; use one of {}, label",
                shown(name),
                SINGLE.join(", ")
            )));
        };
        if self.single.iter().any(|(set, _)| set == name) {
            return Err(Error::invalid_input(format!(
                "the URL has the parameter {name} twice; keep one of them"
            )));
        }
        self.single.push((name, value.to_owned()));
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.single.iter().position(|(set, _)| *set == name)?;
        Some(self.single.swap_remove(at).1)
    }

    fn into_config(mut self) -> Result<KubeConfig, Error> {
        let server = self.take("server");
        let (file, context) = (self.take("kubeconfig"), self.take("context"));
        let (authorities, token) = (self.take("ca"), self.take("token_file"));
        if server.is_some() && (file.is_some() || context.is_some()) {
            return Err(Error::invalid_input(
                "the URL names both a server and a kubeconfig; keep one of them",
            ));
        }
        if server.is_none() && (authorities.is_some() || token.is_some()) {
            return Err(Error::invalid_input(
                "the URL has ca or token_file without server; add ?server=https://...",
            ));
        }
        let mut config = match server {
            Some(url) => KubeConfig::server(
                url,
                authorities.map(PathBuf::from),
                token.map_or(Token::None, |file| Token::File(file.into())),
            ),
            None if file.is_some() || context.is_some() => {
                KubeConfig::from_file(file.map(PathBuf::from), context)
            }
            None => KubeConfig::from_environment(),
        };
        config.tls_server_name = self.take("tls_server_name");
        if let Some(name) = self.take("field_manager") {
            config.field_manager = name;
        }
        if let Some(on) = self.take("gone_pods") {
            config.gone_pods = on.parse().map_err(|_| {
                Error::invalid_input("the URL's gone_pods is neither true nor false")
            })?;
        }
        config.labels = self.labels;
        Ok(config)
    }
}

/// An RFC 1123 label, which is also what keeps a namespace from being a path.
fn check_namespace(namespace: &str) -> Result<(), Error> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=63).contains(&namespace.len())
        && namespace.chars().all(inner)
        && !namespace.starts_with('-')
        && !namespace.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{:?} is no name for a namespace: it needs 1 to 63 of a-z, 0-9 and '-', with a letter or \
         digit at both ends",
        shown(namespace)
    )))
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
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

#[cfg(test)]
mod tests {
    use tenure_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<KubeConfig, Error> {
        KubeConfig::from_url("kube-lease", url)
    }

    #[test]
    fn urls_are_read() {
        let config = read("kube-lease://").unwrap();
        assert!(matches!(config.source, Source::Environment));
        assert_eq!(config.namespace, None);

        let config = read(
            "kube-lease://team-a/?context=admin%40prod&kubeconfig=/etc/kube/config&label=app:x\
             &label=example.com%2Ftier:y&field_manager=mine",
        )
        .unwrap();
        assert_eq!(config.namespace.as_deref(), Some("team-a"));
        let Source::Kubeconfig { file, context } = config.source else {
            panic!("{:?}", config.source);
        };
        assert_eq!(file.unwrap(), Path::new("/etc/kube/config"));
        assert_eq!(context.unwrap(), "admin@prod");
        assert_eq!(config.labels.len(), 2);
        assert_eq!(config.labels[1].0, "example.com/tier");
        assert_eq!(config.field_manager, "mine");

        let config =
            read("kube-lease://?server=https://10.0.0.1:6443&ca=/ca.crt&token_file=/token");
        assert!(matches!(
            config.unwrap().source,
            Source::Server {
                token: Token::File(_),
                ..
            }
        ));
    }

    #[test]
    fn bad_urls_are_refused_without_any_io() {
        for url in [
            "kube-lease:team",
            "kube-configmap://team",
            "kube-lease://Team",
            "kube-lease://-team",
            "kube-lease://a/b",
            "kube-lease://a@b",
            "kube-lease://a:80",
            "kube-lease://a#b",
            "kube-lease://?contxt=a",
            "kube-lease://?context=",
            "kube-lease://?context=a&context=b",
            "kube-lease://?context=a&server=https://b",
            "kube-lease://?ca=/a",
            "kube-lease://?label=a",
            "kube-lease://?context=%ff",
            "kube-lease://?gone_pods=yes",
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let config = KubeConfig::server("https://a", None, Token::Text("hunter2".to_owned()));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
