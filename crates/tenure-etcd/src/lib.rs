//! Leader election on etcd, in the same elections as `etcdctl elect` and Go's
//! `concurrency.Election`.
//!
//! - **Linearizable.** Who leads is read from the store in the transaction that finds the
//!   candidate's own key alive; a candidate whose lease was revoked while it waited never leads.
//! - **First come, first served**, woken by etcd; each waiting candidate watches the one before it.
//! - **Fencing tokens** are create revisions: they rise over releases, deletions, crashes and
//!   failovers.
//! - **A native fence**: an application's own transactions on the same cluster can be committed
//!   only while it leads, see [`Guard`].
//! - **One lease for all elections** with one lease duration: one keepalive proves a thousand.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tenure_core::{Election, LockName};
//! use tenure_etcd::{EtcdBackend, EtcdConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tenure_core::Error> {
//! let config = EtcdConfig::from_url("etcds://app:secret@a:2379,b:2379,c:2379/locks")?;
//! let backend = Arc::new(EtcdBackend::connect(config).await?);
//! let lock = LockName::new("nightly-batch")?;
//! let election = Election::builder(backend.clone(), lock.clone()).build()?;
//!
//! let leadership = election.campaign().await?;
//! let guard = backend.guard(&lock, leadership.token())?;
//! println!("leading; transactions compare {guard:?}");
//! leadership.resign().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The keys
//!
//! A candidate's key is `PREFIX/LOCK/LEASE`, the lease in lowercase hexadecimal, and hangs on that
//! lease. The key with the smallest create revision leads. The value is the identity, and after a
//! space what the leader publishes, if anything; no election depends on it. So
//! `etcdctl elect -l PREFIX/LOCK` shows who leads here, and `etcdctl elect PREFIX/LOCK me`, or
//! `etcdctl lock`, takes its turn.
//!
//! Lock names hold no slash. Do not choose a prefix that is another election's name: a key below
//! it would take part there.
//!
//! # Leases
//!
//! etcd grants whole seconds, and no less than one and a half of its election timeouts: 2 s by
//! default. A policy that asks for another lease is refused, with the numbers. The lease at the
//! server ends at most about half a second late, never early, and begins again when the members
//! elect another raft leader.
//!
//! # Building
//!
//! The build of `etcd-client` runs `protoc` and needs protobuf's own `.proto` files (Debian:
//! `protobuf-compiler` and `libprotobuf-dev`). No other crate of this workspace needs them.

mod asking;
mod attempts;
mod backend;
mod checks;
mod cluster;
mod config;
mod connection;
mod connector;
mod errors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod keys;
mod listing;
mod notifications;
mod session;
mod sessions;

pub use backend::{EtcdBackend, Traffic};
pub use config::EtcdConfig;
/// The client whose types stand in this crate's interface: its majors are this crate's majors.
pub use etcd_client;
pub use guard::Guard;
pub use tenure_kit::Tls;
