//! What is looked at once, when the backend is connected: settings of the server under which a
//! lock can be lost.

use std::fmt;

use redis::{Value, cmd};
use tenure_core::{Check, ErrorKind};

use crate::config::{Address, RedisConfig, Replicas, Servers};
use crate::connection::{Live, field};
use crate::errors::{Cure, Trouble, acl_line};
use crate::topology::Seat;

/// Something about the server that weakens what this backend promises. Each is logged as a
/// warning when the backend is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The server throws keys away when its memory is full, locks among them: then two can lead.
    MayEvict {
        /// Its `maxmemory-policy`.
        policy: String,
    },
    /// The server keeps nothing over a restart: then a process that has not known it before can be
    /// elected while another still believes that it leads, for as long as its validity lasts.
    NotPersistent,
    /// The server can forget the last moments before a crash: no append-only file, or one that is
    /// not synced with each write.
    LosesLastWrites,
    /// There are replicas, but the server takes writes also when it is cut off from them, and no
    /// election waits for them; a failover forgets those writes. See `min-replicas-to-write` and
    /// [`wait_for_replicas`](RedisConfig::wait_for_replicas).
    WritesWithoutReplicas,
    /// The server does not let its settings be read, as managed services do not, so some of this
    /// was not checked.
    NotChecked {
        /// What it said.
        reason: String,
    },
}

impl Finding {
    fn reason(&self) -> String {
        match self {
            Self::MayEvict { policy } => format!(
                "maxmemory-policy is {policy}, so a lock can be thrown away while it is held"
            ),
            Self::NotPersistent => {
                "nothing is kept over a restart, so a lock can be given away while it is held"
                    .to_owned()
            }
            Self::LosesLastWrites => "a crash can lose the last writes".to_owned(),
            Self::WritesWithoutReplicas => {
                "a master that is cut off from its replicas goes on granting terms, which a \
                 failover forgets"
                    .to_owned()
            }
            Self::NotChecked { reason } => {
                format!("the server's settings were not checked ({reason})")
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::MayEvict { .. } => "set it to noeviction",
            Self::NotPersistent => "set appendonly yes",
            Self::LosesLastWrites => "set appendonly yes and appendfsync always to keep them",
            Self::WritesWithoutReplicas => {
                "set min-replicas-to-write 1 at the server, or wait_replicas=1 in the URL"
            }
            Self::NotChecked { .. } => "allow +info and +config|get",
        }
    }

    fn check_name(&self) -> &'static str {
        match self {
            Self::MayEvict { .. } => EVICTION,
            Self::NotPersistent | Self::LosesLastWrites => PERSISTENCE,
            Self::WritesWithoutReplicas => REPLICATION,
            Self::NotChecked { .. } => SETTINGS,
        }
    }

    fn check(&self) -> Check {
        let (name, reason, remedy) = (self.check_name(), self.reason(), self.remedy());
        match self {
            // Two leaders without anything having failed.
            Self::MayEvict { .. } => Check::unusable(name, reason, remedy),
            _ => Check::warning(name, reason, remedy),
        }
    }
}

const EVICTION: &str = "eviction";
const PERSISTENCE: &str = "persistence";
const REPLICATION: &str = "replication";
const SETTINGS: &str = "settings";

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason(), self.remedy())
    }
}

