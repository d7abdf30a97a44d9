//! A store of sessions that hold locks and queue for them, like etcd.
//!
//! A client keeps one session alive for everything it holds; one keepalive answers the renewals
//! of all its elections, as far as its proof is fresh enough. Candidates queue; the first in the
//! queue whose session lives holds the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Error, Expiry, FencingToken, Grant, Hint, Holder,
    LockBackend, LockName, Loss, Occupancy, Operation, Order, Renewal, Rises, SharedClock, Time,
};

use super::Moment;
use super::common::{fencing, value};
use super::hints::Watchers;
use super::network::Link;
use super::process::Process;
use super::world::World;

/// The server: one queue, and the counter that tokens come from.
#[derive(Debug, Default)]
pub struct SessionServer {
    queue: Vec<Place>,
    counter: u64,
    watchers: Watchers<Hint>,
    /// Told of the campaigns whose sessions have ended, where the store does that.
    ended: Watchers<u64>,
}

/// A place in the queue; each campaign has a session of its own here.
#[derive(Clone, Debug)]
struct Place {
    candidate: Candidate,
    lease: Duration,
    /// When the session ends, on the server's clock.
    expires: Duration,
    token: Option<FencingToken>,
    owner: (usize, u32),
}

impl Place {
    /// Whose it is: an identity and a campaign.
    fn is_of(&self, candidate: &Candidate) -> bool {
        self.candidate.identity == candidate.identity
            && self.candidate.campaign == candidate.campaign
    }
}

/// A server that several links share.
pub type Shared = Arc<Mutex<SessionServer>>;

impl SessionServer {
    /// A server whose counter stands at `counter`.
    pub fn counting_from(counter: u64) -> Self {
        Self {
            counter,
            ..Self::default()
        }
    }

    /// Deletes the holder's key, or ends its session.
    pub fn delete(&mut self, world: &World) -> Option<FencingToken> {
        if self.queue.is_empty() {
            return None;
        }
        let place = self.queue.remove(0);
        if world.plan.tells_of_loss {
            let campaign = place.candidate.campaign.get();
            self.ended.tell(world, &campaign);
        }
        self.watchers.tell(world, &Hint::MayBeFree);
        place.token
    }

    /// Who stands behind the holder, in order.
    pub fn waiting(&self, now: Duration) -> Vec<(usize, u32)> {
        self.owners(now).into_iter().skip(1).collect()
    }

    /// Everything is gone, the counter too.
    pub fn lose_state(&mut self, world: &World) {
        self.counter = 0;
        self.queue.clear();
        self.watchers.tell(world, &Hint::MayBeFree);
    }

    /// All who hold the lock or stand in the queue.
    pub fn owners(&self, now: Duration) -> Vec<(usize, u32)> {
        let alive = self.queue.iter().filter(|place| now < place.expires);
        alive.map(|place| place.owner).collect()
    }

    /// A hint without a reason.
    pub fn poke(&mut self, world: &World, candidate: usize) {
        self.watchers.poke(world, candidate, &Hint::MayBeFree);
    }

    fn expire(&mut self, link: &Link) {
        let now = link.store_time();
        let held = self.queue.first().map(|place| place.candidate.campaign);
        self.queue.retain(|place| now < place.expires);
        if held != self.queue.first().map(|place| place.candidate.campaign) {
            self.watchers.tell(&link.world, &Hint::MayBeFree);
        }
    }

