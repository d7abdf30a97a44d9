//! The contract of [`tenure_core::LockBackend`] as a test suite that anyone can run on a backend
//! of their own.
//!
//! # One test per case
//!
//! Say how to connect to the store, by a [`Target`], and expand the suite in an integration
//! test (`tests/conformance.rs`):
//!
//! ```
//! use std::sync::Arc;
//!
//! use tenure_conformance::{Hook, Target, async_trait};
//! use tenure_core::{Error, LockBackend, LockName, MemoryBackend};
//!
//! struct Mine {
//!     backend: MemoryBackend,
//! }
//!
//! #[async_trait]
//! impl Target for Mine {
//!     /// As another process would: with a connection of its own.
//!     async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> {
//!         Ok(Arc::new(self.backend.clone()))
//!     }
//!
//!     /// Hooks are optional: each lets some more cases run.
//!     async fn delete_lock(&self, lock: &LockName) -> Hook {
//!         self.backend.store().delete(lock);
//!         Hook::Done
//!     }
//! }
//!
//! // `mine::a_release_frees_at_once` and all others. The expression is evaluated for each test, in
//! // a tokio runtime, and may await.
//! tenure_conformance::suite!(mine, Mine { backend: MemoryBackend::private() });
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // Or all at once, on one target, such as one with a server:
//! let target = Mine { backend: MemoryBackend::private() };
//! let report = tenure_conformance::run_all("mine", &target).await;
//! println!("{report}");
//! assert!(report.is_green());
//! # }
//! ```
//!
//! A case that is added to the suite is added to every backend with the next build.
//!
//! # Which cases are left out
//!
//! Cases are chosen by the backend's [`Capabilities`](tenure_core::Capabilities) and by the
//! hooks of the target. libtest counts a case that does not apply as passed; the case says why it
//! was left out:
//!
//! ```text
//! conformance mine: waiters_win_in_order: left out: the store has no order (Order::Race)
//! conformance mine: a_release_frees_at_once: passed
//! ```
//!
//! Each case prints such a line (`cargo test -- --nocapture` shows it) and, when the environment
//! variable [`TENURE_CONFORMANCE_LOG`](LOG) names a file, appends it there. libtest runs no
//! code after the last test, so a program that must see that no case is missing reads that file.
//! [`tally`] counts passed, failed and left out for each backend, and the sum has to be
//! [`EXPECTED_CASES`]. Start from an empty file; of two lines for one case the last counts.
//!
//! # Other processes
//!
//! With the hook [`contestant`](Target::contestant) candidates run in processes of their own, and
//! one is killed. A test binary can be that process:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use tenure_conformance::{Target, async_trait};
//! # use tenure_core::{Error, LockBackend};
//! # struct Mine { directory: std::path::PathBuf }
//! # impl Mine { fn open(_: std::path::PathBuf) -> Self { todo!() } }
//! #[async_trait]
//! impl Target for Mine {
//!     # async fn connect(&self) -> Result<Arc<dyn LockBackend>, Error> { todo!() }
//!     fn contestant(&self) -> Option<std::process::Command> {
//!         let mut command = tenure_conformance::reexec("contestant");
//!         command.env("MINE_DIRECTORY", &self.directory);
//!         Some(command)
//!     }
//! }
//!
//! /// Does nothing when it is run among the other tests.
//! #[test]
//! # fn hidden() {}
//! fn contestant() {
//!     tenure_conformance::contestant_main(async || {
//!         Mine::open(std::env::var_os("MINE_DIRECTORY").unwrap().into())
//!     });
//! }
//! ```
//!
//! # Faults
//!
//! [`proxy::FaultProxy`] stands between a client and its server, and delays, loses, cuts and
//! resets on command. It serves the hooks [`answers`](Target::answers) and
//! [`connect_by_proxy`](Target::connect_by_proxy), and your own tests.
//!
//! # Lost sessions
//!
//! Where a lock ends with the session that holds it
//! ([`Expiry::Session`](tenure_core::Expiry::Session)), another candidate can have the lock the
//! moment after the holder's connection was reset. So the holder has to know at once, by
//! [`loss`](tenure_core::LockBackend::loss), and not with its next heartbeat. The family
//! [`sessions`] resets connections to see it. It cannot do without the hook
//! [`connect_by_proxy`](Target::connect_by_proxy): on such a store its cases fail where the hook
//! is absent.
//!
//! # How the suite itself is checked
//!
//! This crate's own tests hold backends that break the contract, each in one way. Every case fails
//! on at least one of them; `cargo test -p tenure-conformance --test lying -- --nocapture` prints
//! which.
//!
//! # Time
//!
//! No case asserts how long the machine takes, and none sleeps to let something settle: they wait
//! for conditions, with a [limit](Target::patience) that only a failing backend uses up. A lease
//! that was too short for a slow machine is doubled and the case begins again.

mod case_context;
mod cases;
mod connection;
mod contestant;
mod harness;
mod limited;
mod names;
mod network;
mod processes;
pub mod proxy;
mod runtime;
mod target;
mod verdict;

pub use async_trait::async_trait;

pub use cases::{
    Case, EXPECTED_CASES, acquiring, basics, cases, drops, errors, exclusion, expiry, hints,
    holders, limits, queueing, releasing, renewal, sessions, tokens, wishes,
};
#[doc(hidden)]
pub use harness::__run;
pub use harness::{Counts, LOG, Report, run_all, tally};
pub use network::{Network, Proxied};
pub use processes::{contestant_main, reexec};
pub use target::{Answers, Hook, MemoryTarget, Target};
pub use verdict::{Outcome, Stop, Verdict};

/// One test per case, in a module named after the backend: see the [crate's page](crate).
///
/// ```
/// use tenure_conformance::MemoryTarget;
///
/// tenure_conformance::suite!(memory, MemoryTarget::new());
/// ```
#[macro_export]
macro_rules! suite {
    ($name:ident, $($target:tt)+) => {
        $crate::__cases! { [tests $name { $($target)+ }] }
    };
}
