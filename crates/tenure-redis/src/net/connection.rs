//! One connection to a server, on which calls are pipelined.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};
use tenure_core::{ErrorKind, Kept};
use tenure_kit::deadline::within;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Address, Allowance, Tasks};
use tokio::time::timeout;

use super::incarnation::Change;
use super::silence::{Sent, Silence};
use crate::config::Replicas;
use crate::errors::{self, StoreError};

/// For the answer of a `WAIT`, beyond the time for which the server waits.
const LATE_ANSWER: Duration = Duration::from_secs(2);

/// A connection that was alive when it was last used. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Kept<Shared>>);

struct Shared {
    address: Address,
    /// The keys and channels that the user must be allowed.
    patterns: String,
    client: MultiplexedConnection,
    silence: Silence,
    allowance: Allowance,
    /// Where probes run.
    tasks: Tasks,
    reads_whole: AtomicBool,
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
        patterns: &str,
        tasks: &Tasks,
        client: MultiplexedConnection,
        heard: Arc<AtomicU64>,
        allowance: Allowance,
        driver: AbortOnDrop,
    ) -> Self {
        Self(Arc::new(tasks.process().keep(Shared {
            address,
            patterns: patterns.to_owned(),
            client,
            silence: Silence::new(heard),
            allowance,
            tasks: tasks.clone(),
            reads_whole: AtomicBool::new(false),
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
        self.0.silence.was_broken()
    }

    /// Whether it may be dead without having been closed.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.silence.has_lasted()
    }

    /// A call is sent now: tell this when it is answered, within `limit`.
    pub(crate) fn watch_call(&self, limit: Duration) -> WatchedCall<'_> {
        WatchedCall {
            connection: self,
            sent: self.0.silence.sent(),
            limit,
            is_answered: false,
        }
    }

    /// Whether the user has turned out to have no right to read a part of a value.
    pub(crate) fn reads_whole(&self) -> bool {
        self.0.reads_whole.load(Ordering::Relaxed)
    }

    /// From now on values are read as a whole.
    pub(crate) fn read_whole(&self) {
        if !self.0.reads_whole.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                server = %self.0.address,
                grant = errors::acl_line(&self.0.patterns),
                "this user may not run GETRANGE, so values are read as a whole: a huge one under a \
                 lock's name would block the server with each call"
            );
        }
    }

    fn answered(&self, error: redis::RedisError) -> StoreError {
        errors::answered(&self.0.address, &self.0.patterns, error)
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
        if confirmed.up_to < mine {
            let up_to = this.written.load(Ordering::Acquire);
            let millis = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX);
            let mut wait = cmd("WAIT");
            let wait = self.query(wait.arg(wanted.count).arg(millis));
            // The server may fall silent; others wait for this one to end.
            let limit = wanted.timeout + LATE_ANSWER;
            let what = self.address().to_string();
            let answer = within(&what, limit, "wait_timeout", wait).await?;
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

/// Watches a call that its caller may drop. If nothing at all comes from the server for a while
/// then, the connection may be dead without having been closed (hazard 6): otherwise callers with
/// a shorter limit than ours would wait on it without end. If something does come, a probe behind
/// the call tells whether it ever is a whole answer.
///
/// It is not given up at once, because on one connection a `withdraw` cannot overtake the
/// `acquire` that was dropped before it.
pub(crate) struct WatchedCall<'a> {
    connection: &'a Connection,
    sent: Sent,
    limit: Duration,
    is_answered: bool,
}

impl WatchedCall<'_> {
    /// It has been answered, or its own limit has passed.
    pub(crate) fn ended(mut self) {
        self.is_answered = true;
    }
}

impl Drop for WatchedCall<'_> {
    fn drop(&mut self) {
        let shared = &self.connection.0;
        // Another thread may have held a lock at a fork.
        if self.is_answered || !shared.is_ours() || !shared.silence.dropped(self.sent) {
            return;
        }
        let (connection, limit) = (self.connection.clone(), self.limit);
        let probing = async move {
            let answer = timeout(limit, connection.query(&cmd("PING"))).await;
            // A lost connection is found by the next call, with its reason.
            connection.0.silence.probed(answer.is_ok());
        };
        drop(shared.tasks.spawn(probing));
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
