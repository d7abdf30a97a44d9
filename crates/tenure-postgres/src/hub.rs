//! How candidates and observers learn of changes without asking all the time.
//!
//! Three sources, none of which a waiter could block or be blocked by:
//!
//! - Sessions notify each other (`NOTIFY tenure`) when they release a lock or get one. The
//!   announcement of a term carries what an advisory lock has no place for: the lock's name, the
//!   token, the identity and the published value. An observer that missed it asks, and the
//!   holder announces itself again.
//! - A process that is killed notifies nobody. So each session that can hold locks also holds a
//!   lock of its own, `(ALIVE, its pid)`, and those who wait for one of its locks wait for that
//!   one, shared, on a session of their own: they are woken when the holder's session is gone,
//!   for whatever reason. A ghost among them (a waiter killed or frozen while it waits) gets
//!   nothing but a share of a lock that nobody else wants.
//! - The end of our own session is a hint too: what it would have told was missed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream;
use tenure_core::{Changes, FencingToken, Hint, Holder, Kept, Time};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_postgres::{CancelToken, NoTls, Notification};

use crate::cluster::{ASK_AGAIN, Cluster};
use crate::config::{PostgresConfig, TlsMode};
use crate::errors::Trouble;
use crate::key::{ALIVE, AdvisoryKey};
use crate::link::{self, Link, Listener};
use crate::session::Session;
use crate::tasks::Tasks;

/// A session can also end under a living leader, whose connection was reset or closed by somebody
/// else. It learns that within a millisecond, and stops; those who wait for its locks hold back so
/// long, so that it is not they who are faster.
const HEARS_OF_ITS_END: Duration = Duration::from_millis(20);

/// How many announcements are remembered of locks that nobody here waits for.
const REMEMBERED: usize = 10_000;

/// What all sessions of a backend share.
pub(crate) struct Hub {
    config: Arc<PostgresConfig>,
    pub(crate) cluster: Arc<Cluster>,
    tasks: Tasks,
    state: Kept<Mutex<State>>,
    /// A term was announced.
    announced: Notify,
}

#[derive(Default)]
struct State {
    waiting: HashMap<AdvisoryKey, watch::Sender<Told>>,
    announcements: HashMap<AdvisoryKey, Announcement>,
    watches: HashMap<i32, Watch>,
    sessions: Vec<Weak<Session>>,
    /// The task that asks hosts which could not be asked before.
    asking: Option<AbortHandle>,
    /// Since when the server we first connected to has lost no lock.
    first_reign: Option<String>,
    /// The reign that has followed it, and when we saw that.
    next_reign: Option<(String, Time)>,
}

/// What those who wait for a lock were told. A subscriber that has not looked for a while still
/// learns that the lock was free meanwhile, whoever has won it since.
#[derive(Clone, Copy, Default)]
struct Told {
    /// How often it may have become free.
    frees: u64,
    /// For how long somebody holds it, from the last announcement on.
    held_for: Duration,
}

/// The session that waits for the end of another one.
struct Watch {
    keys: HashSet<AdvisoryKey>,
    task: AbortHandle,
}

/// What a holder told of its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) pid: i32,
    pub(crate) lock: String,
    pub(crate) lease: Duration,
    pub(crate) token: FencingToken,
    pub(crate) identity: String,
    pub(crate) value: Option<String>,
}

impl Announcement {
    pub(crate) fn holder(&self) -> Holder {
        let mut holder = Holder::new(self.identity.clone());
        holder.token = Some(self.token);
        holder.value.clone_from(&self.value);
        holder
    }

    /// At most 1.8 kB, of the 8 kB that a notification can carry.
    pub(crate) fn message(&self, key: AdvisoryKey) -> String {
        let value = match &self.value {
            Some(value) => format!("={value}"),
            None => "-".to_owned(),
        };
        format!(
            "1 led {key} {} {} {} {} {value}",
            self.lease.as_millis(),
            self.token.counter(),
            self.lock,
            self.identity,
        )
    }
}

