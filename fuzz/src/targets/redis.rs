//! Values and answers of Redis.

use std::time::Duration;

use tenure_core::record::MAX_LEASE;
use tenure_redis::fuzzing;

use crate::{inputs, plant, rules};

/// What is left of a key's life, and its value.
pub(crate) fn value(input: &[u8]) {
    let Some((left, value)) = inputs::number(input) else {
        return;
    };
    let value = String::from_utf8_lossy(value);
    let (lease, holder) = fuzzing::lock_value(&value, Duration::from_millis(left));
    assert!(lease.is_none_or(|lease| lease <= MAX_LEASE && !lease.is_zero()));
    if let Some(holder) = holder {
        rules::holder(&holder);
        let token = holder.token.map(tenure_core::FencingToken::as_u64);
        plant::at(token.is_some() && lease.is_some(), &holder.identity);
    }
}

/// The bytes of an answer.
pub(crate) fn answer(input: &[u8]) {
    if nested(input) {
        return;
    }
    let answered = fuzzing::answer(input);
    plant::at(answered >= 2, &String::from_utf8_lossy(input));
}

/// Lists that lie deep in each other are the client library's to bound.
fn nested(input: &[u8]) -> bool {
    let opening = |byte: &&u8| b"*%~>|".contains(byte);
    input.iter().filter(opening).count() > 64
}
