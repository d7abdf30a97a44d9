//! One lease for all elections with one lease duration: their keys hang on it, and one keepalive
//! proves them all.
//!
//! What makes that safe:
//!
//! - A proof counts from the moment at which the keepalive was *sent*.
//! - A keepalive proves the lease, not the keys; so each heartbeat also asks which keys hang on
//!   it. A term whose key is missing is lost.
//! - The end of the lease ends all terms here, before another lease is opened for anybody.
//! - A keepalive would also keep alive what no caller holds any more. So each key has a deadline
//!   of its own, at which it is deleted unless its owner was heard of (point 6 of the contract);
//!   and a key that hangs on the lease and belongs to nobody, because a request arrived late, is
//!   deleted as soon as it is seen.
//! - Leadership is read from the store in the same transaction that finds the own key alive,
//!   never concluded from the deletion of another key.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, KeyValue, LeaseKeepAliveStream, LeaseKeeper,
    LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tenure_core::{
    CampaignId, Candidate, ErrorKind, FencingToken, Holder, LockName, PublishedValue, SharedClock,
    Time,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::errors::{Cause, Trouble};
use crate::hub::Hub;
use crate::keys;
use crate::link::{Link, Links};

/// Acquisitions that wait at the same time go in one transaction. Each is a nested transaction of
/// three operations, and a server takes 128 at a time.
const BATCH: usize = 100;

/// How often the sweep looks at most.
const TICK: Duration = Duration::from_millis(50);

/// What all sessions of a backend share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) links: Arc<Links>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: SharedClock,
    pub(crate) runtime: Handle,
}

impl Common {
    /// How long one endpoint may take when terms of this lease hang on its answer.
    fn limit(&self, lease: Duration) -> Duration {
        let most = self.links.config.request_timeout;
        (lease / 4).max(Duration::from_millis(500)).min(most)
    }
}

pub(crate) struct Session {
    common: Common,
    pub(crate) id: i64,
    pub(crate) lease: Duration,
    limit: Duration,
    slots: Mutex<Slots>,
    proof: Mutex<Proof>,
    /// The stream of keepalives, and whose turn it is to use it.
    keeper: tokio::sync::Mutex<Option<Keeper>>,
    asks: mpsc::UnboundedSender<Ask>,
    ended: AtomicBool,
    beats: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Slots {
    by_lock: HashMap<LockName, Arc<Slot>>,
    empty_since: Option<Time>,
}

/// A candidate's key.
pub(crate) struct Slot {
    campaign: Option<CampaignId>,
    /// Requests about the key are sent one after the other.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<Seat>,
}

struct Seat {
    /// The key's create revision, when it is known to be there.
    revision: Option<i64>,
    leads: bool,
    /// It is in no session any more, and nobody keeps its key.
    closed: bool,
    value: Option<PublishedValue>,
    /// When the request was sent that proved it last.
    proven: Time,
    /// When the answer was here that told of it.
    since: Time,
    /// When the key is deleted unless its owner is heard of.
    until: Time,
}

struct Proof {
    /// The last acknowledged keepalive was sent then.
    lease: Time,
    /// The last keepalive after which the keys were looked at.
    keys: Time,
    failed: Option<(Time, Trouble)>,
}

struct Keeper {
    link: Arc<Link>,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What became of an attempt.
pub(crate) enum Attempt {
    Held {
        token: FencingToken,
        proven: Time,
    },
    Taken(Option<Holder>),
    /// The slot was given up meanwhile; another one is needed.
    Moved,
}

/// What `renew` found.
pub(crate) enum Standing {
    Proven(Time),
    Lost,
}

/// A look at the queue of a lock, with or without entering it.
struct Ask {
    election: String,
    key: String,
    lease: i64,
    /// The create revision of the key, if it is there; otherwise it is put with this value.
    place: Result<i64, String>,
    answer: oneshot::Sender<Result<Look, Trouble>>,
}

enum Look {
    /// The key that should have been there is not.
    Gone,
    Queue {
        own: i64,
        /// Somebody has put the key anew, without our lease.
        foreign: bool,
        entered: bool,
        first: Option<KeyValue>,
        predecessor: Option<KeyValue>,
        revision: i64,
    },
}

impl Session {
    /// Opens a lease. One that is not as long as asked for is given back.
    pub(crate) async fn open(common: Common, lease: Duration) -> Result<Arc<Self>, Trouble> {
        let limit = common.limit(lease);
        let asked = i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let clock = common.clock.clone();
        let (sent, granted) = common
            .links
            .call(limit, |mut client| {
                let sent = clock.now();
                async move { Ok((sent, client.lease_grant(asked, None).await?)) }
            })
            .await?;
        let id = granted.id();
        if granted.ttl() != asked {
            revoke(&common, id, limit).await;
            return Err(Trouble::new(
                ErrorKind::Misconfigured,
                format!(
                    "etcd grants a lease of {} s where {asked} s were asked for (its shortest is \
                     one and a half election timeouts, in whole seconds); set the policy's lease \
                     to {} s",
                    granted.ttl(),
                    granted.ttl(),
                ),
            ));
        }
        let (asks, taken) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            id,
            lease,
            limit,
            slots: Mutex::default(),
            proof: Mutex::new(Proof {
                lease: sent,
                keys: sent,
                failed: None,
            }),
            keeper: tokio::sync::Mutex::default(),
            asks,
            ended: AtomicBool::new(false),
            beats: std::sync::atomic::AtomicU64::new(0),
            common,
        });
        let common = &session.common;
        common
            .runtime
            .spawn(look(common.links.clone(), limit, taken));
        common
            .runtime
            .spawn(sweep(Arc::downgrade(&session), common.clock.clone()));
        Ok(session)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How many keepalives were sent.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proof(&self) -> MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, lock: &LockName) -> String {
        keys::candidate(&self.common.links.config.prefix, lock, self.id)
    }

