//! One watch stream for all elections of a backend, and who is woken by it.
//!
//! A waiting candidate watches the key of its predecessor only, so a release wakes one candidate
//! and not a herd. For a lock on which no candidate of this backend has a key, whoever listens is
//! an observer, and all of the lock's keys are watched.
//!
//! On each lease one leader's key is watched as well: it is gone when an operator or the server ends
//! the lease, and then the next heartbeat does not wait until it is due.
//!
//! What is watched is kept here with the revision that was seen last; so when the stream breaks,
//! or its endpoint fails, the next one goes on from there and misses nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse};
use futures_util::stream;
use tenure_core::{Changes, Hint, LockName, Process};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

use crate::cluster::Opened;
use crate::errors::{Cause, Trouble};
use crate::keys;
use crate::link::{Link, Links};

/// A candidate subscribes before it has a key; an observer stays without one.
const BEFORE_OBSERVING: Duration = Duration::from_millis(50);

/// Between attempts to open a stream when no endpoint answers.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) struct Hub {
    prefix: String,
    runtime: Handle,
    process: Process,
    state: Mutex<State>,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Default)]
struct State {
    locks: HashMap<LockName, Entry>,
    last_id: i64,
}

struct Entry {
    hints: watch::Sender<()>,
    /// How many keys this backend has there.
    seats: usize,
    /// What the seats wait for, by their leases.
    waits: HashMap<i64, Wait>,
    observing: Option<i64>,
}

struct Wait {
    predecessor: Vec<u8>,
    id: i64,
}

impl Entry {
    fn new() -> Self {
        Self {
            hints: watch::Sender::new(()),
            seats: 0,
            waits: HashMap::new(),
            observing: None,
        }
    }
}

enum Order {
    Watch(i64, Target),
    Cancel(i64),
}

/// What is watched.
#[derive(Clone)]
struct Target {
    lock: LockName,
    key: Vec<u8>,
    /// All keys that begin so, not this one alone.
    all: bool,
    /// The first revision that has not been seen; 0 is now.
    from: i64,
    /// A leader's own key: whom to wake, instead of those who listen to the lock.
    alarm: Option<Arc<Notify>>,
}

impl Hub {
    pub(crate) fn new(links: Arc<Links>, runtime: &Handle) -> Arc<Self> {
        let (orders, taken) = mpsc::unbounded_channel();
        let hub = Arc::new(Self {
            prefix: links.config.prefix.clone(),
            runtime: runtime.clone(),
            process: links.process.clone(),
            state: Mutex::default(),
            orders,
        });
        let watcher = Watcher {
            links,
            hub: Arc::downgrade(&hub),
            orders: taken,
            targets: HashMap::new(),
        };
        runtime.spawn(hub.process.confine(watcher.run()));
        hub
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        // Fails only when the runtime is shutting down.
        let _unwatched = self.orders.send(order);
    }

    /// The lock has a key of this backend from now on.
    pub(crate) fn sit(&self, lock: &LockName) {
        let mut state = self.state();
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        entry.seats += 1;
        if let Some(id) = entry.observing.take() {
            drop(state);
            self.order(Order::Cancel(id));
        }
    }

    /// A candidate is about to have a key: it is no observer, however long the store takes. Without
    /// this, thousands that wait for a new lease would each open a watch, only to close it again.
    pub(crate) fn seek(self: &Arc<Self>, lock: &LockName) -> Seeking {
        self.sit(lock);
        Seeking {
            hub: self.clone(),
            lock: lock.clone(),
        }
    }

    /// The key on this lease is gone.
    pub(crate) fn rise(self: &Arc<Self>, lock: &LockName, lease: i64) {
        self.stop_waiting(lock, lease);
        let mut state = self.state();
        if let Some(entry) = state.locks.get_mut(lock) {
            entry.seats = entry.seats.saturating_sub(1);
        }
        drop(state);
        self.tell(lock);
        self.settle(lock);
    }

    /// Wakes those who listen to `lock` when `predecessor` is deleted at `from` or later.
    pub(crate) fn wait(&self, lock: &LockName, lease: i64, predecessor: Vec<u8>, from: i64) {
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        if let Some(wait) = entry.waits.get(&lease)
            && wait.predecessor == predecessor
        {
            return;
        }
        let wait = Wait {
            predecessor: predecessor.clone(),
            id,
        };
        let before = entry.waits.insert(lease, wait);
        drop(state);
        if let Some(before) = before {
            self.order(Order::Cancel(before.id));
        }
        let target = Target {
            lock: lock.clone(),
            key: predecessor,
            all: false,
            from,
            alarm: None,
        };
        self.order(Order::Watch(id, target));
    }

    /// Sounds the alarm when the leader's key is deleted at `from` or later; the watch's number.
    pub(crate) fn guard(&self, lock: &LockName, key: String, from: i64, alarm: Arc<Notify>) -> i64 {
        let id = {
            let mut state = self.state();
            state.last_id += 1;
            state.last_id
        };
        let target = Target {
            lock: lock.clone(),
            key: key.into_bytes(),
            all: false,
            from,
            alarm: Some(alarm),
        };
        self.order(Order::Watch(id, target));
        id
    }

