//! One lease for all elections with one lease duration: their keys hang on it, and one keepalive
//! proves them all.
//!
//! What makes that safe:
//!
//! - A proof counts from the moment at which the keepalive was *sent*.
//! - A keepalive proves the lease, not the keys; so each heartbeat also asks which keys hang on
//!   it, and since which revision. A term whose key is missing, or was deleted and put again, is
//!   lost.
//! - The end of the lease ends all terms here, before another lease is opened.
//! - A keepalive would also keep alive what no caller holds any more. So each key has a deadline
//!   of its own, at which it is deleted unless its owner was heard of (point 6 of the contract).
//!   And a key that hangs on the lease and belongs to nobody, because a request arrived late, is
//!   deleted as soon as it is seen.
//! - A key that the user may not write any more takes no other term with it: the session is split.
//! - Leadership is read from the store in the same transaction that finds the own key alive,
//!   never concluded from the deletion of another key.

mod candidate;
mod heartbeat;
mod held_lock;
mod last_split;
mod lease;
mod look;
mod open;
mod proof;
mod split;
mod sweep;
mod wish;

pub(crate) use candidate::Attempt;
pub(crate) use heartbeat::RenewOutcome;
pub(crate) use held_lock::HeldLock;
pub(crate) use lease::{Session, Shared};
