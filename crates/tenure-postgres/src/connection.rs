//! One connection to a server. Its end is the end of everything that its session holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tenure_core::Kept;
use tenure_kit::Address;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::client::SessionClient;
use crate::errors::{self, StoreError};
use crate::incarnation::Incarnation;

/// A connection to a server that was checked. Ends with this value, but not with a forked child's
/// copy of it.
pub(crate) struct Connection {
    login: Login,
    /// The session's process at the server.
    pub(crate) pid: i32,
    /// Of the server: 15.18 is 150018.
    pub(crate) version: u32,
    pub(crate) incarnation: Incarnation,
    /// Where it is only looked at. A standby does not show the locks of its primary.
    pub(crate) is_standby: bool,
    /// Why no election can be held there, where it is only looked at.
    pub(crate) unfit: Option<StoreError>,
}

/// What a check has found out about a server.
pub(crate) struct Checked {
    pub(crate) pid: i32,
    pub(crate) version: u32,
    pub(crate) incarnation: Incarnation,
    pub(crate) is_standby: bool,
    pub(crate) unfit: Option<StoreError>,
}

/// A connection that is logged in, and not checked yet.
pub(crate) struct Login {
    live: Kept<OpenClient>,
    /// Which host of the list it leads to.
    pub(crate) address: Address,
    /// Whether the database can hold every character.
    holds_all_characters: bool,
}

/// What ends with a connection, or ends it.
pub(crate) struct OpenClient {
    pub(crate) client: SessionClient,
    pub(crate) ended: watch::Sender<Option<StoreError>>,
    pub(crate) cancelled_waits: Arc<AtomicU64>,
    pub(crate) connection: AbortHandle,
}

impl Login {
    pub(crate) fn new(
        live: Kept<OpenClient>,
        address: Address,
        holds_all_characters: bool,
    ) -> Self {
        Self {
            live,
            address,
            holds_all_characters,
        }
    }

    pub(crate) fn client(&self) -> &SessionClient {
        &self.live.client
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<StoreError> {
        self.live.ended.borrow().clone()
    }

    pub(crate) fn checked(self, checked: Checked) -> Connection {
        Connection {
            login: self,
            pid: checked.pid,
            version: checked.version,
            incarnation: checked.incarnation,
            is_standby: checked.is_standby,
            unfit: checked.unfit,
        }
    }
}

impl Connection {
    pub(crate) fn client(&self) -> &SessionClient {
        self.login.client()
    }

    pub(crate) fn address(&self) -> &Address {
        &self.login.address
    }

    /// Why the session has ended, if it has.
    pub(crate) fn ended(&self) -> Option<StoreError> {
        self.login.ended()
    }

    /// Whether the database can hold every character; others are refused or changed in it.
    pub(crate) fn holds_all_characters(&self) -> bool {
        self.login.holds_all_characters
    }

    /// Returns when the session has ended.
    pub(crate) fn end(&self) -> impl Future<Output = StoreError> + Send + use<> {
        ended(self.noted_end())
    }

    /// How many commits of the session did not wait for a standby to their end. An answer that
    /// is here has been counted.
    pub(crate) fn cancelled_waits(&self) -> u64 {
        self.login.live.cancelled_waits.load(Ordering::SeqCst)
    }

    /// Ends the session; the server then frees what it holds.
    pub(crate) fn close(&self, error: &StoreError) {
        let _first = self.leave(error);
    }

    /// The same; whether it had not ended before.
    pub(crate) fn leave(&self, error: &StoreError) -> bool {
        let first = note_end(&self.login.live.ended, error);
        self.login.live.connection.abort();
        first
    }

    /// Where the end of the session is noted.
    pub(crate) fn noted_end(&self) -> watch::Receiver<Option<StoreError>> {
        self.login.live.ended.subscribe()
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Returns when an end is noted there.
pub(crate) async fn ended(mut noted: watch::Receiver<Option<StoreError>>) -> StoreError {
    match noted.wait_for(Option::is_some).await {
        Ok(error) => error.clone().unwrap_or_else(errors::closed),
        Err(_) => errors::closed(),
    }
}

/// Notes why a session has ended; whether that was not noted before.
pub(crate) fn note_end(ended: &watch::Sender<Option<StoreError>>, error: &StoreError) -> bool {
    // The first reason is the true one; what follows from it comes later.
    ended.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(error.clone());
        }
        first
    })
}
