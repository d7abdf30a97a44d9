//! Requests to the API server, as JSON: fields that this version does not know survive.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};
use tenure_core::{Error, ErrorKind, Kept, Operation, Process};

use crate::config::{self, KubeConfig, Source, Token};
use crate::errors::{self, Request};

/// The longest that [`Cluster::connect`] takes, credential helpers included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A kind of object in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The kind, as in an object.
    pub kind: &'static str,
    /// The name in paths.
    pub plural: &'static str,
}

/// `coordination.k8s.io/v1` Lease.
pub const LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
};

/// `v1` `ConfigMap`.
pub const CONFIG_MAPS: Resource = Resource {
    group: "",
    kind: "ConfigMap",
    plural: "configmaps",
};

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{}/v1", self.group)
        }
    }

    /// As kubectl names it: `leases.coordination.k8s.io`.
    pub(crate) fn in_kubectl(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(crate) fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        let (version, plural) = (self.api_version(), self.plural);
        format!("{root}/{version}/namespaces/{namespace}/{plural}")
    }
}

/// What a right is granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reading one object.
    Get,
    /// Making one.
    Create,
    /// Replacing one.
    Update,
    /// Being told of changes.
    Watch,
}

impl Verb {
    /// As it stands in a Role.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// The answer to a request for one object.
pub(crate) enum Answer {
    Object(Value),
    /// There is none of that name.
    Absent,
    /// It is not what the request took it for.
    Conflict,
}

/// A cluster's API server, and the namespace in it.
#[derive(Clone)]
pub struct Cluster {
    process: Process,
    client: Arc<Kept<kube::Client>>,
    namespace: String,
    field_manager: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .field("field_manager", &self.field_manager)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects, and asks the server for its version, so that a wrong address, certificate or
    /// token is told at once.
    pub async fn connect(config: &KubeConfig) -> Result<Self, Error> {
        let connecting = async {
            let client = client(config).await?;
            let cluster = Self::with_client(client, config);
            cluster.probe().await?;
            Ok(cluster)
        };
        tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .unwrap_or_else(|_| Err(Error::timeout(Operation::Connect, CONNECT_LIMIT)))
    }

    /// The cluster of an application's own client; of `config` only what is not about the
    /// connection counts. No I/O.
    ///
    /// Switch the client's own retries off: the engine has deadlines and retries of its own.
    pub fn with_client(client: kube::Client, config: &KubeConfig) -> Self {
        let namespace = config
            .namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let process = Process::current();
        Self {
            client: Arc::new(process.keep(client)),
            process,
            namespace,
            field_manager: config.field_manager.clone(),
        }
    }

    /// The namespace of the locks.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    async fn probe(&self) -> Result<(), Error> {
        let request = self.request(Operation::Connect, Verb::Get, &LEASES, "");
        let reply = self
            .exchange(&request, Method::GET, "/version", None)
            .await?;
        match reply.status {
            // Some clusters show their version to nobody; that says enough.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(reply.refused(&request)),
        }
    }

