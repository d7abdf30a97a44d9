//! Leader election: the lock contract, the policy, the election machine and its engine.

mod backend;
mod capabilities;
mod clock;
mod election;
mod engine;
mod error;
mod event;
mod generation;
mod leadership;
pub mod machine;
mod memory;
mod name;
mod observer;
mod policy;
pub mod record;
mod run;
mod spawn;
mod telemetry;
mod term;
#[cfg(feature = "test-util")]
pub mod testing;
mod token;

pub use backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, Holder, LockBackend, Occupancy, Renewal,
};
pub use capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};
pub use clock::{BootClock, Clock, SharedClock, Time};
pub use election::{Election, ElectionBuilder};
pub use error::{Error, ErrorKind, Operation};
pub use event::{ElectionState, Event};
pub use generation::InGeneration;
pub use leadership::Leadership;
pub use machine::Cause;
pub use memory::{MemoryBackend, MemoryStore};
pub use name::{Identity, LockName, PublishedValue};
pub use observer::{Observation, Observer};
pub use policy::{Policy, PolicyBuilder, Tolerance};
pub use run::{Next, RunError};
pub use spawn::{CurrentRuntime, HeartbeatThread, Spawn, Task};
pub use term::{NotLeading, Permit, Term};
pub use token::{FencingToken, Generation};
