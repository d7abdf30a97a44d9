//! The deterministic simulator: real elections, on simulated stores, networks and clocks.
//!
//! A seed decides everything: how many candidates there are, their policies, their clocks, the
//! store, and every fault. The elections are the real ones of `tenure_core`, on tokio's paused
//! time, so an hour takes milliseconds. What happens is written to a [`History`](history::History),
//! and the [`checker`] goes through it afterwards and asserts the invariants.
//!
//! ```text
//!  candidate ── Election ── backend ── Link ──(delay, loss, repetition)── server of the store
//!      │            │                                                          │
//!   its Process: frozen, crashed, restarted; its own drifting clock         ground truth
//!      └────────────┴──────────────────────── History ◄────────────────────────┘
//! ```

pub mod candidate;
pub mod checker;
pub mod clock;
pub mod common;
pub mod director;
pub mod drift;
pub mod drills;
pub mod faults;
pub mod fleet;
pub mod hints;
pub mod history;
pub mod invariant;
pub mod moving;
pub mod mutants;
pub mod network;
pub mod plan;
pub mod process;
pub mod records;
pub mod run;
pub mod session;
pub mod store;
pub mod ttl;
pub mod unfenced;
pub mod watched;
pub mod world;

/// True time since the start of a simulation, which no candidate can see.
pub type Moment = std::time::Duration;