    pub(crate) fn request<'a>(
        &'a self,
        operation: Operation,
        verb: Verb,
        resource: &'a Resource,
        name: &'a str,
    ) -> Request<'a> {
        Request {
            operation,
            verb,
            resource,
            namespace: &self.namespace,
            name,
        }
    }

    pub(crate) async fn get(
        &self,
        operation: Operation,
        resource: &Resource,
        name: &str,
    ) -> Result<Answer, Error> {
        let request = self.request(operation, Verb::Get, resource, name);
        let path = format!("{}/{name}", resource.path(&self.namespace));
        let reply = self.exchange(&request, Method::GET, &path, None).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(Answer::Absent),
            _ => reply.object(&request),
        }
    }

    pub(crate) async fn create(
        &self,
        operation: Operation,
        resource: &Resource,
        name: &str,
        object: &Value,
    ) -> Result<Answer, Error> {
        let request = self.request(operation, Verb::Create, resource, name);
        let path = self.writing(&resource.path(&self.namespace));
        let reply = self
            .exchange(&request, Method::POST, &path, Some(object))
            .await?;
        match reply.status {
            StatusCode::CONFLICT => Ok(Answer::Conflict),
            _ => reply.object(&request),
        }
    }

    /// Replaces the object if it still has the uid and the version that `object` has.
    pub(crate) async fn update(
        &self,
        operation: Operation,
        resource: &Resource,
        name: &str,
        object: &Value,
    ) -> Result<Answer, Error> {
        let request = self.request(operation, Verb::Update, resource, name);
        let path = self.writing(&format!("{}/{name}", resource.path(&self.namespace)));
        let reply = self
            .exchange(&request, Method::PUT, &path, Some(object))
            .await?;
        match reply.status {
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => Ok(Answer::Conflict),
            _ => reply.object(&request),
        }
    }

    fn writing(&self, path: &str) -> String {
        let manager = percent_encoding::utf8_percent_encode(
            &self.field_manager,
            percent_encoding::NON_ALPHANUMERIC,
        );
        format!("{path}?fieldManager={manager}")
    }

    /// Begins to watch one object: the first event tells how it stands, if it exists.
    pub(crate) async fn watch(
        &self,
        resource: &Resource,
        name: &str,
        limit: Duration,
    ) -> Result<Body, Error> {
        let request = self.request(Operation::Holder, Verb::Watch, resource, name);
        let path = format!(
            "{}?watch=true&fieldSelector=metadata.name%3D{name}&timeoutSeconds={}",
            resource.path(&self.namespace),
            limit.as_secs()
        );
        let response = self.send(&request, Method::GET, &path, None).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(Reply::read(&request, response).await?.refused(&request))
    }

    pub(crate) async fn exchange(
        &self,
        request: &Request<'_>,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Reply, Error> {
        let response = self.send(request, method, path, object).await?;
        Reply::read(request, response).await
    }

    async fn send(
        &self,
        request: &Request<'_>,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<http::Response<Body>, Error> {
        let unusable = |error: http::Error| {
            Error::new(
                ErrorKind::Internal,
                request.operation,
                "cannot write the request",
            )
            .with_source(error)
        };
        let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
        let sent = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(unusable)?;
        // A child that drops it would close a connection that is being made.
        self.process
            .confine(self.client.send(sent))
            .await
            .map_err(|error| errors::unanswered(request, error))
    }
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    async fn read(request: &Request<'_>, response: http::Response<Body>) -> Result<Self, Error> {
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| errors::unanswered(request, kube::Error::Service(error.into())))?;
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes().to_vec(),
        })
    }

    fn object(self, request: &Request<'_>) -> Result<Answer, Error> {
        if !self.status.is_success() {
            return Err(self.refused(request));
        }
        serde_json::from_slice(&self.body)
            .map(Answer::Object)
            .map_err(|error| {
                Error::new(
                    ErrorKind::Misconfigured,
                    request.operation,
                    "the answer is not JSON; is an API server at that address?",
                )
                .with_source(error)
            })
    }

    pub(crate) fn refused(&self, request: &Request<'_>) -> Error {
        errors::refused(request, self.status, &self.headers, &self.body)
    }
}

/// A client with deadlines of our own only: its retries would outlast the lease.
async fn client(config: &KubeConfig) -> Result<kube::Client, Error> {
    let mut kube = client_config(config).await?;
    kube.default_retry = false;
    kube.connect_timeout = Some(config.connect_timeout);
    if let Some(name) = &config.tls_server_name {
        kube.tls_server_name = Some(name.clone());
    }
    // A credential helper is a program that may take its time, and the thread waits for it.
    let runtime = tokio::runtime::Handle::current();
    let building = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        choose_cryptography();
        let connections = Connections(Process::current());
        ClientBuilder::try_from((kube, connections)).map(ClientBuilder::build)
    });
    match building.await {
        Ok(client) => client.map_err(|error| errors::trouble(Operation::Connect, error)),
        // rustls panics when it does not know which cryptography to use.
        Err(error) if error.is_panic() => Err(misconfigured(
            "TLS has no cryptography to use, or several of which none is chosen; switch on the \
             feature ring or aws-lc-rs of tenure, or install a rustls provider as the process's \
             default"
                .to_owned(),
        )
        .with_source(error)),
        Err(error) => Err(Error::new(
            ErrorKind::Internal,
            Operation::Connect,
            "the client could not be made",
        )
        .with_source(error)),
    }
}

