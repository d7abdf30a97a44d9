//! A store whose keys expire by its own clock, with atomic scripts, like Redis.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tenure_core::{
    Acquired, Candidate, Capabilities, Changes, Error, Expiry, FencingToken, Grant, Hint, Holder,
    LockBackend, LockName, Occupancy, Operation, Renewal, Rises, SharedClock, Time,
};

use super::common::{fencing, value};
use super::hints::Watchers;
use super::network::Link;
use super::world::World;

/// The server: one key, and the counter that tokens come from.
#[derive(Debug, Default)]
pub struct TtlServer {
    key: Option<Key>,
    counter: u64,
    watchers: Watchers<Hint>,
}

#[derive(Clone, Debug)]
struct Key {
    candidate: Candidate,
    token: FencingToken,
    lease: Duration,
    /// On the server's clock.
    expires: Duration,
    /// What the newest renewal that was applied would have it be.
    renewed_until: Duration,
    owner: (usize, u32),
}

impl Key {
    /// Whose it is: an identity and a campaign.
    fn is_of(&self, candidate: &Candidate) -> bool {
        self.candidate.identity == candidate.identity
            && self.candidate.campaign == candidate.campaign
    }

    /// A token alone would not do: they begin again when the store has lost its state.
    fn is_of_term(&self, grant: &Grant) -> bool {
        self.is_of(&grant.candidate) && self.token == grant.token
    }
}

/// A server that several links share.
pub type Shared = Arc<Mutex<TtlServer>>;

impl TtlServer {
    /// A server whose counter stands at `counter`.
    pub fn counting_from(counter: u64) -> Self {
        Self {
            counter,
            ..Self::default()
        }
    }

    /// Deletes the key; the counter stays.
    pub fn delete(&mut self, world: &World) -> Option<FencingToken> {
        let key = self.key.take()?;
        self.watchers.tell(world, &Hint::MayBeFree);
        Some(key.token)
    }

    /// Everything is gone, the counter too.
    pub fn lose_state(&mut self, world: &World) {
        self.counter = 0;
        self.delete(world);
    }

    /// The candidate that holds the lock, in which of its lives.
    pub fn owner(&self, now: Duration) -> Option<(usize, u32)> {
        let key = self.key.as_ref().filter(|key| now < key.expires)?;
        Some(key.owner)
    }

    /// A hint without a reason.
    pub fn poke(&mut self, world: &World, candidate: usize) {
        self.watchers.poke(world, candidate, &Hint::MayBeFree);
    }

    /// Every script begins with this: a key that has expired is not there.
    fn expire(&mut self, now: Duration) {
        self.key = self.key.take().filter(|key| now < key.expires);
    }

