//! Which server holds a lock: the one there is, the master that sentinels name, or the node of a
//! cluster that has the lock's slot.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::aio::PubSub;
use redis::{Cmd, Pipeline, RedisError, Value, cmd};
use tenure_core::{ErrorKind, LockName, Time};

use crate::config::{Address, Servers};
use crate::connection::{AbortOnDrop, Call, Change, Dialer, Link, Live, Target, hold, text};
use crate::deployment::{Share, View};
use crate::errors::{Cure, Trouble};
use crate::sentinels::Sentinels;
use crate::slots::{Map, Range, SLOTS, holder_in};
use crate::survey::Progress;

/// How often a call follows the cluster to another node.
const REDIRECTS: usize = 4;

/// All servers of a backend.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) way: Way,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) progress: Progress,
    pub(crate) me: Weak<Self>,
}

/// The way to the server that holds a lock.
#[derive(Debug)]
pub(crate) enum Way {
    /// One master at a time: a single server, or the one that sentinels name.
    Master(Link, Arc<Target>),
    Cluster(Arc<Cluster>),
}

/// A connection to the server that holds a lock.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) live: Live,
    /// Before the request (I1, hazard 2), and soon after the sentinels' last word, where there are
    /// any: what the request proves is proven from here on.
    pub(crate) sent_at: Time,
    /// The lock's slot is being moved to this node, which answers only when asked like that.
    asking: bool,
    /// The lock's slot was another node's before.
    handed: Option<Change>,
}

impl Seat {
    /// What may have made the server forget a term entirely, if anything may have.
    fn last_change(&self) -> Option<&Change> {
        let both = self.handed.iter().chain(self.live.change());
        both.max_by_key(|change| change.seen_at)
    }

    /// How long a term with this lease may still go on that the server has forgotten entirely.
    pub(crate) fn pause(&self, lease: Duration) -> Duration {
        let longest = lease + self.live.overlap();
        let change = self.last_change();
        change.map_or(Duration::ZERO, |change| change.pause(longest))
    }

    /// Whether the server has come back as it was, so that it may have forgotten terms of which
    /// its marks tell nothing.
    pub(crate) fn is_back(&self) -> bool {
        self.last_change().is_some_and(|change| change.back)
    }

    /// The epoch before the last change that was seen; empty if it is not known.
    pub(crate) fn former_epoch(&self) -> &str {
        self.last_change().map_or("", |change| &change.before)
    }

    /// Sends one command, without a deadline.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, Trouble> {
        if !self.asking {
            return self.live.query(command).await;
        }
        let mut both = Pipeline::with_capacity(2);
        both.add_command(cmd("ASKING")).add_command(command.clone());
        let answers = self.live.query_all(&both).await?;
        answers
            .into_iter()
            .nth(1)
            .ok_or_else(|| Trouble::unreadable("ASKING"))
    }
}

impl Topology {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        let master = |target: Target| {
            let target = Arc::new(target);
            Way::Master(Link::new(target.clone(), dialer.clone()), target)
        };
        let way = match &dialer.config.servers {
            Servers::Single(address) => master(Target::Address(address.clone())),
            Servers::Sentinel {
                sentinels,
                master: name,
            } => master(Target::Sentinels(Sentinels::new(sentinels, name))),
            Servers::Cluster(nodes) => {
                Way::Cluster(Arc::new(Cluster::new(nodes.clone(), dialer.clone())))
            }
        };
        Arc::new_cyclic(|me| Self {
            way,
            progress: Progress::of(&dialer.config.servers),
            dialer,
            me: me.clone(),
        })
    }

    /// Makes a call on the server that holds `lock`. Each step is bounded; dropping the future
    /// leaves a call that was sent.
    pub(crate) async fn call<'a, T>(
        &self,
        lock: &LockName,
        mut call: impl FnMut(Seat) -> Call<'a, T> + Send,
    ) -> Result<T, Trouble> {
        self.agreed().await?;
        match &self.way {
            Way::Master(link, _) => {
                link.call(|live, sent_at| {
                    call(Seat {
                        live,
                        sent_at,
                        asking: false,
                        handed: None,
                    })
                })
                .await
            }
            // In a box of its own, so that a call to a single master is small: one of a kilobyte
            // or more takes the allocator's slow way, each time.
            Way::Cluster(cluster) => Box::pin(cluster.call(slot_of(lock), &mut call)).await,
        }
    }

    /// Makes a call on any one master, to see whether anything answers.
    pub(crate) async fn call_any<'a, T>(
        &self,
        mut call: impl FnMut(Live) -> Call<'a, T> + Send,
    ) -> Result<T, Trouble> {
        self.agreed().await?;
        let call = |live, _sent_at| call(live);
        match &self.way {
            Way::Master(link, _) => link.call(call).await,
            Way::Cluster(cluster) => {
                let address = cluster.holder_of(0).await?;
                cluster.link(&address).call(call).await
            }
        }
    }

    /// An error on a connection for subscriptions.
    pub(crate) fn trouble(&self, error: RedisError) -> Trouble {
        let dialer = &self.dialer;
        let address = match &dialer.config.servers {
            Servers::Single(address) => Some(address),
            Servers::Sentinel {
                sentinels: nodes, ..
            }
            | Servers::Cluster(nodes) => nodes.first(),
        };
        match address {
            Some(address) => Trouble::answered(address, &dialer.config.prefix, error),
            None => Trouble::unreadable("a subscription"),
        }
    }

    /// Opens a connection for subscriptions. In a cluster it is to any node: messages reach all.
    pub(crate) async fn subscriber(&self) -> Result<PubSub, Trouble> {
        match &self.way {
            Way::Master(_, target) => target.subscribe(&self.dialer).await,
            Way::Cluster(cluster) => cluster.subscriber().await,
        }
    }
}

