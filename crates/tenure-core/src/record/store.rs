//! What a store of records promises, and what a record holds.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;

use crate::contract::backend::CampaignId;
use crate::contract::capabilities::Capabilities;
use crate::contract::check::Check;
use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::{Error, Operation};
use crate::contract::name::LockName;
use crate::contract::page::Page;
use crate::contract::token::{FencingToken, Generation};
use crate::contract::wish::Wish;
use crate::record::mark::Mark;
use crate::record::version::Version;

/// The longest lease a record is believed: one hour.
///
/// Policies above it are refused, so the clamp never cuts a lease that one of our candidates
/// relies on. It keeps a corrupted or absurd record (a duration of 68 years) from blocking an
/// election for longer than an hour.
pub const MAX_LEASE: Duration = Duration::from_secs(60 * 60);

/// A store of one small record per lock, with compare-and-swap.
#[async_trait]
pub trait RecordStore: fmt::Debug + Send + Sync + 'static {
    /// What the store promises.
    fn capabilities(&self) -> Capabilities;

    /// The clock observations and proofs are read from.
    fn clock(&self) -> SharedClock;

    /// The record of `lock`, or `None` when there is none. An unreadable record is an error of
    /// kind [`Corrupted`](crate::ErrorKind::Corrupted). It is `None` only where starting again is
    /// safe: no candidate can hold a lease by that record, and the versions go on rising over it.
    ///
    /// Linearizable: it sees every write that was answered before it began.
    async fn get(&self, lock: &LockName) -> Result<Option<Versioned>, Error>;

    /// Writes the first record of `lock`; a [`Conflict`](Written::Conflict) when there is one.
    ///
    /// The write is one [`Step::Acquire`].
    async fn create(&self, lock: &LockName, record: &Record) -> Result<Written, Error>;

    /// Replaces the record if it still has the version of `expected`, the answer to a `get` or to
    /// an earlier write; a [`Conflict`](Written::Conflict) otherwise, also when it is gone.
    async fn replace(
        &self,
        lock: &LockName,
        record: &Record,
        step: Step,
        expected: &Versioned,
    ) -> Result<Written, Error>;

    /// See [`LockBackend::may_go_on`](crate::LockBackend::may_go_on).
    fn may_go_on(&self, began_at: Time) -> bool {
        let _ = began_at;
        false
    }

    /// Leaves a wish at the record of `lock` if that is in the term with `token`: see
    /// [`LockBackend::ask_to_resign`](crate::LockBackend::ask_to_resign). Changes neither the
    /// record nor its mark.
    ///
    /// The answer to each [`Step::Renew`] of that term [has it](Versioned::with_wish) from then on.
    async fn ask_to_resign(
        &self,
        lock: &LockName,
        token: FencingToken,
        lasts: Duration,
    ) -> Result<(), Error> {
        let _ = (lock, token, lasts);
        Err(Error::cannot_ask_to_resign(self.capabilities().store))
    }

    /// See [`LockBackend::elections`](crate::LockBackend::elections).
    async fn elections(&self, page: Page<'_>) -> Result<Vec<LockName>, Error> {
        let _ = page;
        Err(Error::cannot_list(self.capabilities().store))
    }

    /// Reports changes; may miss some. Ends when no more can come.
    fn watch(&self, lock: &LockName) -> RecordEvents;

    /// See [`LockBackend::checks`](crate::LockBackend::checks).
    async fn checks(&self, lock: &LockName, lease: Duration) -> Vec<Check> {
        let _ = (lock, lease);
        Vec::new()
    }
}

/// A stream of changes, see [`RecordStore::watch`].
pub type RecordEvents = Pin<Box<dyn Stream<Item = RecordEvent> + Send>>;

/// A change of a record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecordEvent {
    /// The record now is this. If it is free, the next attempt to acquire replaces it without a
    /// `get` before: so it must be as good as the answer to one.
    Is(Versioned),
    /// The record is gone.
    Gone,
    /// Something has changed; a `get` tells what.
    Changed,
}

/// Why a record is written.
///
/// A store that meets a step that it does not know writes the record as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A new term begins. The version of this write is its fencing token.
    Acquire,
    /// The term goes on.
    Renew,
    /// The term is given back: the record has no holder any more.
    Release,
}

impl Step {
    /// The operation that an error of this write is about.
    pub const fn operation(self) -> Operation {
        match self {
            Self::Acquire => Operation::Acquire,
            Self::Renew => Operation::Renew,
            Self::Release => Operation::Release,
        }
    }
}

/// The outcome of a conditional write.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Written {
    /// It was applied; the record as it now stands.
    Applied(Versioned),
    /// The record had changed meanwhile; nothing was written.
    Conflict,
    /// The answer to a renewal: it was applied, but the store keeps another record than the one
    /// that was sent, for example because a policy changes it. Others judge by that one, so the
    /// term is over.
    Altered,
}

