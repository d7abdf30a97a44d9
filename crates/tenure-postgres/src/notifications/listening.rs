//! The session that hears what other sessions say: one for a backend.
//!
//! Any role of the database can say anything there, and as much as it likes. So nothing else goes
//! by this session: no heartbeat waits behind it.

use std::sync::Arc;
use std::time::Duration;

use tenure_kit::deadline::within;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Backoff, Tasks};
use tokio::sync::watch;

use super::message::CHANNEL;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::driver::Listener;
use crate::errors::StoreError;
use crate::question::run;
use crate::setup::set_up;

/// The server ends the session of a process that has been silent for so long: one that is frozen
/// would keep everything that is said in the server's queue.
const SILENCE: Duration = Duration::from_secs(60);

/// How often the session shows that its process lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Within this time after its end, or after a failure, another one is opened: at random, because a
/// server that restarts ends the sessions of all processes at once.
const AGAIN: Duration = Duration::from_secs(1);

/// Told when a session listens (true), and when none does any more.
pub(super) type Told = Box<dyn Fn(bool) + Send + Sync>;

/// Listens as long as it lives.
pub(super) struct Listening {
    /// Whether the first session listens, or could not be opened.
    tried: watch::Receiver<bool>,
    _task: AbortOnDrop,
}

impl Listening {
    pub(super) fn start(
        told: Told,
        connector: Arc<Connector>,
        tasks: &Tasks,
        listener: Listener,
    ) -> Self {
        let (trying, tried) = watch::channel(false);
        let task = tasks.spawn(listen(told, connector, listener, trying));
        Self {
            tried,
            _task: AbortOnDrop::new(task.abort_handle()),
        }
    }

    /// Whether the first session listens, or could not be opened.
    pub(super) fn tried(&self) -> watch::Receiver<bool> {
        self.tried.clone()
    }
}

async fn listen(
    told: Told,
    connector: Arc<Connector>,
    listener: Listener,
    trying: watch::Sender<bool>,
) {
    let mut backoff = Backoff::new(AGAIN, AGAIN);
    loop {
        let opened = open(&connector, listener.clone()).await;
        let was_heard = opened.is_ok();
        if was_heard {
            told(true);
        }
        trying.send_replace(true);
        let error = match opened {
            Ok(connection) => stay(&connection, connector.config.connect_timeout).await,
            Err(error) => error,
        };
        // The candidates look once per heartbeat meanwhile.
        tracing::debug!(reason = error.message(), "no notifications are heard");
        told(false);
        let wait = if was_heard {
            backoff.restart()
        } else {
            backoff.next(None)
        };
        tokio::time::sleep(wait).await;
    }
}

async fn open(connector: &Connector, listener: Listener) -> Result<Connection, StoreError> {
    let connection = connector.connect_to_listen(listener).await?;
    let preparing = async {
        set_up(&connection, &connector.config, SILENCE, "tenure listens").await?;
        run(connection.client(), &format!("LISTEN {CHANNEL}")).await
    };
    let limit = connector.config.connect_timeout;
    within("the server", limit, "connect_timeout", preparing).await?;
    Ok(connection)
}

/// Until the session ends, or does not answer within `limit`.
async fn stay(connection: &Connection, limit: Duration) -> StoreError {
    let mut end = std::pin::pin!(connection.end());
    loop {
        tokio::select! {
            error = &mut end => return error,
            () = tokio::time::sleep(SIGN_OF_LIFE) => {}
        }
        let sign = run(connection.client(), "");
        if let Err(error) = within("the server", limit, "connect_timeout", sign).await {
            return error;
        }
    }
}
