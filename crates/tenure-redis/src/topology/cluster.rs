//! The nodes of a cluster: which of them has a lock's slot, and what they say of each other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{Value, cmd};
use tenure_core::ErrorKind;
use tenure_kit::tasks::AbortOnDrop;
use tenure_kit::{Address, Recovery};

use super::connector::{Connector, Established, Route};
use super::deployment::{Deployment, Share, View};
use super::lock_server::{LockSlot, Request};
use super::slots::{self, Range, SlotMap, holder_in};
use crate::errors::{self, NextStep, StoreError};
use crate::net::connection::{Connection, text};
use crate::net::hold;
use crate::net::network::{Network, Subscriber};

/// Nodes without slots that are kept in mind. One that sends each call to another address must not
/// fill the memory.
const MOST_NODES: usize = 2000;

/// How often a call follows the cluster to another node.
const REDIRECTS: usize = 4;

/// To one node, which must be a master of the cluster that is known.
#[derive(Debug)]
struct NodeRoute {
    address: Address,
    network: Arc<Network>,
    deployment: Arc<Deployment>,
}

#[async_trait]
impl Route for NodeRoute {
    async fn connect(&self) -> Result<Established, StoreError> {
        let connecting = async {
            let connection = self.network.open_master(&self.address).await?;
            // It may be another cluster's: addresses are used again.
            self.deployment.admit(slots_of(&connection).await?.view)?;
            connection.set_quarantine(slots::quarantine(node_timeout(&connection).await?));
            Ok(Established {
                connection,
                authority: None,
            })
        };
        self.network.bounded(&self.address, connecting).await
    }

    async fn subscribe(&self) -> Result<Subscriber, StoreError> {
        self.network.subscriber(&self.address).await
    }
}

/// A cluster's `cluster-node-timeout`: the usual one where it may not be asked for. Not bounded.
async fn node_timeout(connection: &Connection) -> Result<Duration, StoreError> {
    match connection.setting("cluster-node-timeout").await {
        Ok(setting) => {
            let millis = setting.and_then(|millis| millis.parse().ok());
            Ok(millis.map_or(slots::USUAL_NODE_TIMEOUT, Duration::from_millis))
        }
        // It is the answer of a server that works, whatever it refuses, and why.
        Err(error) if error.recovery == Recovery::None => Ok(slots::USUAL_NODE_TIMEOUT),
        Err(error) => Err(error),
    }
}