/// Runs the connections, in the process that has made them alone: a forked child must neither read
/// its parent's answers nor say goodbye to the API server.
#[derive(Clone, Debug)]
struct Connections(Process);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Connections {
    fn execute(&self, connection: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(self.0.confine(connection));
    }
}

/// rustls panics where an application has built in two providers and chosen none.
fn choose_cryptography() {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    #[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been quicker, which is as good.
        let _chosen = provider.install_default();
    }
}

async fn client_config(config: &KubeConfig) -> Result<kube::Config, Error> {
    match &config.source {
        Source::InCluster => in_cluster(),
        Source::Environment if !config::kubeconfig_variable() && config::in_a_pod() => in_cluster(),
        Source::Environment => kubeconfig(None, None).await,
        Source::Kubeconfig { file, context } => {
            kubeconfig(file.as_deref(), context.as_deref()).await
        }
        Source::Server {
            url,
            authorities,
            token,
        } => server(url, authorities.as_deref(), token),
    }
}

fn misconfigured(message: String) -> Error {
    Error::new(ErrorKind::Misconfigured, Operation::Connect, message)
}

fn in_cluster() -> Result<kube::Config, Error> {
    kube::Config::incluster().map_err(|error| {
        misconfigured(format!(
            "the pod's service account cannot be used: {}; is automountServiceAccountToken on?",
            errors::chain(&error)
        ))
    })
}

async fn kubeconfig(
    file: Option<&std::path::Path>,
    context: Option<&str>,
) -> Result<kube::Config, Error> {
    let wrong = |error: kube::config::KubeconfigError| {
        misconfigured(format!(
            "the kubeconfig cannot be used: {}; name one by ?kubeconfig= or KUBECONFIG, and a \
             context in it by ?context=",
            errors::chain(&error)
        ))
    };
    let options = kube::config::KubeConfigOptions {
        context: context.map(str::to_owned),
        ..Default::default()
    };
    match file {
        None => kube::Config::from_kubeconfig(&options).await.map_err(wrong),
        Some(file) => {
            let read = kube::config::Kubeconfig::read_from(file).map_err(wrong)?;
            kube::Config::from_custom_kubeconfig(read, &options)
                .await
                .map_err(wrong)
        }
    }
}

fn server(
    url: &str,
    authorities: Option<&std::path::Path>,
    token: &Token,
) -> Result<kube::Config, Error> {
    let address: http::Uri = url.parse().map_err(|_| {
        misconfigured("the API server's address is none; use https://host:port".to_owned())
    })?;
    if !matches!(address.scheme_str(), Some("http" | "https")) {
        return Err(misconfigured(
            "the API server's address has no scheme; use https://host:port".to_owned(),
        ));
    }
    let mut config = kube::Config::new(address);
    if let Some(file) = authorities {
        config.root_cert = Some(certificates(file)?);
    }
    match token {
        Token::None => {}
        Token::File(file) => {
            config.auth_info.token_file = Some(file.to_string_lossy().into_owned());
        }
        // The type of the field is not ours to name.
        Token::Text(text) => {
            config.auth_info = serde_json::from_value(json!({ "token": text }))
                .map_err(|_| misconfigured("the token cannot be used".to_owned()))?;
        }
    }
    Ok(config)
}

fn certificates(file: &std::path::Path) -> Result<Vec<Vec<u8>>, Error> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match read {
        Ok(found) if !found.is_empty() => Ok(found
            .into_iter()
            .map(|certificate| certificate.as_ref().to_vec())
            .collect()),
        Ok(_) => Err(misconfigured(format!(
            "{} holds no certificate",
            file.display()
        ))),
        Err(error) => Err(misconfigured(format!(
            "{} cannot be read as PEM: {error}",
            file.display()
        ))),
    }
}
