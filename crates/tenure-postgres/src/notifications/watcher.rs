//! Waits for the end of another session, on a session of its own.

use std::sync::Arc;
use std::time::Duration;

use tenure_kit::deadline::within;
use tenure_kit::{Address, Recovery, Tasks};
use tokio_postgres::CancelToken;

use crate::connector::Connector;
use crate::errors::{Answer, StoreError};
use crate::key::ALIVE;
use crate::question::{ask, run};
use crate::setup::set_up;

/// The lease of the session that waits, from the moment on at which the wait is over.
const WATCHER_LEASE: Duration = Duration::from_secs(10);

/// How long one wait takes at most. Its statement has a snapshot, and as long as that lives VACUUM
/// removes no row of the database that was deleted since.
pub(super) const ONE_WAIT: Duration = Duration::from_secs(30);

/// Returns when the session `pid` is gone. A wait ends after `one_wait`, and the next begins: no
/// waiter is woken, and the lock tells the next wait of an end that came between the two.
pub(super) async fn await_end(
    connector: &Arc<Connector>,
    tasks: &Tasks,
    pid: i32,
    one_wait: Duration,
) -> Result<(), StoreError> {
    let connection = connector.connect().await?;
    // Nothing may end the wait, but a ghost must go: see `set_up` on each of these.
    let config = &connector.config;
    let setting_up = set_up(&connection, config, WATCHER_LEASE, "tenure waits");
    let limit = config.connect_timeout;
    within("the server", limit, "connect_timeout", setting_up).await?;
    let longest = format!("SET lock_timeout = {}", one_wait.as_millis());
    run(connection.client(), &longest).await?;
    let mut waiting = CancelOnDrop {
        token: Some(connection.client().cancel_token()),
        address: connection.address().clone(),
        tasks: tasks.clone(),
        connector: connector.clone(),
    };
    let mut may_catch = true;
    let outcome = loop {
        let statement = if may_catch { caught(pid) } else { plain(pid) };
        // The server ends the wait, and says so soon after.
        let wait = ask(connection.client(), &statement);
        match within("the server", one_wait + 2 * limit, "connect_timeout", wait).await {
            Ok(rows) if rows.last().and_then(|row| row.get(0)) == Some("t") => break Ok(()),
            Ok(_) => {}
            Err(error) if error.recovery == Recovery::Store(Answer::WaitedInVain) => {}
            Err(error) if may_catch && error.recovery == Recovery::Store(Answer::Omitted) => {
                may_catch = false;
            }
            Err(error) => break Err(error),
        }
    };
    waiting.token = None;
    outcome
}

/// Waits, and says whether the session is gone. The end of a wait is caught, so that the server
/// does not log it as an error.
fn caught(pid: i32) -> String {
    format!(
        "DO 'BEGIN PERFORM pg_advisory_lock_shared({ALIVE}, {pid}); \
         EXCEPTION WHEN lock_not_available THEN NULL; END'; \
         SELECT pg_try_advisory_lock_shared({ALIVE}, {pid})"
    )
}

/// The same where the role may not use PL/pgSQL.
fn plain(pid: i32) -> String {
    format!("SELECT pg_advisory_lock_shared({ALIVE}, {pid}) IS NOT NULL")
}

/// A wait that is dropped would go on at the server until it looks after the connection.
struct CancelOnDrop {
    token: Option<CancelToken>,
    address: Address,
    tasks: Tasks,
    connector: Arc<Connector>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let (connector, address) = (self.connector.clone(), self.address.clone());
            self.tasks
                .spawn(async move { connector.cancel(&address, token).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use tenure_testkit::postgres::{start, until};

    use super::*;
    use crate::config::PostgresConfig;

    /// On the way to the end of another session, with and without PL/pgSQL.
    #[tokio::test]
    async fn a_wait_that_ends_is_begun_again_and_hears_the_end() {
        let Some(server) = start(&[]) else { return };
        let admin = server.admin().await;
        for revoke in ["SELECT 1", "DROP EXTENSION plpgsql"] {
            admin.batch_execute(revoke).await.unwrap();
            let holder = server.admin().await;
            let row = holder.query_one("SELECT pg_backend_pid()", &[]).await;
            let pid: i32 = row.unwrap().get(0);
            let hold = format!("SELECT pg_advisory_lock({ALIVE}, {pid})");
            holder.batch_execute(&hold).await.unwrap();
            let tasks = Tasks::here().unwrap();
            let config = PostgresConfig::from_url(&server.url()).unwrap();
            let config = Arc::new(config.connect_timeout(Duration::from_secs(20)));
            let connector = Arc::new(Connector::new(config, tasks.process().clone()));
            let one_wait = Duration::from_millis(200);
            let waiting =
                tokio::spawn(async move { await_end(&connector, &tasks, pid, one_wait).await });
            let began = "SELECT coalesce(max(xact_start)::text, '') FROM pg_stat_activity \
                         WHERE application_name = 'tenure waits' AND wait_event_type = 'Lock'";
            let mut last = String::new();
            for _ in 0..3 {
                let next = format!("SELECT ({began}) NOT IN ('', '{last}')");
                until(&admin, &next).await;
                let row = admin.query_one(began, &[]).await.unwrap();
                last = row.get(0);
            }
            assert!(!waiting.is_finished());
            drop(holder);
            let heard = tokio::time::timeout(tenure_testkit::LIMIT, waiting).await;
            heard.unwrap().unwrap().unwrap();
            if revoke == "SELECT 1" {
                assert!(!server.log().contains("ERROR"), "{}", server.log());
            }
        }
    }
}