/// What sessions tell each other.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// The lock was released.
    Free(AdvisoryKey),
    /// Somebody wants to know of the term.
    Ask(AdvisoryKey),
    Led(AdvisoryKey, Announcement),
}

pub(crate) fn free_message(key: AdvisoryKey) -> String {
    format!("1 free {key}")
}

pub(crate) fn ask_message(key: AdvisoryKey) -> String {
    format!("1 ask {key}")
}

/// `None` for what other versions or other programs say.
fn parse(pid: i32, payload: &str) -> Option<Message> {
    let mut words = payload.splitn(4, ' ');
    let (version, verb, key) = (words.next()?, words.next()?, words.next()?);
    if version != "1" {
        return None;
    }
    let key = AdvisoryKey::parse(key)?;
    match verb {
        "free" => Some(Message::Free(key)),
        "ask" => Some(Message::Ask(key)),
        "led" => {
            let mut words = words.next()?.splitn(5, ' ');
            let mut next = || words.next();
            let announcement = Announcement {
                pid,
                lease: Duration::from_millis(next()?.parse().ok()?),
                token: FencingToken::from_counter(next()?.parse().ok()?).ok()?,
                lock: next()?.to_owned(),
                identity: next()?.to_owned(),
                value: next()?.strip_prefix('=').map(str::to_owned),
            };
            Some(Message::Led(key, announcement))
        }
        _ => None,
    }
}

