//! [`Transport`]: the connections of a client, all of which are given up when one falls silent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use kube::client::Body;
use tenure_core::{BootClock, Process, Time};
use tokio::sync::watch;
use tower::{BoxError, Service};

/// A connection whose other side has vanished is known to be dead after about so long, also when
/// nothing is sent on it: that of a watch, say.
const VANISHED: Duration = Duration::from_secs(20);

/// How often it is tried before that.
const PROBES: u32 = 4;

/// Connects directly.
pub(crate) fn direct() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(VANISHED / (PROBES + 1)));
    connector.set_keepalive_interval(Some(VANISHED / (PROBES + 1)));
    connector.set_keepalive_retries(Some(PROBES));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(VANISHED));
    connector
}

/// Which connections may be used: those that were made since the last one fell silent.
#[derive(Clone, Debug)]
pub(crate) struct Generation(Arc<watch::Sender<Numbered>>);

#[derive(Clone, Copy, Debug)]
struct Numbered {
    number: u64,
    /// On the clock of the records.
    begun_at: Time,
    /// When a request was answered last, on whichever connection.
    answered_at: Time,
}

/// Sockets that overdue requests may keep: from there on they are dropped when the next are sent.
const MOST_AT_ONCE: usize = 1024;

/// A connection that has not come up is replaced when so many later generations have begun.
const CONNECTS_FOR: u64 = 2;

impl Generation {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Numbered {
            number: 0,
            begun_at: BootClock::shared().now(),
            answered_at: Time::ZERO,
        })))
    }

    fn now(&self) -> u64 {
        self.0.borrow().number
    }

    /// A request is sent now, and its answer awaited.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt {
            begun_in: self.now(),
            begun_at: BootClock::shared().now(),
            generation: self.clone(),
            is_answered: false,
        }
    }

    /// Whether a request was answered since this generation began.
    pub(crate) fn has_answered(&self) -> bool {
        let current = self.0.borrow();
        current.answered_at >= current.begun_at
    }

    /// A request of that time has no answer yet. Later ones use connections that were made after it.
    /// Whether it may go on: each keeps a socket.
    pub(crate) fn give_up_before(&self, sent_at: Time) -> bool {
        self.0.send_if_modified(|current| {
            let gives_up = current.begun_at <= sent_at;
            if gives_up {
                current.begin_next();
            }
            gives_up
        });
        // Each attempt has a clone.
        Arc::strong_count(&self.0) <= MOST_AT_ONCE
    }

    /// Returns when later attempts have taken the place of a connection that begins now and has not
    /// come up. Else each of them would leave one behind in an outage, and all of these would come
    /// up at its end.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.0.subscribe();
        let begun_in = self.now();
        async move {
            let is_late = |current: &Numbered| current.number >= begun_in + CONNECTS_FOR;
            if changes.wait_for(is_late).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Numbered {
    fn begin_next(&mut self) {
        self.number += 1;
        self.begun_at = BootClock::shared().now();
    }
}

/// A request without an answer. Dropped without one it gives up all connections that there were
/// when it was sent. What has made one of them silent has done so to the others too, and the next
/// attempt must not wait on another of them. Not if another request was answered meanwhile: then this
/// one was dropped because its answer is not needed any more, or its own connection is at fault.
pub(crate) struct Attempt {
    generation: Generation,
    begun_in: u64,
    begun_at: Time,
    is_answered: bool,
}

impl Attempt {
    pub(crate) fn is_answered(&mut self) {
        self.is_answered = true;
        self.generation.0.send_if_modified(|current| {
            current.answered_at = BootClock::shared().now();
            // No one waits for that.
            false
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        self.generation.0.send_if_modified(|current| {
            let is_alive = current.answered_at > self.begun_at;
            // Another attempt of the same generation may have been quicker.
            let gives_up = current.number == self.begun_in && !is_alive;
            if gives_up {
                current.begin_next();
            }
            gives_up
        });
    }
}

/// Sends requests on connections that it keeps. Those of an earlier generation are closed, or go on
/// to the end of the answer that is read from them.
///
/// Clones share them.
#[derive(Clone)]
pub(crate) struct Transport<C> {
    connector: C,
    generation: Generation,
    /// With their generation.
    connections: Arc<Mutex<(u64, legacy::Client<C, Body>)>>,
}

impl<C: Connect + Clone + Send + Sync + 'static> Transport<C> {
    pub(crate) fn new(connector: C, generation: Generation) -> Self {
        Self {
            connections: Arc::new(Mutex::new((generation.now(), client(&connector)))),
            connector,
            generation,
        }
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Body>> for Transport<C> {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let now = self.generation.now();
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if connections.0 != now {
            *connections = (now, client(&self.connector));
        }
        let sending = connections.1.request(request);
        Box::pin(async move { sending.await.map_err(BoxError::from) })
    }
}

fn client<C: Connect + Clone>(connector: &C) -> legacy::Client<C, Body> {
    legacy::Builder::new(Tasks(Process::current())).build(connector.clone())
}

/// Runs the connections, in the process that has made them alone: a forked child must neither read
/// its parent's answers nor say goodbye to the API server.
#[derive(Clone, Debug)]
struct Tasks(Process);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Tasks {
    fn execute(&self, connection: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(self.0.confine(connection));
    }
}
