//! Connections to one server: made within a deadline, shared by all calls, and made anew when
//! they are lost.
//!
//! The client library's own reconnecting connection is not used: its first call after a lost
//! connection fails, and connecting to a closed port takes it 9 s.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value, cmd};
use tenure_core::{BootClock, ErrorKind, Kept, Operation, Process, SharedClock, Time};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};

use crate::config::{Address, Credentials, RedisConfig, Replicas, Servers};
use crate::deployment::{Deployment, Share, View};
use crate::errors::{Cure, Trouble};
use crate::sentinels::{self, Question, SECOND_LOOK, Sentinels, Word};
use crate::slots;
use crate::topology::slots_of;

/// The pause after the first failed attempt to connect; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A connection from which nothing has come for so long, although it was asked, is given up.
const SILENCE: Duration = Duration::from_millis(100);

/// Calls that can wait to be written; more of them wait without harm.
const CALLS_AHEAD: usize = 1024;

/// What is needed to connect, shared by all connections of a backend.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) config: RedisConfig,
    credentials: RwLock<Credentials>,
    /// The runtime that the backend was made on: connections live there, whoever calls.
    runtime: Handle,
    pub(crate) clock: SharedClock,
    /// The process that made the backend. Its connections are of no use to a fork of it.
    pub(crate) process: Process,
    pub(crate) deployment: Deployment,
}

/// A server in the URL, and which of those that its host's name leads to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    address: Address,
    at: Option<SocketAddr>,
}

impl From<Address> for Place {
    /// Whichever answers.
    fn from(address: Address) -> Self {
        Self { address, at: None }
    }
}

impl Place {
    fn shown(&self) -> Address {
        let at = self.at.map(|at| Address {
            host: at.ip().to_string(),
            port: at.port(),
        });
        at.unwrap_or_else(|| self.address.clone())
    }
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection's bytes, in the process that made it. A forked child neither moves nor closes them:
/// the parent uses the same socket, and the same poller.
pub(crate) struct Own {
    /// `None` only while it is dropped.
    stream: Option<TcpStream>,
    process: Process,
}

impl Own {
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.stream {
            Some(stream) if self.process.is_current() => poll(Pin::new(stream)),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.process.is_current() {
            mem::forget(self.stream.take());
        }
    }
}

impl AsyncRead for Own {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Own {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}

/// Counts what comes from the server, so that an answer is a sign of life also when the call that
/// it was for has been dropped.
struct Heard {
    stream: Box<dyn Transport>,
    reads: Arc<AtomicU64>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Dialer {
    pub(crate) fn new(config: RedisConfig, runtime: Handle) -> Self {
        Self {
            credentials: RwLock::new(config.credentials.clone()),
            config,
            runtime,
            clock: BootClock::shared(),
            process: Process::current(),
            deployment: Deployment::default(),
        }
    }

    /// All that a host's name leads to, but not too many: it may lead to each of a hundred pods.
    pub(crate) async fn places(&self, address: &Address) -> Result<Vec<Place>, Trouble> {
        const MOST: usize = 16;
        let found = lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(|error| Trouble::connecting(address, error))?;
        let at: BTreeSet<SocketAddr> = found.collect();
        let place = |at| Place {
            address: address.clone(),
            at: Some(at),
        };
        Ok(at.into_iter().take(MOST).map(place).collect())
    }

    /// Runs `work` on the backend's runtime, and never in a child that is forked meanwhile.
    pub(crate) fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(self.process.confine(work))
    }

    pub(crate) fn set_password(&self, password: String) {
        let mut credentials = self
            .credentials
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        credentials.password = Some(password);
    }

    fn credentials(&self) -> Credentials {
        self.credentials
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bounds `connecting` as a whole: names, TCP, TLS, authentication and the first answer.
    pub(crate) async fn bounded<T>(
        &self,
        address: &Address,
        connecting: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let limit = self.config.connect_timeout;
        timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(Trouble::silent(address, limit)))
    }

