//! Runs a connection in a task of its own, to its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tenure_core::Process;
use tenure_kit::{Address, Allowance};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification};

use crate::client::SessionClient;
use crate::connection::{Login, OpenClient, note_end};
use crate::errors::{self, StoreError};

/// Where the server says that it waits for no standby any more: its text may be in any language.
const WAIT_FOR_A_STANDBY: &str = "SyncRepWaitForLSN";

/// What is done with each notification.
pub(crate) type Listener = Arc<dyn Fn(&Notification) + Send + Sync>;

/// What runs a connection once it is logged in.
pub(crate) struct Driver {
    pub(crate) process: Process,
    pub(crate) address: Address,
    /// What the server may send before the connection ends.
    pub(crate) allowance: Allowance,
    /// None for a session that does not listen.
    pub(crate) listener: Option<Listener>,
    /// Returns when no connection of this backend may live.
    pub(crate) refusal: Pin<Box<dyn Future<Output = StoreError> + Send>>,
}

impl Driver {
    /// Runs the connection in a task of its own.
    pub(crate) fn drive<S, T>(self, client: Client, mut connection: Connection<S, T>) -> Login
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
        let allowance = self.allowance.clone();
        let task = tokio::spawn(self.process.confine(async move {
            let error = loop {
                let message = tokio::select! {
                    error = &mut refusal => break error,
                    message = poll_fn(|cx| connection.poll_message(cx)) => message,
                };
                match message {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        if let Some(listener) = &listener {
                            // Any number of them may come between two answers.
                            allowance.renew();
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
            let _first = note_end(&end, &error);
        }));
        let live = OpenClient {
            client: SessionClient::new(client, self.allowance),
            ended,
            cancelled_waits,
            connection: task.abort_handle(),
        };
        Login::new(self.process.keep(live), self.address, holds_all_characters)
    }
}
