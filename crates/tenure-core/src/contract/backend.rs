//! The contract between the engine and a store.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;

use crate::contract::capabilities::Capabilities;
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::Error;
use crate::contract::name::{Identity, LockName, PublishedValue};
use crate::contract::page::Page;
use crate::contract::process::random_u64;
use crate::contract::token::{FencingToken, Generation};
use crate::contract::wish::Wish;

/// A lock in a shared store: what every backend implements and the engine drives.
///
/// One value is one connection to a store; all elections of a process share it. It is object
/// safe: the engine holds an `Arc<dyn LockBackend>`.
///
/// # Contract
///
/// 1. **At most one live grant.** A grant lives from the moment `acquire` returns
///    [`Acquired::Held`] to the end of the granted lease after the last [`Renewal::Renewed`].
///    Meanwhile no other candidate gets `Held` for that lock, unless the grant was released, all
///    its clones were dropped, or the lock was deleted at the store.
/// 2. **Proof before request.** [`Grant::proven_at`] is read from [`clock`](Self::clock) *before*
///    the request that proves it is sent (invariant I1, hazard 2: an answer that is read late
///    must not stretch the lease).
/// 3. **One token per term**, larger than those of all earlier terms of the lock, as far as
///    [`Capabilities::fencing`] claims (I6).
/// 4. **Renew and release act on the term**, not on the identity or the name: they never create a
///    lock, never take one over and never touch a successor's (hazards 16 and 20).
/// 5. **Lost answers.** Each call may be repeated after a timeout, whether or not the store had
///    applied it. `acquire` finds what an earlier attempt of the same [`CampaignId`] left behind
///    and adopts it, with a fresh proof.
/// 6. **Dropped futures.** Each future can be dropped at any await point. What a dropped
///    `acquire` may leave in the store is gone by itself when the lease ends (the backend never
///    keeps alive what no caller holds), and at once with [`withdraw`](Self::withdraw).
/// 7. **Late judgement.** Expiry is never decided by comparing another host's timestamps (I5).
/// 8. **Deadlines.** The engine puts a deadline on every call by dropping its future; a backend
///    needs no overall one of its own, only that nothing it waits on blocks the thread. After a
///    call without an answer the next one has twice as long, so a backend's own limits must not be
///    shorter than a lease. A heartbeat without an answer is not dropped where it [may go on](Self::may_go_on): further
///    ones begin beside it, until one is answered or the term ends.
/// 9. **One owner.** A store's entry belongs to an identity *and* a campaign: `acquire` adopts,
///    `renew` and `release` act on, and `withdraw` takes back only what bears both.
/// 10. **One process.** In a child that was forked since the backend was made, each call fails
///     with [`ErrorKind::Forked`](crate::ErrorKind::Forked) before any I/O, and dropping what the
///     child has inherited changes nothing at the store ([`Process`](crate::Process)).
///
/// The suite in `tenure-conformance` turns each of these into test cases.
///
/// # Details
///
/// - **A session that ends without the holder's knowledge**: [`loss`](Self::loss) tells it, without a
///   call. A backend that cannot notice it must not claim [`Expiry::Session`](crate::Expiry::Session).
/// - **A store that forgets its locks at a restart** breaks point 1 unless the backend waits. After a
///   restart it grants nothing until the longest lease that was granted before is over, or until
///   `loss` has told each holder.
/// - **Linearizable calls**: `acquire`, `renew`, `release` and `withdraw` see every earlier write, so
///   they go to the primary, or through the consensus. `holder` and `changes` may be behind.
/// - **Rounding of leases**: [`Grant::lease`] is what the store was told. Round up to the store's
///   granularity before the request, and report the rounded lease.
/// - **Older grants after an adoption**: the newest grant of a campaign counts. `renew` of an older one
///   may answer [`Renewal::Lost`], and `release` of it must not end the newer term's lock for another
///   campaign. The engine keeps the newest only.
/// - **A grant that this value does not know**, of another connection or without the backend's
///   state: `renew` answers `Lost` or fails. It never creates or takes over a lock.
#[async_trait]
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// What this store promises.
    fn capabilities(&self) -> Capabilities;

    /// The clock that `proven_at` is read from. The engine judges validity by the same one.
    fn clock(&self) -> SharedClock;

    /// Tries once to take `lock` for `candidate` with a lease of `lease`; does not wait for it to
    /// become free.
    ///
    /// Adopts what an earlier attempt of the same campaign has left. On a store with an order a
    /// `Taken` answer may leave the candidate queued, until it wins or withdraws.
    async fn acquire(
        &self,
        lock: &LockName,
        candidate: &Candidate,
        lease: Duration,
    ) -> Result<Acquired, Error>;

    /// Extends the term of `grant` by its lease and writes its candidate's published value.
    ///
    /// The proof must be of a request sent at or after `not_before`, a time of
    /// [`clock`](Self::clock): a session backend answers the heartbeats of many elections from
    /// one proof by this.
    async fn renew(&self, grant: &Grant, not_before: Time) -> Result<Renewal, Error>;

    /// A heartbeat that began at `began_at`, a time of [`clock`](Self::clock), has no answer in its
    /// time. May it go on while further ones begin?
    ///
    /// Say yes only if calls from now on wait for nothing that it waits for: no lock, no place in a
    /// pool, and no connection that was made before it began. They must reach the store although
    /// the way of this one is dead. The first answer counts, from its proof. So a store that takes
    /// seconds for each answer costs no term, and an outage is over with the first connection that
    /// can be made. Many elections of a process may ask at once: what is made for one of them
    /// serves all.
    ///
    /// No, the default: the engine drops the call before it makes the next one.
    fn may_go_on(&self, began_at: Time) -> bool {
        let _ = began_at;
        false
    }

    /// Ends the term of `grant` and wakes the next candidate. `Ok` when the term is over at the
    /// store, also when it had been before; a successor's lock is left alone.
    async fn release(&self, grant: &Grant) -> Result<(), Error>;

    /// Takes back every trace of a campaign that holds no grant: a place in the queue, or the
    /// lock itself when an attempt was applied but its answer was lost.
    async fn withdraw(&self, lock: &LockName, candidate: &Candidate) -> Result<(), Error>;

    /// Asks the leader of the term with `token` to resign; see [`Wish`].
    ///
    /// `Ok` when the store has the wish, or the lock is in another term or free: then there is no
    /// one to ask. The leader finds the wish with its next heartbeat. The wish ends `lasts` after
    /// the call, or with the term, whatever comes first. Dropping the future leaves either all of
    /// the wish or none.
    ///
    /// Needs the right to write the lock, no less: a candidate that may ask could take the lock
    /// instead. By default an error of kind [`Unsupported`](crate::ErrorKind::Unsupported).
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let _ = (lock, token, lasts);
        let store = self.capabilities().store;
        Err(Error::cannot_ask_to_resign(store))
    }

    /// The locks of a [`Page`], in the order of their names. Fewer than it may have are the last.
    ///
    /// Names of other programs' keys, objects and files are left out, as far as they can be told
    /// from a lock's. A lock that nobody holds may be among them, where the store keeps it. Needs
    /// the right to list, which no candidate needs.
    ///
    /// By default an error of kind [`Unsupported`](crate::ErrorKind::Unsupported).
    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let _ = page;
        Err(Error::cannot_list(self.capabilities().store))
    }

    /// Who leads, for observers without write rights.
    async fn holder(&self, lock: &LockName) -> Result<Occupancy, Error>;

    /// Notifications that something about `lock` has changed. A notification may be late, missing
    /// or wrong: correctness never hangs on it. The stream ends only when no more notifications can
    /// come; then the caller polls.
    fn changes(&self, lock: &LockName) -> Changes;

    /// Completes when the backend learns, without asking, that the term of `grant` is over at the
    /// store: the session that held its lock has ended. The engine then ends the term at once,
    /// instead of with its next heartbeat, while others may already have the lock.
    ///
    /// Only for what is certain: the store is not asked again. `None`, the default, where a term
    /// ends by its lease alone, or by an event that the store does not report.
    ///
    /// Not optional with [`Expiry::Session`](crate::Expiry::Session): the backend notices by itself
    /// that its connection or session is gone, also while a call is under way. The store may grant
    /// the lock to another candidate from that moment on, and without this both would lead until
    /// the next heartbeat.
    fn loss(&self, grant: &Grant) -> Option<Loss> {
        let _ = grant;
        None
    }

    /// What an operator should know before relying on this store: its settings, its version, our
    /// permissions on `lock`, whether it can grant `lease`. The engine never asks; `tenure doctor`
    /// does.
    ///
    /// Changes nothing at the store, and wakes no candidate. A look that fails is a [`Check`] too,
    /// never left out: what was not seen is not fine. By default there is nothing to tell. Each
    /// look is bounded by the backend's own timeouts; the future can be dropped.
    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        let _ = (lock, lease);
        Vec::new()
    }
}

