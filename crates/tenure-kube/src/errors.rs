//! What the API server and the way to it can answer, as kinds of errors.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tenure_core::{Error, ErrorKind, Operation};
use tenure_kit::StoreError;
use tenure_kit::limits::shown;
use tenure_kit::store_error::with_reasons;

use crate::resource::{Resource, Verb};

/// A request, as far as an error has to tell of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) operation: Operation,
    pub(crate) verb: Verb,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Request<'_> {
    pub(crate) fn target(&self) -> String {
        let (plural, namespace) = (self.resource.plural, self.namespace);
        if self.name.is_empty() {
            return format!("{plural} in the namespace \"{namespace}\"");
        }
        format!(
            "{plural} \"{}\" in the namespace \"{namespace}\"",
            self.name
        )
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, self.operation, message)
    }
}

/// Who has refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuser {
    /// An authorizer, such as RBAC: the verb is not granted.
    Authorizer,
    /// Something behind it, such as a policy, a webhook or a quota: the verb is granted.
    Admission,
    /// Something between us and the API server, which accepts the credentials.
    InBetween,
    /// The answer does not say.
    Unknown,
}

impl Refuser {
    /// As far as the words in the answer tell.
    pub(crate) fn of(request: &Request<'_>, body: &[u8]) -> Self {
        let said = Said::read(body).whole;
        let admission = [
            "admission webhook \"",
            "AdmissionPolicy '",
            "exceeded quota: ",
            "denied the request",
        ];
        if admission.iter().any(|words| said.contains(words)) {
            return Self::Admission;
        }
        // What every authorizer's refusal says, after the user's name.
        let (verb, resource) = (request.verb.name(), request.resource.plural);
        if said.contains(&format!("\" cannot {verb} resource \"{resource}\"")) {
            return Self::Authorizer;
        }
        Self::Unknown
    }
}

/// The error for an answer with `status`.
pub(crate) fn refused(
    request: &Request<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    refuser: Refuser,
) -> Error {
    let said = Said::read(body);
    let (verb, target) = (request.verb.name(), request.target());
    let retry_after = retry_after(headers).or(said.retry_after);
    let message = said.message;
    match status.as_u16() {
        403 if said.terminating => request.error(
            ErrorKind::Misconfigured,
            format!(
                "the namespace \"{}\" is being deleted: {message}",
                request.namespace
            ),
        ),
        // A policy chooses its status: 401, 403, 413 or 422; a webhook any.
        400..=499 if refuser == Refuser::Admission && !is_for_later(status) => request.error(
            ErrorKind::Forbidden,
            format!(
                "the API server refuses to {verb} {target}, although the verb is granted ({}): \
                 {message}; change the admission policy, webhook, quota or proxy that says so",
                status.as_u16()
            ),
        ),
        401 if refuser == Refuser::InBetween => in_between(request, &message),
        401 => request.error(
            ErrorKind::Forbidden,
            format!(
                "the API server does not accept our credentials (401): {message}; the token or \
                 the certificate is wrong or has expired: renew it in the kubeconfig or the \
                 token's file"
            ),
        ),
        403 if refuser == Refuser::Unknown => request.error(
            ErrorKind::Forbidden,
            format!(
                "the API server refuses to {verb} {target} (403): {message}; it does not say \
                 whether the verb is granted: see `kubectl auth can-i {verb} {}/{} --namespace {}`. \
                 If it is, an admission policy, a webhook, a quota or a proxy refuses",
                request.resource.in_kubectl(),
                request.name,
                request.namespace
            ),
        ),
        403 => not_granted(request, &message),
        404 => request.error(
            ErrorKind::Misconfigured,
            format!(
                "cannot {verb} {target} (404): {message}; is there such a namespace, and does \
                 the server serve {}?",
                request.resource.in_kubectl()
            ),
        ),
        409 => request.error(
            ErrorKind::Conflict,
            format!("{target} was changed by others meanwhile (409): {message}"),
        ),
        410 => request.error(
            ErrorKind::Unavailable,
            format!("the version of {target} to go on from is too old (410): {message}"),
        ),
        413 | 422 => request.error(
            ErrorKind::Misconfigured,
            format!(
                "the API server does not take {target} ({}): {message}; is the object full (1 MiB \
                 at most), or are the labels or annotations wrong?",
                status.as_u16()
            ),
        ),
        429 => request.error(
            ErrorKind::Throttled { retry_after },
            format!("the API server asks for fewer requests (429): {message}"),
        ),
        504 => request.error(
            ErrorKind::Timeout,
            format!("the API server had no answer in time (504): {message}"),
        ),
        500..=599 => request.error(
            match retry_after {
                Some(_) => ErrorKind::Throttled { retry_after },
                None => ErrorKind::Unavailable,
            },
            format!(
                "the API server cannot {verb} {target} just now ({}): {message}",
                status.as_u16()
            ),
        ),
        other => request.error(
            ErrorKind::Misconfigured,
            format!("the API server refuses to {verb} {target} ({other}): {message}"),
        ),
    }
}

