//! Moves a session to another connection when its own has fallen silent.
//!
//! After an outage the system sends a lost query again only seconds later. The server has kept the
//! session meanwhile, and its locks. So the terms go on in a fresh session, if it is certain that
//! no other candidate can have had the locks in between:
//!
//! 1. The old session holds each lock shared: a candidate needs it exclusively.
//! 2. The fresh one takes a share of each. This fails while a program waits for one of them.
//! 3. Then the server shows that the old one holds them still. The same process id and start are
//!    the same session, so it has held them all the time; and from now on the fresh one does.
//! 4. A heartbeat in the fresh session is the proof. The old one is left, and ended at the server.
//!
//! The queries of 2 to 4 are sent together, and the server answers them in this order.
//!
//! Whatever is in doubt is a no: then the fresh session is closed, which gives back its shares.

#[cfg(test)]
mod rival;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join3;
use futures_util::stream::FuturesUnordered;
use tenure_core::{ErrorKind, FencingToken, Time};
use tenure_kit::Address;
use tenure_kit::deadline::within;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::Session;
use super::heartbeat::Heartbeat;
use super::statements::Statements;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::errors::StoreError;
use crate::key::AdvisoryKey;

/// So many connections are tried at a time.
const MOST_CONNECTIONS: usize = 4;

/// After so many times the pace another connection is tried beside one that the server answers.
const PATIENCE: u32 = 4;

fn refused(why: &str) -> StoreError {
    StoreError::new(ErrorKind::Conflict, why.to_owned())
}

impl Session {
    /// A heartbeat has no answer in its time. Whether the session may be moved because of that.
    pub(crate) fn is_overdue(&self) -> bool {
        let is_asked = self.heart.is_under_way();
        let moves = is_asked && self.ended().is_none() && self.may_move(&self.statements());
        if moves {
            self.overdue.send_replace(true);
        }
        moves
    }

    /// Not without what the proof needs: the server's own session, which it ends by itself when it
    /// is silent, and which can be told from all others.
    pub(super) fn may_share(&self, old: &Statements) -> bool {
        let is_told_apart = old.started.is_some() && !self.config.session_pooler;
        is_told_apart && !self.config.without_lease
    }

    fn may_move(&self, old: &Statements) -> bool {
        self.may_share(old) && self.locks.may_all_move()
    }

    /// Returns when the session has moved: never while the answer is not overdue.
    pub(super) async fn move_when_overdue(&self, old: &Arc<Statements>) {
        let mut overdue = self.overdue.subscribe();
        if overdue.wait_for(|overdue| *overdue).await.is_err() {
            std::future::pending::<()>().await;
        }
        loop {
            match self.try_to_move(old).await {
                Ok(()) => return,
                Err(error) => {
                    let reason = error.message();
                    tracing::debug!(reason, "the session stays on its connection");
                }
            }
            tokio::time::sleep(self.lease / 10).await;
        }
    }

    async fn try_to_move(&self, old: &Arc<Statements>) -> Result<(), StoreError> {
        if !self.may_move(old) {
            return Err(refused("the session cannot be moved"));
        }
        let fresh = reach(&self.connector, old.connection.address(), self.lease / 40).await;
        let limit = self.config.connect_timeout;
        // A heartbeat that is answered in time needs no room for it.
        let moving = Box::pin(self.take_over(old, fresh));
        within("the server", limit, "connect_timeout", moving).await
    }

    /// Dropped before its end, it leaves nothing but a closed session.
    async fn take_over(&self, old: &Arc<Statements>, fresh: Connection) -> Result<(), StoreError> {
        let setup = (self.lease, &*self.name);
        let opened = Statements::open(fresh, &self.config, self.tasks.process(), true, setup);
        let fresh = Arc::new(opened.await?.0);
        let held = self.locks.held();
        let keys: Vec<_> = held.iter().map(|(key, _)| *key).collect();
        let sent = self.clock.now();
        // In one round trip, and in this order: each is sent when it is polled first.
        let (shared, holds, heartbeat) = join3(
            fresh.share(&keys, old),
            self.holds_them_still(old, &fresh, &keys),
            self.first_heartbeat(&fresh, &keys),
        )
        .await;
        if !shared? {
            return Err(refused(
                "it has ended, or another program waits for its locks",
            ));
        }
        if !holds? {
            return Err(refused("it does not hold its locks any more"));
        }
        self.go_on_in(fresh, old, &held, &heartbeat?, sent)
    }

