//! Waits for the end of another session, on a session of its own.

use std::sync::Arc;
use std::time::Duration;

use tenure_kit::Tasks;
use tenure_kit::deadline::within;
use tokio_postgres::CancelToken;

use crate::connection::Listener;
use crate::connector::Connector;
use crate::errors::StoreError;
use crate::key::ALIVE;
use crate::question::ask;
use crate::setup::set_up;

/// The lease of the session that waits, from the moment on at which the wait is over.
const WATCHER_LEASE: Duration = Duration::from_secs(10);

/// Returns when the session `pid` is gone.
pub(super) async fn await_end(
    connector: &Arc<Connector>,
    tasks: &Tasks,
    pid: i32,
) -> Result<(), StoreError> {
    let silent: Listener = Arc::new(|_| {});
    let connection = connector.connect(silent).await?;
    // Nothing may end the wait, but a ghost must go: see `set_up` on each of these.
    let config = &connector.config;
    let setting_up = set_up(&connection, config, WATCHER_LEASE, "tenure waits");
    let limit = config.connect_timeout;
    within("the server", limit, "connect_timeout", setting_up).await?;
    let mut waiting = CancelOnDrop {
        token: Some(connection.client().cancel_token()),
        tasks: tasks.clone(),
        connector: connector.clone(),
    };
    let sql = format!("SELECT pg_advisory_lock_shared({ALIVE}, {pid})");
    let ended = ask(connection.client(), &sql).await;
    waiting.token = None;
    ended.map(drop)
}

/// A wait that is dropped would go on at the server until it looks after the connection.
struct CancelOnDrop {
    token: Option<CancelToken>,
    tasks: Tasks,
    connector: Arc<Connector>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let connector = self.connector.clone();
            self.tasks
                .spawn(async move { connector.cancel(token).await });
        }
    }
}