    async fn transport(&self, place: &Place) -> Result<Box<dyn Transport>, Trouble> {
        // So that a call that was under way at a fork does not go on in the child.
        if let Err(error) = self.process.check(Operation::Connect) {
            return Err(Trouble::new(error.kind(), error.message()));
        }
        let address = &place.address;
        let trouble = |error| Trouble::connecting(&place.shown(), error);
        let connected = match place.at {
            Some(at) => TcpStream::connect(at).await,
            None => TcpStream::connect((address.host.as_str(), address.port)).await,
        };
        let stream = connected.map_err(trouble)?;
        stream.set_nodelay(true).map_err(trouble)?;
        let stream = Own {
            stream: Some(stream),
            process: self.process.clone(),
        };
        match &self.config.tls {
            None => Ok(Box::new(stream)),
            #[cfg(feature = "_tls")]
            Some(tls) => Ok(Box::new(crate::tls::connect(tls, address, stream).await?)),
            // The configuration was checked.
            #[cfg(not(feature = "_tls"))]
            Some(_) => Err(Trouble::new(ErrorKind::Internal, "TLS is not compiled in")),
        }
    }

    /// A connection for calls, authenticated and in the right database, not yet bounded.
    async fn open(
        self: &Arc<Self>,
        place: &Place,
        credentials: &Credentials,
        database: u32,
    ) -> Result<Live, Trouble> {
        let address = place.shown();
        let heard = Arc::new(AtomicU64::new(0));
        let stream = Heard {
            stream: self.transport(place).await?,
            reads: heard.clone(),
        };
        let trouble = |error| Trouble::answered(&address, &self.config.prefix, error);
        let settings = AsyncConnectionConfig::new()
            // Each call has a deadline of ours.
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(CALLS_AHEAD);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, settings)
            .await
            .map_err(trouble)?;
        let driver = AbortOnDrop(self.spawn(driver).abort_handle());
        let live = Live(Arc::new(self.process.keep(Connected {
            address,
            prefix: self.config.prefix.clone(),
            overlap: OnceLock::new(),
            word: Word::default(),
            connection,
            heard,
            silent_since: std::sync::Mutex::default(),
            written: AtomicU64::new(0),
            confirmed: Mutex::new(Confirmed::default()),
            epoch: OnceLock::new(),
            change: OnceLock::new(),
            _driver: driver,
        })));
        // Not left to the client, whose error would not say what the server has answered.
        if let Some(password) = &credentials.password {
            let mut auth = cmd("AUTH");
            if let Some(username) = &credentials.username {
                auth.arg(username);
            }
            live.query(auth.arg(password)).await.map_err(auth_trouble)?;
        }
        if database != 0 {
            live.query(cmd("SELECT").arg(database)).await?;
        }
        Ok(live)
    }

    /// A connection to a master, not yet bounded.
    pub(crate) async fn open_master(self: &Arc<Self>, address: &Address) -> Result<Live, Trouble> {
        let live = self
            .open(
                &address.clone().into(),
                &self.credentials(),
                self.config.database,
            )
            .await?;
        // A replica would answer, and be wrong. This also is the first sign of life through
        // everything that may stand in between.
        match live.refuse_replica().await {
            Ok(()) => {}
            // May be forbidden; then a write will tell.
            Err(trouble) if trouble.kind == ErrorKind::Forbidden && live.has_answered() => {
                live.query(&cmd("PING")).await?;
            }
            Err(trouble) => return Err(trouble),
        }
        let overlap = match &self.config.servers {
            // There one server at a time grants terms.
            Servers::Single(_) => Duration::ZERO,
            Servers::Sentinel { .. } => sentinels::overlap(&self.config),
            Servers::Cluster(_) => {
                // It may be another cluster's: addresses are used again.
                self.deployment.admit(slots_of(&live).await?.view)?;
                slots::overlap(live.node_timeout().await?)
            }
        };
        live.0.overlap.get_or_init(|| overlap);
        Ok(live)
    }

    /// A connection to any node of a cluster, master or replica, not yet bounded.
    pub(crate) async fn open_node(self: &Arc<Self>, place: &Place) -> Result<Live, Trouble> {
        self.open(place, &self.credentials(), 0).await
    }

    /// A connection to a sentinel, not yet bounded.
    pub(crate) async fn open_sentinel(self: &Arc<Self>, place: &Place) -> Result<Live, Trouble> {
        self.open(place, &self.config.sentinel_credentials, 0).await
    }

