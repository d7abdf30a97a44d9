//! One connection to a server. Its end is the end of everything that its session holds.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tenure_core::{Kept, Process};
use tenure_kit::Address;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, Client, Notification};

use crate::errors::{self, StoreError};
use crate::incarnation::Incarnation;

/// Where the server says that it waits for no standby any more: its text may be in any language.
const WAIT_FOR_A_STANDBY: &str = "SyncRepWaitForLSN";

/// What is done with each notification.
pub(crate) type Listener = Arc<dyn Fn(&Notification) + Send + Sync>;

/// A connection to a server that is fit to hold locks. Ends with this value, but not with a
/// forked child's copy of it.
pub(crate) struct Connection {
    login: Login,
    /// The session's process at the server.
    pub(crate) pid: i32,
    /// Of the server: 15.18 is 150018.
    pub(crate) version: u32,
    pub(crate) incarnation: Incarnation,
}

/// A connection that is logged in, and not checked yet.
pub(crate) struct Login {
    live: Kept<OpenClient>,
    /// Which host of the list it leads to.
    pub(crate) address: Address,
    /// Whether the database can hold every character.
    holds_all_characters: bool,
}

struct OpenClient {
    client: Client,
    ended: watch::Sender<Option<StoreError>>,
    cancelled_waits: Arc<AtomicU64>,
    connection: AbortHandle,
}

impl Login {
    pub(crate) fn client(&self) -> &Client {
        &self.live.client
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<StoreError> {
        self.live.ended.borrow().clone()
    }

    pub(crate) fn checked(self, pid: i32, version: u32, incarnation: Incarnation) -> Connection {
        Connection {
            login: self,
            pid,
            version,
            incarnation,
        }
    }
}

impl Connection {
    pub(crate) fn client(&self) -> &Client {
        self.login.client()
    }

    pub(crate) fn address(&self) -> &Address {
        &self.login.address
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<StoreError> {
        self.login.ended()
    }

    /// Whether the database can hold every character; others are refused or changed in it.
    pub(crate) fn holds_all_characters(&self) -> bool {
        self.login.holds_all_characters
    }

    /// Returns when the session has ended.
    pub(crate) fn end(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let mut ended = self.login.live.ended.subscribe();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(error) => error.clone().unwrap_or_else(errors::closed),
                Err(_) => errors::closed(),
            }
        }
    }

    /// How many commits of the session did not wait for a standby to their end. An answer that
    /// is here has been counted.
    pub(crate) fn cancelled_waits(&self) -> u64 {
        self.login.live.cancelled_waits.load(Ordering::SeqCst)
    }

    /// Ends the session; the server then frees what it holds.
    pub(crate) fn close(&self, error: &StoreError) {
        note_end(&self.login.live.ended, error);
        self.login.live.connection.abort();
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn note_end(ended: &watch::Sender<Option<StoreError>>, error: &StoreError) {
    // The first reason is the true one; what follows from it comes later.
    ended.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(error.clone());
        }
        first
    });
}

/// What runs a connection once it is logged in.
pub(crate) struct Driver {
    pub(crate) process: Process,
    pub(crate) address: Address,
    /// None for a session that does not listen.
    pub(crate) listener: Option<Listener>,
    /// Returns when no connection of this backend may live.
    pub(crate) refusal: Pin<Box<dyn Future<Output = StoreError> + Send>>,
}

impl Driver {
    /// Runs the connection in a task of its own.
    pub(crate) fn drive<S, T>(
        self,
        client: Client,
        mut connection: tokio_postgres::Connection<S, T>,
    ) -> Login
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (listener, mut refusal) = (self.listener, self.refusal);
        // In SQL_ASCII nothing is converted.
        let encoding = connection.parameter("server_encoding");
        let holds_all_characters = matches!(encoding, Some("UTF8" | "SQL_ASCII"));
        let ended = watch::Sender::new(None);
        let end = ended.clone();
        let cancelled_waits = Arc::new(AtomicU64::new(0));
        let count = cancelled_waits.clone();
        let task = tokio::spawn(self.process.confine(async move {
            let error = loop {
                let message = tokio::select! {
                    error = &mut refusal => break error,
                    message = poll_fn(|cx| connection.poll_message(cx)) => message,
                };
                match message {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        if let Some(listener) = &listener {
                            listener(&notification);
                        }
                    }
                    Some(Ok(AsyncMessage::Notice(notice)))
                        if notice.routine() == Some(WAIT_FOR_A_STANDBY) =>
                    {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break errors::of_client(error),
                    None => break errors::closed(),
                }
            };
            tracing::debug!(reason = error.message(), "a session has ended");
            // Before the connection, with which the server frees the locks, is dropped.
            note_end(&end, &error);
        }));
        Login {
            live: self.process.keep(OpenClient {
                client,
                ended,
                cancelled_waits,
                connection: task.abort_handle(),
            }),
            address: self.address,
            holds_all_characters,
        }
    }
}
