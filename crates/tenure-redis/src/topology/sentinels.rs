//! The sentinels: which master they name, and what they say of its deployment.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{Cmd, Value, cmd};
use tenure_core::ErrorKind;
use tenure_kit::Address;

use super::deployment::{Deployment, Share, View};
use crate::errors::{self, StoreError};
use crate::net::connection::{Connection, text};
use crate::net::hold;
use crate::net::network::Network;

/// The sentinels that watch one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    addresses: Vec<Address>,
    master: String,
    network: Arc<Network>,
    deployment: Arc<Deployment>,
    /// Connections to them, kept from one question to the next.
    open: Mutex<HashMap<Address, Connection>>,
}

/// A master, as sentinels name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) address: Address,
    /// The latest failover that one of them knows of, as a number that each raises
    /// (`config-epoch`). A master that comes back as it was can be told by it. `None` where it may
    /// not be asked for.
    pub(super) failovers: Option<u64>,
}

impl Sentinels {
    pub(super) fn new(
        addresses: &[Address],
        master: &str,
        network: Arc<Network>,
        deployment: Arc<Deployment>,
    ) -> Self {
        Self {
            addresses: addresses.to_vec(),
            master: master.to_owned(),
            network,
            deployment,
            open: Mutex::default(),
        }
    }

    /// The master that more than half of the sentinels name.
    ///
    /// Not the first answer: a sentinel that is cut off together with the old master goes on
    /// naming it, and a process that followed would lead beside the leader on the new one.
    pub(super) async fn master(&self) -> Result<Master, StoreError> {
        let mut votes: HashMap<Address, (Vec<&Address>, Option<u64>)> = HashMap::new();
        let mut unknown = 0;
        let mut failure = None;
        let mut answers: FuturesUnordered<_> = self
            .addresses
            .iter()
            .map(async |sentinel| {
                let answer = self.network.bounded(sentinel, self.ask(sentinel)).await;
                if answer.is_err() {
                    hold(&self.open).remove(sentinel);
                }
                (sentinel, answer)
            })
            .collect();
        let majority = self.addresses.len() / 2 + 1;
        while let Some((sentinel, answer)) = answers.next().await {
            match answer {
                Ok(Some(Master { address, failovers })) => {
                    let (agreed, latest) = votes.entry(address.clone()).or_default();
                    agreed.push(sentinel);
                    *latest = failovers.max(*latest);
                    if agreed.len() >= majority {
                        drop(answers);
                        self.admit(&address, agreed).await?;
                        let failovers = *latest;
                        return Ok(Master { address, failovers });
                    }
                }
                Ok(None) => unknown += 1,
                Err(error) => failure = Some(error),
            }
        }
        Err(match failure {
            None if unknown == self.addresses.len() => StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "the sentinels know no master named {:?}; it is the name in their line \
                     \"sentinel monitor <name> ...\"",
                    self.master
                ),
            ),
            Some(error) if votes.is_empty() && unknown == 0 => error,
            failure => {
                let why = failure.map_or_else(
                    || "a failover may be under way".to_owned(),
                    |failure| failure.to_string(),
                );
                let of = self.addresses.len();
                let message = format!(
                    "no more than half of the {of} sentinels agree on the master's address: {why}"
                );
                StoreError::new(ErrorKind::Unavailable, message)
            }
        }
        .give_up())
    }

    /// Fails if a master that was not known before is another deployment's: the sentinels that name
    /// it may stand behind an address where others stood. Who does not tell is believed.
    async fn admit(&self, master: &Address, voters: &[&Address]) -> Result<(), StoreError> {
        if self.deployment.knows(&server(master)) {
            return Ok(());
        }
        let open: Vec<Connection> = {
            let open = hold(&self.open);
            voters
                .iter()
                .filter_map(|voter| open.get(*voter).cloned())
                .collect()
        };
        let asking = open.iter().map(|sentinel| {
            self.network
                .bounded(sentinel.address(), view(sentinel, &self.master))
        });
        for view in join_all(asking).await.into_iter().flatten() {
            self.deployment.admit(view)?;
        }
        Ok(())
    }

    async fn answer(&self, sentinel: &Address, question: &Cmd) -> Result<Value, StoreError> {
        let known = hold(&self.open).get(sentinel).cloned();
        if let Some(connection) = known {
            match connection.query(question).await {
                Err(error) if errors::is_lost(&error) => {}
                answer => return answer,
            }
        }
        // The first question, or the sentinel was restarted since.
        let endpoint = sentinel.clone().into();
        let connection = self.network.open_sentinel(&endpoint).await?;
        let answer = connection.query(question).await?;
        hold(&self.open).insert(sentinel.clone(), connection);
        Ok(answer)
    }

    async fn ask(&self, sentinel: &Address) -> Result<Option<Master>, StoreError> {
        let question = |what: &str| {
            let mut question = cmd("SENTINEL");
            question.arg(what).arg(&self.master);
            question
        };
        // The first follows a failover earlier, the second alone tells its number.
        let named = self
            .answer(sentinel, &question("get-master-addr-by-name"))
            .await?;
        let told = self.answer(sentinel, &question("MASTER")).await;
        let failovers = told.ok().and_then(|told| {
            let number = properties(&told).get("config-epoch").copied();
            number?.parse().ok()
        });
        match named {
            Value::Nil => Ok(None),
            Value::Array(parts) => {
                let mut parts = parts.iter().map(text);
                match (parts.next().flatten(), parts.next().flatten()) {
                    (Some(host), Some(port)) => Ok(port.parse().ok().map(|port| Master {
                        address: Address::new(host, port),
                        failovers,
                    })),
                    _ => Err(errors::unreadable("SENTINEL")),
                }
            }
            _ => Err(errors::unreadable("SENTINEL")),
        }
    }
}