impl Hub {
    pub(crate) fn new(config: Arc<PostgresConfig>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            config,
            cluster: Arc::new(Cluster::new()),
            state: tasks.process.keep(Mutex::default()),
            tasks,
            announced: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listener(self: &Arc<Self>) -> Listener {
        let hub = Arc::downgrade(self);
        Arc::new(move |notification: &Notification| {
            if let Some(hub) = hub.upgrade()
                && notification.channel() == link::CHANNEL
                && let Some(message) = parse(notification.process_id(), notification.payload())
            {
                hub.heard(message);
            }
        })
    }

    fn heard(self: &Arc<Self>, message: Message) {
        match message {
            Message::Free(key) => {
                let mut state = self.state();
                state.announcements.remove(&key);
                state.may_be_free(key);
            }
            Message::Led(key, announcement) => {
                let (pid, lease) = (announcement.pid, announcement.lease);
                let mut state = self.state();
                if state.announcements.len() >= REMEMBERED {
                    state.announcements.clear();
                }
                state.announcements.insert(key, announcement);
                drop(state);
                self.announced.notify_waiters();
                // Who does not learn of the holder's end goes on looking once per heartbeat.
                if self.ends_with_us(pid) || self.watch(key, pid) {
                    // Half of it, so that a candidate that missed the holder's end looks in time.
                    self.state().held_for(key, lease / 2);
                }
            }
            Message::Ask(key) => {
                let sessions = self.state().sessions.clone();
                for session in sessions.iter().filter_map(Weak::upgrade) {
                    session.announce(key);
                }
            }
        }
    }

    /// Remembers the first server, so that a restart of it is seen.
    pub(crate) fn connected(&self, link: &Link) {
        let mut state = self.state();
        state.first_reign.get_or_insert_with(|| link.reign.clone());
    }

    /// Until when nothing may be granted on this link, for the sake of those who led before the
    /// server lost its locks (restart, crash, failover to this one), and may not know of it yet.
    pub(crate) fn quiet_until(&self, link: &Link, now: Time, lease: Duration) -> Time {
        let mut state = self.state();
        let first = state.first_reign.get_or_insert_with(|| link.reign.clone());
        if *first != link.reign {
            // By our own clock: the other end's may differ from that of the server before.
            let seen = state.next_reign.take();
            let seen = seen.filter(|(reign, _)| *reign == link.reign);
            let (reign, at) = seen.unwrap_or_else(|| (link.reign.clone(), now));
            state.next_reign = Some((reign, at));
            at + lease
        } else if self.config.restart_grace {
            now + lease.saturating_sub(link.age())
        } else {
            Time::ZERO
        }
    }

    /// Goes on asking the hosts that have not told their cluster yet, until each has.
    pub(crate) fn ask_the_missing(&self) {
        if self.cluster.missing(&self.config.hosts).is_empty() {
            return;
        }
        let (config, cluster) = (self.config.clone(), self.cluster.clone());
        let asking = self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(ASK_AGAIN).await;
                let missing = cluster.missing(&config.hosts);
                if missing.is_empty() || cluster.refused().is_some() {
                    return;
                }
                if let Err(trouble) = cluster.ask(&config, &missing).await {
                    tracing::warn!(
                        reason = trouble.message(),
                        "the hosts do not belong together"
                    );
                }
            }
        });
        self.state().asking = Some(asking.abort_handle());
    }

    pub(crate) fn add(&self, session: &Arc<Session>) {
        let mut state = self.state();
        state.sessions.retain(|known| known.strong_count() > 0);
        state.sessions.push(Arc::downgrade(session));
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let state = self.state();
        state.sessions.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether the session is one of our own, whose end is told without a watch.
    fn ends_with_us(&self, pid: i32) -> bool {
        self.sessions().iter().any(|session| session.pid() == pid)
    }

    /// Everybody looks again: a session that listened has ended.
    pub(crate) fn missed_something(&self) {
        let mut state = self.state();
        state.announcements.clear();
        for waiting in state.waiting.values() {
            waiting.send_modify(|told| told.frees += 1);
        }
    }

    /// Those who wait for `key` look again.
    pub(crate) fn look_again(&self, key: AdvisoryKey) {
        self.state().may_be_free(key);
    }

    /// What the session `pid` has told of its term.
    pub(crate) fn announcement(&self, key: AdvisoryKey, pid: i32) -> Option<Announcement> {
        let state = self.state();
        let announcement = state.announcements.get(&key)?;
        (announcement.pid == pid).then(|| announcement.clone())
    }

    /// The same, as soon as it is heard; asked for by `ask`.
    pub(crate) async fn await_announcement(
        &self,
        key: AdvisoryKey,
        pid: i32,
        ask: impl Future<Output = Result<(), Trouble>>,
    ) -> Option<Announcement> {
        let mut heard = std::pin::pin!(self.announced.notified());
        heard.as_mut().enable();
        ask.await.ok()?;
        loop {
            if let Some(announcement) = self.announcement(key, pid) {
                return Some(announcement);
            }
            heard.as_mut().await;
            heard.set(self.announced.notified());
            heard.as_mut().enable();
        }
    }

    pub(crate) fn changes(self: &Arc<Self>, key: AdvisoryKey) -> Changes {
        let receiver = {
            let mut state = self.state();
            let sender = state.waiting.entry(key);
            sender
                .or_insert_with(|| watch::Sender::new(Told::default()))
                .subscribe()
        };
        let frees = receiver.borrow().frees;
        let subscription = Subscription {
            frees,
            receiver: Some(receiver),
            hub: self.clone(),
            key,
        };
        Box::pin(stream::unfold(
            subscription,
            |mut subscription| async move {
                let receiver = subscription.receiver.as_mut()?;
                receiver.changed().await.ok()?;
                let told = *receiver.borrow_and_update();
                let was_free = told.frees != subscription.frees;
                subscription.frees = told.frees;
                let hint = if was_free {
                    Hint::MayBeFree
                } else {
                    Hint::HeldFor(told.held_for)
                };
                Some((hint, subscription))
            },
        ))
    }

    /// Sees to it that those who wait for `key` are woken when the session `pid` ends; whether
    /// they will be.
    pub(crate) fn watch(self: &Arc<Self>, key: AdvisoryKey, pid: i32) -> bool {
        let mut state = self.state();
        if !state.waiting.contains_key(&key) {
            return false;
        }
        if let Some(watch) = state.watches.get_mut(&pid) {
            if watch.keys.insert(key) {
                state.forget_key(key, Some(pid));
            }
            return true;
        }
        state.forget_key(key, Some(pid));
        if state.watches.len() >= self.config.watch_sessions {
            return false;
        }
        let (hub, config) = (Arc::downgrade(self), self.config.clone());
        let cluster = self.cluster.clone();
        let tasks = self.tasks.clone();
        let task = self.tasks.spawn(async move {
            let outcome = await_end(&config, &cluster, &tasks, pid).await;
            tokio::time::sleep(HEARS_OF_ITS_END).await;
            if let Err(trouble) = &outcome {
                // The candidates look once per heartbeat instead.
                tracing::debug!(
                    reason = trouble.message(),
                    "cannot wait for a session's end"
                );
            }
            if let Some(hub) = hub.upgrade() {
                hub.watch_over(pid, outcome.is_ok());
            }
        });
        state.watches.insert(
            pid,
            Watch {
                keys: HashSet::from([key]),
                task: task.abort_handle(),
            },
        );
        true
    }

    fn watch_over(&self, pid: i32, gone: bool) {
        let mut state = self.state();
        if let Some(watch) = state.watches.remove(&pid)
            && gone
        {
            for key in watch.keys {
                state.may_be_free(key);
            }
        }
    }
}