    /// No alarm any more.
    pub(crate) fn unguard(&self, id: i64) {
        self.order(Order::Cancel(id));
    }

    pub(crate) fn stop_waiting(&self, lock: &LockName, lease: i64) {
        let mut state = self.state();
        let wait = state
            .locks
            .get_mut(lock)
            .and_then(|entry| entry.waits.remove(&lease));
        drop(state);
        if let Some(wait) = wait {
            self.order(Order::Cancel(wait.id));
        }
    }

    /// Whether the key on this lease waits for one before it, as far as is known.
    pub(crate) fn waits(&self, lock: &LockName, lease: i64) -> bool {
        let state = self.state();
        let entry = state.locks.get(lock);
        entry.is_some_and(|entry| entry.waits.contains_key(&lease))
    }

    /// The lock may have become free.
    pub(crate) fn tell(&self, lock: &LockName) {
        if let Some(entry) = self.state().locks.get(lock) {
            entry.hints.send_replace(());
        }
    }

    pub(crate) fn changes(self: &Arc<Self>, lock: &LockName) -> Changes {
        let mut state = self.state();
        let entry = state.locks.entry(lock.clone()).or_insert_with(Entry::new);
        let listener = Listener {
            hints: Some(entry.hints.subscribe()),
            hub: self.clone(),
            lock: lock.clone(),
        };
        drop(state);
        self.settle_later(lock);
        Box::pin(stream::unfold(listener, |mut listener| async move {
            if !listener.hub.process.is_current() {
                return None;
            }
            let changed = listener.hints.as_mut()?.changed().await;
            changed.ok().map(|()| (Hint::MayBeFree, listener))
        }))
    }

    fn settle_later(self: &Arc<Self>, lock: &LockName) {
        let (hub, lock) = (Arc::downgrade(self), lock.clone());
        let settling = async move {
            tokio::time::sleep(BEFORE_OBSERVING).await;
            if let Some(hub) = hub.upgrade() {
                hub.settle(&lock);
            }
        };
        self.runtime.spawn(self.process.confine(settling));
    }

    /// Begins or ends to watch all keys of the lock, as it has observers or not.
    fn settle(&self, lock: &LockName) {
        let mut state = self.state();
        let id = state.last_id + 1;
        let Some(entry) = state.locks.get_mut(lock) else {
            return;
        };
        let listened = entry.hints.receiver_count() > 0;
        let order = match entry.observing {
            None if listened && entry.seats == 0 => {
                entry.observing = Some(id);
                state.last_id = id;
                let target = Target {
                    lock: lock.clone(),
                    key: keys::election(&self.prefix, lock).into_bytes(),
                    all: true,
                    from: 0,
                    alarm: None,
                };
                Some(Order::Watch(id, target))
            }
            Some(id) if !listened || entry.seats > 0 => {
                entry.observing = None;
                Some(Order::Cancel(id))
            }
            _ => None,
        };
        if let Some(entry) = state.locks.get(lock)
            && !listened
            && entry.seats == 0
        {
            state.locks.remove(lock);
        }
        drop(state);
        if let Some(order) = order {
            self.order(order);
        }
    }

    /// The predecessor is gone: what comes next is found out by the look that this causes.
    fn passed(&self, target: &Target) {
        if let Some(alarm) = &target.alarm {
            alarm.notify_one();
            return;
        }
        if let Some(entry) = self.state().locks.get_mut(&target.lock) {
            entry.waits.retain(|_, wait| wait.predecessor != target.key);
            entry.hints.send_replace(());
        }
    }
}

/// See [`Hub::seek`].
pub(crate) struct Seeking {
    hub: Arc<Hub>,
    lock: LockName,
}

impl Drop for Seeking {
    fn drop(&mut self) {
        // In a child another thread's lock may be held for ever.
        if !self.hub.process.is_current() {
            return;
        }
        let mut state = self.hub.state();
        let Some(entry) = state.locks.get_mut(&self.lock) else {
            return;
        };
        entry.seats = entry.seats.saturating_sub(1);
        let empty = entry.seats == 0;
        drop(state);
        if empty {
            // Most likely it tries again soon.
            self.hub.settle_later(&self.lock);
        }
    }
}

struct Listener {
    hints: Option<watch::Receiver<()>>,
    hub: Arc<Hub>,
    lock: LockName,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.hub.process.is_current() {
            std::mem::forget(self.hints.take());
            return;
        }
        self.hints = None;
        self.hub.settle(&self.lock);
    }
}

struct Watcher {
    links: Arc<Links>,
    hub: Weak<Hub>,
    orders: mpsc::UnboundedReceiver<Order>,
    targets: HashMap<i64, Target>,
}

/// What is still to be sent on a stream.
enum Request {
    Watch(i64),
    Cancel(i64),
}

