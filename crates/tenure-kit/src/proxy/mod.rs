//! Forward proxies: whether a connection goes through one, and how.

mod environment;
mod forward;
mod handshake;
#[cfg(test)]
mod tests;

pub use environment::from_environment;
pub use forward::Proxy;
