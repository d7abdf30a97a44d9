//! A script that the server runs as a whole, and its answer.

use std::sync::OnceLock;
use std::time::Duration;

use redis::{Cmd, Value};

use crate::errors::{self, StoreError};
use crate::topology::lock_server::LockServer;

/// For a command's name, a script's hash, and the number of keys.
const ROOM_FOR_HASH: usize = 64;

/// A script and the hash by which a server remembers it.
pub(super) struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(super) const fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: OnceLock::new(),
        }
    }

    fn hash(&self) -> &str {
        let hash_of = || redis::Script::new(self.text).get_hash().to_owned();
        self.hash.get_or_init(hash_of)
    }

    /// Runs it by its hash, or by its text on a server that has forgotten it (SCRIPT FLUSH,
    /// restart, failover). Its numbered answer, not bounded.
    pub(super) async fn run(
        &self,
        server: &LockServer,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Answer, StoreError> {
        let command = |name: &str, script: &str| {
            let bytes: usize = keys.iter().chain(arguments).map(|text| text.len()).sum();
            // The text is sent seldom.
            let mut command =
                Cmd::with_capacity(3 + keys.len() + arguments.len(), bytes + ROOM_FOR_HASH);
            command.arg(name).arg(script).arg(keys.len());
            command.arg(keys).arg(arguments);
            command
        };
        let answer = match server.query(&command("EVALSHA", self.hash())).await {
            Err(error) if errors::wants_script(&error) => {
                server.query(&command("EVAL", self.text)).await?
            }
            answer => answer?,
        };
        match answer {
            Value::Int(number) => Ok(Answer {
                number,
                parts: Vec::new(),
            }),
            Value::Array(parts) => match parts.first() {
                Some(Value::Int(number)) => Ok(Answer {
                    number: *number,
                    parts,
                }),
                _ => Err(unreadable()),
            },
            _ => Err(unreadable()),
        }
    }
}

fn unreadable() -> StoreError {
    errors::unreadable("a script")
}

/// What a script has returned: a number alone, or one that says what the parts after it mean.
pub(super) struct Answer {
    pub(super) number: i64,
    pub(super) parts: Vec<Value>,
}

impl Answer {
    pub(super) fn text(&self, index: usize) -> Result<String, StoreError> {
        match self.parts.get(index) {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => Err(unreadable()),
        }
    }

    pub(super) fn millis(&self, index: usize) -> Result<Duration, StoreError> {
        match self.parts.get(index) {
            Some(Value::Int(millis)) => Ok(millis_from(*millis)),
            _ => Err(unreadable()),
        }
    }
}

/// Negative numbers stand for "no expiry" and "no key".
pub(super) fn millis_from(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
