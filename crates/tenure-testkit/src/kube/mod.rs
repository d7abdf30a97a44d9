//! API servers: what one is started with, the shared one of the environment, private ones, proxies
//! that answer instead of one, and candidates of client-go.

#[cfg(feature = "kube")]
pub mod client_go;
#[cfg(feature = "kube")]
pub mod faulty_api;
#[cfg(all(feature = "kube", target_os = "linux"))]
pub mod flood;
pub mod launch;
#[cfg(feature = "kube")]
pub mod mutations;
#[cfg(all(feature = "kube", feature = "postgres"))]
pub mod on_kine;
#[cfg(feature = "kube")]
pub mod owners;
#[cfg(feature = "kube")]
pub mod private_api;
#[cfg(feature = "kube")]
pub mod rights;
#[cfg(feature = "kube")]
pub mod server;
#[cfg(feature = "kube")]
pub mod webhook;

#[cfg(feature = "kube")]
pub use server::Server;