/// A stream of notifications, see [`LockBackend::changes`].
pub type Changes = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// The end of a term at the store, see [`LockBackend::loss`].
pub type Loss = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a store has told about a lock without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// The lock may have become free, or has changed in a way that only a look can tell.
    MayBeFree,
    /// The lock is held and cannot become free by expiry for so long: no need to look.
    HeldFor(Duration),
}

/// A number drawn for each campaign, by which a store's record is known to be of this very
/// campaign and not of an earlier one with the same identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CampaignId(u64);

impl CampaignId {
    /// The campaign with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// A campaign of its own: a number from the operating system, see
    /// [`random_u64`](crate::random_u64).
    pub fn draw() -> Result<Self, Error> {
        random_u64().map(Self)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads what [`Display`](fmt::Display) wrote: 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        // A number may begin with a plus sign elsewhere.
        if text.len() != 16 || text.starts_with('+') {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for CampaignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for CampaignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One campaign of one candidate: it wins at most one term.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Who it is.
    pub identity: Identity,
    /// Which of its campaigns this is.
    pub campaign: CampaignId,
    /// What it publishes while it leads.
    pub value: Option<PublishedValue>,
    /// The generation that its token will be raised to; the backend grants the token without it.
    ///
    /// A backend that knows what its store counts at refuses to begin a term whose token would not
    /// fit, before it writes ([`FencingToken::in_generation`]).
    pub generation: Generation,
}

impl Candidate {
    /// A campaign that publishes nothing.
    pub fn new(identity: Identity, campaign: CampaignId) -> Self {
        Self {
            identity,
            campaign,
            value: None,
            generation: Generation::default(),
        }
    }

    /// The same campaign with a published value.
    #[must_use]
    pub fn with_value(mut self, value: PublishedValue) -> Self {
        self.value = Some(value);
        self
    }

    /// The same campaign for a term whose token is raised to `generation`.
    #[must_use]
    pub fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }
}

/// A term as the store granted it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Grant {
    /// The lock.
    pub lock: LockName,
    /// The campaign that won it.
    pub candidate: Candidate,
    /// The term's fencing token.
    pub token: FencingToken,
    /// The lease as granted, which may differ from the one asked for.
    pub lease: Duration,
    /// When the request that proves this grant was sent, on the backend's clock.
    pub proven_at: Time,
    /// A wish that came with the answer to [`renew`](LockBackend::renew). The engine judges it.
    pub wish: Option<Wish>,
    state: Option<Arc<dyn Any + Send + Sync>>,
}

