//! Which elections there are.

use std::sync::Arc;

use etcd_client::{GetOptions, SortOrder, SortTarget};
use tenure_core::{ErrorKind, LockName};

use crate::connector::Connector;
use crate::errors::StoreError;
use crate::keys;

/// How many keys one request reads.
const AT_A_TIME: i64 = 100;

/// How many requests are made at most.
const MOST_REQUESTS: usize = 1_000;

/// The locks whose names begin with `prefix`. The rest of a lock's keys is skipped, however many
/// candidates wait.
pub(crate) async fn list(
    connector: &Arc<Connector>,
    prefix: &str,
) -> Result<Vec<LockName>, StoreError> {
    let config = &connector.config;
    let mut from = format!("{}{prefix}", config.prefix).into_bytes();
    let end = end_of(&from);
    if from.is_empty() {
        // The first key there can be: no key is empty.
        from.push(0);
    }
    let mut names: Vec<LockName> = Vec::new();
    for _ in 0..MOST_REQUESTS {
        let reading = connector.call(config.request_timeout, |mut client| {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_sort(SortTarget::Key, SortOrder::Ascend)
                .with_limit(AT_A_TIME)
                .with_keys_only();
            let from = from.clone();
            async move { client.get(from, Some(options)).await }
        });
        let mut answer = reading.await?;
        let keys = answer.take_kvs();
        for key in &keys {
            let lock = keys::election_of(key.key()).and_then(|election| config.lock_of(election));
            // Those of one election follow each other.
            names.extend(lock.filter(|lock| names.last() != Some(lock)));
        }
        match keys.last() {
            Some(last) if answer.more() => from = next_election(last.key()),
            _ => return Ok(names),
        }
    }
    Err(StoreError::new(
        ErrorKind::Unsupported,
        "there are too many keys below the prefix; name more of it",
    ))
}

/// The first key after those of the election to which this one belongs.
fn next_election(key: &[u8]) -> Vec<u8> {
    match key.iter().rposition(|byte| *byte == b'/') {
        Some(at) => end_of(&key[..=at]),
        None => [key, b"\0"].concat(),
    }
}

/// The first key after all that begin so.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // All keys there are.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_to_the_next_election() {
        assert_eq!(next_election(b"/t/job/1a2b"), b"/t/job0");
        assert_eq!(end_of(b"/t/"), b"/t0");
        assert_eq!(end_of(b"\xff"), vec![0]);
    }
}