    fn acquire(
        &mut self,
        link: &Link,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Result<FencingToken, (Holder, Duration)>, Error> {
        let now = link.store_time();
        self.expire(now);
        let expires = now + lease;
        if let Some(key) = &mut self.key {
            if !key.is_of(candidate) {
                return Ok(Err((holder(key, now), key.expires.saturating_sub(now))));
            }
            // An earlier attempt whose answer was lost: adopted, with a new lease.
            key.expires = expires;
            key.renewed_until = expires;
            key.candidate = candidate.clone();
            link.applied(key.token, link.true_time(key.expires), value(candidate));
            link.prolonged(key.token);
            return Ok(Ok(key.token));
        }
        self.counter += 1;
        let token = FencingToken::from_counter(self.counter)?;
        self.key = Some(Key {
            candidate: candidate.clone(),
            token,
            lease,
            expires,
            renewed_until: expires,
            owner: (link.candidate, link.life),
        });
        link.minted(token);
        link.applied(token, link.true_time(expires), value(candidate));
        Ok(Ok(token))
    }

    /// The lease that was granted, and when it ends. It may be shorter than before: then what was
    /// granted before is honoured until its holder has read the answer.
    fn renew(
        &mut self,
        link: &Link,
        grant: &Grant,
    ) -> Result<(Duration, Duration), Option<Holder>> {
        let now = link.store_time();
        self.expire(now);
        match &mut self.key {
            Some(key) if key.is_of_term(grant) => {
                let lease = link.granted(key.lease);
                key.expires = key.expires.max(now + lease);
                key.renewed_until = now + lease;
                key.candidate.value.clone_from(&grant.candidate.value);
                link.applied(
                    key.token,
                    link.true_time(key.expires),
                    value(&key.candidate),
                );
                link.prolonged(key.token);
                Ok((lease, now + lease))
            }
            Some(key) => Err(Some(holder(key, now))),
            None => Err(None),
        }
    }

    /// The holder has read that its lease is shorter now.
    /// Not if another renewal was applied after the one that `expires` is of.
    fn shorten(&mut self, link: &Link, grant: &Grant, expires: Duration) {
        if let Some(key) = &mut self.key
            && key.is_of_term(grant)
            && key.renewed_until == expires
        {
            key.expires = expires;
            link.applied(key.token, link.true_time(expires), value(&key.candidate));
        }
    }

    fn end(&mut self, link: &Link, is_ours: impl Fn(&Key) -> bool) {
        self.expire(link.store_time());
        if let Some(key) = self.key.take_if(|key| is_ours(key)) {
            link.released(key.token, key.owner);
            self.watchers.tell(&link.world, &Hint::MayBeFree);
        }
    }
}

fn holder(key: &Key, now: Duration) -> Holder {
    let mut holder = Holder::new(key.candidate.identity.as_str());
    holder.token = Some(key.token);
    holder.expires_in = Some(key.expires.saturating_sub(now));
    holder
}

/// One candidate's client.
#[derive(Clone, Debug)]
pub struct SimTtl {
    /// The network.
    pub link: Link,
    /// The server.
    pub server: Shared,
    /// The candidate's clock.
    pub clock: SharedClock,
}

impl SimTtl {
    /// A client.
    pub fn new(link: Link, server: Shared, clock: SharedClock) -> Self {
        Self {
            link,
            server,
            clock,
        }
    }

    fn server(server: &Shared) -> MutexGuard<'_, TtlServer> {
        server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn script<R: Send + 'static>(
        &self,
        operation: Operation,
        script: impl FnMut(&mut TtlServer, &Link) -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.link.ask(operation, &self.server, script).await
    }
}

#[async_trait]
impl LockBackend for SimTtl {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(
            "simulated keys with a lifetime",
            Expiry::Store,
            fencing(Rises::Never, Rises::Always),
        )
        .with_min_lease(Duration::from_millis(10))
        .with_lease_granularity(Duration::from_millis(1))
        .with_wakeup(self.link.world.plan.wakeup)
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
        let proven_at = self.clock.now();
        let asking = candidate.clone();
        let answer = self
            .script(Operation::Acquire, move |server, link| {
                server.acquire(link, &asking, lease)
            })
            .await??;
        Ok(match answer {
            Ok(token) => Acquired::Held(Grant::new(
                lock.clone(),
                candidate.clone(),
                token,
                lease,
                proven_at,
            )),
            Err((holder, left)) => Acquired::taken(Some(holder), Some(left)),
        })
    }

    async fn renew(&self, grant: &Grant, _not_before: Time) -> Result<Renewal, Error> {
        let proven_at = self.clock.now();
        let ours = grant.clone();
        let answer = self
            .script(Operation::Renew, move |server, link| {
                server.renew(link, &ours)
            })
            .await?;
        Ok(match answer {
            Ok((lease, expires)) => {
                if lease < grant.lease {
                    Self::server(&self.server).shorten(&self.link, grant, expires);
                }
                let mut grant = grant.clone();
                grant.proven_at = proven_at;
                grant.lease = lease;
                Renewal::Renewed(grant)
            }
            Err(holder) => Renewal::lost(holder),
        })
    }

    fn may_go_on(&self, _began_at: Time) -> bool {
        self.link.world.plan.heartbeats_overlap
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let grant = grant.clone();
        self.script(Operation::Release, move |server, link| {
            server.end(link, |key| key.is_of_term(&grant));
        })
        .await
    }

    async fn withdraw(&self, _lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        let candidate = candidate.clone();
        self.script(Operation::Withdraw, move |server, link| {
            server.end(link, |key| key.is_of(&candidate));
        })
        .await
    }

    async fn holder(&self, _lock: &LockName) -> Result<Occupancy, Error> {
        self.script(Operation::Holder, |server, link| {
            let now = link.store_time();
            let key = server.key.as_ref().filter(|key| now < key.expires);
            key.map_or(Occupancy::Free, |key| Occupancy::Led(holder(key, now)))
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
}
