//! The client library's client, made as the configuration says.

use std::path::Path;
use std::pin::Pin;

use kube::client::ClientBuilder;
use serde_json::json;
use tenure_core::{Error, ErrorKind, Operation, Process};

use crate::config::{self, KubeConfig, Source, Token};
use crate::errors;

/// A client with deadlines of our own only: its retries would outlast the lease.
pub(crate) async fn make(config: &KubeConfig) -> Result<kube::Client, Error> {
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
        Ok(client) => client.map_err(|error| errors::of_client(Operation::Connect, error)),
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
        // Another thread may have been quicker, which is as good.
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

async fn kubeconfig(file: Option<&Path>, context: Option<&str>) -> Result<kube::Config, Error> {
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

fn server(url: &str, authorities: Option<&Path>, token: &Token) -> Result<kube::Config, Error> {
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

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, Error> {
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
