//! The fence that etcd itself puts up: a transaction that is committed only while a term goes on.

use std::fmt;

use etcd_client::{Compare, CompareOp, Txn};

/// A condition for an application's own transactions on the same cluster.
///
/// It holds as long as the term's key stands with the revision that began it. So a transaction
/// that compares it is either committed while the term goes on, or not at all, however long the
/// process was paused between the check and the write; no clock is involved. The example
/// `paused_leader` shows it.
///
/// ```no_run
/// # use tenure_etcd::{EtcdBackend, etcd_client::{Client, TxnOp}};
/// # use tenure_core::{FencingToken, LockName};
/// # async fn f(backend: EtcdBackend, mut client: Client, lock: LockName, token: FencingToken)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let guard = backend.guard(&lock, token)?;
/// let write = guard.txn().and_then([TxnOp::put("balance", "17", None)]);
/// if !client.txn(write).await?.succeeded() {
///     // The term is over; another candidate may lead.
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Guard {
    key: String,
    revision: i64,
}

impl Guard {
    pub(crate) fn new(key: String, revision: i64) -> Self {
        Self { key, revision }
    }

    /// What a transaction compares, for one that compares more than this.
    pub fn compares(&self) -> Vec<Compare> {
        vec![Compare::create_revision(
            self.key.clone(),
            CompareOp::Equal,
            self.revision,
        )]
    }

    /// A transaction that compares this and nothing else; add what it does with `and_then`.
    pub fn txn(&self) -> Txn {
        Txn::new().when(self.compares())
    }

    /// The leader's key, for clients in other languages.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key's create revision during the term.
    pub fn create_revision(&self) -> i64 {
        self.revision
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.key)
            .field("create_revision", &self.revision)
            .finish()
    }
}
