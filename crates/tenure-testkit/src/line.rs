//! A network that loses packets: connections hang, and nothing tells either side.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The way to a server. It passes everything on, except on the connections that were open or begun
/// in a silence: on those nothing comes through any more, nor their end.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    network: Arc<Network>,
}

#[derive(Debug, Default)]
struct Network {
    /// Odd in a silence.
    silences: AtomicUsize,
    accepted: AtomicUsize,
    /// Bytes that were not passed on.
    lost: AtomicUsize,
}

impl Line {
    /// Listens on a free port of loopback. It goes on until the process ends.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(Network::default());
        let accepting = network.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.accepted.fetch_add(1, Ordering::SeqCst);
                let born = accepting.silences.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(upstream) else {
                    continue;
                };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone())
                else {
                    continue;
                };
                let (there, back) = (accepting.clone(), accepting.clone());
                thread::spawn(move || pass(client, server, born, &there));
                thread::spawn(move || pass(server_too, client_too, born, &back));
            }
        });
        Self { address, network }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were begun.
    pub fn accepted(&self) -> usize {
        self.network.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes were lost.
    pub fn lost(&self) -> usize {
        self.network.lost.load(Ordering::SeqCst)
    }

    /// Nothing comes through from now on.
    pub fn silence(&self) {
        let before = self.network.silences.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 0);
    }

    /// New connections work.
    pub fn restore(&self) {
        let before = self.network.silences.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 1);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, born: usize, network: &Network) -> Option<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).ok().filter(|read| *read > 0);
        let is_open = network.silences.load(Ordering::SeqCst) == born && born.is_multiple_of(2);
        if is_open {
            let Some(read) = read else {
                let _gone = to.shutdown(std::net::Shutdown::Write);
                return None;
            };
            to.write_all(&buffer[..read]).ok()?;
            continue;
        }
        match read {
            Some(read) => network.lost.fetch_add(read, Ordering::SeqCst),
            // Their end does not come through either.
            None => loop {
                thread::park();
            },
        };
    }
}
