//! Tries each command of an election where it changes nothing.
//!
//! A server may refuse a command to this user, or to everybody: operators disable and rename
//! commands (`rename-command`). Inside a script the server does not say which one it was.

use std::fmt;

use async_trait::async_trait;
use redis::{Value, cmd};
use tenure_core::ErrorKind;
use tenure_kit::Recovery;
use tenure_kit::limits::shown;

use crate::config::Replicas;
use crate::errors::{self, StoreError};
use crate::keys::{KeyNames, beside};
use crate::net::connection::text;
use crate::topology::lock_server::{LockServer, Request};

/// Runs the scripts' commands where they change nothing: on a key beside those of the lock, which does
/// not exist. If it does, it belongs to another program, and nothing is tried. The first that is refused says why. A message would reach the replicas, so `PUBLISH` is
/// not among them.
const COMMANDS: &str = "
local key = KEYS[1]
local there = redis.pcall('GET', key)
if there and not (type(there) == 'table' and there.err) then return '' end
for _, call in ipairs({
  {'GET', key}, {'PTTL', key}, {'TIME'}, {'INFO', 'replication'},
  {'SET', key, '', 'XX', 'PX', '1'}, {'PEXPIRE', key, '1'}, {'DEL', key},
}) do
  local answer = redis.pcall(unpack(call))
  if type(answer) == 'table' and answer.err then return call[1] .. ': ' .. answer.err end
end
return ''";

/// A key that no lock has, beside one of theirs.
pub(crate) fn scratch(key: &str) -> String {
    beside(key, "doctor")
}

/// A hash that no script has.
const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

/// A command that the server has refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What it has answered, with the command's name.
    answer: String,
}

impl Refused {
    /// Whether the user has no right to it.
    pub(crate) fn is_forbidden(&self) -> bool {
        [
            "NOPERM",
            "ACL failure",
            "The user executing the script",
            "permissions",
        ]
        .iter()
        .any(|text| self.answer.contains(text))
    }

    /// Whether the server does not know it.
    pub(crate) fn is_unknown(&self) -> bool {
        errors::is_unknown_command(&self.answer)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refuses {}", shown(&self.answer))
    }
}

/// Fails if the server does not know a command that elections need, and names it. What a user may
/// not do is no failure: an observer elects nobody.
pub(crate) struct Probe<'a> {
    pub(crate) key: &'a str,
    pub(crate) replicas: Option<Replicas>,
}

#[async_trait]
impl Request for Probe<'_> {
    type Answer = ();

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        match refusal(server, self.key, self.replicas).await {
            Ok(Some(refused)) if refused.is_unknown() => Err(disabled(server, &refused)),
            // What else a server answers may pass, and is told by the first call.
            Err(error)
                if error.kind != ErrorKind::Unsupported && error.recovery == Recovery::None =>
            {
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

/// Says whether this user may publish on `ARGV[1]`, without a message: Redis 7 and Valkey can.
const MAY_PUBLISH: &str = "
if not redis.acl_check_cmd then return 'not measured' end
local known, may = pcall(redis.acl_check_cmd, 'PUBLISH', ARGV[1], '')
if not known then return 'disabled' end
return may and 'allowed' or 'forbidden'";

/// Whether a user may tell of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Allowed,
    Forbidden,
    /// The server does not know the command.
    Disabled,
    NotMeasured,
}

/// Asks whether the user may tell of a release of this lock.
pub(crate) struct MayTell<'a> {
    pub(crate) keys: &'a KeyNames,
}

#[async_trait]
impl Request for MayTell<'_> {
    type Answer = Telling;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let mut script = cmd("EVAL");
        script.arg(MAY_PUBLISH).arg(1);
        script
            .arg(scratch(self.keys.lock()))
            .arg(self.keys.channel());
        match server.query(&script).await {
            Ok(answer) => Ok(match text(&answer) {
                Some("allowed") => Telling::Allowed,
                Some("forbidden") => Telling::Forbidden,
                Some("disabled") => Telling::Disabled,
                _ => Telling::NotMeasured,
            }),
            // Without scripts there are no elections, which another check tells.
            Err(error) if matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) => {
                Ok(Telling::NotMeasured)
            }
            Err(error) => Err(error),
        }
    }
}

/// The error of a script in which the server did not know a command, with its name.
pub(super) async fn named(server: &LockServer, key: &str, error: StoreError) -> StoreError {
    match refusal(server, key, None).await {
        Ok(Some(refused)) if refused.is_unknown() => disabled(server, &refused),
        _ => error,
    }
}

fn disabled(server: &LockServer, refused: &Refused) -> StoreError {
    let message = format!(
        "{}: {refused}; elections need this command, so enable it for this server (rename-command \
         in its configuration)",
        server.connection.address()
    );
    StoreError::new(ErrorKind::Unsupported, message)
}

/// What the server refuses of an election's commands, if anything, and why.
pub(crate) async fn refusal(
    server: &LockServer,
    key: &str,
    replicas: Option<Replicas>,
) -> Result<Option<Refused>, StoreError> {
    let scratch = &scratch(key);
    let refused = |answer| Ok(Some(Refused { answer }));
    let script = |name: &str, script: &str| {
        let mut command = cmd(name);
        command.arg(script).arg(1).arg(scratch);
        command
    };
    // By its hash is how a script is run but for the first time.
    let by_hash = match server.query(&script("EVALSHA", NO_SCRIPT)).await {
        Err(error) if errors::wants_script(&error) => None,
        answer => unless_forbidden(answer)?.err(),
    };
    if let Some(answer) = by_hash {
        return refused(answer);
    }
    match unless_forbidden(server.query(&script("EVAL", COMMANDS)).await)? {
        Ok(Value::BulkString(text)) if text.is_empty() => {}
        Ok(Value::BulkString(text)) => return refused(String::from_utf8_lossy(&text).into()),
        Ok(_) => return Err(errors::unreadable("a script")),
        Err(answer) => return refused(answer),
    }
    if replicas.is_none() {
        return Ok(None);
    }
    // For none, so without waiting.
    let waited = server.query(cmd("WAIT").arg(0).arg(1)).await;
    match unless_forbidden(waited)? {
        Ok(_) => Ok(None),
        Err(answer) => refused(answer),
    }
}

/// Takes what is forbidden out of what has failed.
fn unless_forbidden(
    answer: Result<Value, StoreError>,
) -> Result<Result<Value, String>, StoreError> {
    match answer {
        Err(error) if error.kind == ErrorKind::Forbidden => Ok(Err(error.to_string())),
        Err(error) => Err(error),
        Ok(value) => Ok(Ok(value)),
    }
}
