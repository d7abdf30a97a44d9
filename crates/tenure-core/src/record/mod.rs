//! Locks on stores that only offer compare-and-swap on a record.
//!
//! Such a store implements [`RecordStore`]; [`RecordLock`] makes a
//! [`LockBackend`](crate::LockBackend) of it, and judges expiry.

pub(crate) mod lock;
pub(crate) mod mark;
mod observation;
pub(crate) mod store;
pub(crate) mod version;

pub use lock::RecordLock;
pub use mark::Mark;
pub use store::{
    Liveness, MAX_LEASE, Record, RecordEvent, RecordEvents, RecordHolder, RecordStore, Step,
    Versioned, Written,
};
pub use version::Version;
