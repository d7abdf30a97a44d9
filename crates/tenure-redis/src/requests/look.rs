//! Sees who holds a lock.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Value, cmd};
use tenure_core::{ErrorKind, Holder};

use super::script::{LAST_BYTE, may_be_about_reading, millis_from};
use crate::errors::{self, StoreError};
use crate::keys::KeyNames;
use crate::topology::lock_server::{LockServer, Request};
use crate::value::{holder, other_program};

/// Who holds the lock; `None` when it is free. Needs no right to write or to run scripts.
///
/// What is absent on a replica is not free: a master that was demoted under an open connection
/// may have thrown its data away. Who may not ask for its role has to believe it.
pub(crate) struct Look<'a> {
    pub(crate) keys: &'a KeyNames,
}

#[async_trait]
impl Request for Look<'_> {
    type Answer = Option<Holder>;

    async fn send(&self, server: &LockServer) -> Result<Self::Answer, StoreError> {
        let key = self.keys.lock();
        let value = read(server, key).await?;
        match server.query(cmd("PTTL").arg(key)).await? {
            // There is no such key.
            Value::Int(-2) => match server.connection.refuse_replica().await {
                Err(error) if error.kind != ErrorKind::Forbidden => Err(error),
                _ => Ok(None),
            },
            Value::Int(-1) => {
                let without_expiry = holder(&value, Duration::ZERO).map(|mut holder| {
                    holder.expires_in = None;
                    holder
                });
                without_expiry.map(Some).ok_or_else(|| {
                    errors::corrupted(key, "holds something that this library has not written")
                })
            }
            Value::Int(left) => {
                let left = millis_from(left);
                Ok(holder(&value, left).or_else(|| other_program(&value, left)))
            }
            _ => Err(errors::unreadable("PTTL")),
        }
    }
}

/// The beginning of a value, or all of it where the user may not read a part; empty if there is
/// none.
pub(crate) async fn read(server: &LockServer, key: &str) -> Result<String, StoreError> {
    let rights = server.connection.rights();
    if !rights.reads_whole() {
        let mut part = cmd("GETRANGE");
        match server.query(part.arg(key).arg(0).arg(LAST_BYTE)).await {
            Err(error) if may_be_about_reading(&error) => {}
            answer => return text_of(answer?, "GETRANGE"),
        }
    }
    let value = text_of(server.query(cmd("GET").arg(key)).await?, "GET")?;
    rights.read_whole();
    Ok(value)
}

fn text_of(answer: Value, command: &str) -> Result<String, StoreError> {
    match answer {
        Value::Nil => Ok(String::new()),
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Err(errors::unreadable(command)),
    }
}
