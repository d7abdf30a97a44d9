//! What etcd or the connection to it can answer, as this library's kinds of error.

use std::time::Duration;

use etcd_client::{Error as Client, MemberListResponse};
use tenure_core::ErrorKind;
use tenure_kit::limits::shown;
use tenure_kit::store_error::with_reasons;
use tonic::Code;

/// An error of etcd.
pub(crate) type StoreError = tenure_kit::StoreError<EtcdRecovery>;

type Recovery = tenure_kit::Recovery<EtcdRecovery>;

/// What the backend does about an error that other stores do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EtcdRecovery {
    /// The lease is gone at the server, and with it all its keys: take another one.
    LeaseGone,
    /// The password is refused: read it again, there may be a newer one.
    Password,
    /// The endpoint belongs to another cluster: end all terms until the process is restarted.
    OtherCluster,
}

/// No answer; whether the request was applied is not known.
pub(crate) fn no_answer(endpoint: &str, limit: Duration) -> StoreError {
    StoreError::timeout(&format!("etcd at {endpoint}"), limit, None)
}

/// No endpoint has answered, and none has failed with a reason to show.
pub(crate) fn no_answer_in(limit: Duration) -> StoreError {
    StoreError::timeout("etcd", limit, None)
}

pub(crate) fn lease_gone() -> StoreError {
    StoreError::new(
        ErrorKind::Conflict,
        "the lease has ended at etcd, and all terms on it with it",
    )
    .recover_by(Recovery::Store(EtcdRecovery::LeaseGone))
}

/// A watch would begin before the oldest revision that the store still has.
pub(crate) fn compacted() -> StoreError {
    StoreError::new(
        ErrorKind::Unavailable,
        "what happened since a watch was begun was compacted",
    )
}

pub(crate) fn unreadable(what: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Internal,
        format!("etcd's answer to {what} has another form than its API has"),
    )
}

/// A member that gets the data and serves neither locks nor leases. The next endpoint may be one
/// that does.
pub(crate) fn learner(endpoint: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Unavailable,
        format!("etcd at {endpoint} is a {LEARNER}"),
    )
    .reconnect()
}

/// As etcd says it while the alarm NOSPACE is raised.
const NO_SPACE: &str = "database space exceeded";

pub(crate) fn is_full(error: &StoreError) -> bool {
    error.message().contains(NO_SPACE)
}

const LEARNER: &str = "learner, which serves no locks: name the voting members in the URL, or \
                       promote it with `etcdctl member promote`";

/// The reason to show when several endpoints have failed: that one is a learner says less than why
/// the others do not serve.
pub(crate) fn more_telling(before: Option<StoreError>, error: StoreError) -> StoreError {
    match before {
        Some(before) if error.message().contains(LEARNER) => before,
        _ => error,
    }
}

/// An `etcd grpc-proxy` lists itself, without the number that each member has.
pub(crate) fn is_of_proxy(list: &MemberListResponse) -> bool {
    let members = list.members();
    !members.is_empty() && members.iter().all(|member| member.id() == 0)
}

pub(crate) fn proxy(endpoint: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "{endpoint} is an `etcd grpc-proxy`, which answers keepalives at its own pace: no \
             heartbeat proves a lease through it. Name the cluster's members in the URL"
        ),
    )
    .reconnect()
}

/// Whether the error asks for this recovery.
pub(crate) fn asks_for(error: &StoreError, recovery: EtcdRecovery) -> bool {
    error.recovery == Recovery::Store(recovery)
}

/// Whether the user lacks a right, to one of the keys of a request or of its lease.
pub(crate) fn is_denied(error: &StoreError) -> bool {
    error.kind == ErrorKind::Forbidden && error.recovery == Recovery::None
}

pub(crate) fn is_lease_gone(error: &StoreError) -> bool {
    asks_for(error, EtcdRecovery::LeaseGone)
}

/// The same error, of a connection on which nothing was answered yet. A server that wants TLS, or
/// none, or another certificate, mostly just closes it: its own reason comes too late to be read.
pub(crate) fn at_first_contact(error: StoreError, encrypted: bool) -> StoreError {
    let says = |text: &str| error.message().contains(text);
    if !error.needs_reconnect() || error.kind != ErrorKind::Unavailable {
        return error;
    }
    let (kind, advice) = if says("tls handshake eof") {
        (
            ErrorKind::Unavailable,
            "if it stays so, it speaks no TLS: check the scheme (etcd:// or etcds://)",
        )
    } else if !["closed", "broken pipe", "reset"]
        .iter()
        .any(|text| says(text))
    {
        return error;
    } else if encrypted {
        (
            ErrorKind::Misconfigured,
            "it closes the connection after the TLS handshake, as it does when it asks for a \
             client's certificate and gets none that it trusts: check client_cert and client_key",
        )
    } else {
        (
            ErrorKind::Unavailable,
            "if it stays so, it speaks TLS only: check the scheme (etcd:// or etcds://)",
        )
    };
    let message = format!("{}; {advice}", error.message());
    error.with_kind(kind).with_message(message)
}

