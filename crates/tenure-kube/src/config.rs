//! Which cluster, which namespace, as whom.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tenure_core::{Error, Identity};
use tenure_kit::limits::{check_timeout, shortened};
use tenure_kit::{Secret, Tls, TlsNames, Url};

use crate::annotations::{fields, set_annotation};
use crate::lease_candidate::LeaseCandidate;
use crate::owner::Owner;
use crate::source::{Source, source_in, take};

/// Where the API server is and how to speak to it.
///
/// `Debug` shows no token.
#[derive(Clone, Debug)]
pub struct KubeConfig {
    pub(crate) source: Source,
    pub(crate) namespace: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) token: Option<Secret>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) creates: bool,
    pub(crate) field_manager: String,
    pub(crate) reclaim: Option<Identity>,
    pub(crate) gone_pods: bool,
    pub(crate) lease_candidate: Option<LeaseCandidate>,
}

impl KubeConfig {
    /// What an object is given when it is made.
    pub(crate) fn write_new(&self, object: &mut Value) {
        for (name, value) in &self.annotations {
            set_annotation(object, name, value.clone());
        }
        if !self.owners.is_empty() {
            let owners = self.owners.iter().map(Owner::reference);
            object["metadata"]["ownerReferences"] = owners.collect();
        }
    }

    /// What an object is given with each write.
    pub(crate) fn write_labels(&self, object: &mut Value) {
        for (name, value) in &self.labels {
            fields(&mut object["metadata"]["labels"]).insert(name.clone(), json!(value));
        }
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            namespace: None,
            tls: Tls::new(),
            token: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            labels: Vec::new(),
            annotations: Vec::new(),
            owners: Vec::new(),
            creates: true,
            field_manager: "tenure".to_owned(),
            reclaim: None,
            gone_pods: false,
            lease_candidate: None,
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

    /// An API server by its address, such as `https://10.0.0.1:6443`. [`tls`](Self::tls) says whose
    /// certificates to trust, without it the system's authorities. Without a token none is sent: for
    /// a proxy that adds one, such as `kubectl proxy`.
    pub fn server(url: impl Into<String>) -> Self {
        Self::new(Source::Server(url.into()))
    }

    /// Settings for TLS. Each that is set replaces that of the kubeconfig or service account. The
    /// files are read when the client is made, and again after the API server has refused the
    /// certificate or the token.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// This token, for as long as it lasts. It replaces the token, password or credential helper of
    /// the kubeconfig or service account; so do [`token_file`](Self::token_file) and
    /// [`token_env`](Self::token_env), and each other.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret::value(token));
        self
    }

    /// The token in this file, which is read again every minute, since tokens expire.
    #[must_use]
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Some(Secret::file(file));
        self
    }

    /// The token in this variable of the environment.
    #[must_use]
    pub fn token_env(mut self, variable: impl Into<String>) -> Self {
        self.token = Some(Secret::environment(variable));
        self
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

    /// An annotation of every object that is made here. One that is there already stays as it is.
    #[must_use]
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// An owner of every object that is made here. One that is there already stays as it is.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owners.push(owner);
        self
    }

    /// Whether an object that is not there is made; it is by default. Without it another program has
    /// to make the object, and to acquire fails with
    /// [`Misconfigured`](tenure_core::ErrorKind::Misconfigured) until then.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.creates = create;
        self
    }

    /// Whether an object that is not there is made.
    pub fn creates(&self) -> bool {
        self.creates
    }

    /// The name under which the API server notes who changed which field; `tenure` by default.
    #[must_use]
    pub fn field_manager(mut self, name: impl Into<String>) -> Self {
        self.field_manager = name.into();
        self
    }

    /// Takes a lock that this identity holds back at once, in a new term, when this process did
    /// not acquire it itself, by a backend with this setting. Off by default.
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

    /// Takes part in elections that the API server decides (KEP-4355), as this candidate, on Leases.
    /// Off by default.
    ///
    /// The candidate takes no Lease by itself: a controller in the API server gives it to the
    /// candidate with the oldest emulated version. A leader that the API server wants to replace
    /// (`spec.preferredHolder`) does not renew its term, so that it ends. Needs Kubernetes 1.33 or
    /// newer with the feature gate `CoordinatedLeaderElection` and `coordination.k8s.io/v1beta1`.
    #[must_use]
    pub fn lease_candidate(mut self, candidate: LeaseCandidate) -> Self {
        self.lease_candidate = Some(candidate);
        self
    }

    /// As which candidate the API server's elections are taken part in.
    pub fn as_lease_candidate(&self) -> Option<&LeaseCandidate> {
        self.lease_candidate.as_ref()
    }

    /// Reads `<scheme>://[namespace][?parameters]`. No I/O yet.
    ///
    /// Parameters, percent-encoded where they hold anything but letters, digits and `-._~/`:
    ///
    /// - `kubeconfig` (a file), `context`, or `server` (`https://...`). With none of the three what
    ///   the [environment](Self::from_environment) offers.
    /// - `token_file`, `token_env`, `ca`, `client_cert`, `client_key`, `server_name` (also
    ///   `tls_server_name`), which replace those of the kubeconfig or service account.
    /// - `connect_timeout`, `request_timeout`, `field_manager`.
    /// - `gone_pods=true` for [`take_over_from_gone_pods`](Self::take_over_from_gone_pods),
    ///   `create=false` for [`create`](Self::create), `lease_candidate=name:1.4.0` for
    ///   [`lease_candidate`](Self::lease_candidate).
    /// - `label=name:value`, `annotation=name:value` and `owner=apps/v1:Deployment:name:uid`, each
    ///   also several times.
    ///
    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput).
    pub fn from_url(scheme: &str, url: &str) -> Result<Self, Error> {
        Self::from_parsed(scheme, Url::parse(url)?)
    }

    /// The same of a URL that is taken apart already.
    pub fn from_parsed(scheme: &str, mut url: Url) -> Result<Self, Error> {
        let namespace = namespace_in(scheme, &url)?;
        let mut config = Self::new(source_in(&mut url)?);
        if let Some(namespace) = namespace {
            config = config.namespace(namespace)?;
        }
        config.token = url.take_secret("token", None)?;
        let own = TlsNames {
            server_name: &["tls_server_name"],
            ..TlsNames::default()
        };
        config.tls = Tls::take_from(&mut url, own)?;
        if let Some(limit) = url.take_duration(&["connect_timeout"])? {
            config.connect_timeout = limit;
        }
        config.request_timeout = url.take_duration(&["request_timeout"])?;
        if let Some(name) = take(&mut url, "field_manager")? {
            config.field_manager = name;
        }
        config.gone_pods = url.take_switch("gone_pods")?.unwrap_or(false);
        config.creates = url.take_switch("create")?.unwrap_or(true);
        let candidate = take(&mut url, "lease_candidate")?;
        config.lease_candidate = candidate
            .as_deref()
            .map(LeaseCandidate::parse)
            .transpose()?;
        for label in url.take_all("label") {
            let (name, value) = pair("label", &label)?;
            config = config.label(name, value);
        }
        for annotation in url.take_all("annotation") {
            let (name, value) = pair("annotation", &annotation)?;
            config = config.annotation(name, value);
        }
        for owner in url.take_all("owner") {
            config = config.owner(Owner::parse(&owner)?);
        }
        url.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Fails with [`InvalidInput`](tenure_core::ErrorKind::InvalidInput). No I/O.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_timeout("connect_timeout", self.connect_timeout)?;
        if let Some(limit) = self.request_timeout {
            check_timeout("request_timeout", limit)?;
        }
        self.tls.check()
    }
}

