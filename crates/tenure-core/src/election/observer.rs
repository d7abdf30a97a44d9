//! Watching an election without being a candidate.

use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;

use crate::contract::backend::{Changes, Holder, LockBackend, Occupancy};
use crate::contract::capabilities::Wakeup;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, Operation};
use crate::contract::name::LockName;
use crate::contract::token::FencingToken;
use crate::policy::Policy;

/// Watches who leads, without being a candidate and without write rights.
///
/// ```
/// use std::sync::Arc;
/// use tenure_core::{LockName, MemoryBackend, Observation, Observer, Policy};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tenure_core::Error> {
/// let backend = Arc::new(MemoryBackend::private());
/// let observer = Observer::new(backend, LockName::new("batch")?, Policy::default());
/// assert_eq!(observer.look().await?, Observation::Free);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Observer {
    backend: Arc<dyn LockBackend>,
    clock: SharedClock,
    lock: LockName,
    policy: Policy,
}

/// What an [`Observer`] sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observation {
    /// A candidate leads.
    Led {
        /// The leader's identity, as it stands in the store: show it escaped.
        identity: String,
        /// What the leader publishes.
        value: Option<String>,
        /// The term's token, where it is known.
        token: Option<FencingToken>,
        /// When the store was asked, on the backend's clock.
        as_of: Time,
    },
    /// No candidate leads.
    Free,
    /// It cannot be told: the store does not answer, or its record has not been seen to change
    /// yet (stores judged by observation).
    Unknown {
        /// Whom the record names, where it could be read.
        recorded: Option<Holder>,
    },
}

impl Observer {
    /// An observer of `lock`. The policy says how soon a call counts as failed and how often to
    /// look where the store does not report changes.
    pub fn new(backend: Arc<dyn LockBackend>, lock: LockName, policy: Policy) -> Self {
        Self {
            clock: backend.clock(),
            backend,
            lock,
            policy,
        }
    }

    /// One look. Cancel safe; ends within the request timeout.
    pub async fn look(&self) -> Result<Observation, Error> {
        Ok(self.ask().await?.1)
    }

    /// What is seen now, and then each change of it. Never ends; a store that does not answer is
    /// [`Observation::Unknown`] until it does.
    ///
    /// Cancel safe; dropping the stream ends the watch.
    pub fn watch(&self) -> impl Stream<Item = Observation> + Send + Unpin + 'static {
        let watch = Watch {
            changes: self.subscribe(),
            observer: self.clone(),
            look_at: self.clock.now(),
            last: None,
        };
        Box::pin(stream::unfold(watch, |mut watch| async move {
            let observation = watch.next().await;
            Some((observation, watch))
        }))
    }

    /// Asks the leader of the term with `token`, as [`look`](Self::look) told it, to resign; needs
    /// the rights of a candidate. The leader heeds that with its next heartbeat, if that comes
    /// within `lasts`. See [`Wish`](crate::Wish).
    ///
    /// Fails with [`Unsupported`](crate::ErrorKind::Unsupported) on a store that carries no wishes.
    /// Ends within the request timeout. When it is dropped, the wish may stand or not.
    pub async fn ask_to_resign(&self, token: FencingToken, lasts: Duration) -> Result<(), Error> {
        let limit = self.policy.request_timeout();
        tokio::select! {
            biased;
            asked = self.backend.ask_to_resign(&self.lock, token, lasts) => asked,
            () = self.clock.sleep_until(self.clock.now() + limit) => {
                Err(Error::timeout(Operation::AskToResign, limit))
            }
        }
    }

    fn subscribe(&self) -> Option<Changes> {
        let pushes = self.backend.capabilities().wakeup == Wakeup::Push;
        pushes.then(|| self.backend.changes(&self.lock))
    }

    /// What is seen, and when to look again at the latest.
    async fn ask(&self) -> Result<(Time, Observation), Error> {
        let limit = self.policy.request_timeout();
        let as_of = self.clock.now();
        let occupancy = tokio::select! {
            biased;
            answer = self.backend.holder(&self.lock) => answer?,
            () = self.clock.sleep_until(as_of + limit) => {
                return Err(Error::timeout(Operation::Holder, limit));
            }
        };
        let ends = |holder: &Holder| holder.expires_in.map(|left| self.clock.now() + left);
        let (ends, observation) = match occupancy {
            Occupancy::Led(holder) => {
                let ends = ends(&holder);
                let Holder {
                    identity,
                    value,
                    token,
                    ..
                } = holder;
                (
                    ends,
                    Observation::Led {
                        identity,
                        value,
                        token,
                        as_of,
                    },
                )
            }
            Occupancy::Free => (None, Observation::Free),
            Occupancy::Unknown(holder) => {
                let ends = ends(&holder);
                (
                    ends,
                    Observation::Unknown {
                        recorded: Some(holder),
                    },
                )
            }
        };
        let look_at = self.clock.now() + self.interval();
        Ok((ends.map_or(look_at, |ends| ends.min(look_at)), observation))
    }

    fn interval(&self) -> Duration {
        match self.backend.capabilities().wakeup {
            Wakeup::Push => self.policy.heartbeat(),
            Wakeup::Poll => self.policy.retry_interval(),
        }
    }
}

