//! Leader election on Postgres advisory locks.

mod backend;
mod config;
mod errors;
mod guard;
mod hub;
mod key;
mod link;
mod session;
#[cfg(feature = "_tls")]
mod tls;

pub use backend::PostgresBackend;
pub use config::{PostgresConfig, TlsMode};
pub use guard::GuardedTransaction;
pub use key::AdvisoryKey;