/// A server of a deployment, as a member of it.
fn server(address: &Address) -> String {
    format!("server {address}")
}

/// What a sentinel says of its master's deployment: the sentinels that watch it, by their ids, and
/// the servers that there are. Not bounded.
///
/// Sentinels of one deployment know each other's ids, or those that one knows, or name the same
/// servers: also one that has lost its configuration, which names the first master again.
pub(super) async fn view(connection: &Connection, master: &str) -> Result<View, StoreError> {
    let question = |what: &str| {
        let mut question = cmd("SENTINEL");
        question.arg(what).arg(master);
        question
    };
    let mut members = HashSet::new();
    // Before Redis 6.2 a sentinel does not tell its own.
    let own = connection.query(cmd("SENTINEL").arg("MYID")).await;
    members.extend(own.ok().as_ref().and_then(text).map(sentinel));
    let found = connection.query(&question("MASTER")).await?;
    let found = properties(&found);
    let mut keeper = None;
    if let Some(address) = address_in(&found) {
        members.insert(server(&address));
        let id = found.get("runid").copied().unwrap_or_default();
        keeper = Some(Share::all(format!(
            "the master {address} (run id \"{id}\")"
        )));
    }
    for (what, by_id) in [("SENTINELS", true), ("REPLICAS", false)] {
        let Value::Array(others) = connection.query(&question(what)).await? else {
            return Err(errors::unreadable("SENTINEL"));
        };
        for other in &others {
            let other = properties(other);
            let member = if by_id {
                // Empty until it was first heard of.
                let id = other.get("runid").filter(|id| !id.is_empty());
                id.map(|id| sentinel(id))
            } else {
                address_in(&other).as_ref().map(server)
            };
            members.extend(member);
        }
    }
    Ok(View {
        by: format!("sentinel {}", connection.address()),
        members,
        shares: keeper.into_iter().collect(),
    })
}

fn sentinel(id: &str) -> String {
    format!("sentinel {id}")
}

pub(super) fn address_in(properties: &HashMap<&str, &str>) -> Option<Address> {
    let port = properties.get("port")?.parse().ok()?;
    Some(Address::new(*properties.get("ip")?, port))
}

/// Names and values in turn.
pub(super) fn properties(answer: &Value) -> HashMap<&str, &str> {
    let Value::Array(parts) = answer else {
        return HashMap::new();
    };
    let pairs = parts.chunks_exact(2);
    pairs
        .filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
        .collect()
}
