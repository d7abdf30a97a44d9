//! One connection to a server, on which calls are pipelined.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};
use tenure_core::{ErrorKind, Kept};
use tenure_kit::deadline::within;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Address, Allowance, Tasks};

use super::incarnation::Change;
use super::rights::Rights;
use super::silence::Silence;
use crate::config::Replicas;
use crate::errors::{self, StoreError};

/// For the answer of a `WAIT`, beyond the time for which the server waits.
const LATE_ANSWER: Duration = Duration::from_secs(2);

/// A connection that was alive when it was last used. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Kept<Shared>>);

struct Shared {
    client: MultiplexedConnection,
    rights: Rights,
    silence: Arc<Silence>,
    allowance: Allowance,
    /// Where calls wait for replicas.
    tasks: Tasks,
    /// How many writes have been answered that replicas are to confirm.
    written: AtomicU64,
    replicated: tokio::sync::Mutex<Replicated>,
    incarnation: OnceLock<String>,
    change: OnceLock<Change>,
    quarantine: OnceLock<Duration>,
    _driver: AbortOnDrop,
}

/// What the last `WAIT` has confirmed.
#[derive(Default)]
struct Replicated {
    /// It covers the writes up to this one.
    up_to: u64,
    by: u64,
    /// Why it had no answer: then no other one will have, and those that wait need not ask.
    failed: Option<StoreError>,
}

impl Connection {
    pub(super) fn new(
        rights: Rights,
        tasks: &Tasks,
        client: MultiplexedConnection,
        allowance: Allowance,
        driver: AbortOnDrop,
    ) -> Self {
        Self(Arc::new(tasks.process().keep(Shared {
            rights,
            silence: Silence::new(allowance.clone(), client.clone(), tasks),
            client,
            allowance,
            tasks: tasks.clone(),
            written: AtomicU64::new(0),
            replicated: tokio::sync::Mutex::default(),
            incarnation: OnceLock::new(),
            change: OnceLock::new(),
            quarantine: OnceLock::new(),
            _driver: driver,
        })))
    }

    pub(crate) fn address(&self) -> &Address {
        self.0.rights.server()
    }

    /// Whether anything has ever come from the server.
    pub(super) fn has_answered(&self) -> bool {
        self.0.silence.was_broken()
    }

    /// Whether it may be dead without having been closed.
    pub(crate) fn silence(&self) -> &Arc<Silence> {
        &self.0.silence
    }

    pub(crate) fn rights(&self) -> &Rights {
        &self.0.rights
    }

    fn answered(&self, error: redis::RedisError) -> StoreError {
        errors::answered(self.address(), self.0.rights.patterns(), error)
    }

    /// How long beyond a lease a lock is in quarantine after a change of incarnation: for so long
    /// another server may renew a term that it has granted before.
    pub(crate) fn quarantine(&self) -> Duration {
        self.0.quarantine.get().copied().unwrap_or_default()
    }

    pub(crate) fn set_quarantine(&self, beyond_lease: Duration) {
        self.0.quarantine.get_or_init(|| beyond_lease);
    }

    /// The server's incarnation when it was connected to, if it told one.
    pub(crate) fn incarnation(&self) -> Option<&str> {
        self.0.incarnation.get().map(String::as_str)
    }

    /// The last change of incarnation that was seen before this connection was made.
    pub(crate) fn change(&self) -> Option<&Change> {
        self.0.change.get()
    }

    pub(crate) fn set_change(&self, change: Change) {
        self.0.change.get_or_init(|| change);
    }

    /// Fails when the server says that it is a replica. Not bounded.
    pub(crate) async fn refuse_replica(&self) -> Result<(), StoreError> {
        let info = self.query(cmd("INFO").arg("replication")).await?;
        if let Some(id) = field(&info, "master_replid") {
            self.0.incarnation.get_or_init(|| id.to_owned());
        }
        match field(&info, "role") {
            Some("slave") => Err(errors::replica(self.address())),
            _ => Ok(()),
        }
    }

    /// A setting of the server, if it has one of this name. Not bounded.
    pub(crate) async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let answer = self.query(cmd("CONFIG").arg("GET").arg(name)).await?;
        let Value::Array(parts) = answer else {
            return Ok(None);
        };
        Ok(parts.get(1).and_then(text).map(str::to_owned))
    }

    /// Sends one command, not bounded.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, StoreError> {
        let mut client = self.0.client.clone();
        let answer = command.query_async(&mut client).await;
        self.0.allowance.renew();
        answer.map_err(|error| self.answered(error))
    }

    /// Sends some commands at once, not bounded; an error of one is the whole's.
    pub(crate) async fn query_all(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let mut client = self.0.client.clone();
        let answers = client
            .send_packed_commands(commands, 0, commands.len())
            .await;
        self.0.allowance.renew();
        answers
            .and_then(|values| {
                values
                    .into_iter()
                    .map(Value::extract_error)
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| self.answered(error))
    }

    /// Waits until as many replicas as `wanted` have confirmed what was written before. Not
    /// bounded.
    ///
    /// While a `WAIT` is under way the server reads nothing else from this connection. So calls
    /// that come meanwhile share the next one, instead of each waiting in its turn. They wait in a
    /// task: a caller that is not polled must not hold the others back.
    pub(crate) async fn replicated(&self, wanted: Replicas) -> Result<(), StoreError> {
        let mine = self.0.written.fetch_add(1, Ordering::AcqRel) + 1;
        let connection = self.clone();
        let waiting = async move { connection.wait_for_replicas(wanted, mine).await };
        let waiting = self.0.tasks.spawn(waiting);
        waiting
            .await
            .unwrap_or_else(|_| Err(StoreError::runtime_is_gone()))
    }

    async fn wait_for_replicas(&self, wanted: Replicas, mine: u64) -> Result<(), StoreError> {
        let this = &*self.0;
        let mut confirmed = this.replicated.lock().await;
        if let Some(error) = &confirmed.failed {
            return Err(error.clone());
        }
        if confirmed.up_to < mine {
            let up_to = this.written.load(Ordering::Acquire);
            let millis = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX);
            let mut wait = cmd("WAIT");
            let wait = self.query(wait.arg(wanted.count).arg(millis));
            // The server may fall silent; others wait for this one to end.
            let limit = wanted.timeout + LATE_ANSWER;
            let what = self.address().to_string();
            let answer = within(&what, limit, "wait_timeout", wait).await;
            if let Err(error) = &answer
                && error.needs_reconnect()
            {
                confirmed.failed = Some(error.clone());
            }
            let answer = answer?;
            let Value::Int(by) = answer else {
                return Err(errors::unreadable("WAIT"));
            };
            *confirmed = Replicated {
                up_to,
                by: u64::try_from(by).unwrap_or(0),
                failed: None,
            };
        }
        if confirmed.by < u64::from(wanted.count) {
            return Err(StoreError::new(
                ErrorKind::Unavailable,
                format!(
                    "only {} of the {} replicas asked for have confirmed the write within {:?}, \
                     so it does not count; are they running, and linked to their master?",
                    confirmed.by, wanted.count, wanted.timeout
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address())
    }
}

/// One field of an answer to `INFO`.
pub(crate) fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    fields(info).find_map(|(key, value)| (key == name).then_some(value))
}

/// The fields of an answer to `INFO`, with their values.
pub(crate) fn fields(info: &Value) -> impl Iterator<Item = (&str, &str)> {
    let text = text(info).unwrap_or_default();
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name, value.trim()))
    })
}

/// A string in an answer.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