impl Grant {
    /// A grant; see the fields.
    pub fn new(
        lock: LockName,
        candidate: Candidate,
        token: FencingToken,
        lease: Duration,
        proven_at: Time,
    ) -> Self {
        Self {
            lock,
            candidate,
            token,
            lease,
            proven_at,
            wish: None,
            state: None,
        }
    }

    /// Adds the wish that the store has for this lock, whatever term it names.
    #[must_use]
    pub fn with_wish(mut self, wish: Option<Wish>) -> Self {
        self.wish = wish;
        self
    }

    /// Attaches what the backend needs to renew or release this grant: a record's version, say.
    #[must_use]
    pub fn with_state(mut self, state: impl Any + Send + Sync) -> Self {
        self.state = Some(Arc::new(state));
        self
    }

    /// The same grant under another token: for backends that wrap another one.
    #[must_use]
    pub fn with_token(mut self, token: FencingToken) -> Self {
        self.token = token;
        self
    }

    /// What the backend attached, if it is of type `S`.
    pub fn state<S: Any>(&self) -> Option<&S> {
        self.state.as_deref().and_then(|state| state.downcast_ref())
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("lock", &self.lock)
            .field("candidate", &self.candidate)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .field("proven_at", &self.proven_at)
            .field("wish", &self.wish)
            .finish_non_exhaustive()
    }
}