struct Watch {
    observer: Observer,
    changes: Option<Changes>,
    look_at: Time,
    last: Option<Observation>,
}

impl Watch {
    async fn next(&mut self) -> Observation {
        loop {
            if self.last.is_some() {
                self.wait().await;
            }
            let observation = self.look().await;
            if self
                .last
                .as_ref()
                .is_none_or(|last| !same(last, &observation))
            {
                if observation == Observation::Free {
                    // The next leader is due, and not every store reports an election.
                    let soon = self.observer.clock.now() + self.observer.policy.retry_interval();
                    self.look_at = self.look_at.min(soon);
                }
                self.last = Some(observation.clone());
                return observation;
            }
        }
    }

    async fn look(&mut self) -> Observation {
        let tick = self.observer.clock.now() + Duration::from_millis(1);
        match self.observer.ask().await {
            Ok((look_at, observation)) => {
                self.look_at = look_at.max(tick);
                observation
            }
            Err(error) => {
                tracing::debug!(lock = %self.observer.lock, error = ?error.to_string(), "cannot look");
                let policy = &self.observer.policy;
                let asked = error.retry_after().unwrap_or_default();
                // A store may ask for any pause; a watcher that waits longer sees nothing.
                let pause = policy.retry_interval().max(asked.min(policy.heartbeat()));
                self.look_at = self.observer.clock.now() + pause;
                Observation::Unknown { recorded: None }
            }
        }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self) {
        let clock = self.observer.clock.clone();
        loop {
            let Some(changes) = &mut self.changes else {
                return clock.sleep_until(self.look_at).await;
            };
            let hint = std::future::poll_fn(|cx| changes.as_mut().poll_next(cx));
            tokio::select! {
                biased;
                () = clock.sleep_until(self.look_at) => return,
                // Also after "held for so long": the leader or its value may have changed.
                hint = hint => match hint {
                    Some(_) => return,
                    None => self.changes = None,
                },
            }
        }
    }
}

/// Whether two observations tell a watcher the same.
fn same(a: &Observation, b: &Observation) -> bool {
    match (a, b) {
        (
            Observation::Led {
                identity,
                value,
                token,
                ..
            },
            Observation::Led {
                identity: identity2,
                value: value2,
                token: token2,
                ..
            },
        ) => (identity, value, token) == (identity2, value2, token2),
        (
            Observation::Unknown { recorded },
            Observation::Unknown {
                recorded: recorded2,
            },
        ) => {
            let name = |holder: &Option<Holder>| holder.as_ref().map(|h| h.identity.clone());
            name(recorded) == name(recorded2)
        }
        _ => a == b,
    }
}