    /// A connection for subscriptions, bounded.
    pub(crate) async fn subscriber(&self, address: &Address) -> Result<PubSub, Trouble> {
        self.bounded(address, async {
            let stream = self.transport(&address.clone().into()).await?;
            let Credentials { username, password } = self.credentials();
            let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
            if let Some(password) = password {
                info = info.set_password(password);
                if let Some(username) = username {
                    info = info.set_username(username);
                }
            }
            PubSub::new(&info, stream)
                .await
                .map_err(|error| Trouble::answered(address, &self.config.prefix, error))
        })
        .await
    }
}

/// Whatever `AUTH` fails with is about the credentials: a server without a password says `ERR`.
fn auth_trouble(mut trouble: Trouble) -> Trouble {
    if trouble.cure == Cure::None {
        trouble.kind = ErrorKind::Forbidden;
    }
    trouble
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

pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that was alive when it was last used. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Live(Arc<Kept<Connected>>);

struct Connected {
    address: Address,
    prefix: String,
    overlap: OnceLock<Duration>,
    /// Never given where there are no sentinels.
    word: Word,
    connection: MultiplexedConnection,
    /// How often something has come from the server, also for callers who have gone.
    heard: Arc<AtomicU64>,
    /// How often that was, and when the call was sent, when a caller first gave up.
    silent_since: std::sync::Mutex<Option<(u64, Instant)>>,
    /// How many writes have been answered that replicas are to confirm.
    written: AtomicU64,
    confirmed: Mutex<Confirmed>,
    /// The server's replication id when it was connected to.
    epoch: OnceLock<String>,
    change: OnceLock<Change>,
    _driver: AbortOnDrop,
}

/// A change of epoch that a link has seen, or of the node that has a slot: whoever connects to a
/// server for the first time cannot know what it has forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) before: String,
    pub(crate) seen_at: Instant,
    /// To an epoch that was seen before: a server has come back as it was, and its own marks tell
    /// nothing of what was granted meanwhile.
    pub(crate) back: bool,
}

impl Change {
    /// How long a term with this lease may still go on that was granted before.
    pub(crate) fn pause(&self, lease: Duration) -> Duration {
        lease.saturating_sub(self.seen_at.elapsed())
    }
}

/// The epochs at the end of a link.
#[derive(Debug, Default)]
struct Epochs {
    /// The latest last. A change is a failover or a restart, so they stay few.
    seen: Vec<String>,
    change: Option<Change>,
}

impl Epochs {
    /// Tells the connection, and those after it, what is different from before.
    fn connected(&mut self, live: &Live) {
        let Some(epoch) = live.0.epoch.get() else {
            return;
        };
        let known = self.seen.iter().position(|seen| seen == epoch);
        if let Some(before) = self.seen.last()
            && before != epoch
        {
            self.change = Some(Change {
                before: before.clone(),
                seen_at: Instant::now(),
                back: known.is_some(),
            });
        }
        if let Some(place) = known {
            self.seen.remove(place);
        }
        self.seen.push(epoch.clone());
        if let Some(change) = &self.change {
            live.0.change.get_or_init(|| change.clone());
        }
    }
}

/// What the last `WAIT` has told.
#[derive(Default)]
struct Confirmed {
    /// It covers the writes up to this one.
    up_to: u64,
    by: u64,
}

impl Live {
    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    fn has_answered(&self) -> bool {
        self.0.heard.load(Ordering::Relaxed) > 0
    }

    fn trouble(&self, error: redis::RedisError) -> Trouble {
        Trouble::answered(&self.0.address, &self.0.prefix, error)
    }

    /// How long beyond a lease a term may go on that another server has granted before.
    pub(crate) fn overlap(&self) -> Duration {
        self.0.overlap.get().copied().unwrap_or_default()
    }

    /// The last change of epoch that was seen on the way to this server.
    pub(crate) fn change(&self) -> Option<&Change> {
        self.0.change.get()
    }

    /// Fails when the server says that it is a replica. Without a deadline.
    pub(crate) async fn refuse_replica(&self) -> Result<(), Trouble> {
        let info = self.query(cmd("INFO").arg("replication")).await?;
        if let Some(epoch) = field(&info, "master_replid") {
            self.0.epoch.get_or_init(|| epoch.to_owned());
        }
        match field(&info, "role") {
            Some("slave") => Err(Trouble::replica(self.address())),
            _ => Ok(()),
        }
    }

    /// Which data the server has, as far as its replication ids tell. A replica has its master's,
    /// and keeps no locks. Without a deadline.
    pub(crate) async fn view(&self) -> Result<View, Trouble> {
        let info = self.query(cmd("INFO").arg("replication")).await?;
        let id = field(&info, "master_replid");
        // That of the master it was a replica of; zeros if of none.
        let former = field(&info, "master_replid2").filter(|id| id.contains(|c| c != '0'));
        let is_master = field(&info, "role") == Some("master");
        let keeper = id.map(|id| Share::all(format!("the server with replication id {id}")));
        Ok(View {
            by: self.address().to_string(),
            members: id.into_iter().chain(former).map(str::to_owned).collect(),
            shares: keeper.filter(|_| is_master).into_iter().collect(),
        })
    }

