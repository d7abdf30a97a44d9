//! Faults on the real stores: what the simulator shows for the engine, this shows for the whole
//! path through real clients and real servers.
//!
//! ```text
//!  nemesis ── faults ──► candidates (processes) ──► proxies ──► store (a real server)
//!     │                      │        └─ token ──► register (refuses lower tokens)
//!     └───────── history: one file per process, one line per event, the boot clock
//!                            │
//!                          judge: the simulator's checker, and what a run must show at least
//! ```
//!
//! `cargo xtask chaos --backend redis --minutes 10 --seed 1` runs it.
//! `docs/contributing/reliability.md` lists the runs.

pub mod candidate;
#[cfg(feature = "suite")]
pub mod fault;
#[cfg(feature = "suite")]
pub mod fleet;
pub mod history;
#[cfg(feature = "suite")]
pub mod judge;
#[cfg(feature = "suite")]
pub mod links;
#[cfg(feature = "suite")]
pub mod mutants;
#[cfg(feature = "suite")]
pub mod nemesis;
#[cfg(feature = "suite")]
pub mod older;
#[cfg(feature = "suite")]
pub mod register;
#[cfg(feature = "suite")]
pub mod report;
#[cfg(feature = "suite")]
pub mod run;
#[cfg(feature = "suite")]
pub mod stores;
#[cfg(feature = "suite")]
pub mod tables;
