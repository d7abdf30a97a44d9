//! Who competes for a lock in a case.

use std::future::Future;
use std::time::Duration;

use tenure_core::{
    Acquired, CampaignId, Candidate, Error, Expiry, Grant, Holder, Identity, LockBackend, LockName,
    Occupancy, Operation, Renewal, Time,
};

use crate::connection::Connection;
use crate::names::{identity, value};
use crate::verdict::{Stop, Verdict, ensure, fail};

/// How often an observer looks before it must know the holder's whole name, value and token.
pub(crate) const MOST_LOOKS: u32 = 5;

/// What a refused candidate was told.
pub(crate) struct Refusal {
    pub(crate) holder: Option<Holder>,
    pub(crate) free_in: Option<Duration>,
}

/// One candidate for one lock on one connection.
#[derive(Clone)]
pub(crate) struct Contestant {
    pub(crate) on: Connection,
    pub(crate) lock: LockName,
    pub(crate) candidate: Candidate,
    pub(crate) lease: Duration,
}

impl Contestant {
    pub(crate) fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    pub(crate) fn identity(mut self, identity: &Identity) -> Self {
        self.candidate.identity = identity.clone();
        self
    }

    pub(crate) fn on_lock(mut self, lock: &LockName) -> Self {
        self.lock = lock.clone();
        self
    }

    pub(crate) fn value(mut self, text: &str) -> Result<Self, Stop> {
        self.candidate.value = Some(value(text)?);
        Ok(self)
    }

    /// The same candidate with another's campaign number, as after a fork that numbered two
    /// campaigns alike.
    pub(crate) fn numbered_as(mut self, other: &Self) -> Self {
        self.candidate.campaign = other.candidate.campaign;
        self
    }

    /// The same candidate in its next campaign.
    pub(crate) fn next(&self) -> Self {
        let mut next = self.clone();
        next.candidate.campaign = CampaignId::new(fastrand::u64(..));
        next
    }

    /// Two other owners on `on`, each with one half of this one's name: the identity or the
    /// campaign's number (contract 9).
    pub(crate) fn halves(&self, on: &Connection) -> Result<[(&'static str, Self); 2], Stop> {
        let here = Self {
            on: on.clone(),
            ..self.clone()
        };
        let stranger = identity(&format!("stranger-{:08x}", fastrand::u32(..)))?;
        Ok([
            (
                "another identity with the same campaign number",
                here.clone().identity(&stranger),
            ),
            ("another campaign of the same identity", here.next()),
        ])
    }

    /// The grant as this candidate would have it, had it been granted the term of another.
    pub(crate) fn usurped(&self, grant: &Grant) -> Grant {
        let mut usurped = grant.clone();
        usurped.candidate = self.candidate.clone();
        usurped
    }

    pub(crate) fn backend(&self) -> &dyn LockBackend {
        &*self.on.backend
    }

    pub(crate) fn now(&self) -> Time {
        self.on.now()
    }

    /// A call to acquire as the backend gives it, to be polled and dropped.
    pub(crate) fn acquiring(&self) -> impl Future<Output = Result<Acquired, Error>> + '_ {
        self.backend()
            .acquire(&self.lock, &self.candidate, self.lease)
    }