    /// A cluster's `cluster-node-timeout`: the usual one where it may not be asked for. Without a
    /// deadline.
    async fn node_timeout(&self) -> Result<Duration, Trouble> {
        match self.setting("cluster-node-timeout").await {
            Ok(setting) => {
                let millis = setting.and_then(|millis| millis.parse().ok());
                Ok(millis.map_or(slots::USUAL_NODE_TIMEOUT, Duration::from_millis))
            }
            // It is the answer of a server that works, whatever it refuses, and why.
            Err(trouble) if trouble.cure == Cure::None => Ok(slots::USUAL_NODE_TIMEOUT),
            Err(trouble) => Err(trouble),
        }
    }

    /// A setting of the server, if it has one of this name. Without a deadline.
    pub(crate) async fn setting(&self, name: &str) -> Result<Option<String>, Trouble> {
        let answer = self.query(cmd("CONFIG").arg("GET").arg(name)).await?;
        let Value::Array(parts) = answer else {
            return Ok(None);
        };
        Ok(parts.get(1).and_then(text).map(str::to_owned))
    }

    /// Sends one command, without a deadline.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, Trouble> {
        let mut connection = self.0.connection.clone();
        command
            .query_async(&mut connection)
            .await
            .map_err(|error| self.trouble(error))
    }