    async fn holds_them_still(
        &self,
        old: &Statements,
        fresh: &Statements,
        keys: &[AdvisoryKey],
    ) -> Result<bool, StoreError> {
        #[cfg(test)]
        if self
            .trusts_the_old
            .load(std::sync::atomic::Ordering::SeqCst)
        {
            return Ok(true);
        }
        fresh.sees_held(keys, old).await
    }

    /// What the fresh session shows of itself.
    async fn first_heartbeat(
        &self,
        fresh: &Statements,
        keys: &[AdvisoryKey],
    ) -> Result<Heartbeat, StoreError> {
        let heartbeat = fresh.heartbeat().await?;
        heartbeat.check(fresh.connection.pid, self.lease, self.config.without_lease)?;
        if keys.iter().all(|key| heartbeat.holds(*key)) {
            return Ok(heartbeat);
        }
        Err(refused("the fresh session does not hold all locks"))
    }

    /// The move itself, which waits for nothing.
    fn go_on_in(
        &self,
        fresh: Arc<Statements>,
        old: &Arc<Statements>,
        held: &[(AdvisoryKey, FencingToken)],
        heartbeat: &Heartbeat,
        sent: Time,
    ) -> Result<(), StoreError> {
        let why = StoreError::new(
            ErrorKind::Unavailable,
            "the connection was silent, so its session was moved to another one",
        );
        // One that was won or released meanwhile is not among those that were taken over.
        let is_unchanged = || self.locks.held() == held;
        let moved = self.current.replace(&fresh, &why.reconnect(), is_unchanged);
        if !moved {
            return Err(refused("it has changed or ended meanwhile"));
        }
        self.locks.note(heartbeat, sent);
        let (from, to) = (old.connection.pid, fresh.connection.pid);
        tracing::info!(from, to, "a silent session was moved to another connection");
        let old = old.clone();
        self.tasks.spawn(async move {
            if let Err(error) = fresh.end_session_of(&old).await {
                // Its share delays the next candidate until the server ends it by itself.
                let reason = error.message();
                tracing::debug!(reason, "cannot end the session that was left");
            }
        });
        for (key, _) in held {
            self.answers.add(*key);
        }
        Ok(())
    }
}

/// A new connection to the same host.
///
/// One attempt begins after the other, and none waits for the last: whichever packet of one is
/// lost, the next is sent soon. Once the server answers, one logs in: many sessions may move in
/// the same moment, and to log in costs the server more than all the rest.
async fn reach(connector: &Connector, address: &Address, pace: Duration) -> Connection {
    let (turn, patience) = (Mutex::new(()), pace * PATIENCE);
    let mut attempts = FuturesUnordered::new();
    loop {
        if attempts.len() < MOST_CONNECTIONS && turn.try_lock().is_ok() {
            attempts.push(attempt(connector, address, &turn, patience));
        }
        let mut next = std::pin::pin!(tokio::time::sleep(pace));
        loop {
            tokio::select! {
                () = &mut next => break,
                Some(attempt) = attempts.next() => match attempt {
                    Ok(connection) => return connection,
                    Err(error) => {
                        let reason = error.message();
                        tracing::debug!(reason, "cannot reach the server yet");
                    }
                },
            }
        }
    }
}

/// Gives up when the server answers while another attempt has the turn.
async fn attempt(
    connector: &Connector,
    address: &Address,
    turn: &Mutex<()>,
    patience: Duration,
) -> Result<Connection, StoreError> {
    let answered = Arc::new(Notify::new());
    let mut connecting = std::pin::pin!(connector.connect_again(address, answered.clone()));
    tokio::select! {
        biased;
        connected = &mut connecting => return connected,
        () = answered.notified() => {}
    }
    let Ok(taken) = turn.try_lock() else {
        return Err(refused("another connection was answered before"));
    };
    if let Ok(connected) = timeout(patience, &mut connecting).await {
        return connected;
    }
    drop(taken);
    connecting.await
}
