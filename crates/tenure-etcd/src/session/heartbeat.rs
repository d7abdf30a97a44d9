//! One keepalive that proves all terms on the lease, and what it finds.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{KeyValue, LeaseTimeToLiveOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse};
use futures_util::future::try_join_all;
use tenure_core::{Candidate, ErrorKind, FencingToken, LockName, Time};
use tenure_kit::Deadline;

use super::held_lock::HeldLock;
use super::lease::Session;
use super::look::revision_of;
use super::proof::{KeepAlive, Proof};
use crate::cluster::Opened;
use crate::connection::Connection;
use crate::errors::{self, EtcdRecovery, StoreError};
use crate::keys;

/// How many keys one request reads. A server takes 128 operations at a time.
const KEYS: usize = 100;

/// What `renew` found.
pub(crate) enum RenewOutcome {
    Proven {
        at: Time,
        /// Until when the leader is asked to resign.
        asked: Option<Time>,
    },
    Lost,
}

/// An answer that more than half of the members have confirmed.
struct Read {
    term: u64,
    revision: i64,
    found: Vec<KeyValue>,
}

/// What more than half of the members have confirmed.
struct Confirmed {
    /// The raft term in which they did; none when there were two.
    term: Option<u64>,
    /// All of it stood so in this revision of the store.
    revision: i64,
    /// The create revisions of the terms' keys, as far as they are there with our lease.
    revisions: HashMap<Vec<u8>, i64>,
    /// How long the leaders that were asked to resign are asked to yet; zero where that is over.
    wishes: HashMap<Vec<u8>, Duration>,
    asked: HashSet<Vec<u8>>,
}

impl Session {
    /// A proof of the term that is not older than `not_before`, and its value.
    ///
    /// All of it has one time limit, the lease: later the term has expired in any case.
    pub(crate) async fn renew(
        self: &Arc<Self>,
        lock: &LockName,
        held: &Arc<HeldLock>,
        token: FencingToken,
        candidate: &Candidate,
        not_before: Time,
    ) -> Result<RenewOutcome, StoreError> {
        let renewing = Box::pin(self.renew_without_limit(lock, held, token, candidate, not_before));
        let deadline = Deadline::for_lease(self.lease);
        deadline.rest("etcd", renewing).await
    }

    async fn renew_without_limit(
        self: &Arc<Self>,
        lock: &LockName,
        held: &Arc<HeldLock>,
        token: FencingToken,
        candidate: &Candidate,
        not_before: Time,
    ) -> Result<RenewOutcome, StoreError> {
        let own = keys::revision(token);
        if !held.is_of(candidate) {
            return Ok(RenewOutcome::Lost);
        }
        // More than once only when the term began while a heartbeat was under way.
        for _ in 0..3 {
            self.shared.connector.cluster.check()?;
            let Some(proven) = held.state().leads_since(own) else {
                return Ok(RenewOutcome::Lost);
            };
            if proven < not_before {
                match self.prove(not_before, |proof| proof.keys).await {
                    Err(error) if self.has_ended() => return over(error),
                    outcome => outcome?,
                };
                continue;
            }
            if held.state().value != candidate.value {
                let _turn = held.turn.lock().await;
                match self.publish(held, own, candidate).await {
                    Err(error) if self.has_ended() => return over(error),
                    Err(error) if errors::is_denied(&error) => {
                        let (session, lock, held) = (self.clone(), lock.clone(), held.clone());
                        // A split goes on when nobody waits for it any more.
                        let splitting = self.shared.spawn(async move {
                            session.is_refused_for_another(&lock, &held).await
                        });
                        // The caller goes on in the session that has the key by then.
                        let _split = splitting.await;
                        return Err(error);
                    }
                    outcome => outcome?,
                }
            }
            if held.state().wish.is_old() {
                let _turn = held.turn.lock().await;
                // The term is proven whatever becomes of this; the next heartbeat tries again.
                if let Err(error) = self.write(held, own, candidate).await {
                    tracing::debug!(reason = error.message(), "an old wish was not removed");
                }
            }
            let mut state = held.state();
            if state.leads_since(own).is_none() {
                return Ok(RenewOutcome::Lost);
            }
            state.until = self.shared.clock.now() + self.lease;
            return Ok(RenewOutcome::Proven {
                at: proven,
                asked: state.wish.tell(),
            });
        }
        Err(StoreError::new(
            ErrorKind::Conflict,
            "the term is neither proven nor lost after three heartbeats",
        ))
    }

