//! A TCP proxy that fails on command.
//!
//! It stands between a client and its server on loopback, and does to their connections what
//! networks do (hazards 6 to 8). It delays, loses in one direction or both, resets, half-closes,
//! refuses, and cuts frames at any byte.
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

mod relay;
mod script;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use relay::{Counters, relay};
pub use script::Way;
use script::{Faults, Flow, Leg, Script};

/// A TCP proxy on a port of this host; everything can be changed while it runs, and applies to the
/// connections that are open as to new ones. It stops, with its connections, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    script: watch::Sender<Script>,
    counts: Arc<Counters>,
    refusing: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `upstream`. Must be called
    /// in a tokio runtime, on which it runs.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, upstream)
    }

    /// As [`start`](Self::start), on a free port of this address of the host: for clients in a
    /// network namespace, which do not reach its loopback.
    pub fn start_at(host: Ipv4Addr, upstream: SocketAddr) -> io::Result<Self> {
        // Bound but never listening: it keeps the port while connections are refused.
        let reserved = bind((host, 0).into())?;
        let address = reserved.local_addr()?;
        let listener = listen(address)?;
        let script = watch::Sender::new(Script::default());
        let counts = Arc::<Counters>::default();
        let (refused, refusing) = watch::channel(false);
        let accepting = tokio::spawn(accept(Accepting {
            _reserved: reserved,
            address,
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
        self.change(way, |faults| faults.delay = delay);
    }

    /// A blackhole that is repaired in time: bytes of this way are held until
    /// [`restore`](Self::restore), and arrive then. New connections are accepted, since their
    /// handshake is the kernel's.
    pub fn hold(&self, way: Way) {
        self.change(way, |faults| faults.flow = Flow::Hold);
    }

    /// A blackhole that is not: bytes of this way are lost. The connections stay open and silent
    /// until [`restore`](Self::restore), which resets those that have lost something: a stream
    /// with a gap would be no TCP.
    pub fn lose(&self, way: Way) {
        self.change(way, |faults| faults.flow = Flow::Lose);
    }

    /// Each connection is reset after so many more bytes of this way, counted from now or from
    /// its start.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.change(way, |faults| faults.cut_after = Some(bytes));
    }

    /// Ends this way of all open connections, as a peer that shuts down its writing side; the
    /// other way goes on.
    pub fn half_close(&self, way: Way) {
        self.change(way, |faults| faults.half_closes += 1);
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

    fn change(&self, way: Way, change: impl Fn(&mut Faults)) {
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

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Two sockets share the port: the one that reserves it and the one that listens.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(1024)
}

struct Accepting {
    _reserved: TcpSocket,
    address: SocketAddr,
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
            this.listener = listen(this.address).ok();
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