/// The error of the client library.
pub(crate) fn of_client(error: Client) -> StoreError {
    match &error {
        Client::GRpcStatus(status) => of_status(status).with_source(error),
        Client::LeaseKeepAliveError(text) if text == "lease not found" => lease_gone(),
        // The others arise when a stream or a connection is gone.
        Client::TransportError(inner) => {
            of_transport(&shown(&with_reasons(inner)), ErrorKind::Unavailable).with_source(error)
        }
        Client::InvalidArgs(text) => {
            StoreError::new(ErrorKind::Misconfigured, shown(text)).with_source(error)
        }
        _ => StoreError::new(ErrorKind::Unavailable, shown(&with_reasons(&error)))
            .reconnect()
            .with_source(error),
    }
}

/// TLS has no kind of error of its own in the client; its texts come from rustls.
fn of_transport(text: &str, kind: ErrorKind) -> StoreError {
    // An alert is what a server ends a handshake by: `UnknownCA`, `CertificateRequired`.
    let is_tls = ["certificate", "Certificate", "TLS", "UnknownIssuer", "fatal alert"]
        .iter()
        .any(|word| text.contains(word))
        // What rustls says when a plain server answers.
        || text.contains("InvalidContentType")
        || text.contains("corrupt message");
    if is_tls {
        return StoreError::new(
            ErrorKind::Misconfigured,
            format!(
                "TLS with etcd fails ({text}); check the scheme (etcds://), ca, client_cert, \
                 client_key, server_name and the server's certificate"
            ),
        )
        .reconnect();
    }
    StoreError::new(kind, format!("etcd cannot be reached: {text}")).reconnect()
}

pub(crate) fn of_status(status: &tonic::Status) -> StoreError {
    let text = status.message();
    let told = format!("etcd answers \"{}\"", shown(text));
    let advised = |kind, advice: &str| StoreError::new(kind, format!("{told}; {advice}"));
    if text.contains("requested lease not found") {
        return lease_gone();
    }
    if text.contains("invalid auth token") || text.contains("revision of auth store is old") {
        // A new connection authenticates again.
        return StoreError::new(ErrorKind::Unavailable, told).reconnect();
    }
    if text.contains("not supported for learner") {
        return StoreError::new(ErrorKind::Unavailable, format!("{told}: it is a {LEARNER}"))
            .reconnect();
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
        return advised(ErrorKind::Forbidden, "check user and password")
            .recover_by(Recovery::Store(EtcdRecovery::Password));
    }
    match status.code() {
        Code::PermissionDenied => advised(
            ErrorKind::Forbidden,
            "grant the user's role the locks' keys: `etcdctl role grant-permission ROLE \
             --prefix=true readwrite PREFIX` (read is enough for observers)",
        ),
        Code::Unauthenticated => StoreError::new(ErrorKind::Unavailable, told).reconnect(),
        Code::ResourceExhausted if text.contains(NO_SPACE) => advised(
            ErrorKind::Unavailable,
            "compact and defragment it, then `etcdctl alarm disarm`",
        ),
        Code::ResourceExhausted => {
            StoreError::new(ErrorKind::Throttled { retry_after: None }, told)
        }
        Code::OutOfRange if text.contains("message length too large") => StoreError::new(
            ErrorKind::Corrupted,
            format!(
                "{}: look for keys of other programs with huge values below the lock's key",
                shown(text)
            ),
        ),
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
            StoreError::new(ErrorKind::Misconfigured, told)
        }
        Code::Unimplemented => advised(
            ErrorKind::Unsupported,
            "etcd 3.4 or newer with its v3 API is needed",
        ),
        Code::DeadlineExceeded => StoreError::new(ErrorKind::Timeout, told).reconnect(),
        Code::DataLoss => StoreError::new(ErrorKind::Corrupted, told),
        _ if text.contains("request timed out") => {
            StoreError::new(ErrorKind::Timeout, told).reconnect()
        }
        // Without a raft leader, a member that is stopping, a broken connection.
        _ => {
            let source = std::error::Error::source(status).map(with_reasons);
            let reason = source.map_or_else(String::new, |source| format!(": {source}"));
            of_transport(&shown(&format!("{text}{reason}")), ErrorKind::Unavailable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: Code, text: &str) -> StoreError {
        of_client(Client::GRpcStatus(tonic::Status::new(code, text)))
    }

    #[test]
    fn what_the_server_says_gets_a_kind_and_what_to_do() {
        let denied = told(Code::PermissionDenied, "etcdserver: permission denied");
        assert_eq!(denied.kind, ErrorKind::Forbidden);
        assert!(denied.message().contains("role grant-permission"));
        let old = told(Code::Unauthenticated, "etcdserver: invalid auth token");
        assert_eq!(
            (old.kind, old.recovery),
            (ErrorKind::Unavailable, Recovery::Reconnect)
        );
        let gone = told(Code::NotFound, "etcdserver: requested lease not found");
        assert!(is_lease_gone(&gone));
        let leaderless = told(Code::Unavailable, "etcdserver: no leader");
        assert_eq!(
            (leaderless.kind, leaderless.recovery),
            (ErrorKind::Unavailable, Recovery::Reconnect)
        );
    }

    #[test]
    fn texts_of_others_are_escaped_and_cut() {
        let long = told(Code::Internal, &"\u{1b}[31m".repeat(1000));
        assert!(!long.message().contains('\u{1b}'));
        assert!(long.message().len() < 3000);
    }
}