    /// A call to renew, for a proof from now on.
    pub(crate) fn renewing<'a>(
        &'a self,
        grant: &'a Grant,
    ) -> impl Future<Output = Result<Renewal, Error>> + 'a {
        self.backend().renew(grant, self.now())
    }

    pub(crate) fn withdrawing(&self) -> impl Future<Output = Result<(), Error>> + '_ {
        self.backend().withdraw(&self.lock, &self.candidate)
    }

    pub(crate) async fn acquire(&self) -> Result<Acquired, Stop> {
        let before = self.now();
        let acquired = self.on.ask(Operation::Acquire, || self.acquiring()).await?;
        if let Acquired::Held(grant) = &acquired {
            self.check(grant, before)?;
        }
        Ok(acquired)
    }

    /// The lock has to be granted now.
    pub(crate) async fn held(&self, why: &str) -> Result<Grant, Stop> {
        match self.acquire().await? {
            Acquired::Held(grant) => Ok(grant),
            Acquired::Taken {
                holder, free_in, ..
            } => fail!(
                "{why}: the lock should have been granted, but it is taken by {holder:?}, free in {free_in:?}"
            ),
            other => fail!("{why}: the lock should have been granted, but the answer is {other:?}"),
        }
    }

    /// The lock, if it is granted now.
    pub(crate) async fn try_held(&self) -> Result<Option<Grant>, Stop> {
        Ok(match self.acquire().await? {
            Acquired::Held(grant) => Some(grant),
            _ => None,
        })
    }

    /// The lock has to be refused now. Leaves no place in a queue.
    pub(crate) async fn refused(&self, why: &str) -> Result<Refusal, Stop> {
        match self.acquire().await? {
            Acquired::Held(grant) => {
                fail!("{why}: the lock should have been refused, but it was granted: {grant:?}")
            }
            Acquired::Taken {
                holder, free_in, ..
            } => {
                self.withdraw().await?;
                Ok(Refusal { holder, free_in })
            }
            other => fail!("{why}: the lock should have been refused, but the answer is {other:?}"),
        }
    }

    pub(crate) async fn renew(&self, grant: &Grant) -> Result<Renewal, Stop> {
        let not_before = self.now();
        let call = || self.backend().renew(grant, not_before);
        let renewal = self.on.ask(Operation::Renew, call).await?;
        if let Renewal::Renewed(renewed) = &renewal {
            self.check(renewed, not_before)?;
            ensure!(
                renewed.proven_at >= not_before,
                "the proof of a renewal is older than it was asked for"
            );
        }
        Ok(renewal)
    }

    /// The term has to go on.
    pub(crate) async fn renewed(&self, grant: &Grant, why: &str) -> Result<Grant, Stop> {
        match self.renew(grant).await? {
            Renewal::Renewed(grant) => Ok(grant),
            Renewal::Lost { holder, .. } => {
                fail!("{why}: the term should have been renewed, but it is lost to {holder:?}")
            }
            other => fail!("{why}: the term should have been renewed, but the answer is {other:?}"),
        }
    }

    /// The term has to be over.
    pub(crate) async fn lost(&self, grant: &Grant, why: &str) -> Result<Option<Holder>, Stop> {
        match self.renew(grant).await? {
            Renewal::Lost { holder, .. } => Ok(holder),
            Renewal::Renewed(grant) => {
                fail!("{why}: the term should have been lost, but it was renewed: {grant:?}")
            }
            other => fail!("{why}: the term should have been lost, but the answer is {other:?}"),
        }
    }

    pub(crate) async fn release(&self, grant: &Grant) -> Verdict {
        let call = || self.backend().release(grant);
        self.on.ask(Operation::Release, call).await
    }

    /// The term goes on, and can be released.
    pub(crate) async fn renews_and_releases(&self, grant: &Grant, why: &str) -> Verdict {
        let grant = self.renewed(grant, why).await?;
        self.release(&grant).await
    }

    /// The lock is granted now, and can be released.
    pub(crate) async fn holds_and_releases(&self, why: &str) -> Verdict {
        let grant = self.held(why).await?;
        self.release(&grant).await
    }

    pub(crate) async fn withdraw(&self) -> Verdict {
        let call = || self.withdrawing();
        self.on.ask(Operation::Withdraw, call).await
    }

    pub(crate) async fn holder(&self) -> Result<Occupancy, Stop> {
        self.on.holder(&self.lock).await
    }

    /// The lock has to be free now, as observers on this connection see it.
    pub(crate) async fn sees_free(&self, what: &str) -> Verdict {
        self.on.sees_free(&self.lock, what).await
    }

    /// The lock has to be held now, known for sure or not, as observers on this connection see it.
    pub(crate) async fn sees_held(&self, what: &str) -> Result<Holder, Stop> {
        match self.holder().await? {
            Occupancy::Led(holder) | Occupancy::Unknown(holder) => Ok(holder),
            seen => fail!("{what} is said to be {seen:?}"),
        }
    }

    /// `holder` has to be this one, where it is named in `what`.
    pub(crate) fn is_named(&self, holder: &Holder, what: &str) -> Verdict {
        ensure!(
            holder.identity == self.candidate.identity.as_str(),
            "the holder is {:?}, but {what} names {:?}",
            self.candidate.identity,
            holder.identity
        );
        Ok(())
    }

    /// The same, with the value that this one publishes.
    pub(crate) fn is_published(&self, holder: &Holder, what: &str) -> Verdict {
        self.is_named(holder, what)?;
        let published = self.candidate.value.as_ref().map(AsRef::as_ref);
        ensure!(
            holder.value.as_deref() == published,
            "the holder publishes {published:?}, but {what} says {:?}",
            holder.value
        );
        Ok(())
    }

    /// This one has to see `holder` as the holder of `what`, with its value. A store may have both
    /// from the holder itself, and show less until that has answered.
    pub(crate) async fn sees(&self, holder: &Self, what: &str) -> Verdict {
        for _ in 1..MOST_LOOKS {
            let seen = self.sees_held(what).await?;
            if holder.is_published(&seen, "an observer").is_ok() {
                return Ok(());
            }
        }
        let seen = self.sees_held(what).await?;
        holder.is_published(&seen, "an observer")
    }

    /// What holds for every grant.
    fn check(&self, grant: &Grant, before: Time) -> Verdict {
        ensure!(
            grant.lock == self.lock,
            "a grant for {} says it is for {}",
            self.lock,
            grant.lock
        );
        ensure!(
            grant.candidate.identity == self.candidate.identity
                && grant.candidate.campaign == self.candidate.campaign,
            "a grant for {:?} says it is for {:?}",
            self.candidate,
            grant.candidate
        );
        ensure!(!grant.lease.is_zero(), "a grant has a lease of nothing");
        let now = self.now();
        ensure!(
            grant.proven_at <= now,
            "a grant was proven {:?} in the future",
            grant.proven_at.since(now)
        );
        // One proof may serve many elections of a session. Elsewhere it is of this very request:
        // an older one would be of a term that may have ended since.
        let session = self.backend().capabilities().expiry == Expiry::Session;
        ensure!(
            session || grant.proven_at >= before,
            "a grant was proven {:?} before it was asked for",
            before.since(grant.proven_at)
        );
        Ok(())
    }
}

/// A token in `what` has to be the grant's, where there is one.
pub(crate) fn has_token(holder: &Holder, grant: &Grant, what: &str) -> Verdict {
    ensure!(
        holder.token.is_none_or(|token| token == grant.token),
        "the holder's token is {}, but {what} says {:?}",
        grant.token,
        holder.token
    );
    Ok(())
}
