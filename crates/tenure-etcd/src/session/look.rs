//! Looks at the queues of locks, as many as wait in one transaction.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetResponse, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tenure_kit::Recovery;
use tokio::sync::{mpsc, oneshot};

use crate::connector::Connector;
use crate::errors::{self, StoreError};
use crate::keys;

/// Acquisitions that wait at the same time go in one transaction. Each is a nested transaction of
/// three operations, and a server takes 128 at a time.
const BATCH: usize = 100;

/// What is asked about the queue of a lock.
pub(super) struct Ask {
    pub(super) election: String,
    pub(super) key: String,
    pub(super) lease: i64,
    pub(super) intent: Intent,
    /// The key's value while its candidate waits.
    pub(super) waiting: String,
    /// The key's value while its candidate leads.
    pub(super) leading: String,
    pub(super) answer: oneshot::Sender<Result<Look, StoreError>>,
}

#[derive(Clone, Copy)]
pub(super) enum Intent {
    /// To have the only key there, the leader's.
    Enter,
    /// To have a key there, behind the others.
    Join,
    /// To know whether the key with this create revision is the first. Costs the server no write.
    See(i64),
    /// To make the key with this create revision the leader's, if it is the first. Only once, or a
    /// request that arrives late would undo what is published meanwhile.
    Lead(i64),
}

pub(super) enum Look {
    /// Others have keys there, and we have none.
    Occupied,
    /// The key that should have been there is not.
    Gone,
    /// The key is there, but another program has put it again without our lease.
    Overwritten,
    Queue {
        own: i64,
        first: Option<KeyValue>,
        predecessor: Option<KeyValue>,
        revision: i64,
    },
}

/// Answers asks, as many in one transaction as are waiting, until the session is gone.
pub(super) async fn answer(
    connector: Arc<Connector>,
    limit: Duration,
    mut asks: mpsc::UnboundedReceiver<Ask>,
) {
    while let Some(ask) = asks.recv().await {
        let mut batch = vec![ask];
        while batch.len() < BATCH
            && let Ok(ask) = asks.try_recv()
        {
            batch.push(ask);
        }
        if batch.len() > 1 {
            let outcome = connector
                .call(limit, |mut client| {
                    let nested: Vec<_> = batch.iter().map(|ask| TxnOp::txn(ask.txn())).collect();
                    // Never run, since nothing is compared: etcd checks who may write in the
                    // branches of a transaction, but not in those of one within it.
                    let rights: Vec<_> = batch.iter().filter_map(Ask::right).collect();
                    let batched = Txn::new().and_then(nested).or_else(rights);
                    async move { client.txn(batched).await }
                })
                .await;
            match outcome {
                Ok(answer) => {
                    let revision = revision_of(&answer);
                    for (ask, response) in batch.into_iter().zip(answer.op_responses()) {
                        let TxnOpResponse::Txn(response) = response else {
                            ask.tell(Err(errors::unreadable("a nested transaction")));
                            continue;
                        };
                        let look = ask.read(&response, revision);
                        ask.tell(look);
                    }
                    continue;
                }
                // One of them may be refused what the others are not.
                Err(error) if error.recovery == Recovery::None => {}
                Err(error) => {
                    for ask in batch {
                        ask.tell(Err(error.clone()));
                    }
                    continue;
                }
            }
        }
        for ask in batch {
            let outcome = connector
                .call(limit, |mut client| {
                    let txn = ask.txn();
                    async move { client.txn(txn).await }
                })
                .await;
            let look = outcome.and_then(|answer| ask.read(&answer, revision_of(&answer)));
            ask.tell(look);
        }
    }
}

pub(super) fn revision_of(answer: &TxnResponse) -> i64 {
    answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision)
}

/// What the only read of a transaction has found.
pub(super) fn only_key(answer: &TxnResponse) -> Option<KeyValue> {
    match answer.op_responses().into_iter().next()? {
        TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
        _ => None,
    }
}

impl Ask {
    fn txn(&self) -> Txn {
        let first = TxnOp::get(self.election.clone(), Some(keys::first()));
        let key = TxnOp::get(self.key.clone(), None);
        let before = |own| TxnOp::get(self.election.clone(), Some(keys::before(own)));
        let put = |value: &String| {
            let lease = PutOptions::new().with_lease(self.lease);
            TxnOp::put(self.key.clone(), value.clone(), Some(lease))
        };
        match self.intent {
            Intent::Enter => Txn::new()
                .when([keys::none(&self.election)])
                .and_then([put(&self.leading), key.clone(), first.clone()])
                .or_else([key, first]),
            Intent::Join => Txn::new()
                .when([is(&self.key, 0)])
                .and_then([put(&self.waiting), key.clone(), first.clone()])
                .or_else([key, first]),
            Intent::See(own) => Txn::new()
                .when([is(&self.key, own)])
                .and_then([first, before(own)]),
            Intent::Lead(own) => Txn::new()
                .when([
                    is(&self.key, own),
                    is_unchanged(&self.key, own),
                    Compare::lease(self.key.clone(), CompareOp::Equal, self.lease),
                    keys::none_before(&self.election, own),
                ])
                .and_then([put(&self.leading), first.clone()])
                .or_else([key, first, before(own)]),
        }
    }

    /// What the user must be allowed to do for this.
    fn right(&self) -> Option<TxnOp> {
        match self.intent {
            Intent::Enter | Intent::Join | Intent::Lead(_) => {
                Some(TxnOp::put(&*self.key, "", None))
            }
            Intent::See(_) => None,
        }
    }

    fn read(&self, answer: &TxnResponse, revision: i64) -> Result<Look, StoreError> {
        let mut gets = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get),
                _ => None,
            });
        let mut next = || -> Result<Option<KeyValue>, StoreError> {
            let mut get: GetResponse = gets
                .next()
                .ok_or_else(|| errors::unreadable("the queue of a lock"))?;
            Ok(get.take_kvs().into_iter().next())
        };
        let own = match (self.intent, answer.succeeded()) {
            (Intent::See(own) | Intent::Lead(own), true) => own,
            (Intent::See(_), false) => return Ok(Look::Gone),
            (intent, _) => {
                let found = next()?;
                let own = match intent {
                    Intent::Lead(own) => found.filter(|kv| kv.create_revision() == own),
                    _ => found,
                };
                let Some(own) = own else {
                    return Ok(match intent {
                        Intent::Enter => Look::Occupied,
                        _ => Look::Gone,
                    });
                };
                if own.lease() != self.lease {
                    return Ok(Look::Overwritten);
                }
                own.create_revision()
            }
        };
        let first = next()?;
        let predecessor = match (self.intent, answer.succeeded()) {
            (Intent::See(_), _) | (Intent::Lead(_), false) => next()?,
            _ => None,
        };
        Ok(Look::Queue {
            own,
            first,
            predecessor,
            revision,
        })
    }

    fn tell(self, look: Result<Look, StoreError>) {
        // The caller may be gone with the runtime.
        let _unheard = self.answer.send(look);
    }
}

/// The key was written last by this revision; by that which created it, if it was not changed.
pub(super) fn is_unchanged(key: &str, written: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, written)
}

/// The key stands there with this create revision; with 0, it does not.
pub(super) fn is(key: &str, revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}
