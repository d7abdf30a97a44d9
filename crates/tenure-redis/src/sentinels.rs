//! The sentinels, which name a master, and for how long their word counts.
//!
//! A master that they have replaced takes itself for one until they set it right, after 8 s or
//! more, or for ever when it is cut off from them. Until then it grants and renews terms, beside
//! the new one. So that there are no two leaders, the lock is kept free on the new master for a
//! lease and the [`overlap`]; and no call is made on the former one any more when [`trust`] has
//! passed since it was last named.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{Cmd, Value, cmd};
use tenure_core::{ErrorKind, Time};
use tokio::sync::watch;

use crate::config::{Address, RedisConfig};
use crate::connection::{Dialer, Live, hold, text};
use crate::deployment::{Share, View};
use crate::errors::{Cure, Trouble};

/// How often the sentinels are asked whether the master is still the one.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(500);

/// For how long after a question calls are made on the master that more than half of the sentinels
/// have named. Then they are asked first: the process may have been stopped since, or be cut off
/// from them.
///
/// While they answer, calls do not wait for that: the next answer comes before, also when it and
/// the last one take all the time that they have. (But for the first one after a slow connection.)
pub(crate) fn trust(config: &RedisConfig) -> Duration {
    SECOND_LOOK + config.connect_timeout * 2
}

/// How long beyond a lease a term may go on that was granted before a new master was first looked
/// at.
///
/// Any two majorities of the same sentinels share one, and it does not go back to a former master.
/// So the last question to which they named that one was asked before they answered somebody with
/// the new one. What is granted on the former master counts from when it was asked for, however
/// late that is executed there, and it is not asked for later than [`trust`] after that question.
///
/// A quarter longer, because the end is measured by another host's clock.
pub(crate) fn overlap(config: &RedisConfig) -> Duration {
    trust(config) + trust(config) / 4
}

/// The sentinels' word that a server is the master.
#[derive(Debug, Default)]
pub(crate) struct Word {
    /// When the question was asked to which they last gave it, in nanoseconds of the boot clock.
    asked_at: AtomicU64,
    /// The question that is under way, or the one before.
    pub(crate) last: Mutex<Option<Question>>,
}

/// A question whether they give it, which all share who want to know meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) asked_at: Time,
    /// Its end without an answer is that of the backend's runtime.
    pub(crate) answer: watch::Receiver<Option<Result<(), Trouble>>>,
}

impl Question {
    pub(crate) fn is_open(&self) -> bool {
        self.answer.borrow().is_none() && self.answer.has_changed().is_ok()
    }

    pub(crate) fn was_confirmed(&self) -> bool {
        matches!(&*self.answer.borrow(), Some(Ok(())))
    }
}

impl Word {
    /// They have given it to a question that was asked then.
    pub(crate) fn give(&self, asked_at: Time) {
        self.asked_at
            .fetch_max(asked_at.as_nanos(), Ordering::AcqRel);
    }

    /// Whether it counts for a call that is sent now.
    pub(crate) fn counts(&self, now: Time, config: &RedisConfig) -> bool {
        let asked_at = Time::from_nanos(self.asked_at.load(Ordering::Acquire));
        now.since(asked_at) <= trust(config)
    }
}

/// The sentinels that watch one master.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    addresses: Vec<Address>,
    master: String,
    /// Connections to them, kept from one question to the next.
    open: Arc<Mutex<HashMap<Address, Live>>>,
}

impl Sentinels {
    pub(crate) fn new(addresses: &[Address], master: &str) -> Self {
        Self {
            addresses: addresses.to_vec(),
            master: master.to_owned(),
            open: Arc::default(),
        }
    }

    /// The master that more than half of the sentinels name.
    ///
    /// Not the first answer: a sentinel that is cut off together with the old master goes on
    /// naming it, and who followed would lead beside the leader on the new one.
    pub(crate) async fn master(&self, dialer: &Arc<Dialer>) -> Result<Address, Trouble> {
        let mut votes: HashMap<Address, Vec<&Address>> = HashMap::new();
        let mut unknown = 0;
        let mut failure = None;
        let mut answers: FuturesUnordered<_> = self
            .addresses
            .iter()
            .map(async |sentinel| {
                let answer = dialer.bounded(sentinel, self.ask(dialer, sentinel)).await;
                if answer.is_err() {
                    hold(&self.open).remove(sentinel);
                }
                (sentinel, answer)
            })
            .collect();
        let majority = self.addresses.len() / 2 + 1;
        while let Some((sentinel, answer)) = answers.next().await {
            match answer {
                Ok(Some(address)) => {
                    let agreed = votes.entry(address.clone()).or_default();
                    agreed.push(sentinel);
                    if agreed.len() >= majority {
                        drop(answers);
                        self.admit(dialer, &address, agreed).await?;
                        return Ok(address);
                    }
                }
                Ok(None) => unknown += 1,
                Err(trouble) => failure = Some(trouble),
            }
        }
        Err(match failure {
            None if unknown == self.addresses.len() => Trouble::new(
                ErrorKind::Misconfigured,
                format!(
                    "the sentinels know no master named {:?}; it is the name in their line \
                     \"sentinel monitor <name> ...\"",
                    self.master
                ),
            ),
            Some(trouble) if votes.is_empty() && unknown == 0 => trouble,
            failure => {
                let why = failure.map_or_else(
                    || "a failover may be under way".to_owned(),
                    |failure| failure.to_string(),
                );
                let of = self.addresses.len();
                let message = format!(
                    "no more than half of the {of} sentinels agree on the master's address: {why}"
                );
                Trouble::new(ErrorKind::Unavailable, message)
            }
        }
        .cured_by(Cure::None))
    }

