//! Questions of one statement, by the protocol that needs no prepared statement.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::errors::{self, StoreError};

/// Every name in a question is the server's own: another schema of the role's search path may be
/// one that others can write. The role's time limit is none of the question's, either.
///
/// Only for this question: behind a pooler the session is another client's next.
const TRUSTED: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = 0; ";

/// The rows of the answer, all of it text.
pub(crate) async fn ask(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, StoreError> {
    let answer = client.simple_query(&format!("{TRUSTED}{sql}")).await;
    let answer = answer.map_err(errors::of_client)?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs statements that answer nothing, and in which no name has to be found.
pub(crate) async fn run(client: &Client, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(errors::of_client)
}
