//! Notifications: one connection on which the releases of all locks of a backend arrive.
//!
//! It is a second connection, open while a candidate waits, and not the calls' own with RESP3. So
//! it works on servers and through proxies without RESP3, and a `WAIT` on the calls' connection
//! does not hold notifications back. A process that leads everything it campaigns for has one
//! connection.
//!
//! A message is a notification. Nothing is missed for good: after each subscription all candidates
//! look again, and each has the timer at which the lock can expire. Keyspace events are not used;
//! with many keys that expire they come seconds late.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use redis::aio::{PubSubSink, PubSubStream};
use tenure_core::{Changes, ErrorKind, FencingToken, Hint};
use tenure_kit::deadline::within;
use tenure_kit::{Address, Allowance, Backoff};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Interval, interval_at, sleep};

use crate::errors::StoreError;
use crate::keys::KeyNames;
use crate::net::hold;
use crate::net::network::{Network, Subscriber};
use crate::pace::{Pace, before_return};
use crate::topology::Topology;

/// How often a silent connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How often a connection is compared with where calls go now.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const SHORTEST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The subscriptions of a backend.
pub(crate) struct Notifications {
    topology: Arc<Topology>,
    network: Arc<Network>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    channels: Mutex<Channels>,
    /// A candidate has begun or ceased to wait for a lock.
    changed: Notify,
}

#[derive(Default)]
struct Channels {
    by_name: HashMap<String, Channel>,
    /// Whether the task that listens is there.
    listening: bool,
}

struct Channel {
    keys: KeyNames,
    /// Counts the messages. Its end tells those who wait that no more will come.
    messages: watch::Sender<u64>,
    subscribed: bool,
    /// The token of the last term that an attempt of this process has met.
    last_term: Option<FencingToken>,
    /// How often that has changed.
    changes: Arc<AtomicU64>,
}

impl Notifications {
    pub(crate) fn new(topology: Arc<Topology>, network: Arc<Network>) -> Self {
        Self {
            topology,
            network,
            shared: Arc::default(),
        }
    }

    /// The notifications about one lock. Ends when notifications are forbidden, the backend's
    /// runtime is gone, or in a forked child.
    pub(crate) fn subscribe(&self, keys: KeyNames) -> Changes {
        let process = self.network.process();
        let channel = keys.channel();
        if !process.is_current() {
            return Box::pin(stream::empty());
        }
        let (receiver, changes, start) = {
            let mut channels = hold(&self.shared.channels);
            let new = || Channel {
                keys,
                messages: watch::Sender::new(0),
                subscribed: false,
                last_term: None,
                changes: Arc::default(),
            };
            let entry = channels.by_name.entry(channel.clone()).or_insert_with(new);
            let receiver = entry.messages.subscribe();
            let changes = entry.changes.clone();
            let start = !channels.listening;
            channels.listening = true;
            (receiver, changes, start)
        };
        if start {
            let listener = self.listener(self.shared.clone());
            drop(self.network.tasks.spawn(listener.run()));
        } else {
            self.shared.changed.notify_one();
        }
        let subscription = Subscription {
            receiver: Some(receiver),
            pace: Pace::new(changes.load(Ordering::Relaxed)),
            changes,
            channel,
            shared: self.shared.clone(),
        };
        let hints = stream::unfold(subscription, |mut subscription| async {
            let receiver = subscription.receiver.as_mut()?;
            receiver.changed().await.ok()?;
            let changes = subscription.changes.load(Ordering::Relaxed);
            subscription.pace.allow(changes).await;
            // What has come meanwhile is the same notification.
            receiver.borrow_and_update();
            Some((Hint::MayBeFree, subscription))
        });
        Box::pin(process.confine(hints))
    }

