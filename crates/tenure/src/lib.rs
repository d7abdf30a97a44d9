//! Leader election on the store you already have.
//!
//! `tenure` elects one leader among many instances of a service, through a lock in a store. A URL
//! and a feature choose the store. The code, the heartbeat and timeout policy and the guarantees
//! stay the same.
//!
#![cfg_attr(feature = "file", doc = "```")]
#![cfg_attr(not(feature = "file"), doc = "```ignore")]
//! use std::time::Duration;
//!
//! use tenure::{Election, Identity, LockName, Next, NotLeading, Policy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let url = format!("file://{}", temporary.path().display());
//! // let url = "file:///var/lib/my-service";
//! let backend = tenure::connect(&url).await?;
//!
//! let election = Election::builder(backend, LockName::new("nightly-batch")?)
//!     .identity(Identity::of_this_process()?)
//!     .policy(Policy::fast())
//!     .build()?;
//!
//! let shutdown = std::future::pending(); // waits for your signals, in a service
//! election
//!     .run_until(shutdown, |term| async move {
//!         for step in 1..=3 {
//!             // Beside each side effect: do I still lead, for as long as this can take?
//!             let permit = term.permit(Duration::from_millis(500))?;
//!             println!("step {step} under fencing token {}", permit.token);
//!         }
//!         Ok::<_, NotLeading>(Next::Stop)
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to begin
//!
//! - [`connect`] opens a store from a URL, [`Election`] is one candidate for one lock.
//!   [`from_env`] reads both, and the policy, from environment variables.
//! - [`Election::run_until`] runs work while leading; [`Election::campaign`] gives the
//!   [`Leadership`] itself. The work gets the [`Term`], and asks [`Term::permit`] beside each
//!   side effect.
//! - [`Policy`] says how often a leader proves that it is alive and when the others take it for
//!   dead. By default: a heartbeat every 10 s, and 20 s.
//! - [`Observer`] watches who leads without being a candidate.
//! - [`Capabilities`] is what a store promises, as data; [`LockBackend`] is the contract, for a
//!   store of your own. A [`Registry`] opens it by its URL.
//!
//! # Dangers
//!
//! - **A check goes stale.** A process can be stopped between `permit` and the side effect, for
//!   minutes. Only a resource that refuses every [`FencingToken`] below the largest it has seen
//!   closes that gap.
//! - **Give the lock back after the work has returned**, not before: drop or resign the
//!   [`Leadership`] last. `run_until` does so.
//! - **One URL for all candidates.** Candidates that use different stores, directories or
//!   generations elect a leader each.
//!
//! # Stores and features
//!
//! [`Registry::new`] has the table: which URL, by which feature, and how a service that has a client of its
//! store already gives that to the backend.
//!
//! Every URL takes the parameter `?generation=N`: see [`InGeneration`]. Further features: `serde`,
//! `metrics`, and `test-util` for applications' own tests.

mod connect;
mod registry;
mod settings;
mod store;

pub use connect::connect;
// The backends' crates are no part of this one's interface: a new major of a client library is none
// of this crate.
pub use registry::Registry;
pub use settings::{PolicySettings, Setting, Settings, from_env, variable};
pub use store::{Reach, Store};
pub use tenure_core::*;
pub use tenure_kit::{Url, redact};
