//! One connection to the server, which is one session there, and the news of its end.

use std::fmt;
use std::os::fd::{AsRawFd as _, RawFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::select;
use mysql::{Conn, Opts};
use tenure_kit::{Tasks, blocking};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

/// A session. The server ends it, and frees the locks in it, when the connection closes and when
/// no request has come for the session's `wait_timeout`.
pub(crate) struct Session {
    connection: Connection,
    /// After an error of the connection the next query would read a late answer as its own.
    has_failed: AtomicBool,
    has_ended: watch::Receiver<bool>,
    /// Dropped with this value, which closes the connection.
    _open: oneshot::Sender<()>,
    /// The server's number for it.
    pub(crate) id: u64,
}

/// `None` once it is closed.
type Connection = Arc<Mutex<Option<Conn>>>;

/// What waits for the end of a connection, and then closes our side of it.
struct Watched {
    /// The socket of the connection, for its readiness alone. The first field, so that it leaves
    /// the poller before the connection closes the socket.
    socket: AsyncFd<RawFd>,
    connection: Connection,
}

impl Session {
    /// Connects. Blocks. Needs a tokio runtime that does I/O.
    pub(crate) fn open(options: Opts, tasks: &Tasks) -> mysql::Result<Self> {
        let connection = Conn::new(options)?;
        #[allow(
            deprecated,
            reason = "the driver gives its socket as a number alone, which Watched keeps open"
        )]
        let socket = AsyncFd::with_interest(connection.as_raw_fd(), Interest::READABLE)?;
        let id = connection.connection_id().into();
        let connection = Arc::new(Mutex::new(Some(connection)));
        let watched = Watched {
            socket,
            connection: connection.clone(),
        };
        let (open, dropped) = oneshot::channel();
        let (tell, has_ended) = watch::channel(false);
        tasks.spawn(watched.until_closed(dropped, tell));
        Ok(Self {
            connection,
            has_failed: AtomicBool::new(false),
            has_ended,
            _open: open,
            id,
        })
    }

    /// Whether the server has ended it, as far as is known without asking.
    pub(crate) fn has_ended(&self) -> bool {
        *self.has_ended.borrow()
    }

    /// Whether the next query has a chance, as far as is known.
    pub(crate) fn is_usable(&self) -> bool {
        !self.has_failed.load(Ordering::SeqCst) && !self.has_ended()
    }

    /// Runs queries. Blocks, also while another call runs its own.
    ///
    /// After an error of the connection each call fails. The connection stays open, so that the
    /// server does not free a lock before its holder has stopped: its lease runs out on both sides.
    pub(crate) fn run<T>(
        &self,
        queries: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        let connection = self.connection.lock();
        let mut connection = connection.unwrap_or_else(PoisonError::into_inner);
        let is_whole = !self.has_failed.load(Ordering::SeqCst);
        let Some(connection) = connection.as_mut().filter(|_| is_whole) else {
            let error = std::io::Error::other("an earlier call on this connection has failed");
            return Err(error.into());
        };
        let result = queries(connection);
        if !matches!(&result, Ok(_) | Err(mysql::Error::MySqlError(_))) {
            self.has_failed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Completes when the connection is closed by the server or reset. No request is needed to
    /// notice that, and none that is under way delays it.
    pub(crate) async fn ended(&self) {
        if self
            .has_ended
            .clone()
            .wait_for(|ended| *ended)
            .await
            .is_err()
        {
            // The runtime ends, which says nothing about the session.
            std::future::pending::<()>().await;
        }
    }
}

impl Watched {
    /// Tells the end of the connection, and closes it. Closes it too once `dropped` completes.
    async fn until_closed(self, dropped: oneshot::Receiver<()>, tell: watch::Sender<bool>) {
        select(pin!(self.read_closed()), dropped).await;
        tell.send_replace(true);
        let Self { socket, connection } = self;
        drop(socket);
        // A call may be at work on it, and the driver says goodbye. An error is of the runtime.
        let _ended: Result<(), tenure_kit::StoreError> = blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            *connection = None;
        })
        .await;
    }

    async fn read_closed(&self) {
        while let Ok(mut ready) = self.socket.readable().await {
            if ready.ready().is_read_closed() {
                return;
            }
            // An answer. The driver reads it.
            ready.clear_ready();
        }
        std::future::pending::<()>().await;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.id)
    }
}