    /// An attempt on the lock has met the term with this token. If it is another one than before,
    /// the notifications were true.
    pub(crate) fn met_term(&self, keys: &KeyNames, token: Option<FencingToken>) {
        let mut channels = hold(&self.shared.channels);
        if channels.by_name.is_empty() {
            return;
        }
        if let Some(channel) = channels.by_name.get_mut(&keys.channel())
            && channel.last_term != token
        {
            channel.last_term = token;
            channel.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn listener(&self, shared: Arc<Shared>) -> Listener {
        Listener {
            topology: self.topology.clone(),
            network: self.network.clone(),
            shared,
            retired: false,
        }
    }

    /// Does once what a listener does, on a connection of its own. Each step is bounded; dropped,
    /// it ends by itself.
    pub(crate) async fn try_out(&self, keys: KeyNames) -> Result<(), StoreError> {
        let trial = self.listener(Arc::default());
        let hearing = self.network.tasks.spawn(async move {
            let subscriber = trial
                .topology
                .subscriber(std::slice::from_ref(&keys))
                .await?;
            let channel = keys.channel();
            let (mut sink, _messages) = subscriber.connection.split();
            trial.bounded(sink.subscribe(&channel)).await?;
            trial.bounded(sink.ping::<redis::Value>()).await?;
            trial.bounded(sink.unsubscribe(&channel)).await
        });
        hearing.await.map_err(|_| StoreError::runtime_is_gone())?
    }
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}

/// One waiter; the channel goes with its last one.
struct Subscription {
    /// `None` only while it is dropped.
    receiver: Option<watch::Receiver<u64>>,
    pace: Pace,
    changes: Arc<AtomicU64>,
    channel: String,
    shared: Arc<Shared>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = hold(&self.shared.channels);
        self.receiver = None;
        let unused = channels
            .by_name
            .get(&self.channel)
            .is_some_and(|channel| channel.messages.receiver_count() == 0);
        if unused {
            channels.by_name.remove(&self.channel);
            self.shared.changed.notify_one();
        }
    }
}

/// The task that holds the connection.
struct Listener {
    topology: Arc<Topology>,
    network: Arc<Network>,
    shared: Arc<Shared>,
    /// Ended by itself: another one may be there already.
    retired: bool,
}

/// A connection on which messages come.
struct Heard {
    address: Address,
    sink: PubSubSink,
    messages: PubSubStream,
    allowance: Allowance,
    looking: Interval,
    /// When something came last.
    at: Instant,
}

impl From<Subscriber> for Heard {
    fn from(subscriber: Subscriber) -> Self {
        let (sink, messages) = subscriber.connection.split();
        let at = Instant::now();
        Self {
            address: subscriber.address,
            sink,
            messages,
            allowance: subscriber.allowance,
            // Calls may go to the former master for as long as this.
            looking: interval_at(at + LOOK_EVERY, LOOK_EVERY),
            at,
        }
    }
}

impl Heard {
    fn something(&mut self) {
        self.allowance.renew();
        self.at = Instant::now();
    }
}

/// Why listening on a connection has ended.
enum Ended {
    /// No candidate waits any more.
    Unneeded,
    /// And whether releases were heard of on it.
    Lost(StoreError, bool),
}

impl Listener {
    async fn run(mut self) {
        let mut backoff = Backoff::new(SHORTEST_WAIT, LONGEST_WAIT);
        loop {
            let (error, was_open) = match self.listen(&mut backoff).await {
                Ended::Unneeded => return,
                Ended::Lost(error, was_open) => (error, was_open),
            };
            if matches!(error.kind, ErrorKind::Forbidden | ErrorKind::Unsupported) {
                tracing::warn!(
                    %error,
                    "may not subscribe to releases of locks: candidates will poll"
                );
                self.retire_with_all();
                return;
            }
            tracing::debug!(%error, "no notifications from Redis just now");
            let leads = self.network.may_lead();
            sleep(before_return(was_open, leads, &mut backoff)).await;
            if self.is_unneeded() {
                return;
            }
        }
    }

    /// Whether no candidate waits any more; then the next one starts a new task.
    fn is_unneeded(&mut self) -> bool {
        let mut channels = hold(&self.shared.channels);
        let unneeded = channels.by_name.is_empty();
        channels.listening = !unneeded;
        self.retired = unneeded;
        unneeded
    }