    /// Fails if a master that was not known before is another deployment's: the sentinels that name
    /// it may stand behind an address where others stood. Who does not tell is believed.
    async fn admit(
        &self,
        dialer: &Arc<Dialer>,
        master: &Address,
        voters: &[&Address],
    ) -> Result<(), Trouble> {
        if dialer.deployment.knows(&server(master)) {
            return Ok(());
        }
        let open: Vec<Live> = {
            let open = hold(&self.open);
            voters
                .iter()
                .filter_map(|voter| open.get(*voter).cloned())
                .collect()
        };
        let asking = open
            .iter()
            .map(|live| dialer.bounded(live.address(), view(live, &self.master)));
        for view in join_all(asking).await.into_iter().flatten() {
            dialer.deployment.admit(view)?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        dialer: &Arc<Dialer>,
        sentinel: &Address,
        question: &Cmd,
    ) -> Result<Value, Trouble> {
        let known = hold(&self.open).get(sentinel).cloned();
        if let Some(live) = known
            && let Ok(answer) = live.query(question).await
        {
            return Ok(answer);
        }
        // The first question, or the sentinel was restarted since.
        let live = dialer.open_sentinel(&sentinel.clone().into()).await?;
        let answer = live.query(question).await?;
        hold(&self.open).insert(sentinel.clone(), live);
        Ok(answer)
    }

    async fn ask(
        &self,
        dialer: &Arc<Dialer>,
        sentinel: &Address,
    ) -> Result<Option<Address>, Trouble> {
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master);
        match self.answer(dialer, sentinel, &question).await? {
            Value::Nil => Ok(None),
            Value::Array(parts) => {
                let mut parts = parts.iter().map(text);
                match (parts.next().flatten(), parts.next().flatten()) {
                    (Some(host), Some(port)) => Ok(port.parse().ok().map(|port| Address {
                        host: host.to_owned(),
                        port,
                    })),
                    _ => Err(Trouble::unreadable("SENTINEL")),
                }
            }
            _ => Err(Trouble::unreadable("SENTINEL")),
        }
    }
}

/// A server of a deployment, as a mark of it.
fn server(address: &Address) -> String {
    format!("server {address}")
}

/// What a sentinel says of its master's deployment: the sentinels that watch it, by their ids, and
/// the servers that there are. Without a deadline.
///
/// Sentinels of one deployment know each other's ids, or those that one knows, or name the same
/// servers: also one that has lost its configuration, which names the first master again.
pub(crate) async fn view(live: &Live, master: &str) -> Result<View, Trouble> {
    let question = |what: &str| {
        let mut question = cmd("SENTINEL");
        question.arg(what).arg(master);
        question
    };
    let mut members = HashSet::new();
    // Before Redis 6.2 a sentinel does not tell its own.
    let own = live.query(cmd("SENTINEL").arg("MYID")).await;
    members.extend(own.ok().as_ref().and_then(text).map(sentinel));
    let found = live.query(&question("MASTER")).await?;
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
        let Value::Array(others) = live.query(&question(what)).await? else {
            return Err(Trouble::unreadable("SENTINEL"));
        };
        for other in &others {
            let other = properties(other);
            let mark = if by_id {
                // Empty until it was first heard of.
                let id = other.get("runid").filter(|id| !id.is_empty());
                id.map(|id| sentinel(id))
            } else {
                address_in(&other).as_ref().map(server)
            };
            members.extend(mark);
        }
    }
    Ok(View {
        by: format!("sentinel {}", live.address()),
        members,
        shares: keeper.into_iter().collect(),
    })
}

fn sentinel(id: &str) -> String {
    format!("sentinel {id}")
}

fn address_in(properties: &HashMap<&str, &str>) -> Option<Address> {
    Some(Address {
        host: (*properties.get("ip")?).to_owned(),
        port: properties.get("port")?.parse().ok()?,
    })
}

/// Names and values in turn.
fn properties(answer: &Value) -> HashMap<&str, &str> {
    let Value::Array(parts) = answer else {
        return HashMap::new();
    };
    let pairs = parts.chunks_exact(2);
    pairs
        .filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
        .collect()
}
