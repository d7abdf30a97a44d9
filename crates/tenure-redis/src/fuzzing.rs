//! Doors for the fuzz targets of this repository. No part of the interface: anything here may change.

use std::time::Duration;

use redis::{RedisError, Value};
use tenure_core::Holder;
use tenure_kit::Address;

use crate::checks::replicas;
use crate::errors;
use crate::requests::fuzzing as requests;
use crate::topology::fuzzing as topology;
use crate::value;

/// The value of a lock's key: the lease that it names, and who holds the lock.
pub fn lock_value(value: &str, left: Duration) -> (Option<Duration>, Option<Holder>) {
    let holder = value::holder(value, left).or_else(|| value::other_program(value, left));
    (value::lease_in(value), holder)
}

/// The bytes of an answer, taken for the answer to each question that is asked. How many of them it
/// answers.
pub fn answer(bytes: &[u8]) -> usize {
    let address = Address::new("server", 6379);
    let answer = match redis::parse_redis_value(bytes).and_then(Value::extract_error) {
        Ok(answer) => answer,
        Err(error) => {
            refused(&address, error);
            return 0;
        }
    };
    let reports = replicas::reports(&answer, 1_700_000_000);
    topology::answers(&answer, &address)
        + reports.since(&reports).min(1)
        + usize::from(requests::is_outcome(answer))
}

fn refused(address: &Address, error: RedisError) {
    let error = errors::answered(address, "~tenure:*", error);
    let quoted = errors::quoted(&error).unwrap_or_default();
    assert!(
        error.message().contains(quoted),
        "it says something else: {error:?}"
    );
    assert!(
        !error.message().contains(char::is_control),
        "a terminal would obey: {error:?}"
    );
}
