//! Renewals whose callers have gone before they were answered.
//!
//! A store that is slow is not dead. The engine gives a heartbeat up after the policy's request
//! timeout and tries again on a new connection, while the answer to the first one may be on its
//! way. It proves the term from when that one was sent, so it answers the next attempt too.

use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tenure_core::{Grant, PublishedValue, Time};
use tenure_kit::Tasks;
use tenure_kit::tasks::AbortOnDrop;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::errors::StoreError;
use crate::keys::KeyNames;
use crate::net::hold;
use crate::requests::renew::{self, Renew};
use crate::topology::lock_server::{LockServer, Request};

/// An attempt has so long for an answer of its own, which proves more.
const HEAD_START: Duration = Duration::from_millis(100);

/// Which term is renewed, and with which published value.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Renewed {
    key: String,
    campaign: String,
    token: u64,
    value: Option<PublishedValue>,
}

impl Renewed {
    pub(crate) fn of(keys: &KeyNames, grant: &Grant) -> Arc<Self> {
        Arc::new(Self {
            key: keys.lock().to_owned(),
            campaign: grant.candidate.campaign.to_string(),
            token: grant.token.as_u64(),
            value: grant.candidate.value.clone(),
        })
    }
}

/// Of one term, the oldest is given up for a new one.
const MOST: usize = 3;

/// The latest of them for each term. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct LateRenewals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    by_term: Mutex<HashMap<Arc<Renewed>, Late>>,
    begun: AtomicU64,
}

/// Of one term.
#[derive(Debug, Default)]
struct Late {
    proven_at: watch::Sender<Option<Time>>,
    under_way: Vec<(u64, AbortOnDrop)>,
}

impl LateRenewals {
    pub(crate) fn new(tasks: &Tasks) -> Self {
        Self(Arc::new(Shared {
            tasks: tasks.clone(),
            by_term: Mutex::default(),
            begun: AtomicU64::new(0),
        }))
    }

    /// Runs a renewal that is sent now. If the future is dropped, the renewal goes on in the
    /// background until `lease` has passed, and [`proof`](Self::proof) tells what it has proven.
    pub(crate) fn follow<F>(
        &self,
        term: &Arc<Renewed>,
        lease: Duration,
        renewing: F,
        proof: fn(&F::Output) -> Option<Time>,
    ) -> Followed<F>
    where
        F: Future + Send + 'static,
    {
        Followed {
            renewing: Some(Box::pin(renewing)),
            proof,
            lease,
            term: term.clone(),
            late: self.clone(),
        }
    }

    /// Completes when a renewal that was given up is answered, or was, and what it has proven is
    /// `enough`: with the time at which it was sent. An attempt that begins now has a head start.
    pub(crate) async fn proof(&self, term: &Renewed, enough: impl Fn(Time) -> bool) -> Time {
        if let Some(mut proven_at) = self.known(term) {
            sleep(HEAD_START).await;
            let is_enough = |at: &Option<Time>| at.is_some_and(&enough);
            let found = proven_at.wait_for(is_enough).await.ok().and_then(|at| *at);
            if let Some(at) = found {
                return at;
            }
        }
        pending().await
    }

    /// The same if it has been answered.
    pub(crate) fn proof_now(&self, term: &Renewed, enough: impl Fn(Time) -> bool) -> Option<Time> {
        let proven_at = self.known(term)?;
        let at = *proven_at.borrow();
        at.filter(|at| enough(*at))
    }

    fn known(&self, term: &Renewed) -> Option<watch::Receiver<Option<Time>>> {
        let by_term = hold(&self.0.by_term);
        by_term.get(term).map(|late| late.proven_at.subscribe())
    }

    /// The term is over, or was renewed since: nothing is waited for any more.
    pub(crate) fn forget(&self, term: &Renewed) {
        let forgotten = hold(&self.0.by_term).remove(term);
        drop(forgotten);
    }

    fn keep<F>(&self, followed: &Followed<F>, renewing: Pin<Box<F>>)
    where
        F: Future + Send + 'static,
    {
        let (shared, term) = (self.0.clone(), followed.term.clone());
        let (proof, lease) = (followed.proof, followed.lease);
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        let waiting = async move {
            let proven = timeout(lease, renewing).await.ok().as_ref().and_then(proof);
            if let Some(at) = proven {
                shared.proven(&term, at);
                // It proves nothing after that.
                sleep(lease).await;
            }
            shared.ended(&term, number);
        };
        let mut by_term = hold(&self.0.by_term);
        let late = by_term.entry(followed.term.clone()).or_default();
        let waiting = AbortOnDrop::new(self.0.tasks.spawn(waiting).abort_handle());
        late.under_way.push((number, waiting));
        if late.under_way.len() > MOST {
            late.under_way.remove(0);
        }
    }
}

impl Shared {
    fn proven(&self, term: &Renewed, at: Time) {
        if let Some(late) = hold(&self.by_term).get(term) {
            let at = Some(at);
            late.proven_at.send_modify(|known| *known = at.max(*known));
        }
    }

    fn ended(&self, term: &Renewed, number: u64) {
        let mut by_term = hold(&self.by_term);
        if let Some(late) = by_term.get_mut(term) {
            late.under_way.retain(|(other, _)| *other != number);
            if late.under_way.is_empty() {
                by_term.remove(term);
            }
        }
    }
}

/// A renewal that is [followed](LateRenewals::follow).
pub(crate) struct FollowedRenew<'a> {
    pub(crate) renew: Arc<Renew>,
    pub(crate) term: &'a Arc<Renewed>,
    pub(crate) late: &'a LateRenewals,
}

#[async_trait]
impl Request for FollowedRenew<'_> {
    type Answer = renew::Answer;

    async fn send(&self, server: &LockServer) -> Result<renew::Answer, StoreError> {
        let (renew, server) = (self.renew.clone(), server.clone());
        let lease = Duration::from_millis(renew.lease);
        let renewing = async move { renew.send(&server).await };
        let proof = renew::proof;
        self.late.follow(self.term, lease, renewing, proof).await
    }
}

/// A renewal that goes on when it is dropped.
pub(crate) struct Followed<F>
where
    F: Future + Send + 'static,
{
    /// `None` when it has been answered.
    renewing: Option<Pin<Box<F>>>,
    proof: fn(&F::Output) -> Option<Time>,
    lease: Duration,
    term: Arc<Renewed>,
    late: LateRenewals,
}

impl<F> Future for Followed<F>
where
    F: Future + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(renewing) = &mut self.renewing else {
            return Poll::Pending;
        };
        let answer = renewing.as_mut().poll(cx);
        if answer.is_ready() {
            self.renewing = None;
        }
        answer
    }
}

impl<F> Drop for Followed<F>
where
    F: Future + Send + 'static,
{
    fn drop(&mut self) {
        // Another thread may have held a lock at a fork.
        if let Some(renewing) = self.renewing.take()
            && self.late.0.tasks.process().is_current()
        {
            self.late.keep(self, renewing);
        }
    }
}

#[cfg(test)]
mod tests;