impl State {
    fn may_be_free(&self, key: AdvisoryKey) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.send_modify(|told| told.frees += 1);
        }
    }

    fn held_for(&self, key: AdvisoryKey, left: Duration) {
        if let Some(waiting) = self.waiting.get(&key) {
            waiting.send_modify(|told| told.held_for = left);
        }
    }

    /// Ends the watches that only `key` had needed, but for that of `pid`.
    fn forget_key(&mut self, key: AdvisoryKey, pid: Option<i32>) {
        self.watches.retain(|watched, watch| {
            if Some(*watched) == pid {
                return true;
            }
            watch.keys.remove(&key);
            if watch.keys.is_empty() {
                watch.task.abort();
            }
            !watch.keys.is_empty()
        });
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            watch.task.abort();
        }
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

struct Subscription {
    receiver: Option<watch::Receiver<Told>>,
    /// How often the lock may have become free that this subscriber knows of.
    frees: u64,
    hub: Arc<Hub>,
    key: AdvisoryKey,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.hub.state.is_ours() {
            // Another thread may have held the lock when this child was forked.
            return;
        }
        self.receiver = None;
        let mut state = self.hub.state();
        let waiting = state.waiting.get(&self.key);
        if waiting.is_some_and(|waiting| waiting.receiver_count() == 0) {
            state.waiting.remove(&self.key);
            state.forget_key(self.key, None);
        }
    }
}

/// The lease of the session that waits, from the moment on at which the wait is over.
const WATCHER_LEASE: Duration = Duration::from_secs(10);

/// Waits, on a session of its own, until the session `pid` is gone.
async fn await_end(
    config: &PostgresConfig,
    cluster: &Cluster,
    tasks: &Tasks,
    pid: i32,
) -> Result<(), Trouble> {
    let silent: Listener = Arc::new(|_: &Notification| {});
    let link = link::connect(config, cluster, silent).await?;
    // Nothing may end the wait, but a ghost must go: see the reference on each of these in
    // `session.rs`.
    let limit = config.connect_timeout;
    let setting_up = crate::session::set_up(&link, config, WATCHER_LEASE, "tenure waits");
    tokio::time::timeout(limit, setting_up)
        .await
        .map_err(|_| Trouble::silent("the server", limit))??;
    let mut waiting = CancelOnDrop {
        cancel: Some(link.client().cancel_token()),
        tls: config.tls,
        tasks: tasks.clone(),
        config: config.clone(),
    };
    let sql = format!("SELECT pg_advisory_lock_shared({ALIVE}, {pid})");
    let ended = link.client().simple_query(&sql).await;
    waiting.cancel = None;
    ended?;
    Ok(())
}