    /// Sends some commands at once, without a deadline; an error of one is the whole's.
    pub(crate) async fn query_all(&self, commands: &Pipeline) -> Result<Vec<Value>, Trouble> {
        let mut connection = self.0.connection.clone();
        connection
            .send_packed_commands(commands, 0, commands.len())
            .await
            .and_then(|values| {
                values
                    .into_iter()
                    .map(Value::extract_error)
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| self.trouble(error))
    }

    /// Waits until as many replicas as `wanted` have confirmed what was written before.
    ///
    /// While a `WAIT` is under way the server reads nothing else from this connection. So calls
    /// that come meanwhile share the next one, instead of each waiting in its turn.
    pub(crate) async fn replicated(&self, wanted: Replicas) -> Result<(), Trouble> {
        let this = &*self.0;
        let mine = this.written.fetch_add(1, Ordering::AcqRel) + 1;
        let mut confirmed = this.confirmed.lock().await;
        if confirmed.up_to < mine {
            let up_to = this.written.load(Ordering::Acquire);
            let millis = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX);
            let answer = self
                .query(cmd("WAIT").arg(wanted.count).arg(millis))
                .await?;
            let Value::Int(by) = answer else {
                return Err(Trouble::unreadable("WAIT"));
            };
            *confirmed = Confirmed {
                up_to,
                by: u64::try_from(by).unwrap_or(0),
            };
        }
        if confirmed.by < u64::from(wanted.count) {
            return Err(Trouble::new(
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

    /// Whether nothing has come since callers have given up on it, the first a while ago.
    fn is_silent(&self) -> bool {
        let heard = self.0.heard.load(Ordering::Relaxed);
        matches!(*hold(&self.0.silent_since), Some((then, since))
            if then == heard && since.elapsed() >= SILENCE)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Live({})", self.0.address)
    }
}

/// Where a link leads.
#[derive(Debug)]
pub(crate) enum Target {
    Address(Address),
    /// Wherever the sentinels say, asked for each connection anew.
    Sentinels(Sentinels),
}

impl Target {
    async fn connect(&self, dialer: &Arc<Dialer>) -> Result<Live, Trouble> {
        match self {
            Self::Address(address) => dialer.bounded(address, dialer.open_master(address)).await,
            Self::Sentinels(sentinels) => {
                let asked_at = dialer.clock.now();
                let address = sentinels.master(dialer).await?;
                let live = dialer
                    .bounded(&address, dialer.open_master(&address))
                    .await?;
                live.0.word.give(asked_at);
                Ok(live)
            }
        }
    }

    /// Opens a connection for subscriptions.
    pub(crate) async fn subscribe(&self, dialer: &Arc<Dialer>) -> Result<PubSub, Trouble> {
        match self {
            Self::Address(address) => dialer.subscriber(address).await,
            Self::Sentinels(sentinels) => {
                let address = sentinels.master(dialer).await?;
                dialer.subscriber(&address).await
            }
        }
    }
}

/// The way to one server: a connection when there is one, and the attempts to get one when not.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Arc<Target>,
    dialer: Arc<Dialer>,
    state: watch::Sender<State>,
    attempts: AtomicU64,
    epochs: std::sync::Mutex<Epochs>,
}

#[derive(Debug)]
enum State {
    /// Nobody has needed a connection since the last one was lost.
    Idle,
    /// An attempt is under way.
    Dialing,
    Up(Live),
    /// The attempt with this number has failed; the next one comes after a pause.
    Down(u64, Trouble),
    /// The task that connects was ended from outside.
    Gone,
}

/// A call: boxed, so that links need not be generic over it.
pub(crate) type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

impl Link {
    pub(crate) fn new(target: Arc<Target>, dialer: Arc<Dialer>) -> Self {
        Self {
            inner: Arc::new(Inner {
                target,
                dialer,
                state: watch::Sender::new(State::Idle),
                attempts: AtomicU64::new(0),
                epochs: std::sync::Mutex::default(),
            }),
        }
    }

    /// The connection, if there is one.
    pub(crate) fn open(&self) -> Option<Live> {
        match &*self.inner.state.borrow() {
            State::Up(live) => Some(live.clone()),
            _ => None,
        }
    }

    /// The epoch of the server that it was connected to last, if that told one.
    pub(crate) fn last_epoch(&self) -> Option<String> {
        hold(&self.inner.epochs).seen.last().cloned()
    }

    /// Makes one call, each of whose steps is bounded, and tells it when it is sent. When the
    /// connection turns out to be lost, or to lead to a server that is no master any more, it is
    /// made once more on a new one: all calls may be repeated.
    ///
    /// Dropping the future leaves a call that was sent to the server.
    pub(crate) async fn call<'a, T>(
        &self,
        mut call: impl FnMut(Live, Time) -> Call<'a, T> + Send,
    ) -> Result<T, Trouble> {
        match self.attempt(&mut call).await {
            Err(trouble)
                if trouble.cure == Cure::Reconnect && trouble.kind != ErrorKind::Timeout =>
            {
                self.attempt(&mut call).await
            }
            outcome => outcome,
        }
    }

    async fn attempt<'a, T>(
        &self,
        call: &mut (impl FnMut(Live, Time) -> Call<'a, T> + Send),
    ) -> Result<T, Trouble> {
        let mut live = self.live().await?;
        if live.is_silent() {
            self.lose(&live);
            live = self.live().await?;
        }
        let sent_at = self.trusted(&live).await?;
        let limit = self.inner.dialer.config.response_timeout;
        let watch = Unanswered {
            heard: live.0.heard.load(Ordering::Relaxed),
            sent_at: Instant::now(),
            live: &live,
            process: &self.inner.dialer.process,
        };
        let outcome = match timeout(limit, call(live.clone(), sent_at)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::silent(live.address(), limit)),
        };
        drop(watch);
        if let Err(trouble) = &outcome
            && trouble.cure == Cure::Reconnect
        {
            self.lose(&live);
        }
        outcome
    }

    /// The present, at a moment when the server counts as the master: when more than half of the
    /// sentinels have named it lately, if there are any. Bounded.
    async fn trusted(&self, live: &Live) -> Result<Time, Trouble> {
        let Inner { target, dialer, .. } = &*self.inner;
        let now = dialer.clock.now();
        match &**target {
            Target::Sentinels(sentinels) if !live.0.word.counts(now, &dialer.config) => {
                // Seldom, so in a box: most calls are small.
                Box::pin(self.named_anew(sentinels, live)).await
            }
            _ => Ok(now),
        }
    }

    async fn named_anew(&self, sentinels: &Sentinels, live: &Live) -> Result<Time, Trouble> {
        let dialer = &self.inner.dialer;
        let naming = async {
            loop {
                self.ask(sentinels, live).await?;
                let now = dialer.clock.now();
                if live.0.word.counts(now, &dialer.config) {
                    return Ok(now);
                }
            }
        };
        // A question from before, and our own.
        let limit = dialer.config.connect_timeout * 2 + LONGEST_PAUSE;
        timeout(limit, naming).await.unwrap_or_else(|_| {
            let silent = format!("nothing was heard of them within {limit:?}");
            let silent = Trouble::new(ErrorKind::Unavailable, silent);
            Err(Trouble::unconfirmed(live.address(), silent))
        })
    }

    /// Asks the sentinels whether this still is the master, and leaves it if not. Dropping the
    /// future leaves a question that was asked.
    async fn ask(&self, sentinels: &Sentinels, live: &Live) -> Result<(), Trouble> {
        let came_at = self.inner.dialer.clock.now();
        loop {
            let mut question = self.question(sentinels, live);
            let answer = question.answer.wait_for(Option::is_some).await;
            let answer = answer.ok().and_then(|answer| answer.clone());
            let outcome = answer.unwrap_or_else(|| Err(Trouble::runtime_is_gone()));
            // One from before may have failed of what is over, as when the process was stopped.
            if outcome.is_ok() || question.asked_at >= came_at {
                return outcome;
            }
        }
    }

    /// The question that is under way, or a new one: callers share it, since there may be
    /// thousands, and sentinels that take all the time they have.
    fn question(&self, sentinels: &Sentinels, live: &Live) -> Question {
        let dialer = &self.inner.dialer;
        let mut last = hold(&live.0.word.last);
        if let Some(question) = last.as_ref()
            && question.is_open()
        {
            return question.clone();
        }
        let stood = last.as_ref().is_none_or(Question::was_confirmed);
        let (answering, answer) = watch::channel(None);
        let asked_at = dialer.clock.now();
        let (link, sentinels, live) = (self.clone(), sentinels.clone(), live.clone());
        // There, because it makes connections, whoever asks; and to its end, for all who wait.
        drop(dialer.spawn(async move {
            let outcome = link.ask_now(&sentinels, &live, asked_at, stood).await;
            answering.send_replace(Some(outcome));
        }));
        last.insert(Question { asked_at, answer }).clone()
    }

    async fn ask_now(
        &self,
        sentinels: &Sentinels,
        live: &Live,
        asked_at: Time,
        stood: bool,
    ) -> Result<(), Trouble> {
        match sentinels.master(&self.inner.dialer).await {
            Ok(named) if named == *live.address() => {
                live.0.word.give(asked_at);
                Ok(())
            }
            Ok(named) => {
                tracing::warn!(before = %live.address(), now = %named, "the sentinels name another master");
                self.lose(live);
                self.dial();
                Err(Trouble::replaced(live.address(), &named))
            }
            Err(trouble) => {
                if stood {
                    tracing::warn!(master = %live.address(), error = %trouble, "the sentinels do not confirm the master; soon no call is made on it, until they do");
                }
                Err(Trouble::unconfirmed(live.address(), trouble))
            }
        }
    }

    /// The connection, made if need be. Fails with what an attempt has met that was begun after
    /// the call; bounded.
    async fn live(&self) -> Result<Live, Trouble> {
        if let State::Up(live) = &*self.inner.state.borrow() {
            return Ok(live.clone());
        }
        let connect_timeout = self.inner.dialer.config.connect_timeout;
        // An attempt from before, the pause, and our own; each three times as long where sentinels
        // are asked first, who it is and whether they know it.
        let limit = connect_timeout * 6 + LONGEST_PAUSE;
        timeout(limit, self.connected()).await.unwrap_or_else(|_| {
            Err(Trouble::new(
                ErrorKind::Timeout,
                format!("no connection to the server within {limit:?}"),
            ))
        })
    }

    async fn connected(&self) -> Result<Live, Trouble> {
        let mut state = self.inner.state.subscribe();
        // What an attempt from before this call has met need not be true any more.
        let wanted = self.inner.attempts.load(Ordering::Acquire) + 1;
        loop {
            let idle = match &*state.borrow_and_update() {
                State::Up(live) => return Ok(live.clone()),
                State::Down(attempt, trouble) if *attempt >= wanted => return Err(trouble.clone()),
                State::Gone => return Err(Trouble::runtime_is_gone()),
                State::Idle => true,
                State::Down(..) | State::Dialing => false,
            };
            if idle {
                self.dial();
            } else {
                // The sender lives as long as `self`.
                let _changed = state.changed().await;
            }
        }
    }

    /// Starts to connect, in the background and for all who wait, unless that is under way.
    fn dial(&self) {
        let start = self.inner.state.send_if_modified(|state| {
            let idle = matches!(state, State::Idle);
            if idle {
                self.inner.attempts.fetch_add(1, Ordering::AcqRel);
                *state = State::Dialing;
            }
            idle
        });
        if start {
            let mut keeper = Keeper::new(self.inner.clone());
            let run = async move { keeper.run().await };
            drop(self.inner.dialer.spawn(run));
        }
    }

    /// Forgets a connection that does not work.
    fn lose(&self, lost: &Live) {
        self.inner.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(live) if live.is(lost));
            if current {
                *state = State::Idle;
            }
            current
        });
    }
}