    /// Those that candidates wait for.
    fn locks(&self) -> Vec<KeyNames> {
        let channels = hold(&self.shared.channels);
        channels
            .by_name
            .values()
            .map(|channel| channel.keys.clone())
            .collect()
    }

    /// Ends the streams of all who wait.
    fn retire_with_all(&mut self) {
        let mut channels = hold(&self.shared.channels);
        channels.by_name.clear();
        channels.listening = false;
        self.retired = true;
    }

    async fn listen(&mut self, backoff: &mut Backoff) -> Ended {
        let opened = match self.topology.subscriber(&self.locks()).await {
            Ok(opened) => opened,
            Err(error) => return Ended::Lost(error, false),
        };
        for channel in hold(&self.shared.channels).by_name.values_mut() {
            channel.subscribed = false;
        }
        let mut heard = Heard::from(opened);
        let mut subscribed = Vec::new();
        loop {
            if let Err(error) = self.update(&mut heard.sink, &mut subscribed).await {
                return Ended::Lost(error, false);
            }
            heard.something();
            backoff.reset();
            if self.is_unneeded() {
                return Ended::Unneeded;
            }
            if let Err(error) = self.hear(&mut heard).await {
                return Ended::Lost(error, true);
            }
        }
    }

    /// Subscribes to what is new, and unsubscribes from what no candidate waits for.
    async fn update(
        &self,
        sink: &mut PubSubSink,
        subscribed: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let (new, old) = {
            let channels = hold(&self.shared.channels);
            let new: Vec<String> = channels
                .by_name
                .iter()
                .filter(|(_, channel)| !channel.subscribed)
                .map(|(name, _)| name.clone())
                .collect();
            let is_old = |name: &String| !channels.by_name.contains_key(name);
            let (old, kept) = subscribed.drain(..).partition(is_old);
            *subscribed = kept;
            (new, old)
        };
        let old: Vec<String> = old;
        if !old.is_empty() {
            self.bounded(sink.unsubscribe(&old)).await?;
        }
        if !new.is_empty() {
            self.bounded(sink.subscribe(&new)).await?;
            let mut channels = hold(&self.shared.channels);
            for name in &new {
                if let Some(channel) = channels.by_name.get_mut(name) {
                    channel.subscribed = true;
                    // What was released before has not been heard.
                    channel.messages.send_modify(|count| *count += 1);
                }
            }
            // A channel that was given up and taken again meanwhile is still subscribed.
            subscribed.retain(|name| !new.contains(name));
            subscribed.extend(new);
        }
        Ok(())
    }

    /// Passes messages on until the subscriptions have to be changed.
    async fn hear(&self, heard: &mut Heard) -> Result<(), StoreError> {
        loop {
            tokio::select! {
                message = heard.messages.next() => {
                    let Some(message) = message else {
                        return Err(StoreError::new(ErrorKind::Unavailable, "the connection is lost"));
                    };
                    heard.something();
                    let channels = hold(&self.shared.channels);
                    if let Some(channel) = channels.by_name.get(message.get_channel_name()) {
                        channel.messages.send_modify(|count| *count += 1);
                    }
                }
                () = self.shared.changed.notified() => return Ok(()),
                _ = heard.looking.tick() => {
                    let address = &heard.address;
                    if !self.topology.tells_releases(address, &self.locks()) {
                        let replaced = format!("{address} was replaced");
                        return Err(StoreError::new(ErrorKind::Unavailable, replaced));
                    }
                    if heard.at.elapsed() >= PING_EVERY {
                        self.bounded(heard.sink.ping::<redis::Value>()).await?;
                        heard.something();
                    }
                }
            }
        }
    }

    async fn bounded<T>(
        &self,
        answer: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let answer = async {
            let answer = answer.await;
            answer.map_err(|error| self.topology.subscription_error(error))
        };
        within(
            "a subscription",
            self.network.config.answer_limit(),
            "request_timeout",
            answer,
        )
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // When the runtime ends the task, nothing will feed the streams any more.
        if !self.retired {
            self.retire_with_all();
        }
    }
}
