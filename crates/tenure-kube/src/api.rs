//! Requests to the API server, as JSON: fields that this version does not know survive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tenure_core::{Error, ErrorKind, Operation, Process};

use crate::config::KubeConfig;
use crate::errors::{self, Request};
use crate::resource::{LEASES, Resource, Verb};

/// The answer to a request for one object.
pub(crate) enum Answer {
    Object(Value),
    /// There is none of that name.
    Absent,
    /// It is not what the request took it for.
    Conflict,
}

/// An API server that requests can be sent to, and a namespace in it.
pub(crate) struct Api {
    process: Process,
    client: kube::Client,
    pub(crate) namespace: String,
    field_manager: String,
    request_timeout: Option<Duration>,
    /// The API server has refused its certificate or token.
    refused: AtomicBool,
}

impl Api {
    pub(crate) fn new(client: kube::Client, config: &KubeConfig, process: Process) -> Self {
        let stated = config.namespace.clone();
        Self {
            namespace: stated.unwrap_or_else(|| client.default_namespace().to_owned()),
            field_manager: config.field_manager.clone(),
            request_timeout: config.request_timeout,
            process,
            client,
            refused: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Asks the server for its version, which tells whether address, certificate and token are
    /// right.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let request = self.request(Operation::Connect, Verb::Get, &LEASES, "");
        let reply = self
            .exchange(&request, Method::GET, "/version", None)
            .await?;
        match reply.status {
            // Some clusters show their version to no user; that says enough.
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
        let asking = async {
            let response = self.send(request, method, path, object).await?;
            Reply::read(request, response).await
        };
        let Some(limit) = self.request_timeout else {
            return asking.await;
        };
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(Error::timeout(request.operation, limit)))
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
            .inspect(|response| self.note(response.status() == StatusCode::UNAUTHORIZED))
            .inspect_err(|error| self.note(errors::is_about_tls(error)))
            .map_err(|error| errors::unanswered(request, error))
    }

    fn note(&self, refused: bool) {
        self.refused.fetch_or(refused, Ordering::Relaxed);
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