/// The nodes of a cluster, as far as they are known.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Address>,
    network: Arc<Network>,
    deployment: Arc<Deployment>,
    map: Arc<Mutex<SlotMap>>,
    connectors: Mutex<HashMap<Address, Connector>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Cluster {
    pub(super) fn new(
        seeds: Vec<Address>,
        network: Arc<Network>,
        deployment: Arc<Deployment>,
    ) -> Self {
        Self {
            seeds,
            network,
            deployment,
            map: Arc::default(),
            connectors: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a request to the node that has `slot`, and follows the cluster to another one.
    pub(super) async fn follow<R: Request>(
        self: &Arc<Self>,
        slot: u16,
        request: &R,
        limit: Duration,
    ) -> Result<R::Answer, StoreError> {
        let mut address = self.holder_of(slot).await?;
        let mut asking = false;
        let mut redirects = 0;
        loop {
            let version = hold(&self.map).version();
            let lock_slot = LockSlot {
                number: slot,
                asking,
                map: self.map.clone(),
            };
            let connector = self.connector(&address);
            let outcome = connector.send(request, Some(&lock_slot), limit).await;
            let Err(error) = outcome else {
                return outcome;
            };
            if errors::waits_for_keys(&error) {
                return Err(self.on_two_nodes(slot, &address).await);
            }
            let target = match &error.recovery {
                Recovery::Store(NextStep::Moved(target)) => Some((target, false)),
                Recovery::Store(NextStep::Ask(target)) => Some((target, true)),
                _ => None,
            };
            redirects += 1;
            if redirects > REDIRECTS {
                return Err(target.map_or_else(|| error.clone(), |_| errors::moving()));
            }
            if let Some((target, ask)) = target {
                address = named(target, &address);
                asking = ask;
                if !asking {
                    let connectors = hold(&self.connectors);
                    let incarnation_of = incarnation_in(&connectors);
                    hold(&self.map).learn_one(slot, address.clone(), incarnation_of);
                }
                continue;
            }
            if !errors::is_lost(&error) {
                return Err(error);
            }
            // The node is down or no master any more: another one has its slots, or will.
            self.refresh(slot, Some(&address), version).await?;
            let now = self.holder_of(slot).await?;
            if now == address {
                return Err(error);
            }
            address = now;
            asking = false;
        }
    }

    /// The error of a node that has one of a lock's keys, or none, while the slot is moved.
    async fn on_two_nodes(&self, slot: u16, at: &Address) -> StoreError {
        let asking = async {
            let connection = self.network.open_node(&at.clone().into()).await?;
            connection.query(cmd("CLUSTER").arg("NODES")).await
        };
        // For the message alone: it may be forbidden.
        let nodes = self.network.bounded(at, asking).await.ok();
        let moving = nodes
            .as_ref()
            .and_then(text)
            .and_then(|nodes| moving(nodes, slot));
        errors::keys_on_two_nodes(slot, at, moving.as_ref())
    }

    pub(super) async fn holder_of(self: &Arc<Self>, slot: u16) -> Result<Address, StoreError> {
        let (found, version) = {
            let map = hold(&self.map);
            (map.holder_of(slot).cloned(), map.version())
        };
        if let Some(address) = found {
            return Ok(address);
        }
        self.refresh(slot, None, version).await?;
        let found = hold(&self.map).holder_of(slot).cloned();
        found.ok_or_else(|| Self::unserved(slot))
    }

    pub(super) fn connector(&self, address: &Address) -> Connector {
        let new = || {
            let route = NodeRoute {
                address: address.clone(),
                network: self.network.clone(),
                deployment: self.deployment.clone(),
            };
            Connector::new(Arc::new(route), self.network.clone())
        };
        let mut connectors = hold(&self.connectors);
        if connectors.len() >= MOST_NODES && !connectors.contains_key(address) {
            let map = hold(&self.map);
            connectors.retain(|known, _| map.holders().any(|holder| holder == known));
        }
        connectors
            .entry(address.clone())
            .or_insert_with(new)
            .clone()
    }

    pub(super) fn known(&self) -> Vec<Address> {
        let mut nodes = self.seeds.clone();
        for address in hold(&self.map).holders() {
            if !nodes.contains(address) {
                nodes.push(address.clone());
            }
        }
        nodes
    }

    /// Asks for the map, unless another call has meanwhile, because nobody is known to have `slot`,
    /// or because the one that is has `failed`.
    ///
    /// The first answer counts that names another node. One that does not name the slot comes
    /// from a node that is not in the cluster any more, or not yet. One that leaves the slot
    /// where it was may come from a node that has not heard of a failover. It is not put to the
    /// vote: a node that is silent would keep back what another one knows, for longer perhaps than
    /// the caller waits. The node that a wrong answer leads to corrects it.
    async fn refresh(
        self: &Arc<Self>,
        slot: u16,
        failed: Option<&Address>,
        seen: u64,
    ) -> Result<(), StoreError> {
        let (this, failed) = (self.clone(), failed.cloned());
        let refreshing = async move { this.refresh_now(slot, failed.as_ref(), seen).await };
        // There, because others wait for their turn, and the caller need not be polled.
        let task = self.network.tasks.spawn(refreshing);
        let ended = AbortOnDrop::new(task.abort_handle());
        let _ended = self.network.process().keep(ended);
        task.await
            .unwrap_or_else(|_| Err(StoreError::runtime_is_gone()))
    }

    async fn refresh_now(
        &self,
        slot: u16,
        failed: Option<&Address>,
        seen: u64,
    ) -> Result<(), StoreError> {
        let _turn = self.refreshing.lock().await;
        if hold(&self.map).version() != seen {
            return Ok(());
        }
        let mut nodes = self.known();
        // It would name itself, or keep the others' last answer back.
        if nodes.len() > 1 {
            nodes.retain(|node| Some(node) != failed);
        }
        let mut answers: FuturesUnordered<_> = nodes
            .iter()
            .map(|node| self.network.bounded(node, self.told(node)))
            .collect();
        let mut in_place = None;
        let mut failure = None;
        while let Some(answer) = answers.next().await {
            // It may be another cluster's.
            let admitted = answer.and_then(|Told { ranges, view }| {
                self.deployment.admit(view)?;
                Ok(ranges)
            });
            self.deployment.check()?;
            match admitted {
                Ok(told) => match holder_in(&told, slot) {
                    None => {}
                    Some(holder) if Some(holder) == failed => in_place = Some(told),
                    Some(_) => {
                        self.learn(told);
                        return Ok(());
                    }
                },
                Err(error) => failure = Some(error),
            }
        }
        if let Some(told) = in_place {
            self.learn(told);
            return Ok(());
        }
        let unserved = || Self::unserved(slot);
        Err(failure.map_or_else(unserved, StoreError::give_up))
    }

    fn unserved(slot: u16) -> StoreError {
        StoreError::new(
            ErrorKind::Unavailable,
            format!("no node of the cluster has slot {slot}; see CLUSTER INFO"),
        )
    }

    /// Takes over the map that a node has told, and lets go of those that have no slots any more.
    ///
    /// What a connector knows of its server's incarnations goes with it. That does no harm: its slots have
    /// come to others, which the map remembers, and so it does if they come back.
    fn learn(&self, told: Vec<Range>) {
        let mut connectors = hold(&self.connectors);
        let mut map = hold(&self.map);
        map.learn(told, incarnation_in(&connectors));
        connectors.retain(|address, _| map.holders().any(|known| known == address));
    }

    async fn told(&self, node: &Address) -> Result<Told, StoreError> {
        let connection = self.network.open_node(&node.clone().into()).await?;
        slots_of(&connection).await
    }

    /// To the node that has the slot, or to any other.
    pub(super) async fn subscriber(
        self: &Arc<Self>,
        slot: Option<u16>,
    ) -> Result<Subscriber, StoreError> {
        let mut nodes = Vec::new();
        if let Some(slot) = slot {
            nodes.push(self.holder_of(slot).await?);
        }
        nodes.extend(self.known());
        let mut failure = None;
        for node in Address::without_repeats(nodes) {
            match self.network.subscriber(&node).await {
                Ok(subscriber) => return Ok(subscriber),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure
            .unwrap_or_else(|| StoreError::new(ErrorKind::Internal, "a cluster without nodes")))
    }

    /// Whether this node has the slot, or none is known to have it.
    pub(super) fn is_at(&self, slot: u16, node: &Address) -> bool {
        let map = hold(&self.map);
        map.holder_of(slot).is_none_or(|holder| holder == node)
    }
}

/// A node that does not know its own host's name leaves it out.
fn named(target: &Address, by: &Address) -> Address {
    if target.host().is_empty() || target.host() == "?" {
        return by.clone().with_port(target.port());
    }
    target.clone()
}

fn incarnation_in(connectors: &HashMap<Address, Connector>) -> impl Fn(&Address) -> String {
    |address| {
        let connector = connectors.get(address);
        connector
            .and_then(Connector::last_incarnation)
            .unwrap_or_default()
    }
}

/// What a node tells of the cluster.
pub(super) struct Told {
    pub(super) ranges: Vec<Range>,
    pub(super) view: View,
}

/// Asks a node who has which slots, and which nodes it knows, without a deadline.
///
/// The nodes that have slots would not do: after a failover the new master of a small cluster names
/// itself alone.
pub(super) async fn slots_of(connection: &Connection) -> Result<Told, StoreError> {
    let (mut slots, mut nodes) = (cmd("CLUSTER"), cmd("CLUSTER"));
    let (slots, nodes) = (slots.arg("SLOTS"), nodes.arg("NODES"));
    let (answer, nodes) = join(connection.query(slots), connection.query(nodes)).await;
    let answer = answer.map_err(|error| {
        if error.message().contains("cluster support disabled") {
            return error.with_kind(ErrorKind::Misconfigured);
        }
        error
    })?;
    // May be forbidden; then it cannot be compared.
    let members = nodes.map(|nodes| ids_in(&nodes)).unwrap_or_default();
    read_slots(&answer, members, connection.address())
        .ok_or_else(|| errors::unreadable("CLUSTER SLOTS"))
}

/// What the node `asked` answers to `CLUSTER SLOTS`; it knows the nodes `members`.
pub(super) fn read_slots(
    answer: &Value,
    members: HashSet<String>,
    asked: &Address,
) -> Option<Told> {
    let Value::Array(told) = answer else {
        return None;
    };
    let mut ranges = Vec::new();
    let mut view = View {
        by: asked.to_string(),
        members,
        shares: Vec::new(),
    };
    for range in told {
        let (range, id) = read_range(range, asked)?;
        view.shares.push(Share {
            first: range.first,
            last: range.last,
            keeper: format!("node {}", id.unwrap_or_else(|| range.holder.to_string())),
        });
        ranges.push(range);
    }
    Some(Told { ranges, view })
}

/// The ids of all nodes that `CLUSTER NODES` names, one in each line.
pub(super) fn ids_in(nodes: &Value) -> HashSet<String> {
    let lines = text(nodes).unwrap_or_default().lines();
    let ids = lines.filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
}

/// From which node a slot is being moved, and to which, by the answer of either to `CLUSTER NODES`.
pub(super) fn moving(nodes: &str, slot: u16) -> Option<(String, String)> {
    let node = |line: &str| -> Option<(String, String)> {
        let (id, rest) = line.split_once(' ')?;
        let address = rest.split([' ', '@', ',']).next()?;
        Some((id.to_owned(), address.to_owned()))
    };
    let by_id: HashMap<String, String> = nodes.lines().filter_map(node).collect();
    let myself = nodes.lines().find(|line| line.contains("myself"))?;
    let (_, here) = node(myself)?;
    let named = |id: &str| {
        let address = by_id.get(id.trim_end_matches(']'));
        address
            .cloned()
            .unwrap_or_else(|| "another node".to_owned())
    };
    let parts = || myself.split(' ').filter_map(|part| part.strip_prefix('['));
    let to = |sign: &str| {
        let start = format!("{slot}-{sign}-");
        parts().find_map(|part| part.strip_prefix(&start).map(&named))
    };
    match (to(">"), to("<")) {
        (Some(to), _) => Some((here, to)),
        (None, Some(from)) => Some((from, here)),
        (None, None) => None,
    }
}

/// First slot, last slot, and the master's host, port and id, which some proxies leave out.
fn read_range(range: &Value, asked: &Address) -> Option<(Range, Option<String>)> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(master),
        ..,
    ] = parts.as_slice()
    else {
        return None;
    };
    let [host, Value::Int(port), rest @ ..] = master.as_slice() else {
        return None;
    };
    let host = text(host).unwrap_or_default();
    let address = Address::new(host, u16::try_from(*port).ok()?);
    let range = Range {
        first: u16::try_from(*first).ok()?,
        last: u16::try_from(*last).ok()?,
        holder: named(&address, asked),
    };
    let id = rest.first().and_then(text).map(str::to_owned);
    Some((range, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RedisConfig;

    #[tokio::test]
    async fn addresses_without_slots_are_not_kept_without_end() {
        let config = RedisConfig::cluster(["a"]).unwrap();
        let network = Arc::new(Network::new(config).unwrap());
        let cluster = Cluster::new(Vec::new(), network, Arc::default());
        for port in 1..=10_000 {
            cluster.connector(&Address::new("a", port));
        }
        assert!(hold(&cluster.connectors).len() <= MOST_NODES);
    }

    #[test]
    fn both_nodes_of_a_slot_that_is_moved_are_named() {
        let nodes = "aa 10.0.0.1:1@2,a myself,master - 0 0 1 connected 0-99 [7->-bb]\n\
                     bb 10.0.0.2:3@4 master - 0 0 2 connected 100-200\n";
        let both = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        assert_eq!(moving(nodes, 7), both("10.0.0.1:1", "10.0.0.2:3"));
        assert_eq!(moving(nodes, 8), None);
        let nodes = nodes.replace("[7->-bb]", "[7-<-bb]");
        assert_eq!(moving(&nodes, 7), both("10.0.0.2:3", "10.0.0.1:1"));
        let nodes = nodes.replace("[7-<-bb]", "[7-<-cc]");
        assert_eq!(moving(&nodes, 7), both("another node", "10.0.0.1:1"));
    }
}
