//! Leader election: the lock contract, the policy, the election machine and its engine.
//!
//! Services depend on the facade `tenure`, which adds `connect(url)` and the backends; backends
//! depend on this crate, which knows no store's client.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use tenure_core::{Election, LockName, MemoryBackend, Policy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Arc::new(MemoryBackend::private());
//! let election = Election::builder(backend, LockName::new("nightly-batch")?)
//!     .policy(Policy::fast())
//!     .build()?;
//!
//! let leadership = election.campaign().await?; // until elected
//! let permit = leadership.permit(Duration::from_secs(1))?; // beside each side effect
//! println!("writing under fencing token {}", permit.token);
//! leadership.resign().await?; // the next candidate leads now
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | to be elected | [`Election`], then [`Leadership`] (the owner of a term) and [`Term`] (for the work) |
//! | to run work while leading | [`Election::run_until`] |
//! | to watch who leads | [`Observer`] |
//! | heartbeat, lease, timeouts | [`Policy`] |
//! | to write a backend | [`LockBackend`], or [`record::RecordStore`] for a compare-and-swap store |
//! | how it decides | [`machine`], driven by the engine, a task per campaign |
//! | to test a service | `testing`, with the feature `test-util` |
//!
//! # What is promised
//!
//! At most one process reports leadership at a time, given clocks that drift within the policy's
//! bound, a store that keeps what it confirmed, and no deletion of the lock under its holder.
//! Not that at most one *acts*: a process can be stopped between a check and its effect. Only a
//! resource that compares the [`FencingToken`] closes that gap.
//!
//! # Past faults of others, and how they are avoided
//!
//! - A lease counted from the answer instead of the request: [`Grant::proven_at`].
//! - "Is leader" as a flag that goes stale: [`Term::is_valid`] compares the clock at each call.
//! - Renewal or release by name or identity: both are conditional on the term.
//! - A lock released while the work still runs: it is released after the work has returned.
//! - Another host's timestamps compared with one's own: no time ever leaves its host.

// The core's own tests run with the standard library's locks: in `tenure-threads` there are none.
#![cfg(not(all(test, tenure_shuttle)))]

mod compose;
mod contract;
mod election;
mod memory;
mod policy;
pub mod record;
mod sync;
#[cfg(feature = "test-util")]
pub mod testing;

pub use compose::both::Both;
pub use compose::generation::InGeneration;
pub use contract::backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, Holder, LockBackend, Loss, Occupancy,
    Renewal,
};
pub use contract::capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};
pub use contract::check::{Check, Verdict};
pub use contract::clock::{BootClock, Clock, SharedClock, Time};
pub use contract::error::{Error, ErrorKind, Operation};
pub use contract::name::{Identity, LockName, PublishedValue};
pub use contract::page::Page;
pub use contract::process::{Confined, Kept, Process, random_u64};
pub use contract::token::{FencingToken, Generation};
pub use contract::wish::Wish;
pub use election::Election;
pub use election::builder::ElectionBuilder;
pub use election::event::{ElectionState, Event};
#[cfg(tenure_shuttle)]
pub use election::exposed::BareTerm;
pub use election::leadership::Leadership;
pub use election::machine::{self, Cause};
pub use election::observer::{Observation, Observer};
pub use election::run::{Next, RunError};
pub use election::spawn::{CurrentRuntime, HeartbeatThread, Spawn, Task};
pub use election::term::{NotLeading, Permit, Term};
pub use memory::{MemoryBackend, MemoryStore};
pub use policy::{Policy, PolicyBuilder, Tolerance};
