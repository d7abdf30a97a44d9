//! Tokens that go on rising when a service moves to another store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::contract::backend::{
    Acquired, Candidate, Changes, Grant, Holder, LockBackend, Loss, Occupancy, Renewal,
};
use crate::contract::capabilities::Capabilities;
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, ErrorKind, Operation};
use crate::contract::name::LockName;
use crate::contract::page::Page;
use crate::contract::token::{FencingToken, Generation};
use crate::contract::wish::Wish;

/// A backend whose tokens carry a [`Generation`].
///
/// When a service moves to another store, whose counter starts again, its operator raises the
/// generation, so that every token from there is larger than every earlier one. All candidates and
/// observers of one lock must have the same generation.
///
/// One more is enough after a store that counts below [`Generation::STEP`] (2^48). After any other,
/// the new generation is one above [`FencingToken::generation`] of its last token.
///
/// A term whose token would not fit is refused with [`Misconfigured`](ErrorKind::Misconfigured):
/// before any write where the backend heeds [`Candidate::generation`], else it is released at once.
#[derive(Clone, Debug)]
pub struct InGeneration {
    inner: Arc<dyn LockBackend>,
    generation: Generation,
}

impl InGeneration {
    /// `inner` with its tokens in `generation`.
    pub fn new(inner: Arc<dyn LockBackend>, generation: Generation) -> Self {
        Self { inner, generation }
    }

    /// The same term for the caller, whose `candidate` it is.
    fn raise(&self, grant: &Grant, candidate: &Candidate) -> Result<Grant, Error> {
        let token = grant.token.in_generation(self.generation)?;
        let wish = grant.wish.and_then(|wish| self.raise_wish(wish));
        let mut grant = grant.clone().with_token(token).with_wish(wish);
        grant.candidate = candidate.clone();
        Ok(grant)
    }

    /// As the inner backend granted it; `None` if it did not.
    fn lower(&self, grant: &Grant) -> Option<Grant> {
        let token = grant.token.without_generation(self.generation)?;
        Some(grant.clone().with_token(token))
    }

    fn lower_for(&self, grant: &Grant, operation: Operation) -> Result<Grant, Error> {
        self.lower(grant)
            .ok_or_else(|| Error::foreign_grant(operation))
    }

    fn raise_wish(&self, wish: Wish) -> Option<Wish> {
        // What does not fit is no token of a term.
        let token = wish.token.in_generation(self.generation).ok()?;
        Some(Wish { token, ..wish })
    }

    fn raise_holder(&self, mut holder: Holder) -> Holder {
        // What does not fit is no token of a term.
        let raise = |token: FencingToken| token.in_generation(self.generation).ok();
        holder.token = holder.token.and_then(raise);
        holder
    }
}

#[async_trait]
impl LockBackend for InGeneration {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> SharedClock {
        self.inner.clock()
    }

    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error> {
        let raised = candidate.clone().with_generation(self.generation);
        match self.inner.acquire(lock, &raised, lease).await? {
            Acquired::Held(grant) => match self.raise(&grant, candidate) {
                Ok(grant) => Ok(Acquired::Held(grant)),
                Err(error) => {
                    if let Err(left) = self.inner.release(&grant).await {
                        tracing::debug!(%lock, error = %left, "a term without a token ends by itself");
                    }
                    Err(error)
                }
            },
            Acquired::Taken { holder, free_in } => Ok(Acquired::Taken {
                holder: holder.map(|holder| self.raise_holder(holder)),
                free_in,
            }),
        }
    }

    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error> {
        let inner = self.lower_for(grant, Operation::Renew)?;
        Ok(match self.inner.renew(&inner, not_before).await? {
            Renewal::Renewed(renewed) => Renewal::Renewed(self.raise(&renewed, &grant.candidate)?),
            Renewal::Lost { holder } => Renewal::Lost {
                holder: holder.map(|holder| self.raise_holder(holder)),
            },
        })
    }

    fn may_go_on(&self, began_at: Time) -> bool {
        self.inner.may_go_on(began_at)
    }

    async fn release(&self, grant: &Grant) -> Result<(), Error> {
        let inner = self.lower_for(grant, Operation::Release)?;
        self.inner.release(&inner).await
    }

    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error> {
        self.inner.withdraw(lock, candidate).await
    }

    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let Some(token) = token.without_generation(self.generation) else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                Operation::AskToResign,
                format!("the token {token} is of another generation than this backend's"),
            ));
        };
        self.inner.ask_to_resign(lock, token, lasts).await
    }

    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        self.inner.elections(page).await
    }

    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error> {
        Ok(match self.inner.holder(lock).await? {
            Occupancy::Led(holder) => Occupancy::Led(self.raise_holder(holder)),
            Occupancy::Unknown(holder) => Occupancy::Unknown(self.raise_holder(holder)),
            Occupancy::Free => Occupancy::Free,
        })
    }

    fn changes(&self, lock: &LockName) -> Changes {
        self.inner.changes(lock)
    }

    fn loss(&self, grant: &Grant) -> Option<Loss> {
        self.inner.loss(&self.lower(grant)?)
    }

    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        self.inner.checks(lock, lease).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::both::Both;
    use crate::contract::backend::CampaignId;
    use crate::contract::name::Identity;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn a_term_keeps_its_generation_through_renewal_and_release() {
        let memory = MemoryBackend::private();
        let generation = Generation::new(3).unwrap();
        let backend = InGeneration::new(Arc::new(memory.clone()), generation);
        let lock = LockName::new("moved").unwrap();
        let candidate = Candidate::new(Identity::new("a").unwrap(), CampaignId::new(1));
        let lease = Duration::from_secs(20);

        let Acquired::Held(grant) = backend.acquire(&lock, &candidate, lease).await.unwrap() else {
            panic!("the lock was free");
        };
        assert_eq!(grant.token.generation(), generation);
        let Renewal::Renewed(grant) = backend.renew(&grant, Time::ZERO).await.unwrap() else {
            panic!("the term was ours");
        };
        assert_eq!(grant.token.generation(), generation);
        let Occupancy::Led(holder) = backend.holder(&lock).await.unwrap() else {
            panic!("the lock is held");
        };
        assert_eq!(holder.token, Some(grant.token));
        backend.release(&grant).await.unwrap();
        assert_eq!(memory.holder(&lock).await.unwrap(), Occupancy::Free);
    }

    #[tokio::test]
    async fn what_a_store_tells_of_itself_is_passed_on() {
        let memory: Arc<dyn LockBackend> = Arc::new(MemoryBackend::private());
        let lock = LockName::new("moved").unwrap();
        let told = memory.checks(&lock, Duration::from_secs(20)).await;
        assert_eq!(told.len(), 1);
        let inside = InGeneration::new(memory.clone(), Generation::new(3).unwrap());
        assert_eq!(inside.checks(&lock, Duration::from_secs(20)).await, told);
        let both = Both::new(memory.clone(), memory).unwrap();
        let of_both = both.checks(&lock, Duration::from_secs(20)).await;
        assert_eq!(of_both.len(), 2);
        assert!(
            of_both
                .iter()
                .all(|check| check.reason.starts_with("memory: "))
        );
    }
}
