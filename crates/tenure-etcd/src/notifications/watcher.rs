//! The watch stream. What is watched is kept here with the revision that was seen last; so when the
//! stream breaks, or its endpoint fails, the next one goes on from there and misses nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::sync::mpsc;

use super::registry::{Notifications, Target, WatchCommand};
use crate::cluster::Opened;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::errors::{self, StoreError};

/// Between attempts to open a stream when no endpoint answers.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// A process that only waits connects again after a part of this, drawn at random.
const COME_BACK_WITHIN: Duration = Duration::from_secs(1);

/// The number that no watch of ours has: they are counted from 1.
const NO_WATCH: i64 = 0;

/// One watch stream for all that is watched.
pub(super) struct Watcher {
    connector: Arc<Connector>,
    notifications: Weak<Notifications>,
    commands: mpsc::UnboundedReceiver<WatchCommand>,
    targets: HashMap<i64, Target>,
}

/// What is still to be sent on a stream.
enum Request {
    Watch(i64),
    Cancel(i64),
}

impl Watcher {
    pub(super) fn new(
        connector: Arc<Connector>,
        notifications: Weak<Notifications>,
        commands: mpsc::UnboundedReceiver<WatchCommand>,
    ) -> Self {
        Self {
            connector,
            notifications,
            commands,
            targets: HashMap::new(),
        }
    }

    /// Ends when the backend is gone.
    pub(super) async fn run(mut self) {
        loop {
            if self.targets.is_empty() {
                match self.commands.recv().await {
                    None => return,
                    Some(command) => self.note(command),
                };
                continue;
            }
            let connection = match self.connector.get().await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(reason = error.message(), "no endpoint to watch on");
                    tokio::time::sleep(RETRY_INTERVAL + self.stand_back()).await;
                    continue;
                }
            };
            match self.watch(&connection).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(reason = error.message(), "etcd watch reopened");
                    let pause = if error.needs_reconnect() {
                        self.stand_back()
                    } else {
                        RETRY_INTERVAL
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// A server that restarts ends the connections of all at once. A process that holds a term comes
    /// back at once, the others after a random time.
    fn stand_back(&self) -> Duration {
        let leads = |target: &Target| target.term_key_gone.is_some();
        if self.targets.values().any(leads) {
            return Duration::ZERO;
        }
        COME_BACK_WITHIN.mul_f64(fastrand::f64())
    }

    fn note(&mut self, command: WatchCommand) -> Request {
        match command {
            WatchCommand::Watch(id, target) => {
                self.targets.insert(id, target);
                Request::Watch(id)
            }
            WatchCommand::Cancel(id) => {
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
            // Any program may put values there: many of them in one answer would be more than the
            // client takes.
            options = options.with_prefix().with_fragment();
        } else {
            options = options.with_filters([etcd_client::WatchFilterType::NoPut]);
        }
        Some((target.key.clone(), options))
    }

    /// `Ok` when the backend is gone.
    async fn watch(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let mut pending: VecDeque<Request> =
            self.targets.keys().copied().map(Request::Watch).collect();
        // The first request opens the stream.
        let Some(Request::Watch(first)) = pending.pop_front() else {
            return Err(errors::unreadable("a watch of nothing"));
        };
        let Some((key, options)) = self.options(first) else {
            return Err(errors::unreadable("a watch of nothing"));
        };
        let mut client = connection.client.watch_client();
        let opening = async move { client.watch(key, Some(options)).await.map(Opened) };
        // A slow server must not lose its connection by this.
        let limit = self.connector.config.connect_timeout;
        let no_answer = || errors::no_answer(&connection.endpoint, limit);
        let Opened(opened) = tokio::select! {
            opened = self.connector.one(connection, limit, opening) => opened?,
            // Another caller has found out already.
            () = connection.failure() => return Err(no_answer()),
        };
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
                () = connection.failure() => return Err(no_answer()),
                response = responses.message() => {
                    let response = response.map_err(errors::of_client).and_then(|response| {
                        response.ok_or_else(|| errors::unreadable("a watch").reconnect())
                    });
                    match response {
                        // Members keep the numbers that they are given; a proxy counts from 0.
                        Ok(response) if response.created() && response.watch_id() == NO_WATCH => {
                            return Err(self.connector.is_proxy(connection));
                        }
                        Ok(response) => {
                            self.connector.cluster.compare(response.header(), &connection.endpoint)?;
                            pending.extend(self.heard(&response)?);
                        }
                        Err(error) => {
                            connection.fail();
                            return Err(error.reconnect());
                        }
                    }
                }
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(command) => {
                        let request = self.note(command);
                        pending.push_back(request);
                    }
                },
                sent = sending, if !idle => {
                    sent.map_err(errors::of_client)?;
                    pending.pop_front();
                }
            }
        }
    }

    /// Fails when the store has forgotten what happened since a watch was begun. On a new stream
    /// they begin later: on this one the server keeps the number of a watch that it has ended.
    fn heard(&mut self, response: &WatchResponse) -> Result<Option<Request>, StoreError> {
        let forgotten = response.compact_revision();
        if response.canceled() && forgotten > 0 {
            self.skip_to_now(forgotten);
            return Err(errors::compacted());
        }
        Ok(self.told(response))
    }

    /// Watches from now what would begin before this revision. It is looked at once that stands; a
    /// leader's key by the heartbeat that watches it again.
    fn skip_to_now(&mut self, forgotten: i64) {
        self.targets.retain(|_, target| {
            if target.from >= forgotten {
                return true;
            }
            target.from = 0;
            if let Some(term_key_gone) = &target.term_key_gone {
                term_key_gone.notify_one();
            }
            target.term_key_gone.is_none()
        });
    }

    fn told(&mut self, response: &WatchResponse) -> Option<Request> {
        let id = response.watch_id();
        let revision = response
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let notifications = self.notifications.upgrade()?;
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
            // Refused. The candidate looks once a heartbeat.
            tracing::warn!(
                lock = %target.lock,
                reason = ?response.cancel_reason(),
                "etcd refuses to watch a lock; its changes are seen at the next look only"
            );
            self.targets.remove(&id);
            return None;
        }
        let looked = target.from != 0;
        if response.created() {
            if !looked {
                target.from = revision + 1;
                notifications.tell(&target.lock);
            }
            return None;
        }
        if response.events().is_empty() {
            return None;
        }
        target.from = revision + 1;
        if target.all {
            notifications.tell(&target.lock);
            return None;
        }
        let gone = |event: &etcd_client::Event| event.event_type() == EventType::Delete;
        if !response.events().iter().any(gone) {
            return None;
        }
        notifications.passed(target);
        self.targets.remove(&id);
        Some(Request::Cancel(id))
    }
}
