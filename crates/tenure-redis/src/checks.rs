//! What is looked at once, when the backend is connected: settings of the server under which a
//! lock can be lost.

use std::fmt;

use redis::{Value, cmd};
use tenure_core::ErrorKind;

use crate::connection::{Live, field};
use crate::errors::Trouble;

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
    /// The server keeps nothing over a restart: then a second leader can be elected while the
    /// first still believes that it leads, for as long as its validity lasts.
    NotPersistent,
    /// The server can forget the last moments before a crash: no append-only file, or one that is
    /// not synced with each write.
    LosesLastWrites,
    /// There are replicas, but the server takes writes also when it is cut off from them; a
    /// failover forgets those. See `min-replicas-to-write`.
    WritesWithoutReplicas,
    /// The server does not let its settings be read, as managed services do not, so some of this
    /// was not checked.
    NotChecked {
        /// What it said.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MayEvict { policy } => write!(
                f,
                "maxmemory-policy is {policy}, so a lock can be thrown away while it is held; set \
                 it to noeviction"
            ),
            Self::NotPersistent => f.write_str(
                "nothing is kept over a restart, so a lock can be given away while it is held; \
                 set appendonly yes",
            ),
            Self::LosesLastWrites => f.write_str(
                "a crash can lose the last writes; set appendonly yes and appendfsync always to \
                 keep them",
            ),
            Self::WritesWithoutReplicas => f.write_str(
                "a master that is cut off from its replicas goes on granting terms, which a \
                 failover forgets; set min-replicas-to-write 1",
            ),
            Self::NotChecked { reason } => write!(
                f,
                "the server's settings were not checked ({reason}); allow +info and +config|get"
            ),
        }
    }
}

/// Looks at the server. Only what is forbidden is a finding; other errors are returned.
pub(crate) async fn look(live: Live) -> Result<Vec<Finding>, Trouble> {
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
    let mut setting = async |name: &str| {
        let answer = live.query(cmd("CONFIG").arg("GET").arg(name)).await;
        Ok::<_, Trouble>(note(answer)?.as_ref().and_then(second))
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
    if replicas.is_some_and(|count| count != "0")
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

/// The value in an answer to `CONFIG GET` of one setting.
fn second(answer: &Value) -> Option<String> {
    match answer {
        Value::Array(parts) => match parts.get(1)? {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
            Value::SimpleString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}
