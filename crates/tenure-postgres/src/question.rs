//! Questions of one statement, by the protocol that needs no prepared statement.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::client::SessionClient;
use crate::errors::{self, StoreError};

/// Every name in a question is the server's own: another schema of the role's search path may be
/// one that others can write. The role's time limit is none of the question's, either.
///
/// Only for this question: behind a pooler the session is another client's next.
const TRUSTED: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = 0; ";

/// The rows of the answer, all of it text.
pub(crate) async fn ask(
    client: &SessionClient,
    sql: &str,
) -> Result<Vec<SimpleQueryRow>, StoreError> {
    let sql = format!("{TRUSTED}{sql}");
    let answer = client.answer(client.simple_query(&sql)).await;
    let answer = answer.map_err(errors::of_client)?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs statements that answer nothing, and in which no name has to be found.
pub(crate) async fn run(client: &SessionClient, sql: &str) -> Result<(), StoreError> {
    let answer = client.answer(client.batch_execute(sql)).await;
    answer.map_err(errors::of_client)
}
