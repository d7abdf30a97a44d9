//! [`Reply`] and [`Answer`]: what the API server says, read up to a limit.

use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use serde_json::Value;
use tenure_core::{Error, ErrorKind};

use crate::errors::{self, Request};
use crate::transport::Attempt;

/// The longest answer, in bytes. The API server keeps no object of this size.
pub(crate) const LONGEST: usize = 8 * 1024 * 1024;

/// The answer to a request for one object.
pub(crate) enum Answer {
    Object(Value),
    /// There is none of that name.
    Absent,
    /// It is not what the request took it for.
    Conflict,
}

/// A request whose answer has begun.
pub(crate) enum Sent {
    Begun(http::Response<Body>, Attempt),
    /// It was read already.
    Read(Reply),
}

/// An answer that is a stream, if it is.
pub(crate) enum Begun {
    Stream(Body),
    Refused(Sent),
}

impl Sent {
    pub(crate) fn new(response: http::Response<Body>, attempt: Attempt) -> Self {
        Self::Begun(response, attempt)
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Begun(response, _) => response.status(),
            Self::Read(reply) => reply.status,
        }
    }

    /// The stream, if the request has succeeded. It lasts: to drop it says nothing of the server.
    pub(crate) fn begun(self) -> Begun {
        match self {
            Self::Begun(response, mut attempt) if response.status().is_success() => {
                attempt.is_answered();
                Begun::Stream(response.into_body())
            }
            other => Begun::Refused(other),
        }
    }

    /// The whole answer. Has no deadline of its own; dropping the future closes the connection.
    pub(crate) async fn read(self, request: &Request<'_>) -> Result<Reply, Error> {
        let (response, mut attempt) = match self {
            Self::Begun(response, attempt) => (response, attempt),
            Self::Read(reply) => return Ok(reply),
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        attempt.is_answered();
        let body = body.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                return too_long(request);
            }
            errors::unanswered(request, kube::Error::Service(error))
        })?;
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes().to_vec(),
            credentials_are_good: false,
        })
    }
}

fn too_long(request: &Request<'_>) -> Error {
    let mebibytes = LONGEST / (1024 * 1024);
    Error::new(
        ErrorKind::Misconfigured,
        request.operation,
        format!(
            "the answer about {} has more than {mebibytes} MiB; is an API server at that address?",
            request.target()
        ),
    )
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Where the status is 401: it was not the credentials that were refused.
    pub(crate) credentials_are_good: bool,
}

impl Reply {
    /// Whether the API server says that there is no object of this name. A proxy has a 404 of its
    /// own, which says nothing of the object.
    pub(crate) fn is_absent(&self, name: &str) -> bool {
        if self.status != StatusCode::NOT_FOUND {
            return false;
        }
        let status: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        status["kind"] == "Status"
            && status["reason"] == "NotFound"
            && status["details"]["name"] == name
    }

    pub(crate) fn object(&self, request: &Request<'_>) -> Result<Answer, Error> {
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
}
