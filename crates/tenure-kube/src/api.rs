//! Requests to the API server, as JSON: fields that this version does not know survive.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use serde_json::{Value, json};
use tenure_core::{Error, ErrorKind, Operation, Process};

use crate::access::Route;
use crate::config::KubeConfig;
use crate::connector::{Connection, Connector};
use crate::errors::{self, Refuser, Request};
use crate::held_up::HeldUp;
use crate::reply::{Answer, Begun, LONGEST, Reply, Sent};
use crate::resource::{LEASES, Resource, Verb};
use crate::warned::Warned;

/// Where a user asks what it may do; every user who is logged in may.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Tells the server's version, to every user by default.
const VERSION: &str = "/version";

/// A write that waits longer for its answer is compared with a read.
const PROMPT: Duration = Duration::from_millis(250);

/// The longest that a whole answer may take where no setting says so: the API server ends a request
/// after a minute by itself. A policy's request timeout is shorter.
const ANSWER_LIMIT: Duration = Duration::from_secs(65);

/// An API server that requests can be sent to, and a namespace in it.
pub(crate) struct Api {
    process: Process,
    connector: Arc<Connector>,
    pub(crate) namespace: String,
    field_manager: String,
    request_timeout: Option<Duration>,
    /// That it holds writes up.
    pub(crate) warned_of_slow_writes: Warned,
}

impl Api {
    pub(crate) fn new(
        connector: Arc<Connector>,
        namespace: String,
        config: &KubeConfig,
        process: Process,
    ) -> Self {
        Self {
            process,
            connector,
            namespace,
            field_manager: config.field_manager.clone(),
            request_timeout: config.request_timeout,
            warned_of_slow_writes: Warned::default(),
        }
    }

