//! Checks of the server: its settings, once when the backend is connected, and all that `doctor`
//! asks.

use async_trait::async_trait;
use redis::{Value, cmd};
use tenure_core::{Check, ErrorKind};
use tenure_kit::Address;

use crate::config::{RedisConfig, Replicas, Servers};
use crate::errors::{self, StoreError, acl_line};
use crate::keys::KeyNames;
use crate::net::connection::{Connection, field};
use crate::requests::look::{Look, read};
use crate::requests::probe::{Telling, refusal, scratch};
use crate::topology::lock_server::{LockServer, Request};

pub(crate) mod replicas;

const EVICTION: &str = "eviction";
const PERSISTENCE: &str = "persistence";
const REPLICATION: &str = "replication";
const SETTINGS: &str = "settings";

/// What to do about a check that says only what the server has answered.
pub(crate) const FIX: &str = "fix this and run doctor again";

/// Two leaders without anything having failed.
fn may_evict(policy: &str) -> Check {
    let policy = policy.escape_debug();
    Check::unusable(
        EVICTION,
        format!("maxmemory-policy is {policy}, so a lock can be thrown away while it is held"),
        "set it to noeviction",
    )
}

/// A process that has not known the server before can be elected while another still leads, for as
/// long as its validity lasts.
fn not_persistent() -> Check {
    Check::warning(
        PERSISTENCE,
        "nothing is kept over a restart, so a lock can be given away while it is held",
        "set appendonly yes",
    )
}

/// No append-only file, or one that is not synced with each write.
fn loses_last_writes() -> Check {
    Check::warning(
        PERSISTENCE,
        "a crash can lose the last writes",
        "set appendonly yes and appendfsync always to keep them",
    )
}

fn writes_without_replicas() -> Check {
    Check::warning(
        REPLICATION,
        "a master that is cut off from its replicas goes on granting terms, which a failover \
         forgets",
        "set min-replicas-to-write 1 at the server, or wait_replicas=1 in the URL",
    )
}

/// It is how a restart or failover is noticed.
fn tells_no_incarnation() -> Check {
    Check::warning(
        "incarnation",
        "the server tells no replication id (INFO replication has no master_replid), so a restart or \
         failover that forgets a term cannot be noticed: the lock can be given away while it is held",
        "use Redis 4 or newer, or Valkey",
    )
}

/// Managed services do not let their settings be read.
fn not_checked(refusal: &StoreError) -> Check {
    Check::warning(
        SETTINGS,
        format!("the server's settings were not checked ({refusal})"),
        "allow +info and +config|get",
    )
}

/// The settings under which a lock can be lost, and nothing that is fine.
pub(crate) struct Settings {
    pub(crate) replicas: Option<Replicas>,
}

#[async_trait]
impl Request for Settings {
    type Answer = Vec<Check>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        settings(&server.connection, self.replicas).await
    }
}

/// The same with what is fine, and the server's version.
pub(crate) struct ElectionSettings {
    pub(crate) replicas: Option<Replicas>,
}

#[async_trait]
impl Request for ElectionSettings {
    type Answer = Vec<Check>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        all(&server.connection, self.replicas).await
    }
}

/// Whether an attempt could use what stands in the keys of the lock, and both of them at once: in a
/// cluster not while they are on two nodes.
pub(crate) struct LockState<'a> {
    pub(crate) keys: &'a KeyNames,
}

#[async_trait]
impl Request for LockState<'_> {
    type Answer = ();

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let (lock, fence) = (self.keys.lock(), self.keys.fence());
        let mut both = cmd("EVAL");
        both.arg("return 1").arg(2).arg(lock).arg(&fence);
        server.query(&both).await?;
        Look { keys: self.keys }.send(server).await?;
        let written = read(server, &fence).await?;
        if is_fence(&written) {
            return Ok(());
        }
        let problem = "holds something that this library has not written";
        Err(errors::corrupted(&fence, problem))
    }
}

