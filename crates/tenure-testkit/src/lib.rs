//! Real servers, certificates and processes in one room, for tests, benchmarks and xtask.
//!
//! A test starts a private server, freezes it, kills it, and starts it again on its data and port.
//! The server ends when its value is dropped. The testkit gives addresses and URLs; the test makes
//! its backend's configuration of them, because this crate depends on no backend.
//!
//! A test whose program is missing says `LEFT OUT` and passes; with `TENURE_TEST_STRICT` in the
//! environment it fails.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed unwrap is a failed test"
)]

pub mod backends;
#[cfg(all(unix, feature = "stores"))]
pub mod bound;
pub mod certificates;
pub mod environment;
pub mod etcd;
pub mod forward_proxy;
#[cfg(all(unix, feature = "stores"))]
pub mod interrupt;
pub mod kube;
pub mod line;
#[cfg(feature = "kube")]
pub mod log;
#[cfg(target_os = "linux")]
pub mod memory;
#[cfg(all(unix, feature = "stores"))]
pub mod paths;
#[cfg(all(feature = "kube", feature = "postgres", feature = "redis"))]
pub mod planted;
pub mod port;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod process;
#[cfg(all(unix, feature = "stores"))]
pub mod provision;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(all(unix, feature = "stores"))]
pub mod shell;
#[cfg(all(unix, feature = "stores"))]
pub mod stores;
pub mod terms;
#[cfg(feature = "kube")]
pub mod tls;
pub mod wait;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub mod wall_clock;

pub use port::free_port;
pub use terms::{
    LONG, candidate, held, is_lost, is_taken, leader, lock, renewed, taken, win, win_for,
};
pub use wait::{LIMIT, until, until_seen, wait_until, within_limit};