    /// Takes a place, or looks at it again; `Held` at the head of the queue.
    fn acquire(
        &mut self,
        link: &Link,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Result<FencingToken, Holder>, Error> {
        self.expire(link);
        let expires = link.store_time() + lease;
        let found = self.queue.iter().position(|place| place.is_of(candidate));
        let position = found.unwrap_or_else(|| {
            self.queue.push(Place {
                candidate: candidate.clone(),
                lease,
                expires,
                token: None,
                owner: (link.candidate, link.life),
            });
            self.queue.len() - 1
        });
        if let Some(place) = self.queue.get_mut(position) {
            place.expires = expires;
            place.candidate.value.clone_from(&candidate.value);
        }
        if position > 0 {
            let name = self.queue.first().map(|p| p.candidate.identity.as_str());
            return Ok(Err(Holder::new(name.unwrap_or_default())));
        }
        let Some(place) = self.queue.first_mut() else {
            return Ok(Err(Holder::new("nobody")));
        };
        let token = if let Some(token) = place.token {
            token
        } else {
            self.counter += 1;
            let token = FencingToken::from_counter(self.counter)?;
            place.token = Some(token);
            link.minted(token);
            token
        };
        link.applied(token, link.true_time(expires), value(candidate));
        Ok(Ok(token))
    }

    /// A keepalive of one session; `false` when it has ended.
    fn keep_alive(
        &mut self,
        link: &Link,
        candidate: &Candidate,
        token: Option<FencingToken>,
    ) -> bool {
        self.expire(link);
        let now = link.store_time();
        let mut queue = self.queue.iter_mut();
        let Some(place) = queue.find(|place| place.is_of(candidate)) else {
            return false;
        };
        if token.is_some() && place.token != token {
            return false;
        }
        place.expires = now + place.lease;
        place.candidate.value.clone_from(&candidate.value);
        if let Some(token) = place.token {
            link.applied(token, link.true_time(place.expires), value(candidate));
            link.prolonged(token);
        }
        true
    }

    /// Gives a place back: that of a term, or whatever a campaign has.
    fn leave(&mut self, link: &Link, candidate: &Candidate, term: Option<FencingToken>) {
        self.expire(link);
        let is_ours =
            |place: &Place| place.is_of(candidate) && (term.is_none() || place.token == term);
        let Some(position) = self.queue.iter().position(is_ours) else {
            return;
        };
        let place = self.queue.remove(position);
        if let Some(token) = place.token {
            link.released(token, place.owner);
        }
        if position == 0 {
            self.watchers.tell(&link.world, &Hint::MayBeFree);
        }
    }
}

/// One candidate's client, with its keepalives.
#[derive(Clone, Debug)]
pub struct SimSessions {
    /// The network.
    pub link: Link,
    /// The server.
    pub server: Shared,
    /// The candidate's clock.
    pub clock: SharedClock,
    /// Where keepalives run: they stop when it is frozen or killed.
    pub process: Option<Arc<Process>>,
    sessions: Arc<Mutex<BTreeMap<u64, Session>>>,
}

/// The session of one campaign.
#[derive(Debug)]
struct Session {
    /// With the value that was sent last.
    candidate: Candidate,
    /// When the last keepalive that was answered was sent.
    proven_at: Time,
    /// The term's token: a session of another term proves nothing for this one.
    token: Option<FencingToken>,
    /// When the last `acquire` was sent.
    acquired_at: Time,
    /// Lives as long as somebody has the term's grant.
    grant: Weak<()>,
    lease: Duration,
    alive: bool,
}

impl Session {
    /// What no caller holds is not kept alive: a term whose grant is gone, or a place in the queue
    /// that nobody has asked for within a lease.
    fn is_wanted(&self, now: Time) -> bool {
        match self.token {
            Some(_) => self.grant.strong_count() > 0,
            None => now.since(self.acquired_at) < self.lease,
        }
    }
}

impl SimSessions {
    /// A client.
    pub fn new(
        link: Link,
        server: Shared,
        clock: SharedClock,
        process: Option<Arc<Process>>,
    ) -> Self {
        Self {
            link,
            server,
            clock,
            process,
            sessions: Arc::default(),
        }
    }

    fn server(server: &Shared) -> MutexGuard<'_, SessionServer> {
        server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the session of a campaign, if there is one.
    fn with<R>(&self, candidate: &Candidate, act: impl FnOnce(&mut Session) -> R) -> Option<R> {
        self.sessions().get_mut(&candidate.campaign.get()).map(act)
    }

    async fn ask<R: Send + 'static>(
        &self,
        operation: Operation,
        question: impl FnMut(&mut SessionServer, &Link) -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.link.ask(operation, &self.server, question).await
    }

    /// Keeps a queued or leading campaign alive, until it ends here or at the server.
    fn keep(&self, candidate: &Candidate, lease: Duration) {
        if self.is_current(candidate) {
            return;
        }
        let session = Session {
            candidate: candidate.clone(),
            proven_at: Time::ZERO,
            token: None,
            acquired_at: self.clock.now(),
            grant: Weak::new(),
            lease,
            alive: true,
        };
        self.sessions().insert(candidate.campaign.get(), session);
        let Some(process) = &self.process else {
            return;
        };
        let (this, candidate) = (self.clone(), candidate.clone());
        process.run(async move {
            while this.is_current(&candidate) {
                let pause = this.pause(&candidate, lease);
                this.clock.sleep_until(this.clock.now() + pause).await;
                if this.is_current(&candidate) {
                    tokio::select! {
                        biased;
                        _ = this.keep_alive(&candidate) => {}
                        () = this.clock.sleep_until(this.clock.now() + pause) => {}
                    }
                }
            }
        });
    }

    /// How long to the next keepalive. Some clients leave a leader's keepalives to its heartbeats,
    /// as far as the lease allows.
    fn pause(&self, candidate: &Candidate, lease: Duration) -> Duration {
        let leads = self.with(candidate, |session| session.token.is_some());
        if leads == Some(true) && self.link.world.plan.lazy_keepalives {
            lease * 3 / 4
        } else {
            lease / 4
        }
    }

