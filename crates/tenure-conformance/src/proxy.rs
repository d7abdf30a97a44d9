//! A TCP proxy that fails on command.
//!
//! It stands between a client and its server on loopback, and does to their connections what
//! networks do: delays, losses in one direction or both, resets, half-closed connections, frames
//! cut at any byte, refusals (hazards 6 to 8).
//!
//! ```
//! use tenure_conformance::proxy::{FaultProxy, Way};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
//! let proxy = FaultProxy::start(server)?;
//! let _connect_to = proxy.address();
//! proxy.lose(Way::Answers); // requests arrive, answers do not
//! proxy.restore();
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// The way that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Answers,
    /// Both.
    Both,
}

impl Way {
    fn includes(self, leg: Leg) -> bool {
        self == Self::Both || self == leg.way()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Requests,
    Answers,
}

impl Leg {
    fn way(self) -> Way {
        match self {
            Self::Requests => Way::Requests,
            Self::Answers => Way::Answers,
        }
    }
}

/// What happens to bytes of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Pass,
    /// Kept back until restored, as in a network that is mended before the peers give up.
    Hold,
    /// Lost. A connection that has lost something never goes on: it is reset when restored.
    Lose,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaning {
    flow: Flow,
    delay: Duration,
    /// Reset both ends after so many more bytes.
    cut_after: Option<u64>,
    /// How often the ways were told to end; a connection ends when it grows.
    half_closes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Script {
    requests: Leaning,
    answers: Leaning,
    refuse: bool,
    /// How often all connections were reset.
    resets: u64,
}

impl Script {
    fn leaning(&self, leg: Leg) -> &Leaning {
        match leg {
            Leg::Requests => &self.requests,
            Leg::Answers => &self.answers,
        }
    }
}

/// A TCP proxy on a loopback port; everything can be changed while it runs, and applies to the
/// connections that are open as to new ones. It stops, with its connections, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    script: watch::Sender<Script>,
    counts: Arc<Counters>,
    refusing: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    requests: AtomicU64,
    answers: AtomicU64,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `upstream`. Must be called
    /// in a tokio runtime, on which it runs.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        // Bound but never listening: it keeps the port while connections are refused.
        let reserved = bind(0)?;
        let address = reserved.local_addr()?;
        let listener = listen(address.port())?;
        let script = watch::Sender::new(Script::default());
        let counts = Arc::<Counters>::default();
        let (refused, refusing) = watch::channel(false);
        let accepting = tokio::spawn(accept(Accepting {
            _reserved: reserved,
            port: address.port(),
            listener: Some(listener),
            script: script.subscribe(),
            upstream,
            counts: counts.clone(),
            refused,
        }));
        Ok(Self {
            address,
            script,
            counts,
            refusing,
            accepting,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all faults. Bytes that were held go on; connections that have lost bytes are reset.
    pub fn restore(&self) {
        self.script.send_modify(|script| {
            let (resets, requests, answers) = (
                script.resets,
                script.requests.half_closes,
                script.answers.half_closes,
            );
            *script = Script::default();
            // These count what has been done, so they stay.
            script.resets = resets;
            script.requests.half_closes = requests;
            script.answers.half_closes = answers;
        });
    }

    /// Bytes of this way arrive so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.lean(way, |leaning| leaning.delay = delay);
    }

    /// A blackhole that is mended in time: bytes of this way are held until
    /// [`restore`](Self::restore), and arrive then. New connections are accepted, since their
    /// handshake is the kernel's.
    pub fn hold(&self, way: Way) {
        self.lean(way, |leaning| leaning.flow = Flow::Hold);
    }

    /// A blackhole that is not: bytes of this way are lost. The connections stay open and silent
    /// until [`restore`](Self::restore), which resets those that have lost something: a stream
    /// with a gap would be no TCP.
    pub fn lose(&self, way: Way) {
        self.lean(way, |leaning| leaning.flow = Flow::Lose);
    }

    /// Each connection is reset after so many more bytes of this way, counted from now or from
    /// its start.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.lean(way, |leaning| leaning.cut_after = Some(bytes));
    }

    /// Ends this way of all open connections, as a peer that shuts down its writing side; the
    /// other way goes on.
    pub fn half_close(&self, way: Way) {
        self.lean(way, |leaning| leaning.half_closes += 1);
    }

    /// Resets all open connections (RST to both ends).
    pub fn reset(&self) {
        self.script.send_modify(|script| script.resets += 1);
    }

    /// Refuses new connections, or accepts them again. Returns when it is so.
    pub async fn refuse(&self, refuse: bool) {
        self.script.send_modify(|script| script.refuse = refuse);
        let mut refusing = self.refusing.clone();
        // Fails only when the runtime of the proxy has ended.
        let _ended = refusing.wait_for(|now| *now == refuse).await;
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// How many bytes of this way have come to the proxy, passed on or not.
    pub fn seen(&self, way: Way) -> u64 {
        let mut seen = 0;
        if way.includes(Leg::Requests) {
            seen += self.counts.requests.load(Ordering::Relaxed);
        }
        if way.includes(Leg::Answers) {
            seen += self.counts.answers.load(Ordering::Relaxed);
        }
        seen
    }

    fn lean(&self, way: Way, change: impl Fn(&mut Leaning)) {
        self.script.send_modify(|script| {
            if way.includes(Leg::Requests) {
                change(&mut script.requests);
            }
            if way.includes(Leg::Answers) {
                change(&mut script.answers);
            }
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The connections end with the script's sender.
        self.accepting.abort();
    }
}

fn bind(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Two sockets share the port: the one that reserves it and the one that listens.
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket)
}

fn listen(port: u16) -> io::Result<TcpListener> {
    bind(port)?.listen(1024)
}

struct Accepting {
    _reserved: TcpSocket,
    port: u16,
    listener: Option<TcpListener>,
    script: watch::Receiver<Script>,
    upstream: SocketAddr,
    counts: Arc<Counters>,
    refused: watch::Sender<bool>,
}

async fn accept(mut this: Accepting) {
    loop {
        let refuse = this.script.borrow_and_update().refuse;
        if refuse {
            this.listener = None;
        } else if this.listener.is_none() {
            this.listener = listen(this.port).ok();
        }
        this.refused.send_replace(this.listener.is_none());
        let Some(listener) = &this.listener else {
            if this.script.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = this.script.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                this.counts.accepted.fetch_add(1, Ordering::Relaxed);
                // The script as it was when the connection came: what changes from here on
                // applies to it.
                let script = this.script.clone();
                tokio::spawn(relay(client, this.upstream, script, this.counts.clone()));
            }
        }
    }
}

async fn relay(
    client: TcpStream,
    upstream: SocketAddr,
    script: watch::Receiver<Script>,
    counts: Arc<Counters>,
) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        reset(client);
        return;
    };
    // A proxy must not add delays of its own.
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut requests = Pump::new(Leg::Requests, client_read, server_write, script.clone());
    let mut answers = Pump::new(Leg::Answers, server_read, client_write, script);
    let end = {
        let mut one = std::pin::pin!(requests.run(&counts.requests));
        let mut other = std::pin::pin!(answers.run(&counts.answers));
        let (mut one_open, mut other_open) = (true, true);
        loop {
            // A reset of one way is the end of both.
            let end = tokio::select! {
                end = &mut one, if one_open => { one_open = false; end }
                end = &mut other, if other_open => { other_open = false; end }
                else => break End::Closed,
            };
            if end == End::Reset {
                break End::Reset;
            }
        }
    };
    if end == End::Reset {
        let client = requests.from.reunite(answers.to);
        let server = answers.from.reunite(requests.to);
        if let Ok(client) = client {
            reset(client);
        }
        if let Ok(server) = server {
            reset(server);
        }
    }
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    let _best_effort = stream.set_zero_linger();
    drop(stream);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// How many bytes one way holds before it stops reading.
const MOST_HELD: usize = 1 << 20;

/// One way of one connection.
struct Pump {
    leg: Leg,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    script: watch::Receiver<Script>,
    /// What is to be written and when; nothing at all stands for the end of the stream.
    queue: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    read_to_end: bool,
    lost: bool,
    cut_left: Option<u64>,
    resets: u64,
    leaning: Leaning,
}

impl Pump {
    fn new(
        leg: Leg,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        script: watch::Receiver<Script>,
    ) -> Self {
        // As of the moment at which the connection was accepted: nothing is missed.
        let (leaning, resets) = {
            let script = script.borrow();
            (*script.leaning(leg), script.resets)
        };
        Self {
            leg,
            from,
            to,
            script,
            queue: VecDeque::new(),
            held: 0,
            read_to_end: false,
            lost: false,
            cut_left: leaning.cut_after,
            resets,
            leaning,
        }
    }

