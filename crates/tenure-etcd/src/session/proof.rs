//! What proves a lease.

use std::sync::Arc;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tenure_core::Time;

use crate::connection::Connection;

/// When a lease and its keys were proven last.
pub(super) struct Proof {
    /// The last acknowledged keepalive was sent then.
    pub(super) lease: Time,
    /// The last keepalive after which the keys were looked at.
    pub(super) keys: Time,
}

impl Proof {
    pub(super) fn new(sent: Time) -> Self {
        Self {
            lease: sent,
            keys: sent,
        }
    }
}

/// The stream on which a lease is kept alive.
pub(super) struct KeepAlive {
    pub(super) connection: Arc<Connection>,
    pub(super) sender: LeaseKeeper,
    pub(super) answers: LeaseKeepAliveStream,
}