/// Beyond what the scripts can count: their numbers are exact up to 2^53.
const LAST_TOKEN: u64 = 1 << 48;

/// Whether attempts can go on from this fence: a token, an incarnation and a lease, or nothing.
fn is_fence(written: &str) -> bool {
    let mut fields = written.splitn(3, ' ');
    let mut field = || fields.next().unwrap_or_default();
    let (token, incarnation, lease) = (field(), field(), field());
    let has_next = |token: u64| token < LAST_TOKEN - 1;
    let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    written.is_empty()
        || (token.parse().is_ok_and(has_next) && is_word(incarnation) && is_number(lease))
}

/// What [`LockState`] has met; `None` if it is fine, or another check tells it.
pub(crate) fn lock_state(outcome: Result<(), StoreError>) -> Option<Check> {
    let error = outcome.err()?;
    let (name, remedy) = match error.kind {
        ErrorKind::Corrupted => ("lock", FIX),
        _ if errors::waits_for_keys(&error) => ("slot", "end the move of the slot, or undo it"),
        _ => return None,
    };
    Some(Check::unusable(name, error.to_string(), remedy))
}

/// Whether the user may do what an election does to the keys beginning with `key`.
pub(crate) struct Permissions<'a> {
    pub(crate) key: &'a str,
    pub(crate) config: &'a RedisConfig,
}

#[async_trait]
impl Request for Permissions<'_> {
    type Answer = Vec<Check>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let mut checks = vec![permissions(server, self.key, self.config).await?];
        checks.extend(bounded_reads(server, &scratch(self.key), &self.config.patterns()).await?);
        Ok(checks)
    }
}

/// What [`settings`] finds, and what is fine.
async fn all(connection: &Connection, wanted: Option<Replicas>) -> Result<Vec<Check>, StoreError> {
    let mut checks = vec![version(connection).await?];
    checks.extend(settings(connection, wanted).await?);
    let all_was_seen = !checks.iter().any(|check| check.name == SETTINGS);
    let mut fine = vec![
        (EVICTION, "no key is thrown away while memory lasts"),
        (PERSISTENCE, "each write is on disk before it is answered"),
    ];
    // Where elections wait for replicas, `confirmation` tells.
    if wanted.is_none() {
        let reason = "no replicas, or writes are refused when none is linked";
        fine.push((REPLICATION, reason));
    }
    for (name, reason) in fine {
        // What was not seen is not said to be fine.
        if all_was_seen && !checks.iter().any(|check| check.name == name) {
            checks.push(Check::fine(name, reason));
        }
    }
    Ok(checks)
}

/// The oldest release whose scripts this library was tried with.
const OLDEST: u32 = 6;
const VERSION: &str = "server version";

async fn version(connection: &Connection) -> Result<Check, StoreError> {
    let at = connection.address();
    let untold = || {
        let reason = format!("{at} does not tell its version");
        Check::warning(VERSION, reason, "allow +info")
    };
    let info = match connection.query(cmd("INFO").arg("server")).await {
        Ok(info) => info,
        Err(error) if matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            return Ok(untold());
        }
        Err(error) => return Err(error),
    };
    let valkey = field(&info, "valkey_version").map(|version| ("Valkey", version));
    let redis = field(&info, "redis_version").map(|version| ("Redis", version));
    let Some((server, version)) = valkey.or(redis) else {
        return Ok(untold());
    };
    Ok(judge_version(server, version, at))
}

