//! What etcd or the way to it can answer, as this library's kinds of error.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Error as Client;
use tenure_core::{Error, ErrorKind, Operation};
use tonic::Code;

/// What went wrong, before it is known which operation it hit. Cheap to clone: one failed
/// heartbeat answers everybody who waited for it.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: ErrorKind,
    pub(crate) cause: Cause,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What the caller in this crate can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The link is of no use any more; the next endpoint may be.
    Link,
    /// The lease is gone at the server, and with it all its keys.
    LeaseGone,
    /// The password is refused. Where it is read from a file there may be a newer one by now.
    Password,
    /// The endpoint belongs to another cluster: nothing goes on until the process is restarted.
    OtherCluster,
    /// The server's answer; another endpoint would say the same.
    Answer,
}

/// An error as the source of one of this library's; a thin shell, since the original is shared.
#[derive(Debug)]
struct Source(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Source {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl Trouble {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            cause: Cause::Answer,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn of_the_link(mut self) -> Self {
        self.cause = Cause::Link;
        self
    }

    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// No answer; whether the request was applied is not known.
    pub(crate) fn silent(endpoint: &str, limit: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            format!("etcd at {endpoint} did not answer within {limit:?}"),
        )
        .of_the_link()
    }

    pub(crate) fn lease_gone() -> Self {
        let mut trouble = Self::new(
            ErrorKind::Conflict,
            "the lease has ended at etcd, and all terms on it with it",
        );
        trouble.cause = Cause::LeaseGone;
        trouble
    }

    /// The same, of a connection on which nothing was answered yet. A server that wants TLS, or
    /// none, or another certificate, mostly just closes it: its own reason comes too late to be
    /// read.
    pub(crate) fn at_first_contact(mut self, encrypted: bool) -> Self {
        let says = |text: &str| self.message.contains(text);
        if self.cause != Cause::Link || self.kind != ErrorKind::Unavailable {
            return self;
        }
        let advice = if says("tls handshake eof") {
            "if it stays so, it speaks no TLS: check the scheme (etcd:// or etcds://)"
        } else if !["closed", "broken pipe", "reset"]
            .iter()
            .any(|text| says(text))
        {
            return self;
        } else if encrypted {
            self.kind = ErrorKind::Misconfigured;
            "it closes the connection after the TLS handshake, as it does when it asks for a \
             client's certificate and gets none that it believes: check cert and key"
        } else {
            "if it stays so, it speaks TLS only: check the scheme (etcd:// or etcds://)"
        };
        self.message = format!("{}; {advice}", self.message);
        self
    }

    pub(crate) fn unreadable(what: &str) -> Self {
        Self::new(
            ErrorKind::Internal,
            format!("etcd's answer to {what} has another form than its API has"),
        )
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_error(self, operation: Operation) -> Error {
        let error = Error::new(self.kind, operation, self.message);
        match self.source {
            Some(source) => error.with_source(Source(source)),
            None => error,
        }
    }
}

/// A text of the server without control characters, and not endless.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(300) {
        match c {
            '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// The client's own message says only "transport error"; the reason is at the end of the chain.
fn with_reasons(error: &dyn StdError) -> String {
    chained(error.to_string(), error)
}

fn chained(mut text: String, error: &dyn StdError) -> String {
    let mut next = error.source();
    while let Some(error) = next {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        next = error.source();
    }
    shown(&text)
}

impl From<Client> for Trouble {
    fn from(error: Client) -> Self {
        match &error {
            Client::GRpcStatus(status) => of_status(status).caused_by(error),
            Client::LeaseKeepAliveError(text) if text == "lease not found" => Self::lease_gone(),
            // The others arise when a stream or a connection is gone.
            Client::TransportError(inner) => {
                of_transport(&with_reasons(inner), ErrorKind::Unavailable).caused_by(error)
            }
            Client::InvalidArgs(text) => {
                Self::new(ErrorKind::Misconfigured, shown(text)).caused_by(error)
            }
            _ => Self::new(ErrorKind::Unavailable, with_reasons(&error))
                .of_the_link()
                .caused_by(error),
        }
    }
}

/// TLS has no kind of error of its own in the client; its texts come from rustls.
fn of_transport(text: &str, kind: ErrorKind) -> Trouble {
    let is_tls = ["certificate", "Certificate", "TLS", "UnknownIssuer"]
        .iter()
        .any(|word| text.contains(word))
        // What rustls says when a plain server answers.
        || text.contains("InvalidContentType")
        || text.contains("corrupt message");
    if is_tls {
        return Trouble::new(
            ErrorKind::Misconfigured,
            format!(
                "TLS with etcd fails ({text}); check the scheme (etcds://), ca, cert, key, \
                 server_name and the server's certificate"
            ),
        )
        .of_the_link();
    }
    Trouble::new(kind, format!("etcd cannot be reached: {text}")).of_the_link()
}

fn of_status(status: &tonic::Status) -> Trouble {
    let text = status.message();
    let told = format!("etcd answers \"{}\"", shown(text));
    let advised = |kind, advice: &str| Trouble::new(kind, format!("{told}; {advice}"));
    if text.contains("requested lease not found") {
        return Trouble::lease_gone();
    }
    if text.contains("invalid auth token") || text.contains("revision of auth store is old") {
        // A new link authenticates anew.
        return Trouble::new(ErrorKind::Unavailable, told).of_the_link();
    }
    if text.contains("user name is empty") {
        return advised(
            ErrorKind::Forbidden,
            "authentication is on: give a user and password in the URL",
        );
    }
    if text.contains("authentication is not enabled") {
        return advised(
            ErrorKind::Misconfigured,
            "leave user and password out of the URL, or turn authentication on with \
             `etcdctl auth enable`",
        );
    }
    if text.contains("authentication failed") {
        let mut refused = advised(ErrorKind::Forbidden, "check user and password");
        refused.cause = Cause::Password;
        return refused;
    }
    match status.code() {
        Code::PermissionDenied => advised(
            ErrorKind::Forbidden,
            "grant the user's role the locks' keys: `etcdctl role grant-permission ROLE \
             --prefix=true readwrite PREFIX` (read is enough for observers)",
        ),
        Code::Unauthenticated => Trouble::new(ErrorKind::Unavailable, told).of_the_link(),
        Code::ResourceExhausted if text.contains("database space exceeded") => advised(
            ErrorKind::Unavailable,
            "compact and defragment it, then `etcdctl alarm disarm`",
        ),
        Code::ResourceExhausted => Trouble::new(ErrorKind::Throttled { retry_after: None }, told),
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
            Trouble::new(ErrorKind::Misconfigured, told)
        }
        Code::Unimplemented => advised(
            ErrorKind::Unsupported,
            "etcd 3.4 or newer with its v3 API is needed",
        ),
        Code::DeadlineExceeded => Trouble::new(ErrorKind::Timeout, told).of_the_link(),
        Code::DataLoss => Trouble::new(ErrorKind::Corrupted, told),
        _ if text.contains("request timed out") => {
            Trouble::new(ErrorKind::Timeout, told).of_the_link()
        }
        // Without a raft leader, a member that is stopping, a broken connection.
        _ => {
            let reasons = chained(text.to_owned(), status);
            of_transport(&reasons, ErrorKind::Unavailable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: Code, text: &str) -> Trouble {
        Trouble::from(Client::GRpcStatus(tonic::Status::new(code, text)))
    }

    #[test]
    fn what_the_server_says_gets_a_kind_and_what_to_do() {
        let denied = trouble(Code::PermissionDenied, "etcdserver: permission denied");
        assert_eq!(denied.kind, ErrorKind::Forbidden);
        assert!(denied.message().contains("role grant-permission"));
        let old = trouble(Code::Unauthenticated, "etcdserver: invalid auth token");
        assert_eq!((old.kind, old.cause), (ErrorKind::Unavailable, Cause::Link));
        let gone = trouble(Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(gone.cause, Cause::LeaseGone);
        let leaderless = trouble(Code::Unavailable, "etcdserver: no leader");
        assert_eq!(
            (leaderless.kind, leaderless.cause),
            (ErrorKind::Unavailable, Cause::Link)
        );
    }

    #[test]
    fn texts_of_others_are_escaped_and_cut() {
        let long = trouble(Code::Internal, &"\u{1b}[31m".repeat(1000));
        assert!(!long.message().contains('\u{1b}'));
        assert!(long.message().len() < 3000);
    }
}
