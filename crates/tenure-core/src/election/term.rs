//! The term of a leader, as its work sees it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::clock::{SharedClock, Time};
use crate::contract::error::Error;
use crate::contract::name::{Identity, LockName};
use crate::contract::process::Process;
use crate::contract::token::FencingToken;
use crate::election::instruction::{Instruction, Instructions};
use crate::election::machine::{Cause, Span};
use crate::sync::{AtomicU64, Notify, OnceLock, Ordering};

/// One uninterrupted leadership, as a handle for the work: cheap to clone and to ask.
///
/// Every answer compares the clock at the moment of the call, so it is right even when the engine
/// is starved, or dead: a term ends by itself.
#[derive(Clone)]
pub struct Term {
    state: Arc<TermState>,
}

pub(crate) struct TermState {
    pub(crate) lock: LockName,
    pub(crate) identity: Identity,
    pub(crate) token: FencingToken,
    clock: SharedClock,
    instructions: Arc<Instructions>,
    pub(crate) process: Process,
    /// The validity's end in the clock's nanoseconds; [`OVER`] once the term has ended.
    valid_until: AtomicU64,
    /// When the work must stop; [`OVER`] once it was told to. Never moves away from there.
    cancel_at: AtomicU64,
    cause: OnceLock<Cause>,
    changed: Notify,
}

/// No time is before the clock's start, so this is "always in the past".
const OVER: u64 = 0;

impl TermState {
    pub(crate) fn new(
        lock: LockName,
        identity: Identity,
        token: FencingToken,
        span: Span,
        clock: SharedClock,
        instructions: Arc<Instructions>,
    ) -> Arc<Self> {
        Arc::new(Self {
            lock,
            identity,
            token,
            clock,
            instructions,
            process: Process::current(),
            valid_until: AtomicU64::new(span.valid_until.as_nanos()),
            cancel_at: AtomicU64::new(span.cancel_at.as_nanos()),
            cause: OnceLock::new(),
            changed: Notify::new(),
        })
    }

    /// Moves both ends, to later or to earlier. Fails with the cause if the work was told to stop
    /// meanwhile: by its own look at the clock, or by the owner.
    pub(crate) fn extend(&self, span: Span) -> Result<(), Cause> {
        let moved = moved_unless_over(&self.valid_until, span.valid_until)
            && moved_unless_over(&self.cancel_at, span.cancel_at);
        // Those who wait for an end look again: it may have come nearer.
        self.changed.notify_waiters();
        if moved { Ok(()) } else { Err(self.recorded()) }
    }

    /// How long the term is valid for; zero once it is over.
    ///
    /// A look that comes after the end also ends the term. The engine may still hold an answer that
    /// would move the end, and an ended term must not begin again.
    #[inline]
    fn remaining(&self) -> Duration {
        loop {
            let end = self.valid_until();
            let remaining = end.since(self.clock.now());
            if !remaining.is_zero() || end.as_nanos() == OVER {
                return remaining;
            }
            let ended = self.valid_until.compare_exchange(
                end.as_nanos(),
                OVER,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if ended.is_ok() {
                return Duration::ZERO;
            }
        }
    }

    /// Tells the work to stop, and returns why: the first cause is recorded here, in one place for
    /// the engine, the owner and the work. Later ones follow from it.
    pub(crate) fn cancel(&self, cause: Cause) -> Cause {
        let _first = self.cause.set(cause);
        self.cancel_at.store(OVER, Ordering::Release);
        self.changed.notify_waiters();
        self.recorded()
    }

    /// The same for the owner, who may have slept: a time that had come before is the cause.
    pub(crate) fn stop(&self, cause: Cause) -> Cause {
        let due = self.cause_at(self.clock.now());
        self.cancel(due.unwrap_or(cause))
    }

    /// Ends the validity because the owner gives the term back; the cause is as with
    /// [`stop`](Self::stop).
    pub(crate) fn give_back(&self) {
        self.end(self.stop(Cause::Resigned));
    }

    /// Ends the validity, and returns why the work was told to stop.
    pub(crate) fn end(&self, cause: Cause) -> Cause {
        // The cause first: a look that finds the validity over must find it.
        let told = self.cancel(cause);
        self.valid_until.store(OVER, Ordering::Release);
        self.changed.notify_waiters();
        told
    }

    /// A term that ran out before any cause was recorded has expired.
    pub(crate) fn recorded(&self) -> Cause {
        self.cause.get().copied().unwrap_or(Cause::Expired)
    }

    /// Whether it was ended. A term that was not can still be over by the clock.
    pub(crate) fn has_ended(&self) -> bool {
        self.valid_until().as_nanos() == OVER
    }

    #[inline]
    pub(crate) fn valid_until(&self) -> Time {
        self.unless_forked(&self.valid_until)
    }

    pub(crate) fn cancel_at(&self) -> Time {
        self.unless_forked(&self.cancel_at)
    }

    /// The one place at which a forked child learns that the term is not its own.
    #[inline]
    fn unless_forked(&self, end: &AtomicU64) -> Time {
        Time::from_nanos(if self.process.is_current() {
            end.load(Ordering::Acquire)
        } else {
            OVER
        })
    }

    /// Whether the work must stop: its own look at the clock, right even when the engine is late.
    fn is_cancelled(&self) -> bool {
        let Some(cause) = self.cause_at(self.clock.now()) else {
            return false;
        };
        self.cancel(cause);
        true
    }

    fn cause_at(&self, now: Time) -> Option<Cause> {
        if !self.process.is_current() {
            return Some(Cause::Forked);
        }
        let span = Span {
            cancel_at: self.cancel_at(),
            valid_until: self.valid_until(),
        };
        span.cause_at(now)
    }

    /// Returns once `end` of the term has come: moved by heartbeats, and checked on the clock.
    async fn reached(&self, end: impl Fn(&Self) -> Time) {
        loop {
            // Registered before the look, so that no change between the two is missed.
            let changed = self.changed.notified();
            let at = end(self);
            if self.clock.now() >= at {
                return;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.clock.sleep_until(at) => {}
            }
        }
    }
}

/// Sets `end`, unless it was reached or told before: what is over stays over.
fn moved_unless_over(end: &AtomicU64, to: Time) -> bool {
    end.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
        (at != OVER).then_some(to.as_nanos())
    })
    .is_ok()
}