impl Watcher {
    /// Ends with the hub.
    async fn run(mut self) {
        loop {
            if self.targets.is_empty() {
                match self.orders.recv().await {
                    None => return,
                    Some(order) => self.note(order),
                };
                continue;
            }
            let link = match self.links.get(self.links.config.request_timeout).await {
                Ok(link) => link,
                Err(trouble) => {
                    tracing::debug!(reason = trouble.message(), "no endpoint to watch on");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            match self.watch(&link).await {
                Ok(()) => return,
                Err(trouble) => {
                    tracing::debug!(reason = trouble.message(), "etcd watch reopened");
                    if trouble.cause != Cause::Link {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    fn note(&mut self, order: Order) -> Request {
        match order {
            Order::Watch(id, target) => {
                self.targets.insert(id, target);
                Request::Watch(id)
            }
            Order::Cancel(id) => {
                self.targets.remove(&id);
                Request::Cancel(id)
            }
        }
    }

    fn options(&self, id: i64) -> Option<(Vec<u8>, WatchOptions)> {
        let target = self.targets.get(&id)?;
        let mut options = WatchOptions::new()
            .with_watch_id(id)
            .with_start_revision(target.from);
        if target.all {
            options = options.with_prefix();
        } else {
            options = options.with_filters([etcd_client::WatchFilterType::NoPut]);
        }
        Some((target.key.clone(), options))
    }

    /// `Ok` when the hub is gone.
    async fn watch(&mut self, link: &Link) -> Result<(), Trouble> {
        let mut pending: VecDeque<Request> =
            self.targets.keys().copied().map(Request::Watch).collect();
        // The first request opens the stream.
        let Some(Request::Watch(first)) = pending.pop_front() else {
            return Err(Trouble::unreadable("a watch of nothing"));
        };
        let Some((key, options)) = self.options(first) else {
            return Err(Trouble::unreadable("a watch of nothing"));
        };
        let mut client = link.client.watch_client();
        let opening = async move { client.watch(key, Some(options)).await.map(Opened) };
        let limit = self.links.config.request_timeout;
        let Opened(opened) = self.links.one(link, limit, opening).await?;
        let (mut sender, mut responses) = opened.split();
        loop {
            // Answers are read while requests are sent, or both sides could wait for each other.
            let next = loop {
                match pending.front() {
                    Some(Request::Watch(id)) => match self.options(*id) {
                        Some((key, options)) => break Some((*id, Some((key, options)))),
                        None => pending.pop_front(),
                    },
                    Some(Request::Cancel(id)) => break Some((*id, None)),
                    None => break None,
                };
            };
            let idle = next.is_none();
            let sending = async {
                match next {
                    Some((_, Some((key, options)))) => sender.watch(key, Some(options)).await,
                    Some((id, None)) => sender.cancel(id).await,
                    None => Ok(()),
                }
            };
            tokio::select! {
                () = link.failure() => return Err(Trouble::silent(&link.endpoint, limit)),
                response = responses.message() => {
                    let response = response.map_err(Trouble::from).and_then(|response| {
                        response.ok_or_else(|| Trouble::unreadable("a watch").of_the_link())
                    });
                    match response {
                        Ok(response) => {
                            self.links.cluster.compare(response.header(), &link.endpoint)?;
                            pending.extend(self.heard(&response));
                        }
                        Err(trouble) => {
                            link.fail();
                            return Err(trouble.of_the_link());
                        }
                    }
                }
                order = self.orders.recv() => match order {
                    None => return Ok(()),
                    Some(order) => {
                        let request = self.note(order);
                        pending.push_back(request);
                    }
                },
                sent = sending, if !idle => {
                    sent.map_err(Trouble::from)?;
                    pending.pop_front();
                }
            }
        }
    }

    fn heard(&mut self, response: &WatchResponse) -> Option<Request> {
        let id = response.watch_id();
        let revision = response
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let hub = self.hub.upgrade()?;
        let Some(target) = self.targets.get_mut(&id) else {
            if response.canceled() && !response.cancel_reason().is_empty() {
                tracing::warn!(
                    reason = ?response.cancel_reason(),
                    "etcd refuses to watch a lock; its changes are seen at the next look only"
                );
            }
            return None;
        };
        if response.canceled() {
            if response.compact_revision() == 0 {
                // Refused. The candidate looks once a heartbeat.
                tracing::warn!(
                    lock = %target.lock,
                    reason = ?response.cancel_reason(),
                    "etcd refuses to watch a lock; its changes are seen at the next look only"
                );
                self.targets.remove(&id);
                return None;
            }
            // What happened since is forgotten: watched from now, and looked at once that stands.
            target.from = 0;
            return Some(Request::Watch(id));
        }
        let looked = target.from != 0;
        if response.created() {
            if !looked {
                target.from = revision + 1;
                match &target.alarm {
                    Some(alarm) => alarm.notify_one(),
                    None => hub.tell(&target.lock),
                }
            }
            return None;
        }
        if response.events().is_empty() {
            return None;
        }
        target.from = revision + 1;
        if target.all {
            hub.tell(&target.lock);
            return None;
        }
        let gone = |event: &etcd_client::Event| event.event_type() == EventType::Delete;
        if !response.events().iter().any(gone) {
            return None;
        }
        hub.passed(target);
        self.targets.remove(&id);
        Some(Request::Cancel(id))
    }
}
