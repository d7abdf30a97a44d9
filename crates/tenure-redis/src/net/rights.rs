//! What the user of a connection may do, as far as it has turned out.

use std::sync::atomic::{AtomicBool, Ordering};

use tenure_kit::Address;

use crate::errors;

/// The rights on one connection.
#[derive(Debug)]
pub(crate) struct Rights {
    server: Address,
    /// The keys and channels that the user must be allowed.
    patterns: String,
    reads_whole: AtomicBool,
}

impl Rights {
    pub(super) fn new(server: Address, patterns: String) -> Self {
        Self {
            server,
            patterns,
            reads_whole: AtomicBool::new(false),
        }
    }

    pub(super) fn server(&self) -> &Address {
        &self.server
    }

    pub(super) fn patterns(&self) -> &str {
        &self.patterns
    }

    /// Whether the user has turned out to have no right to read a part of a value.
    pub(crate) fn reads_whole(&self) -> bool {
        self.reads_whole.load(Ordering::Relaxed)
    }

    /// From now on values are read as a whole.
    pub(crate) fn read_whole(&self) {
        if !self.reads_whole.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                server = %self.server,
                grant = errors::acl_line(&self.patterns),
                "this user may not run GETRANGE, so values are read as a whole: a huge one under a \
                 lock's name would block the server with each call"
            );
        }
    }
}
