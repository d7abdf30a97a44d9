//! The client library's client, made as the configuration says.

use std::error::Error as StdError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Uri;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::Connection;
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::config::AuthInfo;
use tenure_kit::limits::shown;
use tenure_kit::store_error::with_reasons;
use tenure_kit::{Secret, StoreError, Tls};
use tokio::runtime::Handle;
use tower::{BoxError, Service, ServiceBuilder};

use crate::access::{self, Access, misconfigured};
use crate::config::KubeConfig;
use crate::connects::Connects;
use crate::source::{self, Source};
use crate::transport::{self, Generation, Transport};
use crate::{errors, helper, kubeconfig};

/// What the kubeconfig or service account says.
pub(crate) async fn read(config: &KubeConfig) -> Result<Access, StoreError> {
    let source = config.source.clone();
    // The client library reads its files on the thread that asks.
    let reading = tokio::task::spawn_blocking(move || of_source(&source));
    reading.await.map_err(|_| StoreError::runtime_is_gone())?
}

/// Puts the settings for the certificate and the token in place of the kubeconfig's, and runs its
/// credential helper, once, where they leave it something to say. How long its credentials last, if
/// it says so.
///
/// The client library runs a helper each time that it wants to know anything, and again only when a
/// time has come that the helper has named.
pub(crate) async fn authenticate(
    config: &KubeConfig,
    access: &mut Access,
) -> Result<Option<Duration>, StoreError> {
    let user = &mut access.kube.auth_info;
    let has_token = config.token.is_some() || user.token.is_some() || user.token_file.is_some();
    let is_named = user.username.is_some() || user.auth_provider.is_some();
    let helper = user.exec.take().filter(|_| !has_token && !is_named);
    let mut lasting = None;
    if let Some(helper) = helper {
        let given = helper::run(&helper).await?;
        user.token = given.token.map(Into::into);
        if let Some((certificate, key)) = given.certificate {
            show(user, certificate.as_bytes(), key.as_bytes());
        }
        lasting = given.lasting;
    }
    if let Some(token) = &config.token {
        replace_token(&mut access.kube, token).await?;
    }
    Ok(lasting)
}

/// A client with deadlines of our own only: its retries would outlast the lease. Reads the
/// certificates and the token.
pub(crate) async fn build(
    config: &KubeConfig,
    access: Access,
    generation: Generation,
) -> Result<kube::Client, StoreError> {
    let Access {
        mut kube, proxy, ..
    } = access;
    kube.default_retry = false;
    kube.connect_timeout = Some(config.connect_timeout);
    replace_tls(&mut kube, &config.tls).await?;
    // The client library reads its files on the thread that asks.
    let runtime = Handle::current();
    let building = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        choose_cryptography();
        match proxy {
            Some(proxy) => over(proxy, kube, &generation),
            None => over(transport::direct(), kube, &generation),
        }
    });
    match building.await {
        Ok(client) => client.map_err(errors::of_client),
        // rustls panics when it does not know which cryptography to use.
        Err(error) if error.is_panic() => Err(misconfigured(
            "TLS has no cryptography to use, or several of which none is chosen; switch on the \
             feature ring or aws-lc-rs of tenure, or install a rustls provider as the process's \
             default",
        )
        .with_source(error)),
        Err(_) => Err(StoreError::runtime_is_gone()),
    }
}

/// Puts the settings in place of those of the kubeconfig or service account.
async fn replace_tls(kube: &mut kube::Config, tls: &Tls) -> Result<(), StoreError> {
    let material = tls.read().await?;
    if let Some(pem) = &material.ca {
        kube.root_cert = Some(access::certificates(pem)?);
    }
    if let (Some(cert), Some(key)) = (&material.client_cert, &material.client_key) {
        show(&mut kube.auth_info, cert, key);
    }
    if let Some(name) = tls.name() {
        kube.tls_server_name = Some(name.to_owned());
    }
    Ok(())
}

/// Puts this certificate and its key in place of others.
fn show(user: &mut AuthInfo, certificate: &[u8], key: &[u8]) {
    (user.client_certificate, user.client_key) = (None, None);
    user.client_certificate_data = Some(BASE64.encode(certificate));
    user.client_key_data = Some(BASE64.encode(key).into());
}

/// Puts the token in place of whatever else says who connects, but for a certificate.
async fn replace_token(kube: &mut kube::Config, token: &Secret) -> Result<(), StoreError> {
    let user = &mut kube.auth_info;
    (user.username, user.password) = (None, None);
    user.auth_provider = None;
    (user.token, user.token_file) = (None, None);
    match token.as_file() {
        // The client library reads it again every minute, since tokens expire.
        Some(file) => user.token_file = Some(file.to_string_lossy().into_owned()),
        None => user.token = Some(token.read("token").await?.into()),
    }
    Ok(())
}

/// What the client library's own client has, but for what it logs, and with what it has not: a proxy
/// with a password, and connections that are given up.
fn over<C>(connector: C, kube: kube::Config, generation: &Generation) -> kube::Result<kube::Client>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: StdError + Send + Sync + 'static,
{
    let connects = Connects::new(connector, generation.clone());
    let mut connector =
        TimeoutConnector::new(kube.rustls_https_connector_with_connector(connects)?);
    connector.set_connect_timeout(kube.connect_timeout);
    connector.set_write_timeout(kube.write_timeout);
    let service = ServiceBuilder::new()
        .layer(kube.base_uri_layer())
        .option_layer(kube.auth_layer()?)
        .layer(kube.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Transport::new(connector, generation.clone()));
    Ok(ClientBuilder::new(service, kube.default_namespace).build())
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

/// Blocks.
fn of_source(source: &Source) -> Result<Access, StoreError> {
    match source {
        Source::InCluster => in_cluster(),
        Source::Environment if !source::kubeconfig_variable() && source::in_a_pod() => in_cluster(),
        Source::Environment => kubeconfig::read(None, None),
        Source::Kubeconfig { file, context } => {
            kubeconfig::read(file.as_deref(), context.as_deref())
        }
        Source::Server(url) => server(url),
    }
}

fn in_cluster() -> Result<Access, StoreError> {
    let account = kube::Config::incluster().map_err(|error| {
        misconfigured(format!(
            "the pod's service account cannot be used: {}; is automountServiceAccountToken on?",
            shown(&with_reasons(&error))
        ))
    });
    Access::by_environment(account?)
}

fn server(url: &str) -> Result<Access, StoreError> {
    let server = access::server(url).ok_or_else(|| {
        misconfigured("the API server's address cannot be read; use https://host:port")
    });
    Access::by_environment(kube::Config::new(server?))
}