    fn is_current(&self, candidate: &Candidate) -> bool {
        let now = self.clock.now();
        self.with(candidate, |session| session.alive && session.is_wanted(now)) == Some(true)
    }

    /// One keepalive; notes what it proves.
    async fn keep_alive(&self, candidate: &Candidate) -> Result<bool, Error> {
        let sent = self.clock.now();
        let known = self.with(candidate, |s| (s.candidate.clone(), s.token));
        let (ours, token) = known.unwrap_or_else(|| (candidate.clone(), None));
        let alive = self
            .ask(Operation::Renew, move |server, link| {
                server.keep_alive(link, &ours, token)
            })
            .await?;
        self.with(candidate, |session| {
            // A session that did not exist yet when it was asked for exists by now.
            session.alive &= alive || session.acquired_at >= sent;
            if alive {
                session.proven_at = session.proven_at.max(sent);
            }
        });
        Ok(alive)
    }

    async fn leave(&self, candidate: &Candidate, term: Option<FencingToken>) -> Result<(), Error> {
        self.sessions().remove(&candidate.campaign.get());
        let ours = candidate.clone();
        self.ask(Operation::Withdraw, move |server, link| {
            server.leave(link, &ours, term);
        })
        .await
    }

    /// When the session was proven last, and whether it lives. A new value needs a new proof.
    fn proof(&self, candidate: &Candidate) -> Option<(Time, bool)> {
        self.with(candidate, |session| {
            let told = session.candidate.value == candidate.value;
            session.candidate.value.clone_from(&candidate.value);
            let proven_at = if told { session.proven_at } else { Time::ZERO };
            (proven_at, session.alive)
        })
    }
}

#[async_trait]
impl LockBackend for SimSessions {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "simulated sessions",
            Expiry::Session,
            fencing(Rises::Always, Rises::Always),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_millis(1))
        .with_expiry_lag(Duration::from_secs(1))
        .with_wakeup(self.link.world.plan.wakeup)
        .with_order(Order::Fifo)
    }

    fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        self.keep(candidate, lease);
        let proven_at = self.clock.now();
        self.with(candidate, |session| session.acquired_at = proven_at);
        let asking = candidate.clone();
        let answer = self
            .ask(Operation::Acquire, move |server, link| {
                server.acquire(link, &asking, lease)
            })
            .await??;
        let held = Arc::new(());
        self.with(candidate, |session| {
            session.token = answer.as_ref().ok().copied();
            session.grant = Arc::downgrade(&held);
        });
        Ok(match answer {
            Ok(token) => Acquired::Held(
                Grant::new(lock.clone(), candidate.clone(), token, lease, proven_at)
                    .with_state(held),
            ),
            Err(holder) => Acquired::taken(Some(holder), None),
        })
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        let proof = self.proof(&grant.candidate);
        let proven_at = match proof {
            None | Some((_, false)) => return Ok(Renewal::lost(None)),
            Some((proven_at, true)) if proven_at >= not_before => proven_at,
            Some(_) => {
                let sent = self.clock.now();
                if !self.keep_alive(&grant.candidate).await? {
                    return Ok(Renewal::lost(None));
                }
                sent
            }
        };
        let mut grant = grant.clone();
        grant.proven_at = proven_at;
        Ok(Renewal::Renewed(grant))
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        self.link.world.plan.heartbeats_overlap
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        self.leave(&grant.candidate, Some(grant.token)).await
    }

    async fn withdraw(&self, _lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.leave(candidate, None).await
    }

    async fn holder(&self, _lock: &LockName) -> Result<Occupancy, Error> {
        self.ask(Operation::Holder, |server, link| {
            server.expire(link);
            server.queue.first().map_or(Occupancy::Free, |place| {
                let mut holder = Holder::new(place.candidate.identity.as_str());
                holder.token = place.token;
                // Before it has asked again, the first in the queue does not lead.
                if place.token.is_some() {
                    Occupancy::Led(holder)
                } else {
                    Occupancy::Unknown(holder)
                }
            })
        })
        .await
    }

    fn changes(&self, _lock: &LockName) -> Changes {
        let link = &self.link;
        Self::server(&self.server)
            .watchers
            .watch(&link.world, link.candidate)
            .boxed()
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        let world = &self.link.world;
        if !world.plan.tells_of_loss {
            return None;
        }
        let campaign = grant.candidate.campaign.get();
        let ended = Self::server(&self.server)
            .ended
            .watch(world, self.link.candidate);
        Some(Box::pin(async move {
            let mut ended = ended.filter(|told| std::future::ready(*told == campaign));
            if ended.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        }))
    }
}

/// The server's sweep: sessions end, and the next in the queue is told.
pub async fn sweep(server: Shared, link: Link) {
    loop {
        tokio::time::sleep(Moment::from_secs(1)).await;
        SimSessions::server(&server).expire(&link);
    }
}