/// A wait that is dropped would go on at the server until it looks after the connection.
struct CancelOnDrop {
    cancel: Option<CancelToken>,
    tls: TlsMode,
    tasks: Tasks,
    config: PostgresConfig,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(cancel) = self.cancel.take() else {
            return;
        };
        let (tls, config) = (self.tls, self.config.clone());
        self.tasks.spawn(async move {
            let request = async {
                match tls {
                    TlsMode::Disable => cancel.cancel_query(NoTls).await.ok(),
                    #[cfg(feature = "_tls")]
                    _ => match crate::tls::Tls::new(&config) {
                        Ok(tls) => cancel.cancel_query(tls).await.ok(),
                        Err(_) => None,
                    },
                    #[cfg(not(feature = "_tls"))]
                    _ => cancel.cancel_query(NoTls).await.ok(),
                }
            };
            tokio::select! {
                _ = request => {}
                () = tokio::time::sleep(config.connect_timeout) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use tenure_core::LockName;

    use super::*;

    fn led(pid: i32) -> Announcement {
        Announcement {
            pid,
            lock: "a".to_owned(),
            lease: Duration::from_secs(20),
            token: FencingToken::from_counter(42).unwrap(),
            identity: "pod-1".to_owned(),
            value: None,
        }
    }

    fn hub(watch_sessions: usize) -> Arc<Hub> {
        let config = PostgresConfig::server("127.0.0.1:1").unwrap();
        let config = config.watch_sessions(watch_sessions);
        Hub::new(Arc::new(config), Tasks::here())
    }

    #[tokio::test]
    async fn a_release_is_heard_although_somebody_has_won_the_lock_since() {
        let (hub, key) = (hub(1), AdvisoryKey::Big(1));
        let mut changes = hub.changes(key);
        hub.heard(Message::Free(key));
        hub.heard(Message::Led(key, led(7)));
        assert_eq!(changes.next().await, Some(Hint::MayBeFree));
        hub.heard(Message::Led(key, led(7)));
        let left = Duration::from_secs(10);
        assert_eq!(changes.next().await, Some(Hint::HeldFor(left)));
    }

    #[tokio::test]
    async fn the_end_of_a_holder_that_was_announced_is_waited_for() {
        let (hub, key) = (hub(1), AdvisoryKey::Big(1));
        let _changes = hub.changes(key);
        hub.heard(Message::Led(key, led(7)));
        assert!(hub.state().watches.contains_key(&7));
    }

    #[tokio::test]
    async fn nobody_sleeps_through_heartbeats_where_no_end_is_waited_for() {
        let (hub, key) = (hub(0), AdvisoryKey::Big(1));
        let mut changes = hub.changes(key);
        hub.heard(Message::Led(key, led(7)));
        assert_eq!(changes.next().now_or_never(), None);
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let lock = LockName::new("a.b").unwrap();
        let announcement = Announcement {
            pid: 7,
            lock: lock.as_str().to_owned(),
            lease: Duration::from_secs(20),
            token: FencingToken::from_counter(42).unwrap(),
            identity: "pod-1".to_owned(),
            value: Some("http://a b/ -=".to_owned()),
        };
        for key in [AdvisoryKey::Big(-5), AdvisoryKey::Pair(-1, 3)] {
            assert_eq!(parse(7, &free_message(key)), Some(Message::Free(key)));
            assert_eq!(parse(7, &ask_message(key)), Some(Message::Ask(key)));
            for value in [None, Some(String::new()), announcement.value.clone()] {
                let mut announcement = announcement.clone();
                announcement.value = value;
                let message = announcement.message(key);
                assert_eq!(parse(7, &message), Some(Message::Led(key, announcement)));
            }
        }
        for foreign in [
            "",
            "1",
            "1 free",
            "1 free x",
            "2 free 5",
            "1 led 5 x",
            "1 led 5 1 2 a",
        ] {
            assert_eq!(parse(7, foreign), None, "{foreign}");
        }
    }
}
