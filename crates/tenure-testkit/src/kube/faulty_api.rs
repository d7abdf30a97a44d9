//! A proxy in front of the API server, in plain HTTP, that answers as it is told instead, or changes
//! what is written.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::server::Server;

/// A request for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is read.
    Get,
    /// It is made.
    Post,
    /// It is changed.
    Put,
    /// Its changes are awaited.
    Watch,
    /// A pod is looked at.
    Pod,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This status, with these seconds in `Retry-After`.
    Status(u16, Option<u64>),
    /// This status, with a header `Retry-After` for each of these texts.
    Asks(u16, &'static [&'static str]),
    /// A success with this body.
    Text(&'static str),
    /// It never answers.
    Silence,
    /// The end of the connection.
    Closed,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Whether the API server gets the request nevertheless.
    pub applied: bool,
    /// What the client gets.
    pub answer: Answer,
}

/// The API server is not asked.
pub fn instead(answer: Answer) -> Fault {
    Fault {
        applied: false,
        answer,
    }
}

/// The API server's answer is lost.
pub fn applied_but(answer: Answer) -> Fault {
    Fault {
        applied: true,
        answer,
    }
}

/// A request, and when its answer went out, if there was one.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What was asked for.
    pub kind: Kind,
    /// When it came.
    pub asked: Instant,
    /// When its answer went out.
    pub answered: Option<Instant>,
}

/// What an admission webhook makes of an object.
pub type Mutation = fn(&mut Value);

#[derive(Debug, Default)]
struct Script {
    /// Each for so many requests of its kind.
    faults: Vec<(Kind, Fault, usize)>,
    mutation: Option<Mutation>,
    seen: Vec<Seen>,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct FaultyApi {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    cuts: watch::Sender<u64>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for FaultyApi {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FaultyApi {
    /// Starts it before this API server.
    pub async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let (cuts, cut) = watch::channel(0);
        let client = server.client().await;
        let connection = Connection {
            client,
            script: script.clone(),
            cut,
        };
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(connection.clone().serve(stream));
            }
        });
        Self {
            address,
            script,
            cuts,
            serving,
        }
    }

    /// Where it listens; its clients are the admin, without TLS or a token.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next so many requests of this kind.
    pub fn fail(&self, kind: Kind, fault: Fault, times: usize) {
        self.script
            .lock()
            .unwrap()
            .faults
            .push((kind, fault, times));
    }

    /// Objects that are written are changed before, as by an admission webhook.
    pub fn mutate(&self, mutation: Mutation) {
        self.script.lock().unwrap().mutation = Some(mutation);
    }

    /// All requests pass from here on, as they are.
    pub fn mend(&self) {
        let mut script = self.script.lock().unwrap();
        script.faults.clear();
        script.mutation = None;
    }

    /// Ends the watches that last.
    pub fn cut_watches(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The requests of this kind so far.
    pub fn seen(&self, kind: Kind) -> Vec<Seen> {
        let script = self.script.lock().unwrap();
        let of_kind = script.seen.iter().filter(|seen| seen.kind == kind);
        of_kind.copied().collect()
    }

    /// How many requests for objects there were so far.
    pub fn count(&self) -> usize {
        self.script.lock().unwrap().seen.len()
    }
}

#[derive(Clone)]
struct Connection {
    client: kube::Client,
    script: Arc<Mutex<Script>>,
    cut: watch::Receiver<u64>,
}

struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(mut asked) = read(&mut stream).await {
            let kind = kind_of(&asked);
            if matches!(kind, Some(Kind::Post | Kind::Put)) {
                self.mutate(&mut asked.body);
            }
            let (fault, number) = self.note(kind);
            let going_on = match fault {
                None => self.pass(asked, number, &mut stream).await,
                Some(fault) => {
                    if fault.applied {
                        let _lost = self.forward(asked).await.into_body().collect().await;
                    }
                    self.answer(fault.answer, number, &mut stream).await
                }
            };
            if going_on.is_none() {
                return;
            }
        }
    }

    fn mutate(&self, body: &mut Vec<u8>) {
        let mutation = self.script.lock().unwrap().mutation;
        if let Some(mutation) = mutation {
            let mut object: Value = serde_json::from_slice(body).unwrap();
            mutation(&mut object);
            *body = object.to_string().into_bytes();
        }
    }

    /// Notes the request and takes what is to become of it.
    fn note(&self, kind: Option<Kind>) -> (Option<Fault>, Option<usize>) {
        let Some(kind) = kind else {
            return (None, None);
        };
        let mut script = self.script.lock().unwrap();
        script.seen.push(Seen {
            kind,
            asked: Instant::now(),
            answered: None,
        });
        let number = Some(script.seen.len() - 1);
        let due = script
            .faults
            .iter_mut()
            .find(|(of, _, times)| *of == kind && *times > 0);
        let fault = due.map(|(_, fault, times)| {
            *times -= 1;
            *fault
        });
        (fault, number)
    }

    /// Before the answer is sent, so that nobody can react before this.
    fn note_answer(&self, number: Option<usize>) {
        if let Some(number) = number {
            self.script.lock().unwrap().seen[number].answered = Some(Instant::now());
        }
    }

    async fn forward(&self, asked: Asked) -> http::Response<Body> {
        let request = http::Request::builder()
            .method(asked.method.as_str())
            .uri(asked.path)
            .header("Content-Type", "application/json")
            .body(Body::from(asked.body))
            .unwrap();
        self.client.send(request).await.unwrap()
    }

    /// `None` when the connection is to end.
    async fn pass(
        &mut self,
        asked: Asked,
        number: Option<usize>,
        stream: &mut BufReader<TcpStream>,
    ) -> Option<()> {
        let watching = kind_of(&asked) == Some(Kind::Watch);
        let (head, body) = self.forward(asked).await.into_parts();
        self.note_answer(number);
        if !watching || !head.status.is_success() {
            let body = body.collect().await.unwrap().to_bytes();
            return write(stream, head.status.as_u16(), &[], &body).await;
        }
        self.cut.mark_unchanged();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut events = body.into_data_stream();
        loop {
            let event = tokio::select! {
                _ = self.cut.changed() => return None,
                event = events.next() => event,
            };
            let Some(Ok(event)) = event else {
                return stream.write_all(b"0\r\n\r\n").await.ok();
            };
            let mut chunk = format!("{:x}\r\n", event.len()).into_bytes();
            chunk.extend_from_slice(&event);
            chunk.extend_from_slice(b"\r\n");
            stream.write_all(&chunk).await.ok()?;
        }
    }

    async fn answer(
        &self,
        answer: Answer,
        number: Option<usize>,
        stream: &mut BufReader<TcpStream>,
    ) -> Option<()> {
        self.note_answer(number);
        match answer {
            Answer::Status(status, seconds) => {
                let asked = seconds.map(|seconds| seconds.to_string());
                refuse(stream, status, asked.as_deref().as_slice()).await
            }
            Answer::Asks(status, asked) => refuse(stream, status, asked).await,
            Answer::Text(text) => write(stream, 200, &[], text.as_bytes()).await,
            Answer::Silence => {
                // Until the other side has had enough.
                let _ = tokio::time::timeout(Duration::from_secs(600), stream.read(&mut [0])).await;
                None
            }
            Answer::Closed => None,
        }
    }
}

/// The kind of a request for an object; `None` for one about the server.
fn kind_of(asked: &Asked) -> Option<Kind> {
    if !asked.path.contains("/namespaces/") {
        return None;
    }
    match asked.method.as_str() {
        "GET" if asked.path.contains("watch=true") => Some(Kind::Watch),
        "GET" if asked.path.contains("/pods/") => Some(Kind::Pod),
        "GET" => Some(Kind::Get),
        "POST" => Some(Kind::Post),
        "PUT" => Some(Kind::Put),
        other => panic!("no backend sends a {other}"),
    }
}

/// A request; `None` at the connection's end.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        assert!(!line.starts_with("transfer-encoding"), "bodies are short");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { method, path, body })
}

async fn refuse(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    retry_after: &[&str],
) -> Option<()> {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": "as the test wishes", "code": status,
    });
    write(stream, status, retry_after, body.to_string().as_bytes()).await
}

async fn write(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    retry_after: &[&str],
    body: &[u8],
) -> Option<()> {
    let mut asked = String::new();
    for text in retry_after {
        asked.push_str("Retry-After: ");
        asked.push_str(text);
        asked.push_str("\r\n");
    }
    let mut answer = format!(
        "HTTP/1.1 {status} As Said\r\nVia: 1.1 faulty\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{asked}\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    stream.write_all(&answer).await.ok()
}
