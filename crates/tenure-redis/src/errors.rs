//! What the server or the network can answer, as this library's kinds of error.

use std::io;

use redis::RedisError;
use tenure_core::ErrorKind;
use tenure_kit::allowance::ENDLESS;
use tenure_kit::limits::shown;
use tenure_kit::{Address, Recovery};

/// An error of Redis, and what to do next.
pub(crate) type StoreError = tenure_kit::StoreError<NextStep>;

/// What Redis alone says about what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// The connection leads to a replica: find the master. It is a mistake of set-up when the
    /// backend is connected, and a failover later.
    FindMaster,
    /// Another node of the cluster has the lock's slot.
    Moved(Address),
    /// The lock's slot is on its way to another node: ask that one this once.
    Ask(Address),
    /// The lock's keys are on two nodes, while its slot is moved: no node can run a script.
    WaitForKeys,
    /// The server has forgotten the script: send its text.
    SendScript,
}

/// Whether the connection is of no use any more. A new one finds the master again.
pub(crate) fn is_lost(error: &StoreError) -> bool {
    error.needs_reconnect() || is_replica(error)
}

/// Whether the server is a replica where a master was expected.
pub(crate) fn is_replica(error: &StoreError) -> bool {
    error.recovery == Recovery::Store(NextStep::FindMaster)
}

/// Whether it says no more than that the script's text has to be sent.
pub(crate) fn wants_script(error: &StoreError) -> bool {
    error.recovery == Recovery::Store(NextStep::SendScript)
}

pub(crate) fn connecting(address: &Address, error: io::Error) -> StoreError {
    let message = format!("cannot connect to {address}: {error}; is the server running there?");
    StoreError::new(ErrorKind::Unavailable, message)
        .reconnect()
        .with_source(error)
}

pub(crate) fn replica(address: &Address) -> StoreError {
    let message = format!(
        "{address} is a replica, which cannot be written to; use the master's address, or \
         redis+sentinel:// or redis+cluster://, which find it"
    );
    StoreError::new(ErrorKind::Unavailable, message)
        .recover_by(Recovery::Store(NextStep::FindMaster))
}

pub(crate) fn replaced(former: &Address, master: &Address) -> StoreError {
    let message = format!("{former} is not the master any more, but {master}");
    StoreError::new(ErrorKind::Unavailable, message).reconnect()
}

/// Without the sentinels' confirmation there may be another master. Whatever keeps them from giving
/// it may pass.
pub(crate) fn unconfirmed(master: &Address, why: StoreError) -> StoreError {
    let message = format!(
        "more than half of the sentinels must confirm that {master} still is the master, and do \
         not: {why}"
    );
    why.with_kind(ErrorKind::Unavailable).with_message(message)
}

/// The nodes of a cluster send each other's callers to and fro.
pub(crate) fn moving() -> StoreError {
    StoreError::new(
        ErrorKind::Unavailable,
        "the cluster's nodes do not agree on who has the lock's slot, as for a moment while it is \
         moved; if that lasts, see CLUSTER NODES, and redis-cli --cluster fix",
    )
}

/// The keys of a lock are on two nodes.
pub(crate) fn keys_on_two_nodes(
    slot: u16,
    at: &Address,
    moving: Option<&(String, String)>,
) -> StoreError {
    let nodes = moving.map_or_else(
        || format!("{at} and another node"),
        |(from, to)| format!("{from}, which it leaves, and {to}, to which it goes"),
    );
    StoreError::new(
        ErrorKind::Unavailable,
        format!(
            "slot {slot} of the cluster is being moved, and no candidate can be elected while the \
             lock and its fence are on two nodes: {nodes}; if nobody is moving it any more, end it \
             with redis-cli --cluster fix, or CLUSTER SETSLOT {slot} NODE on both"
        ),
    )
    .recover_by(Recovery::Store(NextStep::WaitForKeys))
}

/// Whether the lock's slot has to come to one node first.
pub(crate) fn waits_for_keys(error: &StoreError) -> bool {
    error.recovery == Recovery::Store(NextStep::WaitForKeys)
}

pub(crate) fn unreadable(what: &str) -> StoreError {
    StoreError::new(
        ErrorKind::Internal,
        format!("the server's answer to {what} cannot be read; is it Redis or Valkey?"),
    )
}

/// A lock's key that something else has written.
pub(crate) fn corrupted(key: &str, problem: &str) -> StoreError {
    // A script's answer names the key: what comes from the server is escaped.
    let key = shown(key);
    StoreError::new(
        ErrorKind::Corrupted,
        format!(
            "the key \"{key}\" {problem}; the program that wrote it may hold the lock: stop it \
             first, and only then delete the key (DEL \"{key}\"). If that program has nothing to do \
             with this lock, set another prefix"
        ),
    )
}

/// What the server at `address` has answered, or why it could not.
pub(crate) fn answered(address: &Address, patterns: &str, error: RedisError) -> StoreError {
    let (kind, recovery, advice) = meaning(&error, patterns);
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
    let message = format!("{address}{ANSWERS}{}{ADVICE}{advice}", shown(text));
    let answer = StoreError::new(kind, message).recover_by(recovery);
    if repeated {
        return answer;
    }
    answer.with_source(error)
}

/// What stands between the server, its answer and our advice.
const ANSWERS: &str = " answers \"";
const ADVICE: &str = "\"; ";

/// The server's own words in an error.
pub(crate) fn quoted(error: &StoreError) -> Option<&str> {
    let (_, rest) = error.message().split_once(ANSWERS)?;
    Some(rest.rsplit_once(ADVICE).map_or(rest, |(answer, _)| answer))
}

