//! Leader election on Redis and Valkey.

mod backend;
mod checks;
mod config;
mod connection;
mod errors;
mod scripts;
#[cfg(feature = "_tls")]
mod tls;
mod topology;
mod wakeups;

pub use backend::RedisBackend;
pub use checks::Finding;
pub use config::{RedisConfig, Tls};