/// The nodes of a cluster, as far as they are known.
#[derive(Debug)]
pub(crate) struct Cluster {
    seeds: Vec<Address>,
    dialer: Arc<Dialer>,
    map: Mutex<Map>,
    links: Mutex<HashMap<Address, Link>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Cluster {
    fn new(seeds: Vec<Address>, dialer: Arc<Dialer>) -> Self {
        Self {
            seeds,
            dialer,
            map: Mutex::default(),
            links: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    async fn call<'a, T>(
        self: &Arc<Self>,
        slot: u16,
        call: &mut (impl FnMut(Seat) -> Call<'a, T> + Send),
    ) -> Result<T, Trouble> {
        let mut address = self.holder_of(slot).await?;
        let mut asking = false;
        let mut redirects = 0;
        loop {
            let version = hold(&self.map).version();
            let outcome = self
                .link(&address)
                .call(|live, sent_at| {
                    let handed = hold(&self.map).change_of(slot).cloned();
                    call(Seat {
                        live,
                        sent_at,
                        asking,
                        handed,
                    })
                })
                .await;
            let Err(trouble) = outcome else {
                return outcome;
            };
            redirects += 1;
            if redirects > REDIRECTS {
                let moving = matches!(trouble.cure, Cure::Moved(_) | Cure::Ask(_));
                return Err(if moving { Trouble::moving() } else { trouble });
            }
            match &trouble.cure {
                Cure::Moved(target) => {
                    address = Self::named(target, &address);
                    asking = false;
                    let links = hold(&self.links);
                    hold(&self.map).learn_one(slot, address.clone(), epoch_in(&links));
                }
                Cure::Ask(target) => {
                    address = Self::named(target, &address);
                    asking = true;
                }
                // The node is down or no master any more: another one has its slots, or will.
                Cure::Reconnect => {
                    self.refresh(slot, Some(&address), version).await?;
                    let now = self.holder_of(slot).await?;
                    if now == address {
                        return Err(trouble);
                    }
                    address = now;
                    asking = false;
                }
                Cure::None | Cure::SendScript => return Err(trouble),
            }
        }
    }

    /// A node that does not know its own host's name leaves it out.
    fn named(target: &Address, by: &Address) -> Address {
        let mut target = target.clone();
        if target.host.is_empty() || target.host == "?" {
            target.host.clone_from(&by.host);
        }
        target
    }

    async fn holder_of(self: &Arc<Self>, slot: u16) -> Result<Address, Trouble> {
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

    fn link(&self, address: &Address) -> Link {
        let new = || Link::new(Target::Address(address.clone()).into(), self.dialer.clone());
        hold(&self.links)
            .entry(address.clone())
            .or_insert_with(new)
            .clone()
    }

    pub(crate) fn known(&self) -> Vec<Address> {
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
    /// The first answer counts that names somebody else. One that does not name the slot comes
    /// from a node that is not in the cluster any more, or not yet; and one that leaves the slot
    /// where it was may come from a node that has not heard of a failover. It is not put to the
    /// vote: a node that is silent would keep back what another one knows, for longer perhaps than
    /// the caller waits, and a wrong answer is corrected by the node that it leads to.
    async fn refresh(
        self: &Arc<Self>,
        slot: u16,
        failed: Option<&Address>,
        seen: u64,
    ) -> Result<(), Trouble> {
        let (this, failed) = (self.clone(), failed.cloned());
        let refreshing = async move { this.refresh_now(slot, failed.as_ref(), seen).await };
        // There, because others wait for their turn, and the caller need not be polled.
        let task = self.dialer.spawn(refreshing);
        let _ended = self.dialer.process.keep(AbortOnDrop(task.abort_handle()));
        task.await
            .unwrap_or_else(|_| Err(Trouble::runtime_is_gone()))
    }

    async fn refresh_now(
        &self,
        slot: u16,
        failed: Option<&Address>,
        seen: u64,
    ) -> Result<(), Trouble> {
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
            .map(|node| self.dialer.bounded(node, self.told(node)))
            .collect();
        let mut in_place = None;
        let mut failure = None;
        while let Some(answer) = answers.next().await {
            // It may be another cluster's.
            let admitted = answer.and_then(|Told { ranges, view }| {
                self.dialer.deployment.admit(view)?;
                Ok(ranges)
            });
            self.dialer.deployment.check()?;
            match admitted {
                Ok(told) => match holder_in(&told, slot) {
                    None => {}
                    Some(holder) if Some(holder) == failed => in_place = Some(told),
                    Some(_) => {
                        self.learn(told);
                        return Ok(());
                    }
                },
                Err(trouble) => failure = Some(trouble),
            }
        }
        if let Some(told) = in_place {
            self.learn(told);
            return Ok(());
        }
        let unserved = || Self::unserved(slot);
        Err(failure.map_or_else(unserved, |trouble| trouble.cured_by(Cure::None)))
    }

    fn unserved(slot: u16) -> Trouble {
        Trouble::new(
            ErrorKind::Unavailable,
            format!("no node of the cluster has slot {slot}; see CLUSTER INFO"),
        )
    }

    /// Takes over the map that a node has told, and lets go of those that have no slots any more.
    ///
    /// What a link knows of its server's epochs goes with it. That does no harm: its slots have
    /// come to others, which the map remembers, and so it does if they come back.
    fn learn(&self, told: Vec<Range>) {
        let mut links = hold(&self.links);
        let mut map = hold(&self.map);
        map.learn(told, epoch_in(&links));
        links.retain(|address, _| map.holders().any(|known| known == address));
    }

    async fn told(&self, node: &Address) -> Result<Told, Trouble> {
        let live = self.dialer.open_node(&node.clone().into()).await?;
        slots_of(&live).await
    }

    async fn subscriber(&self) -> Result<PubSub, Trouble> {
        let mut failure = None;
        for node in self.known() {
            match self.dialer.subscriber(&node).await {
                Ok(subscriber) => return Ok(subscriber),
                Err(trouble) => failure = Some(trouble),
            }
        }
        Err(failure.unwrap_or_else(|| Trouble::new(ErrorKind::Internal, "a cluster without nodes")))
    }
}

fn epoch_in(links: &HashMap<Address, Link>) -> impl Fn(&Address) -> String {
    |address| {
        let link = links.get(address);
        link.and_then(Link::last_epoch).unwrap_or_default()
    }
}

/// What a node tells of the cluster.
pub(crate) struct Told {
    ranges: Vec<Range>,
    pub(crate) view: View,
}

/// Asks a node who has which slots, and which nodes it knows, without a deadline.
///
/// The nodes that have slots would not do: after a failover the new master of a small cluster names
/// itself alone.
pub(crate) async fn slots_of(live: &Live) -> Result<Told, Trouble> {
    let (mut slots, mut nodes) = (cmd("CLUSTER"), cmd("CLUSTER"));
    let (slots, nodes) = (slots.arg("SLOTS"), nodes.arg("NODES"));
    let (answer, nodes) = join(live.query(slots), live.query(nodes)).await;
    let answer = answer.map_err(|mut trouble| {
        if trouble.to_string().contains("cluster support disabled") {
            trouble.kind = ErrorKind::Misconfigured;
        }
        trouble
    })?;
    let unreadable = || Trouble::unreadable("CLUSTER SLOTS");
    let Value::Array(told) = answer else {
        return Err(unreadable());
    };
    let mut ranges = Vec::new();
    let mut view = View {
        by: live.address().to_string(),
        // May be forbidden; then it cannot be compared.
        members: nodes.map(|nodes| ids_in(&nodes)).unwrap_or_default(),
        shares: Vec::new(),
    };
    for range in &told {
        let (range, id) = read_range(range, live.address()).ok_or_else(unreadable)?;
        view.shares.push(Share {
            first: range.first,
            last: range.last,
            keeper: match id {
                Some(id) => format!("node {id}"),
                None => format!("node {}", range.holder),
            },
        });
        ranges.push(range);
    }
    Ok(Told { ranges, view })
}

/// The ids of all nodes that `CLUSTER NODES` names, one in each line.
fn ids_in(nodes: &Value) -> HashSet<String> {
    let lines = text(nodes).unwrap_or_default().lines();
    let ids = lines.filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
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
    let address = Address {
        host: text(host).unwrap_or_default().to_owned(),
        port: u16::try_from(*port).ok()?,
    };
    let range = Range {
        first: u16::try_from(*first).ok()?,
        last: u16::try_from(*last).ok()?,
        holder: Cluster::named(&address, asked),
    };
    let id = rest.first().and_then(text).map(str::to_owned);
    Some((range, id))
}

/// The slot of a lock's keys: of what stands between the braces, which is the lock's name.
fn slot_of(lock: &LockName) -> u16 {
    let mut crc: u16 = 0;
    for byte in lock.as_str().bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // CRC16 as the cluster specification gives it for "123456789".
        assert_eq!(slot_of(&LockName::new("123456789").unwrap()), 0x31C3);
        // By `CLUSTER KEYSLOT`.
        assert_eq!(slot_of(&LockName::new("foo").unwrap()), 12182);
        assert_eq!(slot_of(&LockName::new("bar").unwrap()), 5061);
    }
}
