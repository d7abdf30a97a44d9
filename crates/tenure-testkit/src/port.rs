//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which kernels take the port of an outgoing connection: no connection sits
/// on a port between our look and the server's start. The upper end leaves room for [`BUS_OFFSET`].
const PORTS: std::ops::Range<u16> = 11_000..22_000;

/// Between the port of a Redis Cluster node and that of its bus.
pub const BUS_OFFSET: u16 = 10_000;

/// A port that no server listens on.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Ports that no server listens on, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    // Held until all are found: no two are the same.
    let mut held = Vec::with_capacity(N);
    [(); N].map(|()| {
        let found = (0..500).find_map(|_| {
            let port = fastrand::u16(PORTS);
            let both = (listen(port)?, listen(port + BUS_OFFSET)?);
            Some((port, both))
        });
        let (port, listeners) = found.expect("no free port found on 127.0.0.1");
        held.push(listeners);
        port
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let ports = free_ports::<20>();
        let mut sorted = ports.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ports.len());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
