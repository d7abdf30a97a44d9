//! Which database cluster the servers belong to: locks of one exclude nobody in another.
//!
//! A host list can name two clusters by mistake, and a name or an address can lead to another one
//! later. So each connection compares the server's system identifier with the first one that this
//! backend has seen. Streaming replicas share it, so a failover changes nothing.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tenure_core::ErrorKind;
use tokio::sync::watch;

use crate::config::{Address, PostgresConfig};
use crate::errors::Trouble;
use crate::link;

/// The pause before hosts that could not be asked are asked again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What all connections of a backend have learned about their servers.
pub(crate) struct Cluster {
    state: Mutex<State>,
    /// Two clusters were seen: every connection ends, and there is no other one.
    refused: watch::Sender<Option<Trouble>>,
}

#[derive(Default)]
struct State {
    /// The first identifier that was told, and by whom.
    first: Option<(String, Address)>,
    answered: HashSet<Address>,
    /// Of those, the ones that keep it to themselves.
    secretive: HashSet<Address>,
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
    pub(crate) fn refused(&self) -> Option<Trouble> {
        self.refused.borrow().clone()
    }

    /// Returns when two clusters were seen.
    pub(crate) fn refusal(&self) -> impl Future<Output = Trouble> + Send + use<> {
        let mut refused = self.refused.subscribe();
        async move {
            if let Ok(trouble) = refused.wait_for(Option::is_some).await
                && let Some(trouble) = trouble.clone()
            {
                return trouble;
            }
            // Nobody is left who could tell.
            std::future::pending().await
        }
    }

    /// Compares what a server told of its system identifier: `None` if it keeps it to itself.
    pub(crate) fn note(&self, address: &Address, told: Option<&str>) -> Result<(), Trouble> {
        if let Some(trouble) = self.refused() {
            return Err(trouble);
        }
        let mut state = self.state();
        match (&state.first, told) {
            (Some((first, _)), Some(told)) if first == told => {}
            (Some((first, of)), Some(told)) => {
                let trouble = two_clusters((first, of), (told, address));
                drop(state);
                tracing::error!(reason = trouble.message(), "all sessions are closed");
                self.refused.send_replace(Some(trouble.clone()));
                return Err(trouble);
            }
            (Some((_, of)), None) => return Err(kept_secret(address, of)),
            (None, Some(told)) => state.first = Some((told.to_owned(), address.clone())),
            // What cannot be compared: `doctor` says so.
            (None, None) => {}
        }
        state.answered.insert(address.clone());
        if told.is_some() {
            state.secretive.remove(address);
        } else {
            state.secretive.insert(address.clone());
        }
        Ok(())
    }

    /// Replicas have the permissions of their primary. So hosts of which some tell their
    /// identifier, and others keep it to themselves, are not one cluster; unless the permission was
    /// given in between, so this is for hosts that were all asked just now.
    pub(crate) fn all_tell_or_none(&self) -> Result<(), Trouble> {
        let state = self.state();
        match (&state.first, state.secretive.iter().next()) {
            (Some((_, of)), Some(address)) => Err(kept_secret(address, of)),
            _ => Ok(()),
        }
    }

    /// Those of the hosts that have not answered yet.
    pub(crate) fn missing(&self, hosts: &[Address]) -> Vec<Address> {
        let state = self.state();
        let missing = hosts.iter().filter(|host| !state.answered.contains(host));
        missing.cloned().collect()
    }

    /// Asks these hosts, all at once, within the connect timeout. One that does not answer is left
    /// out; an error means that they do not belong together.
    pub(crate) async fn ask(
        &self,
        config: &PostgresConfig,
        hosts: &[Address],
    ) -> Result<(), Trouble> {
        let asking = hosts.iter().map(|host| link::look_at(config, host));
        for (host, answer) in hosts.iter().zip(join_all(asking).await) {
            match answer {
                Ok(server) => self.note(host, server.identifier.as_deref())?,
                Err(trouble) => {
                    tracing::debug!(%host, reason = trouble.message(), "not compared yet");
                }
            }
        }
        Ok(())
    }
}

fn two_clusters(first: (&str, &Address), other: (&str, &Address)) -> Trouble {
    let ((first, of), (other, address)) = (first, other);
    Trouble::new(
        ErrorKind::Misconfigured,
        format!(
            "{of} has the system identifier {first}, and {address} has {other}: they are not one \
             cluster, so a lock at one excludes nobody at the other; name the hosts of one cluster \
             alone, and restart this process, also after a deliberate restore, initdb or pg_upgrade"
        ),
    )
}

fn kept_secret(address: &Address, of: &Address) -> Trouble {
    Trouble::new(
        ErrorKind::Misconfigured,
        format!(
            "{of} tells its system identifier, and {address} does not, so they are not known to be \
             one cluster; GRANT EXECUTE ON FUNCTION pg_control_system() TO the user on {address}, \
             or take it out of the list"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address {
            host: "db".to_owned(),
            port,
        }
    }

    #[test]
    fn one_cluster_is_whatever_tells_the_same_identifier() {
        let cluster = Cluster::new();
        cluster.note(&address(1), None).unwrap();
        cluster.note(&address(2), Some("7")).unwrap();
        cluster.all_tell_or_none().unwrap_err();
        cluster.note(&address(1), Some("7")).unwrap();
        cluster.all_tell_or_none().unwrap();
        let trouble = cluster.note(&address(3), None).unwrap_err();
        assert_eq!(trouble.kind, ErrorKind::Misconfigured);
        assert!(trouble.message().contains("db:3"), "{trouble:?}");
        // That was no proof of two clusters.
        assert!(cluster.refused().is_none());
        let hosts = [address(1), address(2), address(3)];
        assert_eq!(cluster.missing(&hosts), [address(3)]);
    }

    #[test]
    fn two_clusters_are_refused_until_the_end() {
        let cluster = Cluster::new();
        cluster.note(&address(1), Some("7")).unwrap();
        let trouble = cluster.note(&address(2), Some("8")).unwrap_err();
        for told in ["db:1", "identifier 7", "db:2", "has 8", "restart"] {
            assert!(trouble.message().contains(told), "{trouble:?}");
        }
        cluster.note(&address(1), Some("7")).unwrap_err();
        assert!(cluster.refused().is_some());
    }
}