/// A record: who holds the lock, and for how long after each renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The holder; `None` after a release.
    pub holder: Option<RecordHolder>,
    /// The lease, counted from the moment an observer receives the record.
    pub lease: Duration,
}

impl Record {
    /// A record of this holder, or of none after a release.
    pub const fn new(holder: Option<RecordHolder>, lease: Duration) -> Self {
        Self { holder, lease }
    }

    /// What a release writes; client-go writes the same second.
    pub(super) fn released() -> Self {
        Self::new(None, Duration::from_secs(1))
    }
}

/// The holder in a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordHolder {
    /// Its identity, unchecked: other programs may share the record.
    pub identity: String,
    /// Its campaign; `None` when another program wrote the record.
    pub campaign: Option<CampaignId>,
    /// The term's token. `None` in the record to be written by a [`Step::Acquire`], where the
    /// version of that write is the token; in a record that was read, `None` when it is unknown.
    pub token: Option<FencingToken>,
    /// What it publishes.
    pub value: Option<String>,
}

impl RecordHolder {
    /// A holder of whom only the identity is known.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            campaign: None,
            token: None,
            value: None,
        }
    }

    /// Sets the campaign, or that it is unknown.
    #[must_use]
    pub fn with_campaign(mut self, campaign: impl Into<Option<CampaignId>>) -> Self {
        self.campaign = campaign.into();
        self
    }

    /// Sets the term's token, or that it is unknown.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<Option<FencingToken>>) -> Self {
        self.token = token.into();
        self
    }

    /// Sets what the holder publishes, or that it publishes nothing.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Option<String>>) -> Self {
        self.value = value.into();
        self
    }
}

/// A record with its version.
#[derive(Clone)]
#[non_exhaustive]
pub struct Versioned {
    /// The record.
    pub record: Record,
    /// Its version: rises with each write of the lock, as far as the store's
    /// [`FencingGuarantee`](crate::FencingGuarantee) reaches.
    pub version: Version,
    /// What changes with every renewal, and with nothing else, and is never the same again, also
    /// not after a deletion or a failover. `None` where no other program writes and versions never
    /// repeat: then the version does.
    pub mark: Option<Mark>,
    /// What the store itself knows about the holder.
    pub liveness: Liveness,
    /// A wish that its holder resign.
    pub wish: Option<Wish>,
    pub(super) state: Option<Arc<dyn Any + Send + Sync>>,
}

impl Versioned {
    /// A record judged by observation.
    pub fn new(record: Record, version: impl Into<Version>) -> Self {
        Self {
            record,
            version: version.into(),
            mark: None,
            liveness: Liveness::Observed,
            wish: None,
            state: None,
        }
    }

    /// The same record with its version as the token of a holder that has none: for a store where
    /// only the write that begins a term leaves a record without a token.
    ///
    /// Fails as [`FencingToken::from_counter`] does, when the version is too large for a token.
    pub fn with_minted_token(mut self) -> Result<Self, Error> {
        if let Some(holder) = &mut self.record.holder
            && holder.token.is_none()
        {
            holder.token = Some(self.version.token(Generation::default())?);
        }
        Ok(self)
    }

    /// The same record with what the store knows about its holder.
    #[must_use]
    pub fn with_liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// The same record with a mark of its own, for a store whose object others write too, or whose
    /// versions may come a second time.
    #[must_use]
    pub fn with_mark(mut self, mark: impl Into<Mark>) -> Self {
        self.mark = Some(mark.into());
        self
    }

    /// The same record with the wish that stands at it.
    #[must_use]
    pub fn with_wish(mut self, wish: Option<Wish>) -> Self {
        self.wish = wish;
        self
    }

    /// Attaches what the store needs to replace this record: an object, an open file.
    #[must_use]
    pub fn with_state(mut self, state: Arc<dyn Any + Send + Sync>) -> Self {
        self.state = Some(state);
        self
    }

    /// What the store attached, if it is of type `S`.
    pub fn state<S: Any + Send + Sync>(&self) -> Option<Arc<S>> {
        self.state.clone().and_then(|state| state.downcast().ok())
    }
}

impl fmt::Debug for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versioned")
            .field("record", &self.record)
            .field("version", &self.version)
            .field("mark", &self.mark)
            .field("liveness", &self.liveness)
            .field("wish", &self.wish)
            .finish_non_exhaustive()
    }
}

/// What a store knows about a record's holder beyond the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Nothing: the lease runs from the observer's receipt of the record's mark (I5).
    Observed,
    /// The lease ends at this time of the store's clock, which is our own.
    Until(Time),
    /// The holder is gone for certain: its process has ended, say.
    Gone,
}
