//! One keepalive that proves all terms on the lease, and what it finds.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, LeaseTimeToLiveOptions};
use tenure_core::{Candidate, ErrorKind, FencingToken, LockName, Time};

use super::{Session, Slot};
use crate::errors::{Cause, Trouble};
use crate::keys;
use crate::link::Link;

/// What `renew` found.
pub(crate) enum Standing {
    Proven(Time),
    Lost,
}

pub(super) struct Proof {
    /// The last acknowledged keepalive was sent then.
    pub(super) lease: Time,
    /// The last keepalive after which the keys were looked at.
    pub(super) keys: Time,
    failed: Option<(Time, Trouble)>,
}

impl Proof {
    pub(super) fn new(sent: Time) -> Self {
        Self {
            lease: sent,
            keys: sent,
            failed: None,
        }
    }
}

pub(super) struct Keeper {
    link: Arc<Link>,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Session {
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
    pub(super) async fn prove(
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
}
