//! Asks a leader to resign.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tenure_core::{ErrorKind, FencingToken};

use crate::connector::Connector;
use crate::errors::StoreError;
use crate::keys;

/// How often another write between the read and ours is met.
const ATTEMPTS: usize = 3;

/// Appends the wish to the value of the leader's key, if that is of the term with `token`. The key
/// keeps its lease, so the wish goes with the term. The leader's heartbeat reads that value in any
/// case.
pub(crate) async fn ask(
    connector: &Arc<Connector>,
    election: &str,
    token: FencingToken,
    lasts: Duration,
) -> Result<(), StoreError> {
    let limit = connector.config.request_timeout;
    for _ in 0..ATTEMPTS {
        let reading = connector.call(limit, |mut client| {
            let election = election.to_owned();
            async move { client.get(election, Some(keys::first())).await }
        });
        let first = reading.await?.take_kvs().into_iter().next();
        let leads = |kv: &etcd_client::KeyValue| {
            kv.lease() != 0 && kv.create_revision() == keys::revision(token)
        };
        let Some(first) = first.filter(leads) else {
            return Ok(());
        };
        let key = first.key().to_vec();
        if std::str::from_utf8(first.value()).is_err() {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                "another program leads, and the value of its key is no text: it cannot be asked",
            ));
        }
        let asked = keys::with_wish(first.value(), lasts);
        let written = first.mod_revision();
        let writing = connector.call(limit, |mut client| {
            let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, written);
            let keeps_lease = PutOptions::new().with_ignore_lease();
            let put = TxnOp::put(key.clone(), asked.clone(), Some(keeps_lease));
            let txn = Txn::new().when([unchanged]).and_then([put]);
            async move { client.txn(txn).await }
        });
        if writing.await?.succeeded() {
            return Ok(());
        }
    }
    Err(StoreError::new(
        ErrorKind::Conflict,
        format!("others changed the leader's key {ATTEMPTS} times in a row"),
    ))
}