fn judge_version(server: &str, version: &str, at: &Address) -> Check {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let mut next = || -> Option<u32> { numbers.next().flatten() };
    let release = (next(), next(), next());
    // Another's text: nothing in it is to reach the terminal.
    let reason = format!("{server} {} at {at}", version.escape_debug());
    let unbound = match release {
        (Some(6), Some(0), patch) => patch < Some(17),
        (Some(6), Some(2), patch) => patch < Some(7),
        _ => false,
    };
    if release.0.is_none_or(|major| major < OLDEST) {
        return Check::warning(
            VERSION,
            reason,
            format!("use {server} {OLDEST} or newer: older ones were not tried"),
        );
    }
    if unbound && server == "Redis" {
        return Check::warning(
            VERSION,
            format!("{reason}, whose scripts, which elections are, write without replicas too"),
            "use 6.0.17, 6.2.7, 7.0 or newer where min-replicas-to-write is to be relied on",
        );
    }
    Check::fine(VERSION, reason)
}

/// Whether the user may do what an election does to the keys beginning with `key`.
async fn permissions(
    server: &LockServer,
    key: &str,
    config: &RedisConfig,
) -> Result<Check, StoreError> {
    const NAME: &str = "permissions";
    Ok(match refusal(server, key, config.replicas).await? {
        None => Check::fine(NAME, "the user may run each step of an election"),
        Some(refused) if refused.is_unknown() => Check::unusable(
            "elections",
            refused.to_string(),
            "enable it for this server (rename-command in its configuration): no candidate can \
                 be elected as it is",
        ),
        // A full memory, too few replicas: nothing that a permission would fix.
        Some(refused) if !refused.is_forbidden() => Check::unusable(
            "elections",
            refused.to_string(),
            "fix this: no candidate can be elected as it is",
        ),
        Some(refused) => Check::unusable(
            NAME,
            refused.to_string(),
            format!("grant it: {}", acl_line(&config.patterns())),
        ),
    })
}

/// Whether a huge value in the lock's key is harmless. `None` if so.
async fn bounded_reads(
    server: &LockServer,
    scratch: &str,
    patterns: &str,
) -> Result<Option<Check>, StoreError> {
    match server
        .query(cmd("GETRANGE").arg(scratch).arg(0).arg(0))
        .await
    {
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            Ok(Some(Check::warning(
                "value size",
                "the user may not run GETRANGE, so a huge value under the lock's name would block \
                 the server with each call",
                format!("grant it: {}", acl_line(patterns)),
            )))
        }
        Err(error) => Err(error),
    }
}

/// Whether waiting candidates would hear of a release, and this user may tell of one. Elections do
/// without, so it is no more than a warning.
pub(crate) fn hearing(
    heard: Result<(), StoreError>,
    tells: Result<Telling, StoreError>,
    patterns: &str,
) -> Check {
    const NAME: &str = "wake-ups";
    let mute = |why: &str, remedy: String| {
        let reason = format!("{why}, so candidates that wait for its releases poll");
        Check::warning(NAME, reason, remedy)
    };
    match heard.and(tells) {
        Ok(Telling::Allowed) => Check::fine(NAME, "waiting candidates hear of a release"),
        Ok(Telling::NotMeasured) => Check::fine(
            NAME,
            "waiting candidates hear of a release; whether this user may tell of one was not \
             measured, as a server before Redis 7 tells that by a message alone",
        ),
        Ok(Telling::Forbidden) => mute(
            "the user may not publish on the lock's channel",
            format!("grant it: {}", acl_line(patterns)),
        ),
        Ok(Telling::Disabled) => mute(
            "the server knows no PUBLISH",
            "enable it for this server (rename-command in its configuration)".to_owned(),
        ),
        Err(error) if error.kind == ErrorKind::Forbidden => Check::warning(
            NAME,
            "the user may not subscribe to the lock's channel, so waiting candidates poll",
            format!("grant it: {}", acl_line(patterns)),
        ),
        Err(error) => Check::warning(
            NAME,
            format!("waiting candidates hear of no release: {error}"),
            FIX,
        ),
    }
}

/// Whether what is said on the way to the servers can be read there.
pub(crate) fn encryption(config: &RedisConfig) -> Check {
    const NAME: &str = "encryption";
    let addresses = config.servers.addresses();
    if config.tls.is_some() {
        return Check::fine(NAME, "TLS, with the server's certificate verified");
    }
    if addresses.iter().all(Address::is_loopback) {
        return Check::fine(NAME, "none, on this host");
    }
    Check::warning(
        NAME,
        "none: passwords and locks can be read and changed on the way",
        "turn TLS on at the server, and use rediss: instead of redis: in the URL",
    )
}