/// What [`look`] finds, and what it finds in order.
pub(crate) async fn all(live: Live, wanted: Option<Replicas>) -> Result<Vec<Check>, Trouble> {
    let mut checks = vec![version(&live).await?];
    checks.extend(look(live, wanted).await?.iter().map(Finding::check));
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

/// Whether as many replicas answer as each term waits for: with fewer nobody is elected. `None`
/// where it may not be asked, which [`permissions`] tells.
pub(crate) async fn confirmation(
    seat: &Seat,
    key: &str,
    wanted: Replicas,
) -> Result<Option<Check>, Trouble> {
    let Replicas { count, timeout } = wanted;
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    // Before it has written anything, a connection is told that all linked replicas have it: also
    // one that is frozen.
    let mut write = cmd("SET");
    write.arg(scratch(key)).arg("").arg("PX").arg(1);
    let written = seat.query(&write).await;
    let confirmed = match written {
        Ok(_) => seat.query(cmd("WAIT").arg(count).arg(millis)).await,
        refused => refused,
    };
    let confirmed = match confirmed {
        Ok(Value::Int(confirmed)) => confirmed,
        Ok(_) => return Err(Trouble::unreadable("WAIT")),
        Err(trouble) if trouble.kind == ErrorKind::Forbidden => return Ok(None),
        Err(trouble) => return Err(trouble),
    };
    let reason = format!(
        "{confirmed} of the {count} replicas that each term waits for have answered within \
         {timeout:?}"
    );
    Ok(Some(if confirmed < i64::from(count) {
        let remedy = "link the missing replicas to their master, or lower wait_replicas: nobody \
                      can be elected as it is";
        Check::unusable(REPLICATION, reason, remedy)
    } else {
        Check::fine(REPLICATION, reason)
    }))
}

/// The oldest release whose scripts this library was tried with.
const OLDEST: u32 = 6;
const VERSION: &str = "server version";

async fn version(live: &Live) -> Result<Check, Trouble> {
    let at = live.address();
    let untold = || {
        let reason = format!("{at} does not tell its version");
        Check::warning(VERSION, reason, "allow +info")
    };
    let info = match live.query(cmd("INFO").arg("server")).await {
        Ok(info) => info,
        Err(trouble) if matches!(trouble.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            return Ok(untold());
        }
        Err(trouble) => return Err(trouble),
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

/// Runs the scripts' commands where they change nothing: on keys that nobody has, beside those of
/// the lock, and on a channel that nobody listens to. The first that is refused says why.
const PERMITTED: &str = "
local key, channel = KEYS[1], ARGV[1]
for _, call in ipairs({
  {'GET', key}, {'PTTL', key}, {'TIME'}, {'INFO', 'replication'},
  {'SET', key, '', 'XX', 'PX', '1'}, {'PEXPIRE', key, '1'}, {'DEL', key},
  {'PUBLISH', channel, ''},
}) do
  local answer = redis.pcall(unpack(call))
  if type(answer) == 'table' and answer.err then return call[1] .. ': ' .. answer.err end
end
return ''";

/// A key that no lock has: theirs end with the lock's closing brace or `:fence`.
fn scratch(key: &str) -> String {
    format!("{key}:doctor")
}

/// A hash that no script has.
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

/// Whether the user may do what an election does to the keys beginning with `key`.
pub(crate) async fn permissions(
    seat: &Seat,
    key: &str,
    config: &RedisConfig,
) -> Result<Check, Trouble> {
    const NAME: &str = "permissions";
    Ok(match refusal(seat, &scratch(key), config.replicas).await? {
        None => Check::fine(NAME, "the user may run each step of an election"),
        // A full memory, too few replicas: nothing that a permission would mend.
        Some(refused) if !is_permission(&refused) => Check::unusable(
            "elections",
            format!("the server refuses {}", refused.escape_debug()),
            "mend that: nobody can be elected as it is",
        ),
        Some(refused) => Check::unusable(
            NAME,
            format!("the server refuses {}", refused.escape_debug()),
            format!("grant it: {}", acl_line(&config.prefix)),
        ),
    })
}

/// What the server refuses of an election's commands, if anything, and why.
async fn refusal(
    seat: &Seat,
    scratch: &str,
    replicas: Option<Replicas>,
) -> Result<Option<String>, Trouble> {
    let script = |name: &str, script: &str| {
        let mut command = cmd(name);
        command.arg(script).arg(1).arg(scratch).arg(scratch);
        command
    };
    // By its hash is how a script is run but for the first time.
    let by_hash = match seat.query(&script("EVALSHA", NO_SCRIPT)).await {
        Err(trouble) if trouble.cure == Cure::SendScript => None,
        answer => unless_forbidden(answer)?.err(),
    };
    if by_hash.is_some() {
        return Ok(by_hash);
    }
    match unless_forbidden(seat.query(&script("EVAL", PERMITTED)).await)? {
        Ok(Value::BulkString(text)) if text.is_empty() => {}
        Ok(Value::BulkString(text)) => return Ok(Some(String::from_utf8_lossy(&text).into())),
        Ok(_) => return Err(Trouble::unreadable("a script")),
        Err(refused) => return Ok(Some(refused)),
    }
    if replicas.is_none() {
        return Ok(None);
    }
    // For none, so without waiting.
    let waited = seat.query(cmd("WAIT").arg(0).arg(1)).await;
    Ok(unless_forbidden(waited)?.err())
}

/// Takes what is forbidden out of what has failed.
fn unless_forbidden(answer: Result<Value, Trouble>) -> Result<Result<Value, String>, Trouble> {
    match answer {
        Err(trouble) if trouble.kind == ErrorKind::Forbidden => Ok(Err(trouble.to_string())),
        Err(trouble) => Err(trouble),
        Ok(value) => Ok(Ok(value)),
    }
}

/// Whether waiting candidates would hear of a release. Elections do without, so it is no more
/// than a warning.
pub(crate) fn hearing(heard: Result<(), Trouble>, prefix: &str) -> Check {
    const NAME: &str = "wake-ups";
    match heard {
        Ok(()) => Check::fine(NAME, "waiting candidates hear of a release"),
        Err(trouble) if trouble.kind == ErrorKind::Forbidden => Check::warning(
            NAME,
            "the user may not subscribe to the lock's channel, so waiting candidates poll",
            format!("grant it: {}", acl_line(prefix)),
        ),
        Err(trouble) => Check::warning(
            NAME,
            format!("waiting candidates hear of no release: {trouble}"),
            "mend that, and look again",
        ),
    }
}

fn is_permission(refused: &str) -> bool {
    [
        "NOPERM",
        "ACL failure",
        "The user executing the script",
        "permissions",
    ]
    .iter()
    .any(|text| refused.contains(text))
}

/// Whether what is said on the way to the servers can be read there.
pub(crate) fn encryption(config: &RedisConfig) -> Check {
    const NAME: &str = "encryption";
    let addresses = match &config.servers {
        Servers::Single(address) => std::slice::from_ref(address),
        Servers::Sentinel {
            sentinels: nodes, ..
        }
        | Servers::Cluster(nodes) => nodes,
    };
    if config.tls.is_some() {
        return Check::fine(NAME, "TLS, with the server's certificate verified");
    }
    if addresses.iter().all(is_loopback) {
        return Check::fine(NAME, "none, on this host");
    }
    Check::warning(
        NAME,
        "none: passwords and locks can be read and changed on the way",
        "turn TLS on at the server, and use rediss: instead of redis: in the URL",
    )
}

fn is_loopback(address: &Address) -> bool {
    let number: Option<std::net::IpAddr> = address.host.parse().ok();
    address.host == "localhost" || number.is_some_and(|number| number.is_loopback())
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

/// Looks at the server; `wanted` are the replicas that each term waits for. Only what is forbidden
/// is a finding; other errors are returned.
pub(crate) async fn look(live: Live, wanted: Option<Replicas>) -> Result<Vec<Finding>, Trouble> {
    let mut findings = Vec::new();
    let mut unread: Option<Trouble> = None;
    let mut note = |answer: Result<Value, Trouble>| match answer {
        Ok(value) => Ok(Some(value)),
        // CONFIG is switched off or renamed at managed services.
        Err(trouble) if matches!(trouble.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            unread.get_or_insert(trouble);
            Ok(None)
        }
        Err(trouble) => Err(trouble),
    };
    let info = note(live.query(cmd("INFO").arg("memory")).await)?;
    if let Some(info) = info
        && field(&info, "maxmemory").is_some_and(|limit| limit != "0")
        && let Some(policy) = field(&info, "maxmemory_policy")
        && policy != "noeviction"
    {
        findings.push(Finding::MayEvict {
            policy: policy.to_owned(),
        });
    }
    let persistence = note(live.query(cmd("INFO").arg("persistence")).await)?;
    let replication = note(live.query(cmd("INFO").arg("replication")).await)?;
    let mut setting = async |name: &str| match live.setting(name).await {
        Ok(setting) => Ok(setting),
        Err(trouble) => note(Err(trouble)).map(|_| None),
    };
    let append_only = persistence
        .as_ref()
        .and_then(|info| field(info, "aof_enabled"));
    let save = setting("save").await?;
    let sync = setting("appendfsync").await?;
    match (append_only, save.as_deref()) {
        (Some("0"), Some("")) => findings.push(Finding::NotPersistent),
        (Some("0"), _) => findings.push(Finding::LosesLastWrites),
        (Some(_), _) if sync.is_some_and(|sync| sync != "always") => {
            findings.push(Finding::LosesLastWrites);
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
        findings.push(Finding::WritesWithoutReplicas);
    }
    if let Some(trouble) = unread {
        findings.push(Finding::NotChecked {
            reason: trouble.to_string(),
        });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use tenure_core::Verdict;

    use super::*;

    #[test]
    fn releases_whose_scripts_write_without_replicas_are_named() {
        let at = Address::parse("a", 6379).unwrap();
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
