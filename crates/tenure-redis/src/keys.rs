//! The names of a lock's keys and of its channel.

use tenure_core::LockName;

/// All begin with the name of the lock's key. The braces put both keys into one slot of a cluster.
#[derive(Debug)]
pub(crate) struct LockKeys {
    lock: String,
}

impl LockKeys {
    pub(crate) fn new(prefix: &str, lock: &LockName) -> Self {
        Self {
            lock: format!("{prefix}:{{{lock}}}"),
        }
    }

    /// The key that holds the lock's value while it is held.
    pub(crate) fn lock(&self) -> &str {
        &self.lock
    }

    /// The key of its fence.
    pub(crate) fn fence(&self) -> String {
        format!("{}:fence", self.lock)
    }

    /// The key of the number of failovers that the last term knew of, where there are sentinels.
    pub(crate) fn failovers(&self) -> String {
        format!("{}:failovers", self.lock)
    }

    /// The channel on which its releases are told.
    pub(crate) fn channel(&self) -> String {
        format!("{}:released", self.lock)
    }
}