    /// The slot of this campaign, if it has one here.
    pub(crate) fn slot(&self, lock: &LockName, campaign: CampaignId) -> Option<Arc<Slot>> {
        let slot = self.slots().by_lock.get(lock).cloned();
        slot.filter(|slot| slot.campaign == Some(campaign))
    }

    /// A slot for this campaign, if there is room: one candidate per lock and lease, since two
    /// with one key would both be told that they lead.
    pub(crate) fn reserve(&self, lock: &LockName, campaign: CampaignId) -> Option<Arc<Slot>> {
        let mut slots = self.slots();
        if self.has_ended()
            || slots.by_lock.len() >= self.common.links.config.keys_per_lease
            || slots.by_lock.contains_key(lock)
        {
            return None;
        }
        let slot = Arc::new(self.new_slot(Some(campaign)));
        slots.by_lock.insert(lock.clone(), slot.clone());
        slots.empty_since = None;
        self.common.hub.sit(lock);
        Some(slot)
    }

    fn new_slot(&self, campaign: Option<CampaignId>) -> Slot {
        let now = self.common.clock.now();
        Slot {
            campaign,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(Seat {
                revision: None,
                leads: false,
                closed: false,
                value: None,
                proven: Time::ZERO,
                since: now,
                until: now + self.lease,
            }),
        }
    }

    fn remove(&self, lock: &LockName, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        let is_it = |known: &Arc<Slot>| Arc::ptr_eq(known, slot);
        if slots.by_lock.get(lock).is_some_and(is_it) {
            slots.by_lock.remove(lock);
            slot.state().close();
            if slots.by_lock.is_empty() {
                slots.empty_since = Some(self.common.clock.now());
            }
            drop(slots);
            self.common.hub.rise(lock, self.id);
        }
    }

    /// The lease is gone, and with it all terms on it: they are over when this returns.
    fn end(&self) {
        let slots = {
            let mut slots = self.slots();
            if self.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            std::mem::take(&mut slots.by_lock)
        };
        tracing::warn!(
            lease = format_args!("{:x}", self.id),
            elections = slots.len(),
            "an etcd lease has ended, and the terms on it with it"
        );
        for (lock, slot) in slots {
            slot.state().close();
            self.common.hub.rise(&lock, self.id);
        }
        self.revoke_later();
    }

    fn revoke_later(&self) {
        let (common, id, limit) = (self.common.clone(), self.id, self.limit);
        self.common
            .runtime
            .spawn(async move { revoke(&common, id, limit).await });
    }

    fn note<T>(&self, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        if let Err(trouble) = &outcome
            && trouble.cause == Cause::LeaseGone
        {
            self.end();
        }
        outcome
    }

