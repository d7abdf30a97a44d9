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
use crate::topology::lock_server::{LockServer, Request};

/// Runs the scripts' commands where they change nothing: on keys beside those of the lock, which do
/// not exist, and on a channel without listeners. The first that is refused says why.
const COMMANDS: &str = "
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
pub(crate) fn scratch(key: &str) -> String {
    format!("{key}:doctor")
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

    /// Elections go on without: then nobody hears of a release.
    fn is_message(&self) -> bool {
        self.answer.starts_with("PUBLISH")
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
            Ok(Some(refused)) if refused.is_unknown() && !refused.is_message() => {
                Err(disabled(server, &refused))
            }
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
        command.arg(script).arg(1).arg(scratch).arg(scratch);
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