impl Term {
    pub(crate) fn new(state: Arc<TermState>) -> Self {
        Self { state }
    }

    /// Whether the term is still valid: two atomic loads and one look at the clock. Never in a
    /// child that was forked since the term began.
    #[inline]
    pub fn is_valid(&self) -> bool {
        !self.state.remaining().is_zero()
    }

    /// How long the term is valid for if no further heartbeat gets through; zero when it is over.
    #[inline]
    pub fn remaining(&self) -> Duration {
        self.state.remaining()
    }

    /// Leave to act, if the term is valid for at least `at_least` longer: ask beside each side
    /// effect, with the longest time that the effect can take.
    ///
    /// A pause between this check and the effect can outlast any check; only a resource that
    /// compares [`token`](Self::token) closes that gap.
    pub fn permit(&self, at_least: Duration) -> Result<Permit, NotLeading> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return Err(self.over());
        }
        if remaining < at_least {
            return Err(NotLeading::TooShort {
                lock: self.state.lock.clone(),
                remaining,
                at_least,
            });
        }
        Ok(Permit {
            token: self.state.token,
            remaining,
            process: self.state.process.clone(),
        })
    }

    /// The term's fencing token.
    pub fn token(&self) -> FencingToken {
        self.state.token
    }

    /// The lock that is held.
    pub fn lock(&self) -> &LockName {
        &self.state.lock
    }

    /// The identity that leads.
    pub fn identity(&self) -> &Identity {
        &self.state.identity
    }

    /// Whether the work must stop now.
    pub fn is_cancelled(&self) -> bool {
        self.state.is_cancelled()
    }

    /// Why the work was told to stop, once it was.
    pub fn cause(&self) -> Option<Cause> {
        if self.is_cancelled() {
            self.state.cause.get().copied()
        } else {
            None
        }
    }

    /// Returns when the work must stop: the stop grace before the validity ends, or earlier when
    /// the lock is lost, the owner resigns, the service shuts down or the leader was asked to resign.
    /// Never taken back.
    ///
    /// Cancel safe.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            self.state.reached(TermState::cancel_at).await;
        }
    }

    /// Returns when the validity is over: nothing may be done in the term's name any more.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        while self.is_valid() {
            self.state.reached(TermState::valid_until).await;
        }
    }

    /// Runs `work` until the term is cancelled, and drops it at its next await point then.
    pub async fn until_cancelled<F: Future>(&self, work: F) -> Result<F::Output, NotLeading> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(self.over()),
            output = work => Ok(output),
        }
    }

    /// Asks the store, by a heartbeat sent after this call, whether the term goes on.
    ///
    /// Costs a round trip. Cancel safe. Fails when the store says no, and when it cannot be
    /// reached within the request timeout; the term may still be valid then.
    pub async fn confirm(&self) -> Result<Permit, NotLeading> {
        if !self.state.process.is_current() {
            return Err(NotLeading::Forked);
        }
        let answer = self.state.instructions.ask(Instruction::Confirm).await;
        match answer {
            Some(Ok(())) => self.permit(Duration::ZERO),
            Some(Err(error)) => Err(NotLeading::Unconfirmed {
                lock: self.state.lock.clone(),
                error,
            }),
            None => Err(self.over()),
        }
    }

    fn over(&self) -> NotLeading {
        if !self.state.process.is_current() {
            return NotLeading::Forked;
        }
        NotLeading::Over {
            lock: self.state.lock.clone(),
            cause: self.state.recorded(),
        }
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term")
            .field("lock", &self.state.lock)
            .field("identity", &self.state.identity)
            .field("token", &self.state.token)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Leave to act, as of the moment it was given: see [`Term::permit`].
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a permit says something about the moment it was given; use its token"]
pub struct Permit {
    /// The token to send along with the side effect.
    pub token: FencingToken,
    /// How long the term was valid for when the permit was given.
    pub remaining: Duration,
    process: Process,
}

impl Permit {
    /// The token, or [`Forked`](NotLeading::Forked) in a child that was forked since the permit
    /// was given: a permit holds for the process that asked for it.
    pub fn check(&self) -> Result<FencingToken, NotLeading> {
        if self.process.is_current() {
            Ok(self.token)
        } else {
            Err(NotLeading::Forked)
        }
    }
}

/// Why there is no leave to act.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotLeading {
    /// The term is over, or its work was told to stop.
    #[error("not leading {lock}: {}", cause.describe())]
    Over {
        /// The lock.
        lock: LockName,
        /// Why.
        cause: Cause,
    },
    /// The term is valid, but not for long enough.
    #[error("leading {lock} for another {remaining:?} only, {at_least:?} are needed")]
    TooShort {
        /// The lock.
        lock: LockName,
        /// What is left.
        remaining: Duration,
        /// What was asked for.
        at_least: Duration,
    },
    /// This process is a fork of the one that leads.
    #[error("not leading: this process is a fork of the one that leads; campaign after the fork")]
    Forked,
    /// The store could not be asked.
    #[error("leading {lock} could not be confirmed: {error}")]
    Unconfirmed {
        /// The lock.
        lock: LockName,
        /// Why not.
        error: Arc<Error>,
    },
}
