//! Which database cluster the servers belong to: locks of one exclude nobody in another.
//!
//! A host list can name two clusters by mistake, and a name or an address can lead to another one
//! later. So each connection compares the server's system identifier with the first one that this
//! backend has seen. Streaming replicas share it, so a failover changes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tenure_core::ErrorKind;
use tenure_kit::{Address, Recovery};
use tokio::sync::watch;

use crate::client::SessionClient;
use crate::errors::{Answer, StoreError};
use crate::question::ask;

/// What all connections of a backend have learned about their servers.
pub(crate) struct Cluster {
    state: Mutex<State>,
    /// Two clusters were seen: every connection ends, and there is no other one.
    refused: watch::Sender<Option<StoreError>>,
}

#[derive(Default)]
struct State {
    /// The first identifier, and the host that showed it.
    first: Option<(String, Address)>,
    /// Whether the host shows its identifier, of those that have answered.
    answered: HashMap<Address, bool>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            refused: watch::Sender::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing may be held or tried any more, if two clusters were seen.
    pub(crate) fn refused(&self) -> Option<StoreError> {
        self.refused.borrow().clone()
    }

    /// Returns when two clusters were seen.
    pub(crate) fn refusal(&self) -> impl Future<Output = StoreError> + Send + use<> {
        let mut refused = self.refused.subscribe();
        async move {
            if let Ok(error) = refused.wait_for(Option::is_some).await
                && let Some(error) = error.clone()
            {
                return error;
            }
            // The backend is gone, and with it all that could refuse.
            std::future::pending().await
        }
    }

    /// Compares a server's system identifier with the first one: `None` if the server hides it.
    pub(crate) fn note(&self, address: &Address, shown: Option<&str>) -> Result<(), StoreError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        let mut state = self.state();
        match (&state.first, shown) {
            (Some((first, _)), Some(shown)) if first == shown => {}
            (Some((first, of)), Some(shown)) => {
                let error = two_clusters((first, of), (shown, address));
                drop(state);
                tracing::error!(reason = error.message(), "all sessions are closed");
                self.refused.send_replace(Some(error.clone()));
                return Err(error);
            }
            (Some((_, of)), None) => return Err(hidden(address, of)),
            (None, Some(shown)) => state.first = Some((shown.to_owned(), address.clone())),
            // What cannot be compared: `doctor` says so.
            (None, None) => {}
        }
        state.answered.insert(address.clone(), shown.is_some());
        Ok(())
    }

    /// Replicas have the permissions of their primary. So hosts of which some show their
    /// identifier, and others hide it, are not one cluster; unless the permission was given in
    /// between, so this is for hosts that were all asked just now.
    pub(crate) fn all_show_or_none(&self) -> Result<(), StoreError> {
        let state = self.state();
        let hiding = state.answered.iter().find(|(_, shows)| !**shows);
        match (&state.first, hiding) {
            (Some((_, of)), Some((address, _))) => Err(hidden(address, of)),
            _ => Ok(()),
        }
    }

    /// Those of the hosts that have not answered yet.
    pub(crate) fn missing(&self, hosts: &[Address]) -> Vec<Address> {
        let state = self.state();
        let missing = hosts
            .iter()
            .filter(|host| !state.answered.contains_key(host));
        missing.cloned().collect()
    }
}

/// Which cluster the server belongs to. A replica shows its primary's; `None` where the user may
/// not ask, or a server that only resembles `PostgreSQL` does not know.
pub(crate) async fn identifier(client: &SessionClient) -> Result<Option<String>, StoreError> {
    let question = "SELECT system_identifier::text FROM pg_control_system()";
    match ask(client, question).await {
        // The server's text, which errors show.
        Ok(rows) => Ok(rows
            .first()
            .and_then(|row| Some(row.get(0)?.escape_debug().to_string()))),
        Err(error) if error.recovery == Recovery::Store(Answer::Omitted) => {
            tracing::debug!(reason = error.message(), "no system identifier");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn two_clusters(first: (&str, &Address), other: (&str, &Address)) -> StoreError {
    let ((first, of), (other, address)) = (first, other);
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "{of} has the system identifier {first}, and {address} has {other}: they are not one \
             cluster, so a lock at one excludes nobody at the other; name the hosts of one cluster \
             alone, and restart this process, also after a deliberate restore, initdb or pg_upgrade"
        ),
    )
}

fn hidden(address: &Address, of: &Address) -> StoreError {
    StoreError::new(
        ErrorKind::Misconfigured,
        format!(
            "{of} shows its system identifier, and {address} hides it, so they are not known to be \
             one cluster; GRANT EXECUTE ON FUNCTION pg_control_system() TO the user on {address}, \
             or take it out of the list"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::new("db", port)
    }

    #[test]
    fn one_cluster_is_whatever_shows_the_same_identifier() {
        let cluster = Cluster::new();
        cluster.note(&address(1), None).unwrap();
        cluster.note(&address(2), Some("7")).unwrap();
        cluster.all_show_or_none().unwrap_err();
        cluster.note(&address(1), Some("7")).unwrap();
        cluster.all_show_or_none().unwrap();
        let error = cluster.note(&address(3), None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.message().contains("db:3"), "{error:?}");
        // That was no proof of two clusters.
        assert!(cluster.refused().is_none());
        let hosts = [address(1), address(2), address(3)];
        assert_eq!(cluster.missing(&hosts), [address(3)]);
    }

    #[test]
    fn two_clusters_are_refused_until_the_end() {
        let cluster = Cluster::new();
        cluster.note(&address(1), Some("7")).unwrap();
        let error = cluster.note(&address(2), Some("8")).unwrap_err();
        for part in ["db:1", "identifier 7", "db:2", "has 8", "restart"] {
            assert!(error.message().contains(part), "{error:?}");
        }
        cluster.note(&address(1), Some("7")).unwrap_err();
        assert!(cluster.refused().is_some());
    }
}
