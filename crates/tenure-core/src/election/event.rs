//! What an election tells about itself.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::backend::Holder;
use crate::contract::error::Error;
use crate::contract::token::FencingToken;
use crate::election::machine::Cause;

/// Where an election stands, as a value to watch: see [`Election::state`](crate::Election::state).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElectionState {
    /// No campaign is under way.
    Idle,
    /// Campaigning; `leader` is who was last seen to lead.
    Candidate {
        /// The leader, where the store tells.
        leader: Option<Holder>,
    },
    /// Leading.
    Leader {
        /// The term's token.
        token: FencingToken,
    },
    /// The work was told to stop, or the term is over, and the work has not returned yet.
    SteppingDown {
        /// The term's token.
        token: FencingToken,
        /// Why.
        cause: Cause,
    },
}

/// Something that happened in an election: see [`Election::events`](crate::Election::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A campaign has begun.
    Campaigning,
    /// Another leader was seen.
    LeaderSeen(Holder),
    /// We lead.
    Elected {
        /// The term's token.
        token: FencingToken,
    },
    /// A heartbeat got through.
    Renewed {
        /// What was left until the work would have been told to stop.
        slack: Duration,
    },
    /// A heartbeat failed; it is retried until the validity ends.
    HeartbeatMissed {
        /// How many attempts in a row have failed.
        attempts: u32,
        /// What is left until the work is told to stop.
        slack: Duration,
        /// Why; `None` when the health probe said no.
        error: Option<Arc<Error>>,
    },
    /// The health probe of a candidate said no: it has left the election until the probe says
    /// yes.
    Unhealthy,
    /// A candidate's call failed; it is retried.
    StoreFailed(Arc<Error>),
    /// The work was told to stop; it is exclusive until the validity ends.
    SteppingDown(Cause),
    /// The term is over.
    SteppedDown(Cause),
    /// The work still runs although the term is over: it is not exclusive any more.
    Overrun,
    /// The lock was given back.
    Released,
    /// The lock could not be given back: others wait for the lease to end.
    ReleaseFailed(Arc<Error>),
}
