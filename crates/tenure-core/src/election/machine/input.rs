//! What has happened: the inputs of the machine.

use std::time::Duration;

use crate::contract::backend::Hint;
use crate::contract::clock::Time;
use crate::election::machine::cause::Cause;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Start to campaign.
    Campaign,
    /// The time given out by [`Machine::next_wake`](super::Machine::next_wake) has come (or not:
    /// the machine looks).
    Timer,
    /// The store hinted at a change.
    Hint(Hint),
    /// The store will send no more notifications.
    HintsEnded,
    /// `acquire` was answered: the lock is ours.
    Held {
        /// When the request that proves it was sent.
        proven_at: Time,
        /// The lease the store granted.
        lease: Duration,
    },
    /// `acquire` was answered: another candidate has the lock.
    Taken {
        /// When it can expire, where it is known.
        free_in: Option<Duration>,
    },
    /// `renew` was answered: the term goes on. Perhaps by the answer to a call that was overdue; no
    /// other call goes on.
    Renewed {
        /// When the request that proves it was sent.
        proven_at: Time,
        /// The lease the store granted.
        lease: Duration,
    },
    /// The `renew` under way has no answer in the time given to it.
    Overdue {
        /// It may be answered later, beside others.
        goes_on: bool,
    },
    /// `renew` was answered: the term is over at the store.
    Lost,
    /// The call under way has failed, or got no answer in time.
    Failed(Failure),
    /// `release` or `withdraw` was answered.
    Done,
    /// The work shall stop; it is not over yet.
    Stop(Cause),
    /// The work is over, or the campaign's owner has gone: give everything back.
    WorkEnded,
    /// Fresh proof of the term is wanted: renew now. A call under way goes on; a driver that still
    /// wants proof after its answer gives this again.
    RenewNow,
    /// What the application's health probe says: the answer to
    /// [`Command::Probe`](super::Command::Probe).
    Health(bool),
}

/// How a call failed, as far as the machine cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Trying again cannot help until an operator changes something: permissions, configuration.
    pub permanent: bool,
    /// How long the store asked to wait.
    pub retry_after: Option<Duration>,
    /// No answer came in time. The store may have done what it was asked.
    pub unanswered: bool,
}
