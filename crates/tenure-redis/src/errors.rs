//! What the server or the way to it can answer, as this library's kinds of error.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tenure_core::{Error, ErrorKind, Operation};

use crate::config::Address;

/// What went wrong, before it is known which operation it hit. Cheap to clone: one failed dialling
/// answers everybody who waits for the connection.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: ErrorKind,
    pub(crate) cure: Cure,
    /// The server is a replica, which is a mistake of set-up when the backend is connected, and
    /// a failover later.
    pub(crate) is_replica: bool,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What may help, here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Nothing that this library could do.
    None,
    /// The connection is dead, or leads to a server that is not the master: connect anew, which
    /// finds the master anew.
    Reconnect,
    /// The lock's slot is at another node of the cluster.
    Moved(Address),
    /// The lock's slot is on its way to another node, which must be asked this once.
    Ask(Address),
    /// The server has forgotten the script: send its text.
    SendScript,
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
            cure: Cure::None,
            is_replica: false,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn cured_by(mut self, cure: Cure) -> Self {
        self.cure = cure;
        self
    }

    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn connecting(address: &Address, error: io::Error) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            format!("cannot connect to {address}: {error}; is the server running there?"),
        )
        .cured_by(Cure::Reconnect)
        .caused_by(error)
    }

    pub(crate) fn replica(address: &Address) -> Self {
        let mut trouble = Self::new(
            ErrorKind::Unavailable,
            format!(
                "{address} is a replica, which cannot be written to; use the master's address, or \
                 redis+sentinel:// or redis+cluster://, which find it"
            ),
        )
        .cured_by(Cure::Reconnect);
        trouble.is_replica = true;
        trouble
    }

    pub(crate) fn silent(address: &Address, limit: Duration) -> Self {
        Self::new(
            ErrorKind::Timeout,
            format!("{address} did not answer within {limit:?}"),
        )
        .cured_by(Cure::Reconnect)
    }

    pub(crate) fn replaced(former: &Address, master: &Address) -> Self {
        let message = format!("{former} is not the master any more, but {master}");
        Self::new(ErrorKind::Unavailable, message).cured_by(Cure::Reconnect)
    }

    /// Without the sentinels' word nobody knows whether there is another master. Whatever keeps
    /// them from giving it may pass.
    pub(crate) fn unconfirmed(master: &Address, mut why: Self) -> Self {
        why.kind = ErrorKind::Unavailable;
        why.message = format!(
            "more than half of the sentinels must confirm that {master} still is the master, and \
             do not: {}",
            why.message
        );
        why
    }

    pub(crate) fn runtime_is_gone() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "the tokio runtime that this backend was connected on has ended; connect on one that \
             lives as long as the elections",
        )
    }

    /// The nodes of a cluster send each other's callers to and fro.
    pub(crate) fn moving() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "the cluster's nodes do not agree on who has the lock's slot; is it being moved? It \
             is tried again",
        )
    }

    pub(crate) fn unreadable(what: &str) -> Self {
        Self::new(
            ErrorKind::Internal,
            format!("the server's answer to {what} cannot be read; is it Redis or Valkey?"),
        )
    }

    /// A lock's key that something else has written.
    pub(crate) fn corrupted(key: &str, problem: &str) -> Self {
        Self::new(
            ErrorKind::Corrupted,
            format!(
                "the key \"{key}\" {problem}; if nothing else uses it, delete it (DEL \"{key}\"), \
                 or set another prefix"
            ),
        )
    }

    /// What the server at `address` has answered, or why it could not.
    pub(crate) fn answered(address: &Address, prefix: &str, error: RedisError) -> Self {
        let (kind, cure, advice) = meaning(&error, prefix);
        // The code stands before the text, as in the server's own log and documentation.
        let text = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        // A server repeats the arguments of a command it does not know: a password, with AUTH.
        let (text, repeated) = match text.split_once(", with args beginning with") {
            Some((text, _)) => (text, true),
            None => (text.as_str(), false),
        };
        let text: String = text
            .chars()
            .take(300)
            .flat_map(char::escape_debug)
            .collect();
        let told = Self::new(kind, format!("{address} answers \"{text}\"; {advice}"));
        let told = told.cured_by(cure);
        if repeated {
            return told;
        }
        told.caused_by(error)
    }

    pub(crate) fn into_error(self, operation: Operation) -> Error {
        let error = Error::new(self.kind, operation, self.message);
        match self.source {
            Some(source) => error.with_source(Source(source)),
            None => error,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The line that grants a user all that this crate needs.
pub(crate) fn acl_line(prefix: &str) -> String {
    format!(
        "ACL SETUSER <user> ~{prefix}:* &{prefix}:* +@connection +evalsha +eval +get +set +del \
         +pexpire +pttl +time +info +publish +subscribe +unsubscribe +wait +cluster|slots \
         +cluster|nodes +config|get"
    )
}

fn meaning(error: &RedisError, prefix: &str) -> (ErrorKind, Cure, String) {
    use ErrorKind::{Corrupted, Forbidden, Internal, Misconfigured, Unavailable, Unsupported};

    let detail = error.detail().unwrap_or_default();
    let fixed = |kind, advice: &str| (kind, Cure::None, advice.to_owned());
    let code = match error.code() {
        Some("ERR") => code_in(detail),
        Some(code) => code,
        None => return meaning_on_the_way(error),
    };
    match code {
        "READONLY" => (
            Unavailable,
            Cure::Reconnect,
            "it is a replica: either a failover is under way, or the address is a replica's; \
             with Sentinel or a cluster use redis+sentinel:// or redis+cluster://"
                .to_owned(),
        ),
        "MASTERDOWN" => (
            Unavailable,
            Cure::Reconnect,
            "it is a replica that has lost its master".to_owned(),
        ),
        "OOM" => fixed(
            Unavailable,
            "its memory is full, so nobody can be elected, while terms can still be renewed and \
             released; raise maxmemory or free some memory",
        ),
        "NOAUTH" => fixed(Forbidden, "put user and password into the configuration"),
        "WRONGPASS" => fixed(
            Forbidden,
            "user or password are wrong, or the user is switched off",
        ),
        "NOPERM" => fixed(Forbidden, &format!("grant it with: {}", acl_line(prefix))),
        "LOADING" => fixed(Unavailable, "it has just started; it is tried again"),
        "NOREPLICAS" => fixed(
            Unavailable,
            "fewer replicas are linked than its min-replicas-to-write asks for; bring them back",
        ),
        "CROSSSLOT" => fixed(
            Misconfigured,
            "the two keys of a lock must be in one slot, which the braces in their names see to; \
             does a proxy rewrite the names?",
        ),
        "MOVED" | "ASK" => redirect(code, detail),
        "CLUSTERDOWN" => (
            Unavailable,
            Cure::Reconnect,
            "the cluster does not cover all slots just now".to_owned(),
        ),
        "TRYAGAIN" => fixed(Unavailable, "the lock's slot is moving to another node"),
        "NOSCRIPT" => (
            Internal,
            Cure::SendScript,
            "it has forgotten the script".to_owned(),
        ),
        "BUSY" => fixed(
            Unavailable,
            "somebody's script is blocking it; see SCRIPT KILL",
        ),
        "MISCONF" => fixed(
            Unavailable,
            "it cannot write to its disk, and refuses writes until it can",
        ),
        "WRONGTYPE" => fixed(
            Corrupted,
            "something else uses a key of this lock; delete it, or set another prefix",
        ),
        "UNKNOWN" => fixed(
            Unsupported,
            "its version is too old (Redis 5 is needed), or the command is renamed there",
        ),
        "MAXCLIENTS" => fixed(Unavailable, "raise its maxclients"),
        _ => fixed(Unavailable, "it is tried again"),
    }
}

/// Errors of a command inside a script come as `ERR` on old servers, with the code in the text.
fn code_in(detail: &str) -> &'static str {
    const INSIDE: [(&str, &str); 13] = [
        ("unknown command", "UNKNOWN"),
        ("unknown subcommand", "UNKNOWN"),
        ("max number of clients", "MAXCLIENTS"),
        ("ACL failure in script", "NOPERM"),
        ("The user executing the script", "NOPERM"),
        ("NOPERM", "NOPERM"),
        ("OOM", "OOM"),
        ("READONLY", "READONLY"),
        ("NOREPLICAS", "NOREPLICAS"),
        ("MISCONF", "MISCONF"),
        ("WRONGTYPE", "WRONGTYPE"),
        ("LOADING", "LOADING"),
        ("CROSSSLOT", "CROSSSLOT"),
    ];
    INSIDE
        .iter()
        .find(|(text, _)| detail.contains(text))
        .map_or("ERR", |(_, code)| code)
}

fn redirect(code: &str, detail: &str) -> (ErrorKind, Cure, String) {
    let advice = "it is a node of a cluster; use redis+cluster://".to_owned();
    let target = detail.split_ascii_whitespace().nth(1);
    let cure = match target.and_then(|target| Address::parse(target, 6379)) {
        Some(address) if code == "MOVED" => Cure::Moved(address),
        Some(address) => Cure::Ask(address),
        None => Cure::Reconnect,
    };
    (ErrorKind::Misconfigured, cure, advice)
}

/// Errors without a code are the client's own.
fn meaning_on_the_way(error: &RedisError) -> (ErrorKind, Cure, String) {
    use redis::ErrorKind as Client;

    match error.kind() {
        Client::AuthenticationFailed => (
            ErrorKind::Forbidden,
            Cure::None,
            "user or password are wrong".to_owned(),
        ),
        Client::Parse | Client::UnexpectedReturnType => (
            ErrorKind::Internal,
            Cure::Reconnect,
            "is it Redis or Valkey?".to_owned(),
        ),
        // With TLS 1.3 a server refuses a certificate only after the handshake.
        _ if error.to_string().contains("received fatal alert") => (
            ErrorKind::Misconfigured,
            Cure::Reconnect,
            "it does not accept this side's TLS: check cert and key, and their expiry".to_owned(),
        ),
        _ => (
            ErrorKind::Unavailable,
            Cure::Reconnect,
            "the connection is lost".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::support::{LIMIT, Server, start, start_pair};

    /// What this library makes of the real server's answer to a command.
    fn trouble(server: &Server, command: &[&str]) -> Trouble {
        let error = server.try_command(command).unwrap_err();
        let address = Address::parse(&server.address(), 6379).unwrap();
        Trouble::answered(&address, "tenure", error)
    }

    #[test]
    fn keys_in_two_slots() {
        let Some(server) = start(&["--cluster-enabled", "yes"]) else {
            return;
        };
        let down = trouble(&server, &["GET", "a"]);
        assert_eq!(
            (down.kind, down.cure),
            (ErrorKind::Unavailable, Cure::Reconnect)
        );
        server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let script = ["EVAL", "return 1", "2", "a", "b"];
        let crossed = trouble(&server, &script);
        assert_eq!(crossed.kind, ErrorKind::Misconfigured);
        assert!(crossed.to_string().contains("CROSSSLOT"), "{crossed}");
    }

    #[test]
    fn a_replica_that_has_lost_its_master() {
        let Some((mut master, replica)) = start_pair(&["--replica-serve-stale-data", "no"]) else {
            return;
        };
        let read_only = trouble(&replica, &["SET", "a", "b"]);
        assert_eq!(
            (read_only.kind, read_only.cure),
            (ErrorKind::Unavailable, Cure::Reconnect)
        );
        master.kill();
        // Its link is seen to be down when the master's connection closes.
        let start = Instant::now();
        while replica.try_command(&["GET", "a"]).is_ok() {
            assert!(start.elapsed() < LIMIT);
        }
        let down = trouble(&replica, &["GET", "a"]);
        assert_eq!(
            (down.kind, down.cure.clone()),
            (ErrorKind::Unavailable, Cure::Reconnect)
        );
        assert!(down.to_string().contains("MASTERDOWN"), "{down}");
    }

    #[test]
    fn answers_of_a_server_in_use() {
        let Some(server) = start(&[]) else { return };
        let hash = "0000000000000000000000000000000000000000";
        let forgotten = trouble(&server, &["EVALSHA", hash, "0"]);
        assert_eq!(forgotten.cure, Cure::SendScript);
        let unknown = trouble(&server, &["NO-SUCH-COMMAND"]);
        assert_eq!(unknown.kind, ErrorKind::Unsupported);
        server.command(&["LPUSH", "list", "x"]);
        for command in [
            &["GET", "list"][..],
            &["EVAL", "return redis.call('GET', 'list')", "0"],
        ] {
            assert_eq!(trouble(&server, command).kind, ErrorKind::Corrupted);
        }
        let other = trouble(&server, &["SET"]);
        assert_eq!(
            (other.kind, other.cure),
            (ErrorKind::Unavailable, Cure::None)
        );
    }
}