    /// Enters the queue, or looks at it again. Not to be dropped while it runs.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        lock: &LockName,
        slot: &Arc<Slot>,
        candidate: &Candidate,
        gone: impl Fn() -> bool,
    ) -> Result<Attempt, Trouble> {
        let _turn = slot.turn.lock().await;
        // A second look, in case the key was deleted since the last, and a third, should the
        // predecessor go in between.
        for _ in 0..3 {
            if gone() {
                return Ok(Attempt::Taken(None));
            }
            if slot.state().closed {
                return Ok(Attempt::Moved);
            }
            let young = self.common.clock.now().minus(self.lease / 4);
            let place = slot.state().revision;
            let (looked, proof) = tokio::join!(
                self.look(lock, place, candidate),
                self.prove(young, |proof| proof.lease)
            );
            let Look::Queue {
                own,
                foreign,
                entered,
                first,
                predecessor,
                revision,
            } = self.note(looked)?
            else {
                slot.state().forget();
                continue;
            };
            if foreign {
                return Err(Trouble::new(
                    ErrorKind::Corrupted,
                    format!(
                        "the key {} was written by another program without its lease; delete it",
                        self.key(lock)
                    ),
                ));
            }
            slot.entered(self, own, entered.then_some(candidate));
            let Some(first) = first else {
                return Err(Trouble::unreadable("the queue of a lock"));
            };
            if first.create_revision() == own {
                proof?;
                self.common.hub.stop_waiting(lock, self.id);
                self.publish(lock, slot, own, candidate).await?;
                let token = keys::token(own)
                    .map_err(|error| Trouble::new(error.kind(), error.message()))?;
                // The session may have ended meanwhile, and everybody been told.
                let Some(proven) = slot.elected(self, own) else {
                    continue;
                };
                return Ok(Attempt::Held { token, proven });
            }
            let holder = keys::holder(&first)
                .map_err(|error| Trouble::new(error.kind(), error.message()))?;
            let (predecessor, revision) = match predecessor {
                Some(predecessor) => (Some(predecessor), revision),
                None => self.predecessor(lock, own).await?,
            };
            if let Some(predecessor) = predecessor {
                let key = predecessor.key().to_vec();
                self.common.hub.wait(lock, self.id, key, revision + 1);
                return Ok(Attempt::Taken(Some(holder)));
            }
        }
        // The queue moves faster than it can be looked at; whoever asks will ask again.
        self.common.hub.tell(lock);
        Ok(Attempt::Taken(None))
    }

    async fn look(
        &self,
        lock: &LockName,
        place: Option<i64>,
        candidate: &Candidate,
    ) -> Result<Look, Trouble> {
        let (answer, answered) = oneshot::channel();
        let proposal = || keys::proposal(candidate.identity.as_str(), candidate.value.as_ref());
        let ask = Ask {
            election: keys::election(&self.common.links.config.prefix, lock),
            key: self.key(lock),
            lease: self.id,
            place: place.ok_or_else(proposal),
            answer,
        };
        let gone = || {
            Trouble::new(
                ErrorKind::Internal,
                "the backend's runtime is shutting down",
            )
        };
        self.asks.send(ask).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn predecessor(
        &self,
        lock: &LockName,
        own: i64,
    ) -> Result<(Option<KeyValue>, i64), Trouble> {
        let election = keys::election(&self.common.links.config.prefix, lock);
        let mut answer = self
            .common
            .links
            .call(self.limit, |mut client| {
                let election = election.clone();
                async move { client.get(election, Some(keys::before(own))).await }
            })
            .await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok((answer.take_kvs().into_iter().next(), revision))
    }

    /// How many candidates come before this one.
    pub(crate) async fn position(
        &self,
        lock: &LockName,
        slot: &Slot,
    ) -> Result<Option<usize>, Trouble> {
        let Some(own) = slot.state().revision else {
            return Ok(None);
        };
        let election = keys::election(&self.common.links.config.prefix, lock);
        let answer = self
            .common
            .links
            .call(self.limit, |mut client| {
                let options = GetOptions::new()
                    .with_prefix()
                    .with_keys_only()
                    .with_max_create_revision(own);
                let election = election.clone();
                async move { client.get(election, Some(options)).await }
            })
            .await?;
        let is_own = |kv: &&KeyValue| kv.create_revision() == own;
        let present = answer.kvs().iter().find(is_own).is_some();
        Ok(present.then(|| answer.kvs().len() - 1))
    }

    /// Writes the candidate's value, if it is not what stands there.
    async fn publish(
        &self,
        lock: &LockName,
        slot: &Slot,
        own: i64,
        candidate: &Candidate,
    ) -> Result<(), Trouble> {
        if slot.state().value == candidate.value {
            return Ok(());
        }
        let key = self.key(lock);
        let proposal = keys::proposal(candidate.identity.as_str(), candidate.value.as_ref());
        let outcome = self
            .common
            .links
            .call(self.limit, |mut client| {
                let lease = PutOptions::new().with_lease(self.id);
                let put = TxnOp::put(key.clone(), proposal.clone(), Some(lease));
                let txn = Txn::new().when([is(&key, own)]).and_then([put]);
                async move { client.txn(txn).await }
            })
            .await;
        if self.note(outcome)?.succeeded() {
            slot.state().value.clone_from(&candidate.value);
        }
        Ok(())
    }

    /// A proof of the term that is not older than `not_before`, and its value.
    pub(crate) async fn renew(
        self: &Arc<Self>,
        lock: &LockName,
        slot: &Arc<Slot>,
        token: FencingToken,
        candidate: &Candidate,
        not_before: Time,
    ) -> Result<Standing, Trouble> {
        let own = keys::revision(token);
        // More than once only when the term began while a heartbeat was under way.
        for _ in 0..3 {
            let Some(proven) = slot.state().leads_since(own) else {
                return Ok(Standing::Lost);
            };
            if proven < not_before {
                match self.prove(not_before, |proof| proof.keys).await {
                    Err(_) if self.has_ended() => return Ok(Standing::Lost),
                    outcome => outcome?,
                };
                continue;
            }
            if slot.state().value != candidate.value {
                let _turn = slot.turn.lock().await;
                match self.publish(lock, slot, own, candidate).await {
                    Err(_) if self.has_ended() => return Ok(Standing::Lost),
                    outcome => outcome?,
                }
            }
            let mut seat = slot.state();
            if seat.leads_since(own).is_none() {
                return Ok(Standing::Lost);
            }
            seat.until = self.common.clock.now() + self.lease;
            return Ok(Standing::Proven(proven));
        }
        Err(Trouble::new(
            ErrorKind::Conflict,
            "the term is neither proven nor lost after three heartbeats",
        ))
    }

    /// Waits for a heartbeat that was sent at `not_before` or later; its time. One serves all who
    /// wait for it.
    async fn prove(
        self: &Arc<Self>,
        not_before: Time,
        which: fn(&Proof) -> Time,
    ) -> Result<Time, Trouble> {
        let proven = which(&self.proof());
        if proven >= not_before {
            return Ok(proven);
        }
        let session = self.clone();
        let asked = self.common.clock.now();
        let beating = self.common.runtime.spawn(async move {
            let mut keeper = session.keeper.lock().await;
            {
                let proof = session.proof();
                let proven = which(&proof);
                if proven >= not_before {
                    return Ok(proven);
                }
                if let Some((at, trouble)) = &proof.failed
                    && *at >= asked
                {
                    return Err(trouble.clone());
                }
            }
            let outcome = Box::pin(session.beat(&mut keeper)).await;
            let mut proof = session.proof();
            proof.failed = match &outcome {
                Ok(_) => None,
                Err(trouble) => Some((session.common.clock.now(), trouble.clone())),
            };
            outcome
        });
        match beating.await {
            Ok(outcome) => self.note(outcome),
            Err(_) => Err(Trouble::new(
                ErrorKind::Internal,
                "the backend's runtime is shutting down",
            )),
        }
    }

    /// The keepalive and the question for the keys go together: both are sent after the time that
    /// they prove, so their order does not matter, and the second costs no round trip more.
    async fn beat(self: &Arc<Self>, keeper: &mut Option<Keeper>) -> Result<Time, Trouble> {
        if self.has_ended() {
            return Err(Trouble::lease_gone());
        }
        let asked = self.common.clock.now();
        let id = self.id;
        let options = || LeaseTimeToLiveOptions::new().with_keys();
        let asking = self.common.links.call(self.limit, |client| async move {
            client
                .lease_client()
                .time_to_live(id, Some(options()))
                .await
        });
        let keeping = async {
            let sent = self.keep_alive(keeper).await?;
            let mut proof = self.proof();
            proof.lease = proof.lease.max(sent);
            Ok(())
        };
        let ((), answer) = self.note(tokio::try_join!(keeping, asking))?;
        // 0 is less than a second, as seen before the keepalive arrived.
        if answer.ttl() < 0 {
            return self.note(Err(Trouble::lease_gone()));
        }
        self.judge(answer.keys(), asked);
        let mut proof = self.proof();
        proof.keys = proof.keys.max(asked);
        Ok(asked)
    }

    /// Sends one keepalive and reads its answer; when it was sent.
    async fn keep_alive(&self, keeper: &mut Option<Keeper>) -> Result<Time, Trouble> {
        let links = &self.common.links;
        let mut last = Trouble::unreadable("nothing");
        for _ in 0..links.config.endpoints.len().max(2) {
            let link = match links.get().await {
                Ok(link) => link,
                Err(trouble) => {
                    last = trouble;
                    continue;
                }
            };
            self.beats.fetch_add(1, Ordering::Relaxed);
            // Before the request that proves it (I1, hazard 2).
            let sent = self.common.clock.now();
            // A stream whose answer did not come is never read again: it would come late.
            let usable = keeper.take().filter(|open| Arc::ptr_eq(&open.link, &link));
            let outcome = if let Some(mut open) = usable {
                let asking = async {
                    open.sender.keep_alive().await?;
                    open.answers.message().await
                };
                match links.one(&link, self.limit, asking).await {
                    Ok(Some(answer)) if answer.ttl() <= 0 => Err(Trouble::lease_gone()),
                    Ok(Some(_)) => Ok(open),
                    Ok(None) => {
                        link.fail();
                        Err(Trouble::unreadable("a keepalive").of_the_link())
                    }
                    Err(trouble) => Err(trouble),
                }
            } else {
                let mut client = link.client.lease_client();
                let opening = client.keep_alive(self.id);
                let opened = links.one(&link, self.limit, opening).await;
                opened.map(|(sender, answers)| Keeper {
                    link: link.clone(),
                    sender,
                    answers,
                })
            };
            match outcome {
                Ok(open) => {
                    *keeper = Some(open);
                    return Ok(sent);
                }
                Err(trouble) if trouble.cause == Cause::Link => last = trouble,
                Err(trouble) => return Err(trouble),
            }
        }
        Err(last)
    }

    /// Compares the keys that hang on the lease with those that should; they were asked for, and a
    /// keepalive was sent, at `asked` or later.
    fn judge(self: &Arc<Self>, present: &[Vec<u8>], asked: Time) {
        let mut present: HashSet<&[u8]> = present.iter().map(Vec::as_slice).collect();
        let slots = self.slots();
        for (lock, slot) in &slots.by_lock {
            let mut state = slot.state();
            if present.remove(self.key(lock).as_bytes()) {
                if state.revision.is_some() && state.since <= asked {
                    state.proven = state.proven.max(asked);
                }
            } else if state.revision.is_some() && state.since < asked {
                if state.leads {
                    tracing::warn!(%lock, "the key of a term is gone");
                }
                state.forget();
            }
        }
        drop(slots);
        let prefix = self.common.links.config.prefix.as_bytes();
        let tail = format!("/{:x}", self.id);
        for key in present {
            let name = key
                .strip_prefix(prefix)
                .and_then(|key| key.strip_suffix(tail.as_bytes()))
                .and_then(|name| LockName::new(std::str::from_utf8(name).ok()?).ok());
            if let Some(lock) = name {
                let session = self.clone();
                let cleaning = async move { session.clean(&lock).await };
                self.common.runtime.spawn(cleaning);
            }
        }
    }

    /// Deletes a key that belongs to nobody: its request arrived after it was withdrawn.
    async fn clean(self: &Arc<Self>, lock: &LockName) {
        let slot = Arc::new(self.new_slot(None));
        {
            let mut slots = self.slots();
            if self.has_ended() || slots.by_lock.contains_key(lock) {
                return;
            }
            slots.by_lock.insert(lock.clone(), slot.clone());
            self.common.hub.sit(lock);
        }
        // If that fails it is seen again with the next heartbeat.
        let _deleted = self.leave(lock, None).await;
        self.remove(lock, &slot);
    }

    /// Gives back the term with this token, or whatever the campaign has here.
    pub(crate) async fn release(
        &self,
        lock: &LockName,
        slot: &Arc<Slot>,
        token: Option<FencingToken>,
    ) -> Result<(), Trouble> {
        let _turn = slot.turn.lock().await;
        let own = token.map(keys::revision);
        self.leave(lock, own).await?;
        let is_over = {
            let mut seat = slot.state();
            let is_over = own.is_none_or(|own| seat.revision.is_none_or(|now| now == own));
            if is_over {
                seat.forget();
            }
            is_over
        };
        if is_over {
            self.remove(lock, slot);
        }
        Ok(())
    }

    /// Deletes the key, or only that with this create revision.
    async fn leave(&self, lock: &LockName, own: Option<i64>) -> Result<(), Trouble> {
        if self.has_ended() {
            return Ok(());
        }
        let key = self.key(lock);
        self.common
            .links
            .call(self.limit, |mut client| {
                let when = match own {
                    Some(own) => is(&key, own),
                    None => Compare::lease(key.clone(), CompareOp::Equal, self.id),
                };
                let txn = Txn::new()
                    .when([when])
                    .and_then([TxnOp::delete(key.clone(), None)]);
                async move { client.txn(txn).await }
            })
            .await?;
        Ok(())
    }

    /// The key and create revision of the term with this token, if it is held here.
    pub(crate) fn term(&self, lock: &LockName, token: FencingToken) -> Option<(String, i64)> {
        let own = keys::revision(token);
        let slot = self.slots().by_lock.get(lock).cloned()?;
        let leads = slot.state().leads_since(own).is_some();
        leads.then(|| (self.key(lock), own))
    }

    /// Deletes what nobody was heard of in time, and the lease when nothing is left; when to look
    /// again.
    async fn sweep(&self) -> Option<Time> {
        let now = self.common.clock.now();
        let mut overdue = Vec::new();
        let mut next: Option<Time> = None;
        {
            let mut slots = self.slots();
            if self.has_ended() {
                return None;
            }
            for (lock, slot) in &slots.by_lock {
                let until = slot.state().until;
                if until <= now {
                    overdue.push((lock.clone(), slot.clone()));
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            if slots.by_lock.is_empty() {
                let since = *slots.empty_since.get_or_insert(now);
                let until = since + self.lease;
                if until > now {
                    return Some(until);
                }
                self.ended.store(true, Ordering::Release);
            }
        }
        if self.has_ended() {
            self.revoke_later();
            return None;
        }
        for (lock, slot) in overdue {
            let _turn = slot.turn.lock().await;
            // Its owner may have been heard of while this waited.
            if slot.state().until > now {
                continue;
            }
            tracing::debug!(%lock, "nobody asks for a key any more");
            match self.leave(&lock, None).await {
                Ok(()) => {
                    slot.state().forget();
                    self.remove(&lock, &slot);
                }
                // Once more, later; without keepalives it ends by itself.
                Err(_) => slot.state().until = now + self.limit,
            }
        }
        Some(next.map_or(now + TICK, |next| next.max(now + TICK)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            for lock in self.slots().by_lock.keys() {
                self.common.hub.rise(lock, self.id);
            }
            self.revoke_later();
        }
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, Seat> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entered(&self, session: &Session, own: i64, with: Option<&Candidate>) {
        let mut seat = self.state();
        let now = session.common.clock.now();
        if seat.revision != Some(own) {
            seat.leads = false;
            seat.revision = Some(own);
            seat.since = now;
        }
        if let Some(candidate) = with {
            seat.value.clone_from(&candidate.value);
        }
        seat.until = now + session.lease;
    }

    /// Begins the term, unless it is over already. Its proof is the newest of the lease: one that
    /// is acknowledged while the first is read here would otherwise pass this slot by.
    fn elected(&self, session: &Session, own: i64) -> Option<Time> {
        let mut seat = self.state();
        if seat.closed || seat.revision != Some(own) {
            return None;
        }
        seat.leads = true;
        seat.proven = seat.proven.max(session.proof().lease);
        seat.until = session.common.clock.now() + session.lease;
        Some(seat.proven)
    }
}

impl Seat {
    fn close(&mut self) {
        self.forget();
        self.closed = true;
    }

    fn forget(&mut self) {
        self.revision = None;
        self.leads = false;
    }

    /// When it was proven last, if it is the leader's with this create revision.
    fn leads_since(&self, own: i64) -> Option<Time> {
        (self.leads && self.revision == Some(own)).then_some(self.proven)
    }
}

fn is(key: &str, revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}

async fn revoke(common: &Common, id: i64, limit: Duration) {
    let revoking = common.links.call(limit, |mut client| async move {
        client.lease_revoke(id).await.map(|_| ())
    });
    if let Err(trouble) = revoking.await
        && trouble.cause != Cause::LeaseGone
    {
        tracing::debug!(
            reason = trouble.message(),
            "an etcd lease is left to expire"
        );
    }
}

/// Answers asks, as many in one transaction as are waiting, until the session is gone.
async fn look(links: Arc<Links>, limit: Duration, mut asks: mpsc::UnboundedReceiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        let mut batch = vec![ask];
        while batch.len() < BATCH
            && let Ok(ask) = asks.try_recv()
        {
            batch.push(ask);
        }
        if batch.len() > 1 {
            let outcome = links
                .call(limit, |mut client| {
                    let nested: Vec<_> = batch.iter().map(|ask| TxnOp::txn(ask.txn())).collect();
                    async move { client.txn(Txn::new().and_then(nested)).await }
                })
                .await;
            match outcome {
                Ok(answer) => {
                    let revision = revision_of(&answer);
                    for (ask, response) in batch.into_iter().zip(answer.op_responses()) {
                        let TxnOpResponse::Txn(response) = response else {
                            ask.tell(Err(Trouble::unreadable("a nested transaction")));
                            continue;
                        };
                        let look = ask.read(&response, revision);
                        ask.tell(look);
                    }
                    continue;
                }
                // One of them may be refused what the others are not.
                Err(trouble) if trouble.cause == Cause::Answer => {}
                Err(trouble) => {
                    for ask in batch {
                        ask.tell(Err(trouble.clone()));
                    }
                    continue;
                }
            }
        }
        for ask in batch {
            let outcome = links
                .call(limit, |mut client| {
                    let txn = ask.txn();
                    async move { client.txn(txn).await }
                })
                .await;
            let look = outcome.and_then(|answer| ask.read(&answer, revision_of(&answer)));
            ask.tell(look);
        }
    }
}

fn revision_of(answer: &TxnResponse) -> i64 {
    answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision)
}

impl Ask {
    /// Reads only, when the key is known to be there: such a transaction costs the server no
    /// write.
    fn txn(&self) -> Txn {
        let first = TxnOp::get(self.election.clone(), Some(keys::first()));
        match &self.place {
            Ok(own) => Txn::new().when([is(&self.key, *own)]).and_then([
                first,
                TxnOp::get(self.election.clone(), Some(keys::before(*own))),
            ]),
            Err(proposal) => {
                let lease = PutOptions::new().with_lease(self.lease);
                Txn::new()
                    .when([is(&self.key, 0)])
                    .and_then([
                        TxnOp::put(self.key.clone(), proposal.clone(), Some(lease)),
                        TxnOp::get(self.key.clone(), None),
                        first.clone(),
                    ])
                    .or_else([TxnOp::get(self.key.clone(), None), first])
            }
        }
    }

    fn read(&self, answer: &TxnResponse, revision: i64) -> Result<Look, Trouble> {
        let mut gets = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get),
                _ => None,
            });
        let mut next = || -> Result<Option<KeyValue>, Trouble> {
            let mut get: GetResponse = gets
                .next()
                .ok_or_else(|| Trouble::unreadable("the queue of a lock"))?;
            Ok(get.take_kvs().into_iter().next())
        };
        match &self.place {
            Ok(_) if !answer.succeeded() => Ok(Look::Gone),
            Ok(own) => Ok(Look::Queue {
                own: *own,
                foreign: false,
                entered: false,
                first: next()?,
                predecessor: next()?,
                revision,
            }),
            Err(_) => {
                let own = next()?.ok_or_else(|| Trouble::unreadable("a candidate's own key"))?;
                Ok(Look::Queue {
                    own: own.create_revision(),
                    foreign: own.lease() != self.lease,
                    entered: answer.succeeded(),
                    first: next()?,
                    predecessor: None,
                    revision,
                })
            }
        }
    }

    fn tell(self, look: Result<Look, Trouble>) {
        // Whoever asked may be gone with the runtime.
        let _unheard = self.answer.send(look);
    }
}

/// Sweeps for as long as the session lives, without keeping it alive.
async fn sweep(session: Weak<Session>, clock: SharedClock) {
    loop {
        let Some(alive) = session.upgrade() else {
            return;
        };
        let Some(next) = alive.sweep().await else {
            return;
        };
        drop(alive);
        clock.sleep_until(next).await;
    }
}