    /// Waits for a heartbeat that was sent at `not_before` or later; its time. One serves all who
    /// wait for it.
    pub(super) async fn prove(
        self: &Arc<Self>,
        not_before: Time,
        which: fn(&Proof) -> Time,
    ) -> Result<Time, StoreError> {
        let proven = which(&self.proof());
        if proven >= not_before {
            return Ok(proven);
        }
        let heartbeat = || {
            let session = self.clone();
            async move {
                // The lease would have ended by then.
                let deadline = Deadline::for_lease(session.lease);
                let outcome = deadline.rest("etcd", Box::pin(session.heartbeat())).await;
                if outcome.as_ref().is_err_and(errors::is_denied) {
                    session.split(None).await?;
                }
                outcome
            }
        };
        let late_enough = |sent: &Time| *sent >= not_before;
        self.note(self.heartbeat.run(late_enough, heartbeat).await)
    }

    /// A keepalive, the question for the keys, and what proves both. They go together: all are sent
    /// after the time that they prove, so their order does not matter, and they cost no round trip
    /// more than one of them.
    ///
    /// A raft leader whose disk stalls does not notice that another one has followed it, and goes on
    /// acknowledging keepalives (etcd-io/etcd#15247; so does 3.4.23). So they count only beside a
    /// read that more than half of the members have confirmed, in the same raft term. Then its
    /// leader was the leader when the read was sent or later, and the leader after it restarts
    /// all leases.
    async fn heartbeat(self: &Arc<Self>) -> Result<Time, StoreError> {
        let _turn = self.turn.lock().await;
        // The second time on another endpoint, or after an election of the members.
        for _ in 0..self.shared.connector.attempts() {
            if self.has_ended() {
                return Err(errors::lease_gone());
            }
            // Before the requests that prove it (I1, hazard 2).
            let asked = self.shared.clock.now();
            let (kept, keys, confirmed) = self.note(tokio::try_join!(
                self.keep_alive(),
                self.keys(),
                self.confirm()
            ))?;
            if Some(kept) != confirmed.term {
                let confirmed = confirmed.term;
                tracing::debug!(kept, confirmed, "an etcd keepalive of another raft term");
                continue;
            }
            {
                let mut proof = self.proof();
                proof.lease = proof.lease.max(asked);
            }
            self.judge(&keys, &confirmed, asked);
            {
                let mut proof = self.proof();
                proof.keys = proof.keys.max(asked);
            }
            self.watch_a_term();
            return Ok(asked);
        }
        Err(StoreError::new(
            ErrorKind::Unavailable,
            "the members have not agreed on a raft leader; are most of them up, and their disks \
             not stalled?",
        ))
    }

    /// The keys that hang on the lease.
    async fn keys(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let id = self.id;
        let options = || LeaseTimeToLiveOptions::new().with_keys();
        let answer = self
            .shared
            .connector
            .call(self.limit, |client| async move {
                client
                    .lease_client()
                    .time_to_live(id, Some(options()))
                    .await
            })
            .await?;
        // 0 is less than a second, as seen before the keepalive arrived.
        if answer.ttl() < 0 {
            return Err(errors::lease_gone());
        }
        Ok(answer.keys().to_vec())
    }