/// The answer to [`LockBackend::acquire`].
///
/// A backend that wraps another one passes on an answer that it does not know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Acquired {
    /// The lock is ours.
    Held(Grant),
    /// Another candidate has it. Made by [`Acquired::taken`].
    #[non_exhaustive]
    Taken {
        /// Who, where the store tells.
        holder: Option<Holder>,
        /// The earliest moment at which it can become free without a release, where it is known.
        free_in: Option<Duration>,
    },
}

impl Acquired {
    /// The lock is taken, by `holder` if the store tells who. It cannot become free without a
    /// release before `free_in` has passed, where that is known.
    pub const fn taken(holder: Option<Holder>, free_in: Option<Duration>) -> Self {
        Self::Taken { holder, free_in }
    }
}

/// The answer to [`LockBackend::renew`].
///
/// A backend that wraps another one passes on an answer that it does not know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Renewal {
    /// The term goes on; this grant replaces the one that was renewed.
    Renewed(Grant),
    /// The term is over at the store. Made by [`Renewal::lost`].
    #[non_exhaustive]
    Lost {
        /// Who has the lock now, if it is held.
        holder: Option<Holder>,
    },
}

impl Renewal {
    /// The term is over at the store; `holder` has the lock now, if it is held.
    pub const fn lost(holder: Option<Holder>) -> Self {
        Self::Lost { holder }
    }
}

/// A holder as the store records it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Holder {
    /// Its identity, as it stands in the store. Other programs may have written it: it is not
    /// checked, so show it escaped.
    pub identity: String,
    /// Its fencing token, where it is known.
    pub token: Option<FencingToken>,
    /// What it publishes.
    pub value: Option<String>,
    /// What is left of its lease unless it renews, where it is known.
    pub expires_in: Option<Duration>,
}

impl Holder {
    /// A holder of whom only the identity is known.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            token: None,
            value: None,
            expires_in: None,
        }
    }
}

/// The answer to [`LockBackend::holder`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupancy {
    /// The lock is held.
    Led(Holder),
    /// The lock is free.
    Free,
    /// The record names a holder, but whether it still lives cannot be told yet (stores judged by
    /// observation: it was not seen renewing so far).
    Unknown(Holder),
}

impl Occupancy {
    /// The token of the term that the record names, where it is known.
    pub(crate) fn token(&self) -> Option<FencingToken> {
        match self {
            Self::Led(holder) | Self::Unknown(holder) => holder.token,
            Self::Free => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_has_one_form() {
        let campaign = CampaignId::new(0xabc);
        assert_eq!(CampaignId::parse("0000000000000abc"), Some(campaign));
        for wrong in [
            "",
            "abc",
            "+000000000000abc",
            "-000000000000abc",
            "000000000000000g",
        ] {
            assert_eq!(CampaignId::parse(wrong), None, "{wrong}");
        }
    }
}
