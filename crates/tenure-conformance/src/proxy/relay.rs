//! One connection through the proxy, both ways.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::script::{Faults, Flow, Leg, Script};

/// What a proxy has seen.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) answers: AtomicU64,
}

/// Passes bytes on until either end, the script or the proxy ends the connection.
pub(super) async fn relay(
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
    let mut requests = OneWay::new(Leg::Requests, client_read, server_write, script.clone());
    let mut answers = OneWay::new(Leg::Answers, server_read, client_write, script);
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
struct OneWay {
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
    faults: Faults,
}

impl OneWay {
    fn new(
        leg: Leg,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        script: watch::Receiver<Script>,
    ) -> Self {
        // As of the moment at which the connection was accepted: nothing is missed.
        let (faults, resets) = {
            let script = script.borrow();
            (*script.faults(leg), script.resets)
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
            cut_left: faults.cut_after,
            resets,
            faults,
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
            let writes = self.faults.flow != Flow::Hold && !self.queue.is_empty();
            tokio::select! {
                changed = self.script.changed() => {
                    // Without its proxy a connection cannot go on.
                    if changed.is_err() {
                        return End::Reset;
                    }
                    if self.follow_script() == Some(End::Reset) {
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
    fn follow_script(&mut self) -> Option<End> {
        let (faults, resets) = {
            let script = self.script.borrow_and_update();
            (*script.faults(self.leg), script.resets)
        };
        if resets != self.resets || (self.lost && faults.flow != Flow::Lose) {
            return Some(End::Reset);
        }
        if faults.cut_after != self.faults.cut_after {
            self.cut_left = faults.cut_after;
        }
        if faults.half_closes != self.faults.half_closes {
            self.take(&[]);
        }
        self.faults = faults;
        None
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.read_to_end {
            return;
        }
        self.read_to_end = bytes.is_empty();
        if self.faults.flow == Flow::Lose {
            self.lost = true;
            return;
        }
        self.held += bytes.len();
        let due = Instant::now() + self.faults.delay;
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
