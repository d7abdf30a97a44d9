//! Leader election: the lock contract, the policy, the election machine and its engine.

mod backend;
mod capabilities;
mod clock;
mod error;
mod memory;
mod name;
mod policy;
pub mod record;
mod token;

pub use backend::{
    Acquired, CampaignId, Candidate, Changes, Grant, Hint, Holder, LockBackend, Occupancy, Renewal,
};
pub use capabilities::{Capabilities, Expiry, FencingGuarantee, Order, Rises, Wakeup};
pub use clock::{BootClock, Clock, SharedClock, Time};
pub use error::{Error, ErrorKind, Operation};
pub use memory::{MemoryBackend, MemoryStore};
pub use name::{Identity, LockName, PublishedValue};
pub use policy::{Policy, PolicyBuilder, Tolerance};
pub use token::{FencingToken, Generation};