/// The name and the value of a parameter such as `label=name:value`.
fn pair<'a>(parameter: &str, text: &'a str) -> Result<(&'a str, &'a str), Error> {
    text.split_once(':').ok_or_else(|| {
        Error::invalid_input(format!(
            "the URL's {parameter} has no colon; use {parameter}=name:value"
        ))
    })
}

/// What stands in the place of the hosts.
fn namespace_in(scheme: &str, url: &Url) -> Result<Option<String>, Error> {
    let wrong = |problem: &str| {
        Err(Error::invalid_input(format!(
            "the URL {problem}; use {scheme}://namespace?context=name, or {scheme}:// alone"
        )))
    };
    if url.scheme() != scheme {
        return wrong("is of another scheme");
    }
    let is_plain = url.has_authority()
        && matches!(url.raw_path(), "" | "/")
        && url.user().is_none()
        && url.password().is_none();
    match url.hosts() {
        [] if is_plain => Ok(None),
        [namespace] if is_plain && !namespace.contains(':') => Ok(Some(namespace.clone())),
        _ => wrong(
            "has something else than a namespace after \"://\"; an API server's address goes \
             into ?server=",
        ),
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
        shortened(namespace)
    )))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tenure_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<KubeConfig, Error> {
        KubeConfig::from_url("kube-lease", url)
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let config = KubeConfig::server("https://ann:hunter2@10.0.0.1:6443");
        let shown = format!("{config:?}");
        assert!(
            shown.contains("10.0.0.1:6443") && !shown.contains("hunter2"),
            "{shown}"
        );
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
            read("kube-lease://?server=https://10.0.0.1:6443&ca=/ca.crt&token_file=/token")
                .unwrap();
        assert!(matches!(config.source, Source::Server(_)));
        assert_eq!(config.token, Some(Secret::file("/token")));
        assert_eq!(config.tls, Tls::new().ca("/ca.crt"));
    }

    /// They replace what the kubeconfig or service account says.
    #[test]
    fn settings_for_tls_go_with_every_source() {
        for url in ["kube-lease://?", "kube-lease://?context=a&"] {
            let settings = "client_cert=/c&client_key=/k&tls_server_name=n&request_timeout=2s";
            let config = read(&format!("{url}{settings}")).unwrap();
            let tls = Tls::new().client_cert("/c").client_key("/k");
            assert_eq!(config.tls, tls.server_name("n"));
            assert_eq!(config.request_timeout, Some(Duration::from_secs(2)));
        }
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
            "kube-lease://a,b",
            "kube-lease://?ca=",
            "kube-lease://?client_cert=/a",
            "kube-lease://?server_name=a&tls_server_name=a",
            "kube-lease://?token_file=/a&token_env=A",
            "kube-lease://?request_timeout=0s",
            "kube-lease://?label=a",
            "kube-lease://?annotation=a",
            "kube-lease://?owner=v1:Pod:a",
            "kube-lease://?owner=v1:Pod::uid",
            "kube-lease://?create=never",
            "kube-lease://?context=%ff",
            "kube-lease://?gone_pods=yes",
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let config = KubeConfig::server("https://a").token("hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
