//! One connection to a server, on which calls are pipelined.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};
use tenure_core::{ErrorKind, Kept, Process};
use tenure_kit::Address;
use tenure_kit::tasks::AbortOnDrop;

use super::incarnation::Change;
use super::silence::{Silence, WatchedCall};
use crate::config::Replicas;
use crate::errors::{self, StoreError};

/// A connection that was alive when it was last used. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Kept<Shared>>);

struct Shared {
    address: Address,
    prefix: String,
    client: MultiplexedConnection,
    silence: Silence,
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
}

impl Connection {
    pub(super) fn new(
        address: Address,
        prefix: &str,
        process: &Process,
        client: MultiplexedConnection,
        heard: Arc<AtomicU64>,
        driver: AbortOnDrop,
    ) -> Self {
        Self(Arc::new(process.keep(Shared {
            address,
            prefix: prefix.to_owned(),
            client,
            silence: Silence::new(heard, process.clone()),
            written: AtomicU64::new(0),
            replicated: tokio::sync::Mutex::default(),
            incarnation: OnceLock::new(),
            change: OnceLock::new(),
            quarantine: OnceLock::new(),
            _driver: driver,
        })))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Whether anything has ever come from the server.
    pub(super) fn has_answered(&self) -> bool {
        self.0.silence.has_been_broken()
    }

    /// Whether it may be dead without having been closed.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.silence.has_lasted()
    }

    /// A call is sent now: hold this until it is answered.
    pub(crate) fn watch_call(&self) -> WatchedCall<'_> {
        self.0.silence.watch_call()
    }

    fn answered(&self, error: redis::RedisError) -> StoreError {
        errors::answered(&self.0.address, &self.0.prefix, error)
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
        command
            .query_async(&mut client)
            .await
            .map_err(|error| self.answered(error))
    }

    /// Sends some commands at once, not bounded; an error of one is the whole's.
    pub(crate) async fn query_all(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let mut client = self.0.client.clone();
        client
            .send_packed_commands(commands, 0, commands.len())
            .await
            .and_then(|values| {
                values
                    .into_iter()
                    .map(Value::extract_error)
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| self.answered(error))
    }

    /// Waits until as many replicas as `wanted` have confirmed what was written before.
    ///
    /// While a `WAIT` is under way the server reads nothing else from this connection. So calls
    /// that come meanwhile share the next one, instead of each waiting in its turn.
    pub(crate) async fn replicated(&self, wanted: Replicas) -> Result<(), StoreError> {
        let this = &*self.0;
        let mine = this.written.fetch_add(1, Ordering::AcqRel) + 1;
        let mut confirmed = this.replicated.lock().await;
        if confirmed.up_to < mine {
            let up_to = this.written.load(Ordering::Acquire);
            let millis = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX);
            let answer = self
                .query(cmd("WAIT").arg(wanted.count).arg(millis))
                .await?;
            let Value::Int(by) = answer else {
                return Err(errors::unreadable("WAIT"));
            };
            *confirmed = Replicated {
                up_to,
                by: u64::try_from(by).unwrap_or(0),
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
        write!(f, "Connection({})", self.0.address)
    }
}

/// One field of an answer to `INFO`.
pub(crate) fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    let text = match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim())
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