/// Connects until it succeeds or nobody waits any more.
struct Keeper {
    inner: Arc<Inner>,
    /// It has come to an end of its own. Its state does not tell: by the time that the keeper is
    /// dropped, the connection may be lost again, and the next attempt be under way.
    finished: bool,
}

impl Keeper {
    fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            finished: false,
        }
    }

    async fn run(&mut self) {
        let Inner {
            target,
            dialer,
            state,
            attempts,
            epochs,
        } = &*self.inner;
        let mut pause = SHORTEST_PAUSE;
        loop {
            match target.connect(dialer).await {
                Ok(live) => {
                    hold(epochs).connected(&live);
                    self.finished = true;
                    state.send_replace(State::Up(live.clone()));
                    if let Target::Sentinels(sentinels) = &**target {
                        let link = Arc::downgrade(&self.inner);
                        let watching = watch_master(link, sentinels.clone(), live);
                        drop(dialer.spawn(watching));
                    }
                    return;
                }
                Err(trouble) => {
                    tracing::debug!(error = %trouble, "cannot connect to Redis");
                    let attempt = attempts.load(Ordering::Acquire);
                    state.send_replace(State::Down(attempt, trouble));
                }
            }
            // At random, so that a fleet does not come back as one.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Whoever comes after this look finds the state changed, and dials.
            if state.receiver_count() == 0 {
                self.finished = true;
                state.send_replace(State::Idle);
                return;
            }
            attempts.fetch_add(1, Ordering::AcqRel);
            state.send_replace(State::Dialing);
        }
    }
}

