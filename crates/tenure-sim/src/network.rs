//! The network between one candidate and the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure_core::{Error, ErrorKind, FencingToken, Generation, Operation};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Moment;
use super::faults::SLOWEST;
use super::history::Event;
use super::world::{Proof, World};

/// One candidate's way to the store.
#[derive(Clone, Debug)]
pub struct Link {
    /// The world.
    pub world: Arc<World>,
    /// The candidate; an observer's number is past the last candidate's.
    pub candidate: usize,
    /// Which of its lives: messages outlive the process that sent them.
    pub life: u32,
    /// Which way its messages take: a fault can cut one.
    route: usize,
    /// Which store it leads to: the first or the second of two.
    pub store: u8,
    /// The generation in which the store's tokens are used.
    pub generation: Generation,
    /// How much the store's clock runs fast: see [`Link::store_time`].
    store_ppm: i64,
    /// When the last message arrives: in calm weather they stay in order, as on a connection.
    arrival: Arc<Mutex<Moment>>,
}

impl Link {
    /// The link of a candidate.
    pub fn new(world: Arc<World>, candidate: usize, life: u32) -> Self {
        Self {
            store_ppm: world.plan.store_ppm,
            world,
            candidate,
            life,
            route: candidate,
            store: 0,
            generation: Generation::default(),
            arrival: Arc::default(),
        }
    }

    /// The same, on another way: to another store.
    #[must_use]
    pub fn by(self, route: usize) -> Self {
        Self { route, ..self }
    }

    /// The same, to the second of two stores, whose tokens are used in `generation`.
    #[must_use]
    pub fn to_second(self, generation: Generation) -> Self {
        Self {
            store: 1,
            generation,
            ..self
        }
    }

    /// A token of the store as candidates see it.
    pub fn token(&self, token: FencingToken) -> u64 {
        // A store that counts beyond all tokens is refused by the candidates.
        token
            .in_generation(self.generation)
            .map_or(u64::MAX, FencingToken::as_u64)
    }

    /// The store has applied something for the term with this token; see [`World::applied`].
    pub fn applied(&self, token: FencingToken, covered: Moment, value: Option<&str>) {
        let proof = Proof {
            store: self.store,
            candidate: self.candidate,
            life: self.life,
            token: Some(self.token(token)),
        };
        self.world.applied(proof, covered, value);
    }

    /// The store has begun a term for this link's candidate.
    pub fn minted(&self, token: FencingToken) {
        let number = self.token(token);
        self.world.minted(self.candidate, self.life, number);
        self.world.record(Event::Minted {
            store: self.store,
            candidate: self.candidate,
            life: self.life,
            token: number,
        });
    }

    /// The store has prolonged a term.
    pub fn prolonged(&self, token: FencingToken) {
        let token = self.token(token);
        self.world.record(Event::Prolonged { token });
    }

    /// The store has ended a term of `owner` on the request of this link's candidate.
    pub fn released(&self, token: FencingToken, owner: (usize, u32)) {
        let token = self.token(token);
        self.world.record(Event::Released {
            store: self.store,
            candidate: self.candidate,
            token,
            working: self.world.working_under(token, owner),
        });
    }

    /// What the store grants when it is asked to renew a lease.
    pub fn granted(&self, lease: Duration) -> Duration {
        let now = self.world.now();
        self.world.faults().granted(self.store, lease, now)
    }

    /// Now on the store's clock, as a duration since its start.
    pub fn store_time(&self) -> Duration {
        let rate = u128::try_from(1_000_000 + self.store_ppm).unwrap_or(1_000_000);
        let nanos = self.world.now().as_nanos() * rate / 1_000_000;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When the store's clock shows this.
    pub fn true_time(&self, store: Duration) -> Moment {
        let rate = u128::try_from(1_000_000 + self.store_ppm).unwrap_or(1_000_000);
        let nanos = store.as_nanos() * 1_000_000 / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Sends a request and waits for the reply, which may never come.
    ///
    /// The message is on its own once it is sent: dropping this future, or a crash of the sender,
    /// does not stop it from being applied later.
    pub async fn call<R: Send + 'static>(
        &self,
        operation: Operation,
        apply: impl FnMut() -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        drop(tokio::spawn(self.clone().carry(operation, apply, reply)));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    /// The same, to a server that answers under its lock.
    pub async fn ask<S: Send + 'static, R: Send + 'static>(
        &self,
        operation: Operation,
        server: &Arc<Mutex<S>>,
        mut question: impl FnMut(&mut S, &Self) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (link, server) = (self.clone(), server.clone());
        self.call(operation, move || {
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(question(&mut server, &link))
        })
        .await
    }

    async fn carry<R: Send + 'static>(
        self,
        operation: Operation,
        mut apply: impl FnMut() -> Result<R, Error> + Send + 'static,
        reply: oneshot::Sender<Result<R, Error>>,
    ) {
        let world = &self.world;
        let fate = world.fate(self.candidate);
        let cut = world.faults().cuts_requests(self.route, world.now());
        if fate.lose_request || cut {
            return;
        }
        let there = self.there(fate.there);
        if !there.is_zero() {
            sleep(there).await;
        }
        let result = match self.refusal(operation) {
            Some(error) => Err(error),
            None => apply(),
        };
        if !fate.back.is_zero() {
            sleep(fate.back).await;
        }
        let cut = world.faults().cuts_replies(self.route, world.now());
        if !fate.lose_reply && !cut {
            // The sender may have given up.
            let _late = reply.send(result);
        } else {
            drop(reply);
        }
        if let Some(after) = fate.repeat_after {
            sleep(after.saturating_sub(fate.back)).await;
            if self.refusal(operation).is_none() {
                let _unheard = apply();
            }
        }
    }

    fn there(&self, drawn: Duration) -> Duration {
        let now = self.world.now();
        let mut last = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        let (stormy, sluggish) = {
            let faults = self.world.faults();
            (faults.stormy, now < faults.sluggish_until)
        };
        if sluggish {
            // Each attempt has a connection of its own.
            return drawn;
        }
        let in_order = !stormy && *last <= now + SLOWEST;
        let arrives = if in_order {
            (now + drawn).max(*last)
        } else {
            now + drawn
        };
        *last = if in_order { arrives } else { now };
        arrives.saturating_sub(now)
    }

    /// The store is up but does not serve.
    fn refusal(&self, operation: Operation) -> Option<Error> {
        let now = self.world.now();
        let faults = self.world.faults();
        if now < faults.down_until {
            return Some(Error::new(ErrorKind::Unavailable, operation, "restarting"));
        }
        if now < faults.denied_until {
            return Some(Error::new(ErrorKind::Forbidden, operation, "not allowed"));
        }
        (now < faults.throttled_until).then(|| {
            let left = faults.throttled_until.saturating_sub(now);
            let retry_after = Some(faults.asks_for.unwrap_or(left));
            Error::new(ErrorKind::Throttled { retry_after }, operation, "too busy")
        })
    }
}