    /// Asks the server for its version, which tells whether address, certificate and token are
    /// right.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let request = self.request(Operation::Connect, Verb::Get, &LEASES, "");
        let reply = self.exchange(&request, Method::GET, VERSION, None).await?;
        match reply.status {
            // Some clusters show their version to no user; that says enough.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(&request, &reply).await),
        }
    }

    /// The error for an answer without success. Where its words do not say whether a right is
    /// missing, the API server is asked.
    pub(crate) async fn refused(&self, request: &Request<'_>, reply: &Reply) -> Error {
        let refuser = self.refuser(request, reply).await;
        errors::refused(request, reply.status, &reply.headers, &reply.body, refuser)
    }

    /// Who has refused the request.
    pub(crate) async fn refuser(&self, request: &Request<'_>, reply: &Reply) -> Refuser {
        let mut refuser = Refuser::of(request, &reply.body);
        if reply.credentials_are_good && refuser == Refuser::Unknown {
            return Refuser::InBetween;
        }
        if reply.status == StatusCode::FORBIDDEN && refuser == Refuser::Unknown {
            let allowed = self.allowed(request.resource, Some(request.name), request.verb);
            refuser = match allowed.await {
                Ok(true) => Refuser::Admission,
                Ok(false) => Refuser::Authorizer,
                Err(_) => Refuser::Unknown,
            };
        }
        refuser
    }

    /// Whether we may do that, or why the API server does not say. One request; it changes nothing.
    pub(crate) async fn allowed(
        &self,
        resource: &Resource,
        object: Option<&str>,
        verb: Verb,
    ) -> Result<bool, String> {
        let mut wanted = json!({
            "namespace": self.namespace,
            "verb": verb.name(),
            "group": resource.group,
            "resource": resource.plural,
        });
        // A right to create cannot be limited to a name.
        if let (Some(object), false) = (object, verb == Verb::Create) {
            wanted["name"] = json!(object);
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": wanted },
        });
        let request = self.request(Operation::Connect, Verb::Create, &LEASES, "");
        let asked = self.exchange(&request, Method::POST, REVIEWS, Some(&review));
        let reply = asked.await.map_err(|error| error.message().to_owned())?;
        if !reply.status.is_success() {
            return Err(reply.status.to_string());
        }
        let review: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let allowed = review["status"]["allowed"].as_bool();
        allowed.ok_or_else(|| "the answer does not say".to_owned())
    }

    async fn object(&self, request: &Request<'_>, reply: Reply) -> Result<Answer, Error> {
        if !reply.status.is_success() {
            return Err(self.refused(request, &reply).await);
        }
        reply.object(request)
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

    /// How the API server is reached.
    pub(crate) fn route(&self) -> Route {
        let connection = self.connector.current();
        connection.map_or_else(Route::default, |connection| connection.route.clone())
    }

    /// An object that is in no namespace.
    pub(crate) async fn get_cluster_wide(
        &self,
        operation: Operation,
        resource: &Resource,
        name: &str,
    ) -> Result<Answer, Error> {
        let request = self.request(operation, Verb::Get, resource, name);
        let path = format!("/api/v1/{}/{name}", resource.plural);
        let reply = self.exchange(&request, Method::GET, &path, None).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(Answer::Absent),
            _ => self.object(&request, reply).await,
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
        if reply.is_absent(name) {
            return Ok(Answer::Absent);
        }
        self.object(&request, reply).await
    }

    /// The objects of the namespace, `most` of them, and how to go on if there are more.
    pub(crate) async fn list(
        &self,
        operation: Operation,
        resource: &Resource,
        most: usize,
        go_on: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), Error> {
        let request = self.request(operation, Verb::List, resource, "");
        let mut path = format!("{}?limit={most}", resource.path(&self.namespace));
        if let Some(go_on) = go_on {
            let go_on =
                percent_encoding::utf8_percent_encode(go_on, percent_encoding::NON_ALPHANUMERIC);
            path = format!("{path}&continue={go_on}");
        }
        let reply = self.exchange(&request, Method::GET, &path, None).await?;
        let Answer::Object(mut list) = self.object(&request, reply).await? else {
            return Ok((Vec::new(), None));
        };
        let go_on = list["metadata"]["continue"].as_str();
        let go_on = go_on.filter(|text| !text.is_empty()).map(str::to_owned);
        match list["items"].take() {
            Value::Array(items) => Ok((items, go_on)),
            _ => Ok((Vec::new(), go_on)),
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
            _ => self.object(&request, reply).await,
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
        if reply.status == StatusCode::CONFLICT || reply.is_absent(name) {
            return Ok(Answer::Conflict);
        }
        self.object(&request, reply).await
    }

    /// Removes the object if it is there.
    pub(crate) async fn delete(
        &self,
        operation: Operation,
        resource: &Resource,
        name: &str,
    ) -> Result<(), Error> {
        let request = self.request(operation, Verb::Delete, resource, name);
        let path = format!("{}/{name}", resource.path(&self.namespace));
        let reply = self.exchange(&request, Method::DELETE, &path, None).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(&request, &reply).await),
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
        let sent = self.send(&request, Method::GET, &path, None).await?;
        match sent.begun() {
            Begun::Stream(body) => Ok(body),
            Begun::Refused(sent) => {
                let reply = sent.read(&request).await?;
                Err(self.refused(&request, &reply).await)
            }
        }
    }

    pub(crate) async fn exchange(
        &self,
        request: &Request<'_>,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Reply, Error> {
        let is_write = method != Method::GET && request.operation != Operation::Connect;
        let asking = async {
            let sent = self.send(request, method, path, object).await?;
            sent.read(request).await
        };
        let asking = async {
            if is_write && !self.warned_of_slow_writes.is_given() {
                self.compared_with_a_read(request, asking).await
            } else {
                asking.await
            }
        };
        let limit = self.request_timeout.unwrap_or(ANSWER_LIMIT);
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(Error::timeout(request.operation, limit)))
    }

    /// A write, beside which a read is sent when its answer takes long.
    async fn compared_with_a_read<T>(
        &self,
        request: &Request<'_>,
        asking: impl Future<Output = T>,
    ) -> T {
        let mut held_up = HeldUp::new(request, &self.warned_of_slow_writes);
        let mut asking = std::pin::pin!(asking);
        let reading = async {
            tokio::time::sleep(PROMPT).await;
            let ready = self.connector.ready();
            // Without an answer the connection may be what is slow: then a read says nothing of
            // writes, and makes one connection more in an outage.
            let Some(connection) = ready.filter(|it| it.generation.has_answered()) else {
                return false;
            };
            // To its end, also when the write is answered first: else its connection is closed.
            let process = self.process.clone();
            let reading = async move { version_of(&process, &connection).await };
            let reading = tokio::time::timeout(ANSWER_LIMIT, reading);
            let read = tokio::spawn(reading).await;
            matches!(read, Ok(Ok(Some(_))))
        };
        let answer = tokio::select! {
            biased;
            answer = &mut asking => Some(answer),
            is_answered = reading => {
                if is_answered {
                    held_up.read_was_answered();
                }
                None
            }
        };
        let answer = match answer {
            Some(answer) => answer,
            None => asking.await,
        };
        held_up.is_answered();
        answer
    }

    /// When the API server refuses credentials that it has accepted before, they are read again, the
    /// credential helper is run again, and the request is sent again: at once, and once for each
    /// request. Those that are new are not read again, so that a bad helper is not run in a loop.
    async fn send(
        &self,
        request: &Request<'_>,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Sent, Error> {
        let body = object.map_or_else(Vec::new, |object| object.to_string().into_bytes());
        if let Some(connection) = self.connector.ready() {
            let sent = self
                .send_on(&connection, request, &method, path, &body)
                .await?;
            let is_refused = sent.status() == StatusCode::UNAUTHORIZED && connection.is_refused();
            if !is_refused || !connection.was_accepted() || self.connector.is_given() {
                return Ok(sent);
            }
        }
        let connection = self.connector.get().await;
        let connection = connection.map_err(|error| error.into_error(request.operation))?;
        self.send_on(&connection, request, &method, path, &body)
            .await
    }

    async fn send_on(
        &self,
        connection: &Connection,
        request: &Request<'_>,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Result<Sent, Error> {
        let unusable = |error: http::Error| {
            Error::new(
                ErrorKind::Internal,
                request.operation,
                "cannot write the request",
            )
            .with_source(error)
        };
        let sent = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_vec()))
            .map_err(unusable)?;
        let attempt = connection.generation.attempt();
        // A child that drops it would close a connection that is being made.
        let answer = self.process.confine(connection.client.send(sent)).await;
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                if errors::is_about_tls(&error) {
                    connection.refuse();
                }
                return Err(errors::unanswered(request, error));
            }
        };
        let sent = Sent::new(response, attempt);
        if sent.status() != StatusCode::UNAUTHORIZED {
            connection.accept();
            return Ok(sent);
        }
        let mut reply = sent.read(request).await?;
        reply.credentials_are_good = Refuser::of(request, &reply.body) == Refuser::Admission
            || !is_of_authenticator(&reply.body) && self.are_accepted(connection).await;
        if reply.credentials_are_good {
            connection.accept();
        } else {
            connection.refuse();
        }
        Ok(Sent::Read(reply))
    }

    /// Whether the credentials are good for something: a 401 may come from a proxy, for reasons of
    /// its own.
    async fn are_accepted(&self, connection: &Connection) -> bool {
        let status = version_of(&self.process, connection).await;
        status.is_some_and(|status| status != StatusCode::UNAUTHORIZED)
    }
}

/// Asks for the version; the status of the answer, if there is one. Dropped it gives up no connection
/// but its own.
async fn version_of(process: &Process, connection: &Connection) -> Option<StatusCode> {
    let request = http::Request::get(VERSION).body(Body::empty()).ok()?;
    let asking = connection.client.send(request);
    let answer = process.confine(asking).await;
    let response = answer.ok()?;
    let status = response.status();
    // Read whole, so that the connection can be used again.
    let _whole = Limited::new(response.into_body(), LONGEST).collect().await;
    Some(status)
}

/// Whether a 401 is what an API server says to credentials that it does not know.
fn is_of_authenticator(body: &[u8]) -> bool {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    status["kind"] == "Status" && status["message"] == "Unauthorized"
}