/// The line that grants a user all that this crate needs on the keys and channels of these patterns.
pub(crate) fn acl_line(patterns: &str) -> String {
    format!(
        "ACL SETUSER <user> {patterns} +ping +select +asking +evalsha +eval +get +getrange +set +del \
         +pexpire +pttl +time +info +publish +subscribe +unsubscribe +wait +cluster|slots \
         +cluster|nodes +config|get"
    )
}

/// Its kind, what to do here, and what the user can do.
type Meaning = (ErrorKind, Recovery<NextStep>, String);

fn meaning(error: &RedisError, patterns: &str) -> Meaning {
    use ErrorKind::{Corrupted, Forbidden, Internal, Misconfigured, Unavailable, Unsupported};

    let detail = error.detail().unwrap_or_default();
    let fixed = |kind, advice: &str| (kind, Recovery::None, advice.to_owned());
    let code = match error.code() {
        Some("ERR") => code_in(detail),
        Some(code) => code,
        None => return meaning_without_code(error),
    };
    match code {
        "READONLY" => (
            Unavailable,
            Recovery::Reconnect,
            "it is a replica: either a failover is under way, or the address is a replica's; \
             with Sentinel or a cluster use redis+sentinel:// or redis+cluster://"
                .to_owned(),
        ),
        "MASTERDOWN" => (
            Unavailable,
            Recovery::Reconnect,
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
        "NOPERM" => fixed(Forbidden, &format!("grant it with: {}", acl_line(patterns))),
        "LOADING" => fixed(
            Unavailable,
            "it has just started, and answers when it has loaded its data",
        ),
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
            Recovery::Reconnect,
            "the cluster does not cover all slots just now".to_owned(),
        ),
        "TRYAGAIN" => (
            Unavailable,
            Recovery::Store(NextStep::WaitForKeys),
            "the lock's slot is being moved to another node".to_owned(),
        ),
        "NOSCRIPT" => (
            Internal,
            Recovery::Store(NextStep::SendScript),
            "it has forgotten the script".to_owned(),
        ),
        "BUSY" => fixed(Unavailable, "a script is blocking it; see SCRIPT KILL"),
        "MISCONF" => fixed(
            Unavailable,
            "it cannot write to its disk, and refuses writes until it can",
        ),
        "WRONGTYPE" => fixed(
            Corrupted,
            "another program has written a key of this lock and may hold it: stop that program \
             first, and only then delete the key. If it has nothing to do with this lock, set \
             another prefix",
        ),
        "UNKNOWN" => fixed(
            Unsupported,
            "elections need this command: it is disabled or renamed there (rename-command), or the \
             version is too old (Redis 5 is needed)",
        ),
        "MAXCLIENTS" => fixed(Unavailable, "raise its maxclients"),
        _ => fixed(Unavailable, "the server's own log may say more"),
    }
}

/// Errors of a command inside a script come as `ERR` on old servers, with the code in the text.
fn code_in(detail: &str) -> &'static str {
    const INSIDE: [(&str, &str); 11] = [
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
    if is_unknown_command(detail) {
        return "UNKNOWN";
    }
    INSIDE
        .iter()
        .find(|(text, _)| detail.contains(text))
        .map_or("ERR", |(_, code)| code)
}

/// Whether a server says that it does not know a command: by itself, or in a script, where each
/// version has words of its own.
pub(crate) fn is_unknown_command(answer: &str) -> bool {
    let answer = answer.to_ascii_lowercase();
    answer.contains("unknown command")
        || answer.contains("unknown subcommand")
        || (answer.contains("unknown") && answer.contains("command called from"))
}

fn redirect(code: &str, detail: &str) -> Meaning {
    let advice = "it is a node of a cluster; use redis+cluster://".to_owned();
    let target = detail.split_ascii_whitespace().nth(1);
    let recovery = match target.and_then(read_target) {
        Some(address) if code == "MOVED" => Recovery::Store(NextStep::Moved(address)),
        Some(address) => Recovery::Store(NextStep::Ask(address)),
        None => Recovery::Reconnect,
    };
    (ErrorKind::Misconfigured, recovery, advice)
}

/// `host:port`; a number of version 6 stands there without brackets.
fn read_target(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let wrong = |c: char| c.is_control() || "/?#@".contains(c);
    (!host.is_empty() && !host.contains(wrong)).then(|| Address::new(host, port))
}

/// Errors without a code are the client's own.
fn meaning_without_code(error: &RedisError) -> Meaning {
    use redis::ErrorKind as Client;

    match error.kind() {
        Client::AuthenticationFailed => (
            ErrorKind::Forbidden,
            Recovery::None,
            "user or password are wrong".to_owned(),
        ),
        Client::Parse | Client::UnexpectedReturnType => (
            ErrorKind::Internal,
            Recovery::Reconnect,
            "is it Redis or Valkey? If it speaks TLS there, use rediss".to_owned(),
        ),
        _ if error.to_string().contains(ENDLESS) => (
            ErrorKind::Internal,
            Recovery::Reconnect,
            "is it Redis or Valkey?".to_owned(),
        ),
        // With TLS 1.3 a server refuses a certificate only after the handshake.
        _ if error.to_string().contains("received fatal alert") => (
            ErrorKind::Misconfigured,
            Recovery::Reconnect,
            "it does not accept this side's TLS: check cert and key, and their expiry".to_owned(),
        ),
        _ => (
            ErrorKind::Unavailable,
            Recovery::Reconnect,
            "the connection is lost".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests;