/// Whether one sentinel that is down leaves a majority.
pub(crate) fn sentinels(config: &RedisConfig) -> Option<Check> {
    const NAME: &str = "sentinels";
    let Servers::Sentinel { sentinels, .. } = &config.servers else {
        return None;
    };
    let count = sentinels.len();
    let reason = format!("{count} in the URL, of which more than half must name the master");
    Some(if count < 3 {
        Check::warning(NAME, reason, "name all sentinels, three or more")
    } else {
        Check::fine(NAME, reason)
    })
}

/// Checks the server's settings under which a lock can be lost; `wanted` are the replicas that each
/// term waits for. Gives only what is not fine. What is forbidden is a check too; other errors are
/// returned.
async fn settings(
    connection: &Connection,
    wanted: Option<Replicas>,
) -> Result<Vec<Check>, StoreError> {
    let mut checks = Vec::new();
    let mut unread: Option<StoreError> = None;
    let mut note = |answer: Result<Value, StoreError>| match answer {
        Ok(value) => Ok(Some(value)),
        // CONFIG is switched off or renamed at managed services.
        Err(error) if matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            unread.get_or_insert(error);
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let info = note(connection.query(cmd("INFO").arg("memory")).await)?;
    if let Some(info) = info
        && field(&info, "maxmemory").is_some_and(|limit| limit != "0")
        && let Some(policy) = field(&info, "maxmemory_policy")
        && policy != "noeviction"
    {
        checks.push(may_evict(policy));
    }
    let persistence = note(connection.query(cmd("INFO").arg("persistence")).await)?;
    let replication = note(connection.query(cmd("INFO").arg("replication")).await)?;
    if let Some(info) = &replication
        && field(info, "master_replid").is_none()
    {
        checks.push(tells_no_incarnation());
    }
    let mut setting = async |name: &str| match connection.setting(name).await {
        Ok(setting) => Ok(setting),
        Err(error) => note(Err(error)).map(|_| None),
    };
    let append_only = persistence
        .as_ref()
        .and_then(|info| field(info, "aof_enabled"));
    let save = setting("save").await?;
    let sync = setting("appendfsync").await?;
    match (append_only, save.as_deref()) {
        (Some("0"), Some("")) => checks.push(not_persistent()),
        (Some("0"), _) => checks.push(loses_last_writes()),
        (Some(_), _) if sync.is_some_and(|sync| sync != "always") => {
            checks.push(loses_last_writes());
        }
        _ => {}
    }
    let replicas = replication
        .as_ref()
        .and_then(|info| field(info, "connected_slaves"));
    // What waits for replicas counts nothing that a cut off master grants.
    if wanted.is_none()
        && replicas.is_some_and(|count| count != "0")
        && setting("min-replicas-to-write").await?.as_deref() == Some("0")
    {
        checks.push(writes_without_replicas());
    }
    checks.extend(unread.as_ref().map(not_checked));
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use tenure_core::Verdict;

    use super::*;

    #[test]
    fn releases_whose_scripts_write_without_replicas_are_named() {
        let at = Address::new("a", 6379);
        let verdict = |server, version| judge_version(server, version, &at).verdict;
        for version in ["6.0.16", "6.0", "6.2.6", "5.0.14", "", "new"] {
            assert_eq!(verdict("Redis", version), Verdict::Warning, "{version}");
        }
        for version in ["6.0.17", "6.2.7", "6.2.14", "7.0.0", "8.2"] {
            assert_eq!(verdict("Redis", version), Verdict::Fine, "{version}");
        }
        assert_eq!(verdict("Valkey", "8.1.1"), Verdict::Fine);
    }
}
