//! Notifications of Postgres.

use tenure_postgres::fuzzing;

use crate::{inputs, plant};

/// A notification's text.
pub(crate) fn notification(input: &[u8]) {
    let Some(holder) = inputs::text(input).and_then(fuzzing::notification) else {
        return;
    };
    let token = holder.token.map(tenure_core::FencingToken::as_u64);
    plant::at(token.is_some(), &holder.value.unwrap_or_default());
}