/// An authorizer has refused it.
fn not_granted(request: &Request<'_>, message: &str) -> Error {
    let (verb, target) = (request.verb.name(), request.target());
    let remedy = match request.verb {
        // No candidate needs it.
        Verb::List => "the Role that `tenure rbac` prints does not hold it; grant it by:",
        _ => "grant it by the Role that `tenure rbac` prints, or by:",
    };
    request.error(
        ErrorKind::Forbidden,
        format!(
            "the verb \"{verb}\" on {target} is not granted (403): {message}; {remedy} kubectl \
             create role tenure-{verb} --namespace {} --verb={verb} --resource={}, and bind it",
            request.namespace,
            request.resource.in_kubectl()
        ),
    )
}

/// The error for a 401 that is not about credentials.
fn in_between(request: &Request<'_>, message: &str) -> Error {
    let (verb, target) = (request.verb.name(), request.target());
    request.error(
        ErrorKind::Forbidden,
        format!(
            "the API server accepts our credentials, and still the request to {verb} {target} is \
             refused (401): {message}; something between us and the API server says so, such as a \
             proxy: allow it there"
        ),
    )
}

/// The seconds of `Retry-After`, the longest if there are several. Its form with a date is not
/// used by API servers, and would be judged by another host's clock.
///
/// As it was said, however long: the waiting side bounds it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get_all(http::header::RETRY_AFTER).iter();
    let seconds = said.filter_map(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.max().map(Duration::from_secs)
}

/// What a `Status` object says.
struct Said {
    whole: String,
    message: String,
    terminating: bool,
    retry_after: Option<Duration>,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = status["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(body), Into::into)
            .into_owned();
        let causes = status["details"]["causes"].as_array();
        Self {
            message: shown(&text),
            whole: text,
            terminating: causes.is_some_and(|causes| {
                causes
                    .iter()
                    .any(|cause| cause["reason"] == "NamespaceTerminating")
            }),
            retry_after: status["details"]["retryAfterSeconds"]
                .as_u64()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
        }
    }
}

/// The error for a request that had no answer.
pub(crate) fn unanswered(request: &Request<'_>, error: kube::Error) -> Error {
    of_client(error).into_error(request.operation)
}

/// The error of the client library.
pub(crate) fn of_client(error: kube::Error) -> StoreError {
    let text = shown(&with_reasons(&error));
    let (kind, message) = if is_about_tls(&error) {
        (
            ErrorKind::Misconfigured,
            format!(
                "the TLS connection to the API server fails: {text}; check the server's \
                 certificate, ca, client_cert, client_key and server_name, or in a kubeconfig \
                 certificate-authority, client-certificate, client-key and tls-server-name"
            ),
        )
    } else {
        match error {
            kube::Error::HyperError(_)
            | kube::Error::Service(_)
            | kube::Error::ReadEvents(_)
            | kube::Error::HttpError(_) => (
                ErrorKind::Unavailable,
                format!(
                    "cannot reach the API server: {text}; does it run, and is its address right?"
                ),
            ),
            kube::Error::Auth(_) => (
                ErrorKind::Misconfigured,
                format!("there are no credentials for the API server: {text}"),
            ),
            _ => (
                ErrorKind::Misconfigured,
                format!("the API server's client cannot be used: {text}"),
            ),
        }
    };
    StoreError::new(kind, message).with_source(error)
}