/// Leaves a master as soon as the sentinels name another one, so that no call has to ask first.
async fn watch_master(link: Weak<Inner>, sentinels: Sentinels, live: Live) {
    loop {
        sleep(SECOND_LOOK).await;
        let Some(inner) = link.upgrade() else { return };
        let current = matches!(&*inner.state.borrow(), State::Up(up) if up.is(&live));
        if !current {
            return;
        }
        // No answer is the next call's concern, if their last word does not count any more.
        let _outcome = Link { inner }.ask(&sentinels, &live).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Otherwise the task was ended from outside, with its runtime, and nobody else connects.
        if !self.finished {
            self.inner.state.send_replace(State::Gone);
        }
    }
}

/// Watches a call that its caller may drop. If nothing at all comes from the server for a while
/// then, the connection may be dead without having been closed (hazard 6): otherwise callers with
/// a shorter deadline than ours would wait on it for ever.
///
/// It is not given up at once, because on one connection a `withdraw` cannot overtake the
/// `acquire` that was dropped before it.
struct Unanswered<'a> {
    live: &'a Live,
    heard: u64,
    sent_at: Instant,
    process: &'a Process,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let connected = &self.live.0;
        // Another thread may have held the lock below at a fork.
        if self.process.is_current() && connected.heard.load(Ordering::Relaxed) == self.heard {
            let mut silent_since = hold(&connected.silent_since);
            match &*silent_since {
                Some((heard, _)) if *heard == self.heard => {}
                _ => *silent_since = Some((self.heard, self.sent_at)),
            }
        }
    }
}

