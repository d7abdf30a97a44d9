//! Sees who holds a lock.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Value, cmd};
use tenure_core::{ErrorKind, Holder};

use super::script::millis_from;
use crate::errors::{self, StoreError};
use crate::keys::LockKeys;
use crate::topology::lock_server::{LockServer, Request};
use crate::value::holder;

/// Who holds the lock; `None` when it is free. Needs no right to write or to run scripts.
///
/// What is absent on a replica is not free: a master that was demoted under an open connection
/// may have thrown its data away. Who may not ask for its role has to believe it.
pub(crate) struct Look<'a> {
    pub(crate) keys: &'a LockKeys,
}

#[async_trait]
impl Request for Look<'_> {
    type Answer = Option<Holder>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let key = self.keys.lock();
        let value = match server.query(cmd("GET").arg(key)).await? {
            Value::Nil => {
                return match server.connection.refuse_replica().await {
                    Err(error) if error.kind != ErrorKind::Forbidden => Err(error),
                    _ => Ok(None),
                };
            }
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => return Err(errors::unreadable("GET")),
        };
        match server.query(cmd("PTTL").arg(key)).await? {
            // It has expired between the two.
            Value::Int(-2) => Ok(None),
            Value::Int(-1) => {
                let without_expiry = holder(&value, Duration::ZERO).map(|mut holder| {
                    holder.expires_in = None;
                    holder
                });
                without_expiry.map(Some).ok_or_else(|| {
                    errors::corrupted(key, "holds something that this library has not written")
                })
            }
            Value::Int(left) => Ok(holder(&value, millis_from(left))),
            _ => Err(errors::unreadable("PTTL")),
        }
    }
}
