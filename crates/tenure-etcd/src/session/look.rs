//! Looks at the queues of locks, as many as wait in one transaction.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetResponse, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::sync::{mpsc, oneshot};

use crate::errors::{Cause, Trouble};
use crate::keys;
use crate::link::Links;

/// Acquisitions that wait at the same time go in one transaction. Each is a nested transaction of
/// three operations, and a server takes 128 at a time.
const BATCH: usize = 100;

/// A look at the queue of a lock, with or without entering it.
pub(super) struct Ask {
    pub(super) election: String,
    pub(super) key: String,
    pub(super) lease: i64,
    /// The create revision of the key, if it is there; otherwise it is put with this value.
    pub(super) place: Result<i64, String>,
    pub(super) answer: oneshot::Sender<Result<Look, Trouble>>,
}

pub(super) enum Look {
    /// The key that should have been there is not.
    Gone,
    Queue {
        own: i64,
        /// Somebody has put the key anew, without our lease.
        foreign: bool,
        entered: bool,
        first: Option<KeyValue>,
        predecessor: Option<KeyValue>,
        revision: i64,
    },
}

/// Answers asks, as many in one transaction as are waiting, until the session is gone.
pub(super) async fn answer(
    links: Arc<Links>,
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
            let outcome = links
                .call(limit, |mut client| {
                    let nested: Vec<_> = batch.iter().map(|ask| TxnOp::txn(ask.txn())).collect();
                    async move { client.txn(Txn::new().and_then(nested)).await }
                })
                .await;
            match outcome {
                Ok(answer) => {
                    let revision = revision_of(&answer);
                    for (ask, response) in batch.into_iter().zip(answer.op_responses()) {
                        let TxnOpResponse::Txn(response) = response else {
                            ask.tell(Err(Trouble::unreadable("a nested transaction")));
                            continue;
                        };
                        let look = ask.read(&response, revision);
                        ask.tell(look);
                    }
                    continue;
                }
                // One of them may be refused what the others are not.
                Err(trouble) if trouble.cause == Cause::Answer => {}
                Err(trouble) => {
                    for ask in batch {
                        ask.tell(Err(trouble.clone()));
                    }
                    continue;
                }
            }
        }
        for ask in batch {
            let outcome = links
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

fn revision_of(answer: &TxnResponse) -> i64 {
    answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision)
}

impl Ask {
    /// Reads only, when the key is known to be there: such a transaction costs the server no
    /// write.
    fn txn(&self) -> Txn {
        let first = TxnOp::get(self.election.clone(), Some(keys::first()));
        match &self.place {
            Ok(own) => Txn::new().when([is(&self.key, *own)]).and_then([
                first,
                TxnOp::get(self.election.clone(), Some(keys::before(*own))),
            ]),
            Err(proposal) => {
                let lease = PutOptions::new().with_lease(self.lease);
                Txn::new()
                    .when([is(&self.key, 0)])
                    .and_then([
                        TxnOp::put(self.key.clone(), proposal.clone(), Some(lease)),
                        TxnOp::get(self.key.clone(), None),
                        first.clone(),
                    ])
                    .or_else([TxnOp::get(self.key.clone(), None), first])
            }
        }
    }

    fn read(&self, answer: &TxnResponse, revision: i64) -> Result<Look, Trouble> {
        let mut gets = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get),
                _ => None,
            });
        let mut next = || -> Result<Option<KeyValue>, Trouble> {
            let mut get: GetResponse = gets
                .next()
                .ok_or_else(|| Trouble::unreadable("the queue of a lock"))?;
            Ok(get.take_kvs().into_iter().next())
        };
        match &self.place {
            Ok(_) if !answer.succeeded() => Ok(Look::Gone),
            Ok(own) => Ok(Look::Queue {
                own: *own,
                foreign: false,
                entered: false,
                first: next()?,
                predecessor: next()?,
                revision,
            }),
            Err(_) => {
                let own = next()?.ok_or_else(|| Trouble::unreadable("a candidate's own key"))?;
                Ok(Look::Queue {
                    own: own.create_revision(),
                    foreign: own.lease() != self.lease,
                    entered: answer.succeeded(),
                    first: next()?,
                    predecessor: None,
                    revision,
                })
            }
        }
    }

    fn tell(self, look: Result<Look, Trouble>) {
        // Whoever asked may be gone with the runtime.
        let _unheard = self.answer.send(look);
    }
}

/// The key stands there with this create revision; with 0, it does not.
pub(super) fn is(key: &str, revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}