    async fn run(&mut self, seen: &AtomicU64) -> End {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if self.cut_left == Some(0) {
                return End::Reset;
            }
            if self.read_to_end && self.queue.is_empty() && !self.lost {
                return End::Closed;
            }
            let reads = !self.read_to_end && self.held < MOST_HELD;
            let writes = self.leaning.flow != Flow::Hold && !self.queue.is_empty();
            tokio::select! {
                changed = self.script.changed() => {
                    // Without its proxy a connection cannot go on.
                    if changed.is_err() {
                        return End::Reset;
                    }
                    if self.heed() == Some(End::Reset) {
                        return End::Reset;
                    }
                }
                read = self.from.read(&mut buffer), if reads => match read {
                    Ok(count) => {
                        seen.fetch_add(count as u64, Ordering::Relaxed);
                        self.take(&buffer[..count]);
                    }
                    Err(_) => return End::Reset,
                },
                written = write(&mut self.to, self.queue.front(), self.cut_left), if writes => {
                    match written {
                        Ok(count) => self.wrote(count),
                        Err(_) => return End::Reset,
                    }
                }
            }
        }
    }

    /// The script has changed.
    fn heed(&mut self) -> Option<End> {
        let (leaning, resets) = {
            let script = self.script.borrow_and_update();
            (*script.leaning(self.leg), script.resets)
        };
        if resets != self.resets || (self.lost && leaning.flow != Flow::Lose) {
            return Some(End::Reset);
        }
        if leaning.cut_after != self.leaning.cut_after {
            self.cut_left = leaning.cut_after;
        }
        if leaning.half_closes != self.leaning.half_closes {
            self.take(&[]);
        }
        self.leaning = leaning;
        None
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.read_to_end {
            return;
        }
        self.read_to_end = bytes.is_empty();
        if self.leaning.flow == Flow::Lose {
            self.lost = true;
            return;
        }
        self.held += bytes.len();
        let due = Instant::now() + self.leaning.delay;
        self.queue.push_back((due, bytes.to_vec()));
    }

    fn wrote(&mut self, count: usize) {
        self.held = self.held.saturating_sub(count);
        if let Some(left) = &mut self.cut_left {
            *left = left.saturating_sub(count as u64);
        }
        if let Some((_, bytes)) = self.queue.front_mut() {
            bytes.drain(..count);
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

/// Writes what is due first; cancel safe.
async fn write(
    to: &mut OwnedWriteHalf,
    first: Option<&(Instant, Vec<u8>)>,
    cut_left: Option<u64>,
) -> io::Result<usize> {
    let Some((due, bytes)) = first else {
        return Ok(0);
    };
    sleep_until(*due).await;
    if bytes.is_empty() {
        to.shutdown().await?;
        return Ok(0);
    }
    let most = cut_left.map_or(bytes.len(), |left| {
        bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
    });
    to.write(&bytes[..most]).await
}