    /// Reads the keys of all terms, as more than half of the members have to confirm.
    ///
    /// The keys of the lease alone do not tell that one was deleted and put again, by a tool that
    /// restores keys for instance: that ends a term, since others may have led in between.
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        let terms = self.keys_of_terms();
        let asked: HashSet<Vec<u8>> = terms.iter().cloned().map(String::into_bytes).collect();
        let reads = terms.chunks(KEYS).map(|some| self.read(some));
        let mut confirmed = Confirmed {
            term: None,
            revision: i64::MAX,
            revisions: HashMap::new(),
            wishes: HashMap::new(),
            asked,
        };
        let answers = if terms.is_empty() {
            let any = self.any_key();
            match self.read(&[any]).await {
                Err(error) if errors::is_denied(&error) => vec![self.agree().await?],
                answer => vec![answer?],
            }
        } else {
            try_join_all(reads).await?
        };
        let in_term = answers.first().map(|answer| answer.term);
        let agree = answers.iter().all(|answer| Some(answer.term) == in_term);
        confirmed.term = in_term.filter(|_| agree);
        for answer in &answers {
            confirmed.revision = confirmed.revision.min(answer.revision);
        }
        for kv in answers.into_iter().flat_map(|answer| answer.found) {
            if kv.lease() == self.id {
                if let Some(left) = keys::wish(kv.value()) {
                    confirmed.wishes.insert(kv.key().to_vec(), left);
                }
                let revision = kv.create_revision();
                confirmed.revisions.insert(kv.key().to_vec(), revision);
            }
        }
        Ok(confirmed)
    }

    fn keys_of_terms(&self) -> Vec<String> {
        let held_locks = self.held_locks();
        let terms = held_locks.by_lock.values();
        let terms = terms.filter(|held| held.state().leads);
        terms.map(|held| held.key.clone()).collect()
    }

    /// One that the user may most likely read.
    fn any_key(&self) -> String {
        let held_locks = self.held_locks();
        let any = held_locks.by_lock.values().next();
        any.map_or_else(
            || self.shared.connector.config.prefix.clone(),
            |held| held.key.clone(),
        )
    }

    /// Asks more than half of the members for their raft term and for no key: every user may. A
    /// transaction that does nothing costs them an entry in their logs, unlike a read.
    async fn agree(&self) -> Result<Read, StoreError> {
        self.transact(|| vec![TxnOp::txn(Txn::new())]).await
    }

    /// These keys, and the raft term in which they were read. With their values: etcd 3.7 tells the
    /// lease of a key in no other read.
    async fn read(&self, some: &[String]) -> Result<Read, StoreError> {
        let get = |key: &String| TxnOp::get(key.clone(), None);
        self.transact(|| some.iter().map(get).collect()).await
    }

    async fn transact(&self, what: impl Fn() -> Vec<TxnOp>) -> Result<Read, StoreError> {
        let answer = self
            .shared
            .connector
            .call(self.limit, |mut client| {
                let txn = Txn::new().and_then(what());
                async move { client.txn(txn).await }
            })
            .await?;
        let found = answer
            .op_responses()
            .into_iter()
            .flat_map(|read| match read {
                TxnOpResponse::Get(mut get) => get.take_kvs(),
                _ => Vec::new(),
            });
        Ok(Read {
            term: term_of(answer.header())?,
            revision: revision_of(&answer),
            found: found.collect(),
        })
    }

    /// Sends one keepalive and reads its answer; the raft term in which it was taken.
    pub(super) async fn keep_alive(&self) -> Result<u64, StoreError> {
        let asking = |connection| self.keep_alive_on(connection);
        let connector = &self.shared.connector;
        let (open, term) = connector.until_answered(self.limit, asking).await?;
        *self.stream() = Some(open);
        Ok(term)
    }

    async fn keep_alive_on(
        &self,
        connection: Arc<Connection>,
    ) -> Result<(KeepAlive, u64), StoreError> {
        // A stream whose answer did not come is never read again: it would come late.
        let last_used = self.stream().take();
        let usable = last_used.filter(|open| Arc::ptr_eq(&open.connection, &connection));
        let open = match usable {
            Some(open) => open,
            None => self.open_stream(connection).await?,
        };
        self.ask_stream(open).await
    }

    fn stream(&self) -> MutexGuard<'_, Option<KeepAlive>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open_stream(&self, connection: Arc<Connection>) -> Result<KeepAlive, StoreError> {
        self.keepalives.fetch_add(1, Ordering::Relaxed);
        let mut client = connection.client.lease_client();
        let opened = client.keep_alive(self.id).await.map(Opened);
        let connector = &self.shared.connector;
        let opened = opened.map_err(errors::of_client);
        let Opened((sender, answers)) = connector.judge(&connection, opened).await?;
        Ok(KeepAlive {
            connection,
            sender,
            answers,
        })
    }

    async fn ask_stream(&self, mut open: KeepAlive) -> Result<(KeepAlive, u64), StoreError> {
        self.keepalives.fetch_add(1, Ordering::Relaxed);
        let asking = async {
            open.sender.keep_alive().await?;
            open.answers.message().await
        };
        let answer = asking.await.map_err(errors::of_client);
        let connector = &self.shared.connector;
        match connector.judge(&open.connection, answer).await? {
            Some(answer) if answer.ttl() <= 0 => Err(errors::lease_gone()),
            Some(answer) => {
                let term = term_of(answer.header())?;
                Ok((open, term))
            }
            None => {
                open.connection.fail();
                Err(errors::unreadable("a keepalive").reconnect())
            }
        }
    }

    /// Compares the keys that hang on the lease with those that should; they were asked for, and a
    /// keepalive was sent, at `asked` or later. A term that began since is not among those that
    /// were confirmed: its key was seen by the transaction that began it.
    fn judge(self: &Arc<Self>, present: &[Vec<u8>], confirmed: &Confirmed, asked: Time) {
        let mut present: HashSet<&[u8]> = present.iter().map(Vec::as_slice).collect();
        let held_locks = self.held_locks();
        for (lock, held) in &held_locks.by_lock {
            let mut state = held.state();
            let key = held.key.as_bytes();
            let found = confirmed.revisions.get(key).copied();
            let stands = !confirmed.asked.contains(key) || found == state.revision;
            if present.remove(key) && stands {
                let now = self.shared.clock.now();
                state.wish.found(confirmed.wishes.get(key).copied(), now);
                if found.is_some() {
                    state.seen = state.seen.max(confirmed.revision);
                }
                if state.revision.is_some() && state.since <= asked {
                    state.proven = state.proven.max(asked);
                }
            } else if state.revision.is_some() && state.since < asked {
                if state.leads {
                    tracing::warn!(%lock, "the key of a term is gone, or another one in its place");
                }
                state.forget();
                held.gone.notify_waiters();
            }
        }
        drop(held_locks);
        let config = &self.shared.connector.config;
        for key in present {
            let lock = keys::election_of(key).and_then(|election| config.lock_of(election));
            if let Some(lock) = lock {
                let (session, key) = (self.clone(), String::from_utf8_lossy(key).into_owned());
                let cleaning = async move { session.clean(&lock, &key).await };
                self.shared.spawn(cleaning);
            }
        }
    }
}

/// Why a term is over that no call can prove any more.
fn over(error: StoreError) -> Result<RenewOutcome, StoreError> {
    if errors::asks_for(&error, EtcdRecovery::OtherCluster) {
        return Err(error);
    }
    Ok(RenewOutcome::Lost)
}

fn term_of(header: Option<&ResponseHeader>) -> Result<u64, StoreError> {
    header
        .map(ResponseHeader::raft_term)
        .ok_or_else(|| errors::unreadable("an answer without a header"))
}