pub(crate) fn hold<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each change under these locks leaves what is in them whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::RedisBackend;
    use crate::support::{
        LIMIT, Server, config, lock, sentinel_config, start, start_sentinels, until, within_limit,
    };
    use futures_util::FutureExt as _;
    use tenure_core::LockBackend as _;

    /// After an attempt, which has come to its end and still lives.
    async fn connected(server: &Server) -> (Link, Keeper) {
        let dialer = Arc::new(Dialer::new(config(server), Handle::current()));
        let address = Address::parse(&server.address(), 6379).unwrap();
        let link = Link::new(Target::Address(address).into(), dialer);
        link.inner.state.send_replace(State::Dialing);
        let mut keeper = Keeper::new(link.inner.clone());
        keeper.run().await;
        (link, keeper)
    }

    /// Between its last step and its end others may begin anew.
    #[tokio::test]
    async fn an_attempt_that_has_succeeded_does_not_end_the_next_one() {
        let Some(server) = start(&[]) else { return };
        let (link, keeper) = connected(&server).await;
        let state = &link.inner.state;
        link.lose(&link.live().await.unwrap());
        state.send_replace(State::Dialing);
        drop(keeper);
        assert!(matches!(&*state.borrow(), State::Dialing));

        // Unlike one that is ended from outside.
        drop(Keeper::new(link.inner.clone()));
        assert!(matches!(&*state.borrow(), State::Gone));
    }

    /// So too when nobody waits any more.
    #[tokio::test]
    async fn an_attempt_that_was_given_up_does_not_end_the_next_one() {
        let Some(mut server) = start(&[]) else { return };
        server.kill();
        let (link, keeper) = connected(&server).await;
        let state = &link.inner.state;
        assert!(matches!(&*state.borrow(), State::Idle));
        state.send_replace(State::Dialing);
        drop(keeper);
        assert!(matches!(&*state.borrow(), State::Dialing));
    }

    fn link_by_sentinels(config: &RedisConfig) -> (Link, Sentinels) {
        let Servers::Sentinel { sentinels, master } = &config.servers else {
            panic!("no sentinels");
        };
        let sentinels = Sentinels::new(sentinels, master);
        let target = Arc::new(Target::Sentinels(sentinels.clone()));
        let dialer = Arc::new(Dialer::new(config.clone(), Handle::current()));
        (Link::new(target, dialer), sentinels)
    }

    /// The answer may be old when it comes.
    #[tokio::test]
    async fn the_sentinels_word_counts_from_when_they_were_asked() {
        let Some(master) = start(&[]) else { return };
        let servers = start_sentinels(&master);
        let config = sentinel_config(&servers).connect_timeout(LIMIT);
        let (link, sentinels) = link_by_sentinels(&config);
        let Inner { target, dialer, .. } = &*link.inner;
        let end = |from: Time| from + sentinels::trust(&config);

        servers.iter().for_each(Server::freeze);
        let mut connecting = Box::pin(target.connect(dialer));
        assert!((&mut connecting).now_or_never().is_none());
        let asked = dialer.clock.now();
        servers.iter().for_each(Server::thaw);
        let live = connecting.await.unwrap();
        assert!(!live.0.word.counts(end(asked), &config));

        servers.iter().for_each(Server::freeze);
        let mut asking = Box::pin(link.ask(&sentinels, &live));
        assert!((&mut asking).now_or_never().is_none());
        let asked = dialer.clock.now();
        servers.iter().for_each(Server::thaw);
        asking.await.unwrap();
        assert!(!live.0.word.counts(end(asked), &config));
        assert!(live.0.word.counts(asked, &config));
    }

    /// And whoever is not polled keeps nobody waiting.
    #[tokio::test]
    async fn callers_share_a_question() {
        let Some(master) = start(&[]) else { return };
        let servers = start_sentinels(&master);
        let (link, sentinels) = link_by_sentinels(&sentinel_config(&servers));
        let Inner { target, dialer, .. } = &*link.inner;
        let live = target.connect(dialer).await.unwrap();

        servers.iter().for_each(Server::freeze);
        let mut unpolled = Box::pin(link.ask(&sentinels, &live));
        assert!((&mut unpolled).now_or_never().is_none());
        let [one, other] = [(); 2].map(|()| link.question(&sentinels, &live).answer);
        assert!(one.same_channel(&other));
        let asking = (0..1000).map(|_| link.ask(&sentinels, &live));
        let all = within_limit("all answers", futures_util::future::join_all(asking)).await;
        assert!(all.iter().all(Result::is_err));
        servers.iter().for_each(Server::thaw);
        until("they answer", async || {
            link.ask(&sentinels, &live).await.is_ok()
        })
        .await;
    }

    /// On a runtime that stands still nobody asks the sentinels.
    #[test]
    fn a_call_from_another_runtime_is_bounded_where_the_own_one_stands_still() {
        let Some(master) = start(&[]) else { return };
        let servers = start_sentinels(&master);
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let (still, other) = (runtime(), runtime());
        let config = sentinel_config(&servers);
        let trust = sentinels::trust(&config);
        let backend = still.block_on(RedisBackend::connect(config)).unwrap();
        let connected_at = Instant::now();
        let error = other.block_on(async {
            until("no word counts any more", async || {
                connected_at.elapsed() > trust
            })
            .await;
            let lock = lock("still");
            within_limit("an answer", backend.holder(&lock))
                .await
                .unwrap_err()
        });
        assert!(error.to_string().contains("sentinels"), "{error}");
        assert!(error.is_retryable());
    }
}
