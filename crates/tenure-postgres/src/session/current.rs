//! The connection that a session uses now.

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use tokio::sync::watch;

use super::statements::Statements;
use crate::connection::ended;
use crate::errors::StoreError;

/// Where the end of a connection is noted.
type NotedEnd = watch::Receiver<Option<StoreError>>;

/// The statements of a session on its connection, and on the next one after a move.
pub(super) struct Current {
    statements: RwLock<Arc<Statements>>,
    /// Changes before a connection is left, so that this is not taken for the session's end.
    ends: watch::Sender<NotedEnd>,
}

impl Current {
    pub(super) fn new(statements: Statements) -> Self {
        Self {
            ends: watch::Sender::new(statements.connection.noted_end()),
            statements: RwLock::new(Arc::new(statements)),
        }
    }

    pub(super) fn get(&self) -> Arc<Statements> {
        let statements = self.statements.read();
        statements.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `note` while the session uses these statements; not if it has moved since.
    pub(super) fn while_it_is<T>(
        &self,
        statements: &Arc<Statements>,
        note: impl FnOnce() -> T,
    ) -> Option<T> {
        let current = self.statements.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        Arc::ptr_eq(&current, statements).then(note)
    }

    /// Goes on with `fresh`, and closes the connection before, if `may` says so while nothing can
    /// be noted. False if the session stays, or if that connection had ended before: then the
    /// session has ended.
    pub(super) fn replace(
        &self,
        fresh: &Arc<Statements>,
        why: &StoreError,
        may: impl FnOnce() -> bool,
    ) -> bool {
        let mut current = self.write();
        if !may() {
            return false;
        }
        let left = std::mem::replace(&mut *current, fresh.clone());
        self.ends.send_replace(fresh.connection.noted_end());
        let was_alive = left.connection.leave(why);
        if !was_alive {
            // Perhaps its end was told already, and its terms are over.
            fresh.connection.close(why);
        }
        was_alive
    }

    fn write(&self) -> RwLockWriteGuard<'_, Arc<Statements>> {
        let current = self.statements.write();
        current.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a connection has ended that was not left for another one.
    pub(super) fn end(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let mut ends = self.ends.subscribe();
        async move {
            loop {
                let noted = ends.borrow_and_update().clone();
                let error = ended(noted).await;
                if !ends.has_changed().unwrap_or(false) {
                    return error;
                }
            }
        }
    }
}
