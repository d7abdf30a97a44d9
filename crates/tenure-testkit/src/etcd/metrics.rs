//! What a member counts about its clients' requests.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are printed as floating-point numbers"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::etcd::Cluster;

/// Reads the first member's `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics {
    address: String,
}

/// How many requests of which kind have come in so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// Heartbeats of leases.
    pub keepalives: u64,
    /// `Txn`.
    pub transactions: u64,
    /// `Range`.
    pub reads: u64,
    /// New leases.
    pub grants: u64,
    /// Leases that were given back.
    pub revokes: u64,
    /// Watches that were begun or ended, on whatever stream.
    pub watches: u64,
    /// Requests for the keys of a lease.
    pub lease_keys: u64,
    /// Those that are not answered yet, without the streams.
    pub under_way: u64,
}

impl Requests {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.keepalives + self.lease_keys + self.others()
    }

    /// Without the heartbeats.
    pub fn others(&self) -> u64 {
        self.transactions + self.reads + self.grants + self.revokes + self.watches
    }
}

/// The most that was seen while it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// Requests a second.
    pub per_second: f64,
    /// Requests without an answer.
    pub under_way: u64,
}

impl Metrics {
    /// Between two looks of [`watch`](Self::watch).
    pub const INTERVAL: Duration = Duration::from_millis(50);

    /// Of the first member.
    pub fn of(cluster: &Cluster) -> Self {
        let address = cluster.members[0].address();
        Self { address }
    }

    /// What has come in so far.
    pub fn read(&self) -> Requests {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let mut found = Requests::default();
        let (mut started, mut handled) = (0, 0);
        for line in text.lines().filter(|line| line.starts_with("grpc_server_")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let is = |kind: &str| name.starts_with(&format!("grpc_server_{kind}_total{{"));
            let method = name.split("grpc_method=\"").nth(1);
            let method = method.and_then(|rest| rest.split('"').next()).unwrap();
            // Counters are printed as floating-point numbers.
            let Some(value) = value.parse::<f64>().ok().map(|value| value as u64) else {
                continue;
            };
            let unary = name.contains("grpc_type=\"unary\"");
            if unary && is("started") {
                started += value;
            }
            if unary && is("handled") {
                handled += value;
            }
            if is("msg_received") {
                match method {
                    "LeaseKeepAlive" => found.keepalives += value,
                    "Txn" => found.transactions += value,
                    "Range" => found.reads += value,
                    "LeaseGrant" => found.grants += value,
                    "LeaseRevoke" => found.revokes += value,
                    "Watch" => found.watches += value,
                    "LeaseTimeToLive" => found.lease_keys += value,
                    _ => {}
                }
            }
        }
        // What is handled while this is printed may not have been started in it.
        found.under_way = u64::saturating_sub(started, handled);
        found
    }

    /// Looks again and again while `watched`.
    pub fn watch(&self, watched: &AtomicBool) -> Peak {
        let mut peak = Peak::default();
        let (mut last, mut at) = (self.read().all(), Instant::now());
        while watched.load(Ordering::Relaxed) {
            thread::sleep(Self::INTERVAL);
            let (now, requests) = (Instant::now(), self.read());
            let count = u32::try_from(requests.all() - last).unwrap();
            let rate = f64::from(count) / (now - at).as_secs_f64();
            peak.per_second = peak.per_second.max(rate);
            peak.under_way = peak.under_way.max(requests.under_way);
            (last, at) = (requests.all(), now);
        }
        peak
    }
}
