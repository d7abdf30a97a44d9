//! Questions of one statement, by the protocol that needs no prepared statement.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::errors::{self, StoreError};

/// The rows of the answer, all of it text.
pub(crate) async fn ask(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, StoreError> {
    let answer = client.simple_query(sql).await;
    let answer = answer.map_err(errors::of_client)?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs statements that answer nothing.
pub(crate) async fn run(client: &Client, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(errors::of_client)
}
