//! A forward proxy of a test's own, as companies have them: HTTP with CONNECT, and SOCKS 5, on one
//! port. It counts what comes through it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A forward proxy, in threads that last as long as the test.
///
/// Whatever server it is asked for, it connects to the one it is made for: so a test can name a
/// server by a name that only the proxy knows.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Who may use it.
const USER: &str = "ann";

/// Her password.
pub const PASSWORD: &str = "pr0xy-secret";

/// `ann:pr0xy-secret`
const BASIC: &str = "Proxy-Authorization: Basic YW5uOnByMHh5LXNlY3JldA==";

impl ForwardProxy {
    /// One in front of `server`. It refuses whoever does not give the user and password that are in
    /// its URLs.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let told = asked.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let told = told.clone();
                // A connection that ends early is the client's affair.
                thread::spawn(move || serve(&client, server, &told));
            }
        });
        Self { address, asked }
    }

    /// Its URL with this scheme, `http` or `socks5`, with user and password.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{USER}:{PASSWORD}@{}", self.address)
    }

    /// The servers that it was asked for and has connected, as `host:port`.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

fn serve(mut client: &TcpStream, server: SocketAddr, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut first = [0];
    client.peek(&mut first)?;
    let name = if first == [5] {
        socks5(client)?
    } else {
        http(client)?
    };
    let Some(name) = name else { return Ok(()) };
    let upstream = TcpStream::connect(server)?;
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(name);
    if first == [5] {
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    } else {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    }
    let (from, to) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || pass(&from, &to));
    pass(&upstream, client);
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    // An end by force is passed on as an end.
    let _ended = io::copy(&mut from, &mut to);
    let _gone = to.shutdown(Shutdown::Write);
}

/// The server that a CONNECT asks for; `None` when it is refused.
fn http(client: &TcpStream) -> io::Result<Option<String>> {
    let (mut head, mut reader) = (Vec::new(), BufReader::with_capacity(1, client));
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut writer = client;
    let asked = head.first().and_then(|line| line.split(' ').nth(1));
    match asked {
        Some(name) if head.iter().any(|line| line == BASIC) => Ok(Some(name.to_owned())),
        _ => {
            writer.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")?;
            Ok(None)
        }
    }
}

/// The server that a SOCKS client asks for; `None` when it is refused.
fn socks5(mut client: &TcpStream) -> io::Result<Option<String>> {
    let [_version, methods] = read(client)?;
    client.read_exact(&mut vec![0; usize::from(methods)])?;
    client.write_all(&[5, 2])?;
    let [_version, length] = read(client)?;
    let user = text(client, length)?;
    let [length] = read(client)?;
    let is_known = text(client, length)? == PASSWORD && user == USER;
    client.write_all(&[1, u8::from(!is_known)])?;
    if !is_known {
        return Ok(None);
    }
    let [_version, _command, _reserved, kind] = read(client)?;
    let host = if kind == 1 {
        Ipv4Addr::from(read::<4>(client)?).to_string()
    } else {
        let [length] = read(client)?;
        text(client, length)?
    };
    Ok(Some(format!(
        "{host}:{}",
        u16::from_be_bytes(read(client)?)
    )))
}

fn read<const N: usize>(mut client: &TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(mut client: &TcpStream, length: u8) -> io::Result<String> {
    let mut bytes = vec![0; length.into()];
    client.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