/// rustls' errors come inside those of a connection, which do not name what is in them as their
/// source, and which come inside each other.
pub(crate) fn is_about_tls(error: &(dyn StdError + 'static)) -> bool {
    if error.is::<kube::client::RustlsTlsError>() || error.is::<rustls::Error>() {
        return true;
    }
    let inside = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    inside.is_some_and(|inside| is_about_tls(inside)) || error.source().is_some_and(is_about_tls)
}

/// Whether a status asks for another attempt, whichever server says it.
fn is_for_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::LEASES;

    fn request() -> Request<'static> {
        Request {
            operation: Operation::Renew,
            verb: Verb::Update,
            resource: &LEASES,
            namespace: "team",
            name: "batch",
        }
    }

    fn answer(status: u16, header: Option<&'static str>, body: &str) -> Error {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = header {
            headers.insert(http::header::RETRY_AFTER, seconds.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let refuser = Refuser::of(&request(), body.as_bytes());
        refused(&request(), status, &headers, body.as_bytes(), refuser)
    }

    #[test]
    fn each_status_has_its_kind() {
        let throttled = |seconds| ErrorKind::Throttled {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        for (status, header, kind) in [
            (400, None, ErrorKind::Misconfigured),
            (401, None, ErrorKind::Forbidden),
            (403, None, ErrorKind::Forbidden),
            (404, None, ErrorKind::Misconfigured),
            (409, None, ErrorKind::Conflict),
            (410, None, ErrorKind::Unavailable),
            (413, None, ErrorKind::Misconfigured),
            (422, None, ErrorKind::Misconfigured),
            (429, Some("7"), throttled(7)),
            (429, None, ErrorKind::Throttled { retry_after: None }),
            (500, None, ErrorKind::Unavailable),
            (503, None, ErrorKind::Unavailable),
            (503, Some("3"), throttled(3)),
            (504, None, ErrorKind::Timeout),
        ] {
            let error = answer(status, header, "");
            assert_eq!(error.kind(), kind, "{status} {header:?}: {error}");
            assert_eq!(error.operation(), Operation::Renew);
        }
    }

    #[test]
    fn a_refusal_names_the_verb_and_how_to_grant_it() {
        let body = r#"{"kind":"Status","message":"leases.coordination.k8s.io \"batch\" is
            forbidden: User \"x\" cannot update resource \"leases\"","code":403}"#
            .replace('\n', " ");
        let body = &*body;
        let error = answer(403, None, body);
        for part in [
            "\"update\"",
            "\"batch\"",
            "\"team\"",
            "User \"x\" cannot update resource",
            "--verb=update --resource=leases.coordination.k8s.io",
        ] {
            assert!(error.message().contains(part), "{part}: {error}");
        }
    }

    /// Whatever status a policy or a webhook chooses.
    #[test]
    fn a_refusal_by_admission_names_no_role() {
        for words in [
            r#"admission webhook \"a.b.c\" denied the request: no"#,
            "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "exceeded quota: q, requested: count/leases.coordination.k8s.io=1",
        ] {
            for status in [400, 401, 403, 413, 422] {
                let error = answer(status, None, &format!("{{\"message\":\"{words}\"}}"));
                assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
                let message = error.message();
                assert!(message.contains(&words.replace('\\', "")), "{error}");
                for other in ["Role", "role", "credentials", "1 MiB"] {
                    assert!(!message.contains(other), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_namespace_that_goes_is_no_missing_right() {
        let body = r#"{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        assert_eq!(answer(403, None, body).kind(), ErrorKind::Misconfigured);
    }

    /// Whatever a proxy on the way makes of it.
    #[test]
    fn a_retry_after_is_taken_as_it_was_said_or_not_at_all() {
        let asked = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(http::header::RETRY_AFTER, value.parse().unwrap());
            }
            let status = StatusCode::TOO_MANY_REQUESTS;
            let error = refused(&request(), status, &headers, b"", Refuser::Unknown);
            error.retry_after().map(|asked| asked.as_secs())
        };
        for (values, seconds) in [
            (&["0"][..], Some(0)),
            (&[" 600 "], Some(600)),
            (&["18446744073709551615"], Some(u64::MAX)),
            (&["18446744073709551616"], None),
            (&["-600"], None),
            (&["1.5"], None),
            (&["5, 600"], None),
            (&[""], None),
            (&["soon"], None),
            (&["Fri, 31 Dec 2999 23:59:59 GMT"], None),
            (&["soon", "7"], Some(7)),
            (&["7", "600", "-1"], Some(600)),
        ] {
            assert_eq!(asked(values), seconds, "{values:?}");
        }
    }

    #[test]
    fn the_status_can_say_when_to_come_again() {
        let error = answer(429, None, r#"{"details":{"retryAfterSeconds":2}}"#);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    }
}
