//! A script that the server runs as a whole, and its answer.

use std::sync::OnceLock;
use std::time::Duration;

use redis::{Cmd, Value};
use tenure_core::ErrorKind;

use super::probe;
use crate::errors::{self, StoreError};
use crate::topology::lock_server::LockServer;

/// Of a value that is read: a lock's has 2,400 bytes at most.
pub(super) const LAST_BYTE: u32 = 4095;

/// For a command's name, a script's hash, and the number of keys.
const ROOM_FOR_HASH: usize = 64;

/// How a script reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// As much of it as this library would write.
    Part,
    /// All of it: for a user who may do no other.
    Whole,
}

/// A script and the hashes by which a server remembers it.
///
/// `read(KEYS[n])` in its text stands for reading a value: the empty string where there is none.
/// What something else has written there may be huge: the server would copy it into the script,
/// and search it.
pub(super) struct Script {
    text: &'static str,
    by_part: OnceLock<Loaded>,
    whole: OnceLock<Loaded>,
}

struct Loaded {
    text: String,
    hash: String,
}

impl Loaded {
    fn new(text: &str, reads: Reads) -> Self {
        let mut text = text.to_owned();
        for key in ["KEYS[1]", "KEYS[2]", "KEYS[3]"] {
            let reading = match reads {
                Reads::Part => format!("redis.call('GETRANGE', {key}, '0', '{LAST_BYTE}')"),
                Reads::Whole => format!("(redis.call('GET', {key}) or '')"),
            };
            text = text.replace(&format!("read({key})"), &reading);
        }
        Self {
            hash: redis::Script::new(&text).get_hash().to_owned(),
            text,
        }
    }
}

impl Script {
    pub(super) const fn new(text: &'static str) -> Self {
        Self {
            text,
            by_part: OnceLock::new(),
            whole: OnceLock::new(),
        }
    }

    fn loaded(&self, reads: Reads) -> &Loaded {
        let loaded = match reads {
            Reads::Part => &self.by_part,
            Reads::Whole => &self.whole,
        };
        loaded.get_or_init(|| Loaded::new(self.text, reads))
    }

    /// Runs it. Its numbered answer, not bounded.
    ///
    /// A user with the rights that this library needed once may not read a part of a value. Reading
    /// is the script's first step, so nothing has been done then.
    pub(super) async fn run(
        &self,
        server: &LockServer,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Answer, StoreError> {
        let rights = server.connection.rights();
        if rights.reads_whole() {
            return self.run_with(server, Reads::Whole, keys, arguments).await;
        }
        match self.run_with(server, Reads::Part, keys, arguments).await {
            Err(error) if may_be_about_reading(&error) => {
                match self.run_with(server, Reads::Whole, keys, arguments).await {
                    Ok(answer) => {
                        rights.read_whole();
                        Ok(answer)
                    }
                    Err(error) if error.kind == ErrorKind::Unsupported => {
                        let key = keys.first().copied().unwrap_or_default();
                        Err(probe::named(server, key, error).await)
                    }
                    Err(error) => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    /// Runs it by its hash, or by its text on a server that has forgotten it (SCRIPT FLUSH,
    /// restart, failover).
    async fn run_with(
        &self,
        server: &LockServer,
        reads: Reads,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Answer, StoreError> {
        let loaded = self.loaded(reads);
        let command = |name: &str, script: &str| {
            let bytes: usize = keys.iter().chain(arguments).map(|text| text.len()).sum();
            // The text is sent seldom.
            let mut command =
                Cmd::with_capacity(3 + keys.len() + arguments.len(), bytes + ROOM_FOR_HASH);
            command.arg(name).arg(script).arg(keys.len());
            command.arg(keys).arg(arguments);
            command
        };
        let answer = match server.query(&command("EVALSHA", &loaded.hash)).await {
            Err(error) if errors::wants_script(&error) => {
                server.query(&command("EVAL", &loaded.text)).await?
            }
            answer => answer?,
        };
        Answer::of(answer)
    }
}

/// Whether a command was refused that may be the one that reads.
pub(super) fn may_be_about_reading(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported)
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
    pub(super) fn of(answer: Value) -> Result<Self, StoreError> {
        match answer {
            Value::Int(number) => Ok(Self {
                number,
                parts: Vec::new(),
            }),
            Value::Array(parts) => match parts.first() {
                Some(Value::Int(number)) => Ok(Self {
                    number: *number,
                    parts,
                }),
                _ => Err(unreadable()),
            },
            _ => Err(unreadable()),
        }
    }

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
